"""Who may lead: what the daemons ask of an election, whatever runs it.

Being elected fences nobody.  A leader acts only after it has also opened its log, which takes an
epoch, and read it to the end; the log then refuses whoever led before.

With ZooKeeper a candidate is an ephemeral sequential znode `json.info_<number>` that holds the
JSON of a MasterInfo, and the lowest number leads (Mesos `src/master/contender/zookeeper.cpp`).
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Candidate:
    """One who stands for election.

    id: unique per process start.
    address: `ip:port` under which others reach it.
    info: JSON that is published as it is (the MasterInfo of a master).
    """

    id: str
    address: str
    info: bytes


@dataclass(frozen=True, slots=True)
class Leadership:
    """What is known now.

    leader: None while nobody leads or the ensemble cannot be reached.
    candidates: all known ones in a stable order (by address), the leader among them.
    mine: this process leads.  Once true and then false, it must stop acting and exit.
    """

    leader: Candidate | None
    candidates: tuple[Candidate, ...]
    mine: bool


class Elector(Protocol):
    """Stands for election, or only looks on, and tells what changes."""

    async def join(self, candidate: Candidate) -> None:
        """Stand for election, at most once.  Raises Unavailable."""

    async def leave(self) -> None:
        """Withdraw, so that another can lead at once.  Idempotent."""

    def changes(self) -> AsyncIterator[Leadership]:
        """What is known now, then each change, latest only; never ends by itself."""
