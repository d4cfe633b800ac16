"""Who the masters are, and which of them leads: a list that is given, or what ZooKeeper says."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from cairn_core.errors import LocalError, cause

from .masters import parse_ensemble, parse_place

log = logging.getLogger(__name__)

#: Bytes of a file that names masters.
MAX_FILE_BYTES = 64 * 1024


class Masters(Protocol):
    """Masters as they are known now.

    current: each `host:port`, the leader first when it is known.  What was known stays while
    nobody can be asked.  leader: None while none is known to lead.
    """

    @property
    def current(self) -> tuple[str, ...]: ...

    @property
    def leader(self) -> str | None: ...

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called in the event loop after each change of the two."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Keep them up to date until `stop`."""
        ...


class KnownMasters:
    """The part that all kinds have in common; by itself it never changes."""

    def __init__(self, current: Sequence[str] = (), leader: str | None = None) -> None:
        self.current: tuple[str, ...] = tuple(current)
        self.leader = leader
        self._watchers: list[Callable[[], None]] = []

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called after each change."""
        self._watchers.append(changed)

    async def run(self, stop: asyncio.Event) -> None:
        """Wait for `stop`."""
        await stop.wait()

    def became(self, current: Sequence[str], leader: str | None) -> None:
        """Take over what is true now, and tell so if it is news."""
        if (self.current, self.leader) == (tuple(current), leader):
            return
        self.current, self.leader = tuple(current), leader
        for changed in self._watchers:
            changed()


def find_masters(setting: str | Sequence[str]) -> Masters:
    """Masters of a setting; all errors of it are LocalError.

    setting: `zk://[user:password@]host:port,.../path`, `file:///path` of a file with such a text,
    `host:port`, several of these with commas between, or a list of masters.
    """
    if not isinstance(setting, str):
        return KnownMasters([_checked(place) for place in setting])
    setting = setting.strip()
    if setting.startswith("file://"):
        path = Path(setting.removeprefix("file://"))
        try:
            with path.open("rb") as file:
                setting = file.read(MAX_FILE_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise LocalError(f"zk: file {path}: {cause(error)}") from None
        if setting.startswith("file://"):
            raise LocalError(f"zk: file {path}: names another file")
    if setting.startswith("zk://"):
        # Loaded here, for a list of masters needs no client of ZooKeeper.
        from .io_zookeeper import ZooKeeperMasters

        return ZooKeeperMasters(parse_ensemble(setting))
    places = [one.strip() for one in setting.split(",") if one.strip()]
    if not places:
        raise LocalError("zk: names no master")
    return KnownMasters([_checked(place) for place in places])


def _checked(place: str) -> str:
    """A `host:port`, or a base URL as it is."""
    if "@" in place:
        # It is not shown, for it may hold a password; and it would be, in every log line.
        raise LocalError("masters: an address holds no user or password")
    if "://" not in place:
        parse_place(place)
    return place
