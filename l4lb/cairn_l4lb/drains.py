"""What an operator drained on this host: backends, hosts, tasks.  They get no new connections."""

import re
from collections.abc import Iterable

from msgspec import Struct

from cairn_core.errors import RemoteError, shorten

from .model import Service, endpoint
from .targets import canonical

MAX_DRAINS = 10_000
#: Mesos' ids have no such characters (`src/common/validation.cpp`).
_NOT_IN_IDS = frozenset("/\\ \t\r\n")
#: What can only be meant as an IPv4 address, a port, or both.
_NUMBERS = re.compile(r"[0-9.:]+", re.ASCII)


class BadDrain(RemoteError):
    """The text cannot be drained."""


class Drains(Struct, frozen=True):
    """What is drained, as it is kept on disk.  Canonical texts, sorted."""

    drained: tuple[str, ...] = ()

    def add(self, text: str) -> "Drains":
        """With one more.  Raises BadDrain."""
        target = target_of(text)
        if len(self.drained) >= MAX_DRAINS and target not in self.drained:
            raise BadDrain(f"target: {MAX_DRAINS} are drained already")
        return Drains(tuple(sorted({*self.drained, target})))

    def remove(self, text: str) -> "Drains":
        """Without it.  Raises BadDrain when it was not drained."""
        # what is kept may be what an earlier version took
        target = text if text in self.drained else target_of(text)
        if target not in self.drained:
            raise BadDrain(f"target: not drained: {shorten(target, 80)!r}")
        return Drains(tuple(one for one in self.drained if one != target))


def target_of(text: str) -> str:
    """A backend `ip:port`, the address of a host, or the id of a task.  Raises BadDrain."""
    text = text.strip()
    if not 0 < len(text) <= 255 or not text.isprintable():
        raise BadDrain(f"target: not 1 to 255 printable characters: {shorten(text, 80)!r}")
    if address := canonical(text):
        return address
    host, colon, port = text.rpartition(":")
    if colon and (address := canonical(host)):
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise BadDrain(f"target: port: not 1 to 65535: {shorten(text, 80)!r}")
        return endpoint(address, int(port))
    if _NUMBERS.fullmatch(text):
        raise BadDrain(f"target: not an address: {shorten(text, 80)!r}")
    if _NOT_IN_IDS & set(text) or text in (".", ".."):
        raise BadDrain(
            f"target: not a backend ip:port, a host's address or a task's id: {shorten(text, 80)!r}"
        )
    return text


def matching(target: str, services: Iterable[Service]) -> int:
    """How many backends of VIPs a target means.  O(backends)."""
    return sum(
        target in (one.text, one.agent_address, one.agent_id, one.task_id)
        for service in services
        for one in service.backends
    )
