"""What a person types for a VIP: a name, an address, with port or without."""

from collections.abc import Iterable
from ipaddress import ip_address

from cairn_core.vips.names import ZONES

from .model import Service, Vip


class BadTarget(ValueError):
    """The text can be no VIP."""


def find(text: str, services: Iterable[Service]) -> list[Service]:
    """Services that `text` means, in their order.  Raises BadTarget.

    `[tcp/|udp/]` then `web.marathon`, its full name in DNS, or an address, then `[:port]`.
    """
    protocol, slash, rest = text.strip().rpartition("/")
    if slash and protocol not in ("tcp", "udp"):
        raise BadTarget(f"not tcp/ or udp/ before a VIP: {text[:80]!r}")
    host, port = split(rest)
    name, address = name_of(host), canonical(host)
    return [
        one
        for one in services
        if (not protocol or one.vip.protocol == protocol)
        and (port is None or one.vip.port == port)
        and (one.vip.address == address if address else bool(name) and one.name == name)
    ]


def split(text: str) -> tuple[str, int | None]:
    """Host and port of `host[:port]`; IPv6 addresses in brackets, or bare without a port.

    Raises BadTarget.
    """
    if canonical(text):
        return text, None
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, ""
    if not host or (colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise BadTarget(f"not a name or address with a port such as web.marathon:80: {text[:80]!r}")
    return host, int(port) if port else None


def canonical(text: str) -> str:
    """An address as `ipaddress` writes it; empty for what is none."""
    plain = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ip_address(plain))
    except ValueError:
        return ""


def name_of(host: str) -> str:
    """The name within our zone, lower case, without a last dot."""
    name = host.lower().removesuffix(".")
    for zone in ZONES:
        if name.endswith(f".{zone}"):
            return name.removesuffix(f".{zone}")
    return name


def vip_of(text: str) -> Vip | None:
    """A TCP VIP of `address:port`; None for what is none."""
    try:
        host, port = split(text)
    except BadTarget:
        return None
    address = canonical(host)
    return Vip("tcp", address, port) if address and port is not None else None
