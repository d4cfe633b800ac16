"""A containerizer on the real kernel, for tests: directories and control groups of its own.

`Site.agent` is one life of an agent; what its containers leave is what a test looks at. `close`
removes processes, groups and the zygote, and nothing that is not of this site.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cairn_core.agent.containerizer import processes
from cairn_core.agent.containerizer.cgroups import Cgroups, find_hierarchies
from cairn_core.agent.containerizer.containerizer import Containerizer
from cairn_core.agent.containerizer.isolators.loading import load
from cairn_core.agent.containerizer.launcher import (
    ZYGOTE_CHECK_S,
    Launcher,
    LinuxLauncher,
    Zygote,
)
from cairn_core.agent.containerizer.runtime_dir import RuntimeDir
from cairn_core.extensions import AgentSettings, ContainerConfig

DEADLINE_S = 20.0


async def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait for a condition with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not (value := condition()):  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.01)
        return value


@dataclass
class Site:
    """Where the containers of one test live."""

    root: Path
    cgroups_root: str
    zygotes: list[Zygote] = field(default_factory=list)

    @property
    def runtime(self) -> str:
        """The agent's runtime directory."""
        return str(self.root / "run")

    def sandbox(self) -> str:
        """A new empty sandbox."""
        path = self.root / "sandboxes" / uuid.uuid4().hex
        path.mkdir(parents=True)
        return str(path)

    def config(self, script: str, **more: Any) -> ContainerConfig:
        """A container that runs a shell script in a sandbox of its own."""
        return ContainerConfig(sandbox=self.sandbox(), argv=("/bin/sh", "-c", script), **more)

    @asynccontextmanager
    async def agent(
        self,
        isolation: str = "",
        *,
        linux: bool = False,
        preload: tuple[str, ...] = (),
        check_s: float = ZYGOTE_CHECK_S,
        **more: Any,
    ) -> AsyncIterator[Containerizer]:
        """One life of an agent; leaving it is the end of the agent and not of its containers."""
        settings = AgentSettings(
            self.runtime, str(self.root), self.cgroups_root, flags=more.pop("flags", {})
        )
        zygote = Zygote(self.runtime, preload, check_s)
        self.zygotes.append(zygote)
        launcher: Launcher = Launcher(zygote)
        if linux:
            launcher = LinuxLauncher(zygote, self.cgroups())
        isolators = load(isolation, settings)
        async with Containerizer(self.runtime, launcher, isolators, **more) as containerizer:
            yield containerizer

    def cgroups(self) -> Cgroups:
        """The groups of this site."""
        return Cgroups(find_hierarchies(), self.cgroups_root)

    def groups_left(self) -> set[str]:
        """Groups of containers that still exist, in any hierarchy."""
        cgroups = self.cgroups()
        controllers = [*cgroups.hierarchies.v1, *([""] if cgroups.hierarchies.v2 else [])]
        return {g for c in controllers for g in cgroups.groups(c)}

    def close(self) -> None:
        """Remove what is left of this site."""
        written = RuntimeDir(self.runtime)
        for container_id in written.ids():  # a test that failed leaves them
            found = written.processes(container_id)
            if found is not None and processes.is_running(found.init):
                processes.kill([found.init.pid], 9)
        for zygote in self.zygotes[:1]:
            if os.path.isdir(self.runtime):
                zygote.retire_others()
                zygote.stop()
        cgroups = self.cgroups()
        controllers = [*cgroups.hierarchies.v1, *([""] if cgroups.hierarchies.v2 else [])]
        for controller in controllers:
            if cgroups.path(controller, "").is_dir():
                for pid in cgroups.pids(controller, "helpers"):
                    processes.kill([pid], 9)
                cgroups.remove(controller, "")
