"""Rules for settings that types cannot say, as Mesos-DNS `records/validation.go` has them.

Each function raises ValueError with one line that holds the offending value.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network

from cairn_core.clusterview.masters import parse_ensemble
from cairn_core.errors import LocalError, shorten

from .wire import BadName, wire_name

IP_SOURCES = ("netinfo", "docker", "mesos", "host")
_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*", re.ASCII | re.IGNORECASE)


def split_place(text: str, default_port: int | None = 53) -> tuple[str, int]:
    """Host and port of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.

    default_port: None when a port must be there.
    """
    if text.count(":") > 1 and not text.startswith("["):
        host, port = text, ""
    elif text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        if (rest and not rest.startswith(":")) or rest == ":":
            raise ValueError(f"not a host:port: {shorten(text, 60)!r}")
    else:
        host, colon, port = text.partition(":")
        if colon and not port:
            raise ValueError(f"not a host:port: {shorten(text, 60)!r}")
    if not host or (not port and default_port is None):
        raise ValueError(f"not a host:port: {shorten(text, 60)!r}")
    if not port:
        return host, default_port or 0
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError(f"port is not within 1-65535: {shorten(text, 60)!r}")
    return host, int(port)


def masters(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Masters as host and port; each needs a port, and none may be there twice."""
    return _unique(texts, _master)


def resolvers(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Servers as address and port; only addresses, none twice."""
    return _unique(texts, _resolver)


def zone_resolvers(zones: Mapping[str, Sequence[str]], domain: str) -> None:
    """Zones with servers of their own: none empty, none that hides another or `domain`.

    # Compat: only true sub-domains hide, `bc.com` does not hide `abc.com`.
    """
    names = [zone.lower() for zone in zones]
    for zone, servers in zones.items():
        valid_domain(zone)
        if not servers:
            raise ValueError(f"no servers for zone {zone!r}")
        resolvers(servers)
    if domain in names:
        raise ValueError(f"zone {domain!r} is the domain of the cluster")
    dotted = ["." + name for name in (*names, domain)]
    for inner in dotted:
        for outer in dotted:
            if inner != outer and inner.endswith(outer):
                raise ValueError(f"zone {inner[1:]!r} is hidden by {outer[1:]!r}")


def valid_domain(text: str) -> str:
    """A domain in lower case; neither empty labels nor a dot at the end."""
    if not _DOMAIN.fullmatch(text):
        raise ValueError(f"not a domain: {shorten(text, 60)!r}")
    return valid_name(text)


def valid_name(text: str) -> str:
    """A name that DNS can carry, in lower case and without the last dot."""
    try:
        wire_name(text)
    except BadName as error:
        raise ValueError(str(error)) from None
    return text.lower().removesuffix(".")


def mailbox(text: str) -> str:
    """A mailbox in the form of SOA records: `root@ns1.mesos` is `root.ns1.mesos`."""
    return valid_name(text.replace("@", ".").rstrip("."))


def ip_sources(names: Sequence[str]) -> None:
    """Sources of task addresses: known ones, at least one, none twice."""
    unknown = [name for name in names if name not in IP_SOURCES]
    if unknown or not names:
        problem = f"{shorten(unknown[0], 40)!r} is none of" if unknown else "none given of"
        raise ValueError(f"{problem} {', '.join(IP_SOURCES)}")
    if len(set(names)) < len(names):
        raise ValueError(f"one is there twice: {', '.join(names)}")


def addresses(texts: Iterable[str]) -> list[str]:
    """Addresses to listen on, at least one."""
    found = [_address(text) for text in texts]
    if not found:
        raise ValueError("no address")
    return found


def networks(texts: Iterable[str]) -> None:
    """Networks as `10.0.0.0/8`, without bits of a host."""
    for text in texts:
        ip_network(text)  # its errors name the value


def zookeeper(text: str) -> None:
    """Empty, `zk://[user:pass@]host:port,.../path`, `file:///path` or `host:port`."""
    scheme, colon, rest = text.partition("://")
    if scheme == "file" and colon:
        if not rest.startswith("/"):
            raise ValueError("file URL without an absolute path")
    elif colon:
        try:
            parse_ensemble(text)
        except LocalError as error:
            raise ValueError(str(error).removeprefix("zk: ")) from None
    elif text:
        masters(part.strip() for part in text.split(","))


def _unique(texts: Iterable[str], read: Callable[[str], tuple[str, int]]) -> list[tuple[str, int]]:
    found: dict[tuple[str, int], None] = {}
    for text in texts:
        place = read(text)
        if place in found:
            raise ValueError(f"{shorten(text, 60)!r} is there twice")
        found[place] = None
    return list(found)


def _master(text: str) -> tuple[str, int]:
    host, port = split_place(text, None)
    try:
        return str(ip_address(host)), port
    except ValueError:
        # Compat: what looks like no address is taken for a host name
        return host, port


def _resolver(text: str) -> tuple[str, int]:
    host, port = split_place(text)
    return _address(host), port


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError(f"not an address: {shorten(text, 60)!r}") from None
