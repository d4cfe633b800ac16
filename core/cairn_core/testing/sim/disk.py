"""The disk of a simulated machine: what was written stays, a crash may leave half of the rest.

Behaves as `cairn_core.agent.io_checkpoint`: a file is replaced as a whole or not at all, a record
may be torn; what waits together is written together.
"""

from collections.abc import Iterable, Sequence
from random import Random

from cairn_core.agent.effects import Append, Link, Put, Remove, Write


class SimDisk:
    """Files below `meta` by path.

    trouble: the part of all groups of writes that fail half-way, 0 to 1 (the disk is full).
    """

    def __init__(self, rng: Random, *, trouble: float = 0.0) -> None:
        self.files: dict[str, bytes] = {}
        self.latest: str | None = None
        self.trouble = trouble
        self._rng = rng

    def apply(self, groups: Iterable[Sequence[Write]]) -> list[bool]:
        """Carry out groups of writes; whether each succeeded."""
        results = []
        for group in groups:
            fails = bool(self.trouble) and self._rng.random() < self.trouble
            for write in group[: self._rng.randrange(len(group))] if fails else group:
                self._write(write)
            results.append(not fails)
        return results

    def tear(self, groups: Iterable[Sequence[Write]]) -> None:
        """The process ends while these are written: some are there, one perhaps in part."""
        writes = [write for group in groups for write in group]
        done = self._rng.randrange(len(writes) + 1)
        for write in writes[:done]:
            self._write(write)
        if done < len(writes) and isinstance(write := writes[done], Append):
            self._write(Append(write.path, write.data[: self._rng.randrange(len(write.data))]))

    def _write(self, write: Write) -> None:
        match write:
            case Put(path, data):
                self.files[path] = data
            case Append(path, data):
                self.files[path] = self.files.get(path, b"") + data
            case Link(_, target):
                self.latest = target
            case Remove(path):
                self.files.pop(path, None)
                if path == "slaves/latest":
                    self.latest = None
