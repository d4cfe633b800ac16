"""What an operator drained on this host: backends, hosts, tasks.  They get no new connections."""

from ipaddress import ip_address

from msgspec import Struct

from cairn_core.errors import RemoteError, shorten

from .targets import BadTarget, canonical, split

MAX_DRAINS = 10_000
#: Mesos' ids have no such characters (`src/common/validation.cpp`).
_NOT_IN_IDS = frozenset("/\\ \t\r\n")


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
        target = target_of(text)
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
    try:
        host, port = split(text)
    except BadTarget:
        host, port = "", None
    if port is not None and (address := canonical(host)):
        return f"[{address}]:{port}" if ip_address(address).version == 6 else f"{address}:{port}"
    if _NOT_IN_IDS & set(text) or text in (".", ".."):
        raise BadDrain(
            f"target: not a backend ip:port, a host's address or a task's id: {shorten(text, 80)!r}"
        )
    return text
