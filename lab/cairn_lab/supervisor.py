"""Talking to the supervisor of a host from outside.

Its control socket is reached through the root directory of PID 1, since the host's /run is
another file system. Protocol: `cairn_core.kit.supervise`.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from cairn_core.errors import CairnError
from cairn_core.kit import supervise
from cairn_lab.errors import LabError
from cairn_lab.roles import CONTROL_SOCKET

_TIMEOUT_S = 20.0


class UnitStatus(msgspec.Struct, frozen=True):
    """A daemon as its supervisor sees it; `pid` is the one inside the host."""

    state: str
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None
    status: str = ""

    @property
    def running(self) -> bool:
        """Whether it is ready for work."""
        return self.state == "running"


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The supervisor of the host whose PID 1 is `pid`."""

    pid: int

    def status(self) -> dict[str, UnitStatus]:
        """Every unit of the host; raises LabError when the supervisor does not answer."""
        return msgspec.convert(self._ask("status").get("units", {}), dict[str, UnitStatus])

    def kill(self, unit: str, signal: int) -> None:
        """Send a signal to the main process of a unit; it is started again if it ends."""
        self._ask("kill", name=unit, signal=signal)

    def stop(self, unit: str) -> None:
        """Stop a unit in good order; `restart` starts it again."""
        self._ask("stop", name=unit)

    def restart(self, unit: str) -> None:
        """Stop a unit in good order and start it again."""
        self._ask("restart", name=unit)

    def _ask(self, command: str, **fields: object) -> dict[str, object]:
        control = Path(f"/proc/{self.pid}/root{CONTROL_SOCKET}")
        try:
            return supervise.ask(control, command, timeout_s=_TIMEOUT_S, **fields)
        except CairnError as error:
            raise LabError(str(error)) from error
