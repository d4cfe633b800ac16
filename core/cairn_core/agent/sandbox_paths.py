"""Which directory stands behind a path that somebody asks `/files` for.

Every sandbox is reached by its real path and as `/frameworks/<fid>/executors/<eid>/runs/<cid>`, or
`.../runs/latest`. Those of a week may lie on the disk, so they are found by the shape of the path;
only what runs is in the table that `/files/debug` shows. The answer is always one sandbox, never
something above it: links that a task made in its own must not lead into another's.
"""

from pathlib import Path

from cairn_core.kit.http_files import VirtualPaths
from cairn_core.kit.sandbox_files import parts_of

#: frameworks/<fid>/executors/<eid>/runs/<cid>
_DEPTH = 6
_SHAPE = ("frameworks", "executors", "runs")


class SandboxPaths(VirtualPaths):
    """Virtual paths of one agent. work_dir: absolute."""

    def __init__(self, work_dir: Path) -> None:
        super().__init__()
        self._work_dir = work_dir
        self._above = (*parts_of(str(work_dir)), "slaves")
        #: Home of this agent's frameworks; None before it has an id.
        self.agent_id: str | None = None

    def resolve(self, virtual: str) -> tuple[Path, str] | None:
        """The sandbox and the path beneath it; raises OutsideSandbox for a path with `..`."""
        parts = parts_of(virtual)
        count = len(self._above)
        if tuple(parts[:count]) == self._above:
            agent_id, parts = "".join(parts[count : count + 1]), parts[count + 1 :]
        else:
            agent_id = self.agent_id or ""
        if not agent_id or len(parts) < _DEPTH or tuple(parts[0:5:2]) != _SHAPE:
            return super().resolve(virtual)
        root = self._work_dir.joinpath("slaves", agent_id, *parts[:_DEPTH])
        return root, "/".join(parts[_DEPTH:])
