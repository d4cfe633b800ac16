"""What a person types for a VIP: a name, an address, with port or without."""

from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import ip_address
from itertools import islice

from cairn_core.vips.names import ZONES, normalise

from .model import Service, Vip

#: VIPs whose names are compared with one that is wrong: a few milliseconds.
MAX_COMPARED = 500
#: Names that are proposed.
MAX_NEAR = 3


class BadTarget(ValueError):
    """The text can be no VIP."""


def find(text: str, services: Iterable[Service]) -> list[Service]:
    """Services that `text` means, in their order.  Raises BadTarget.

    `[tcp/|udp/]` then `web.marathon`, its full name in DNS, or an address, then `[:port]`; or a
    label as the app has it, `/web:80`, whatever its framework.
    """
    protocol, slash, rest = text.strip().partition("/")
    if not slash:
        protocol, rest = "", text.strip()
    elif protocol not in ("", "tcp", "udp"):
        raise BadTarget(f"not tcp/ or udp/ before a VIP: {text[:80]!r}")
    host, port = split(rest)
    name, address = name_of(host), canonical(host)
    if slash and not protocol and not address:
        label = normalise(host)
        if not label:
            raise BadTarget(f"not a label such as /web:80: {text[:80]!r}")
        name = f"{label}."

    def is_meant(one: Service) -> bool:
        if address:
            return one.vip.address == address
        return one.name.startswith(name) if name.endswith(".") else bool(name) and one.name == name

    return [
        one
        for one in services
        if (not protocol or one.vip.protocol == protocol)
        and (port is None or one.vip.port == port)
        and is_meant(one)
    ]


def near(text: str, services: Iterable[Service]) -> list[str]:
    """Names with their ports that `text`, which nothing has, may be meant to be; the best first."""
    label = name_of(text.strip().rpartition("/")[2].partition(":")[0]).partition(".")[0][:100]
    places: dict[str, list[str]] = {}
    for one in services:
        if one.name:
            found = places.setdefault(one.name.partition(".")[0], [])
            found.append(f"{one.name}:{one.vip.port}")
    alike = get_close_matches(label, list(islice(places, MAX_COMPARED)), MAX_NEAR) if label else []
    labels = [label, *alike] if label in places else alike
    return list(dict.fromkeys(place for one in labels for place in places[one]))[:MAX_NEAR]


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
