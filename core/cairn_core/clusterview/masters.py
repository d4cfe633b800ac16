"""Where masters are written down: the nodes that they keep in ZooKeeper, and addresses of it.

Each master that is alive has a sequential node; the one with the lowest number leads
(`src/master/contender/zookeeper.cpp`).  No I/O; `io_zookeeper` watches the nodes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

import msgspec
from msgspec import Struct

from cairn_core.errors import LocalError, RemoteError, shorten

ZOOKEEPER_PORT = 2181
#: Prefixes of the nodes of masters; the second is that of masters before 0.24.
JSON_NODE, LEGACY_NODE = "json.info_", "info_"
#: Nodes that are read; an ensemble of masters has five or seven.
MAX_NODES = 64
#: Digits of a sequence number.
_DIGITS = 10


class BadMasterNode(RemoteError):
    """What a master wrote about itself cannot be read."""


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Servers of ZooKeeper and where the masters are.

    hosts: each `host:port`. credentials: for the scheme `digest`, (user, password).
    """

    hosts: tuple[str, ...]
    path: str
    credentials: tuple[str, str] | None = None

    def __str__(self) -> str:
        """Without the password, for logs."""
        return f"zk://{','.join(self.hosts)}{self.path}"


def parse_ensemble(url: str) -> Ensemble:
    """The parts of `zk://[user:password@]host[:port],...[/path]`.  Raises LocalError."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme.lower() != "zk":
        raise LocalError("zk: must begin with zk://")
    servers, _, path = rest.partition("/")
    login, at, servers = servers.rpartition("@")
    user, colon, password = login.partition(":")
    if at and not (user and colon):
        # The text itself is not shown: it may be a password.
        raise LocalError("zk: what stands before the @ is not user:password")
    hosts = tuple(_server(one.strip()) for one in servers.split(",") if one.strip())
    if not hosts:
        raise LocalError("zk: names no server")
    parts = [part for part in path.strip().split("/") if part]
    if any(part in (".", "..") or not part.isprintable() for part in parts):
        raise LocalError(f"zk: not a path: {shorten(path)!r}")
    return Ensemble(hosts, "/" + "/".join(parts), (user, password) if at else None)


def parse_place(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Host and port of `host:port`, IPv6 addresses in brackets.  Raises LocalError."""
    host, colon, port = text.rpartition(":")
    if default_port is not None and (not colon or text.endswith("]")):
        host, port = text, str(default_port)
    named = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (":" in named and named == host) or not _is_host(named):
        raise LocalError(f"not host:port: {shorten(text)!r}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise LocalError(f"no port from 1 to 65535: {shorten(text)!r}")
    return named, int(port)


def join_place(host: str, port: int) -> str:
    """`host:port`, IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def master_nodes(children: Iterable[str]) -> list[str]:
    """Names of the nodes of masters, the leader's first; JSON ones where there are any."""
    numbered: dict[str, list[tuple[int, str]]] = {JSON_NODE: [], LEGACY_NODE: []}
    for name in children:
        for prefix, found in numbered.items():
            digits = name.removeprefix(prefix)
            if digits != name and digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS:
                found.append((int(digits), name))
    chosen = numbered[JSON_NODE] or numbered[LEGACY_NODE]
    return [name for _, name in sorted(chosen)[:MAX_NODES]]


def master_place(node: str, data: bytes) -> str:
    """`host:port` of the master that wrote a node.  Raises BadMasterNode."""
    try:
        info = _from_json(data) if node.startswith(JSON_NODE) else _from_protobuf(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadMasterNode(f"node {shorten(node)}: {shorten(str(error))}") from None
    if info.address is not None and info.address.ip:
        host, port = info.address.ip, info.address.port
    elif 0 < info.ip < 1 << 32:
        # Compat: the address as it lies in the memory of a little-endian machine
        host, port = str(IPv4Address(info.ip.to_bytes(4, "little"))), info.port
    else:
        raise BadMasterNode(f"node {shorten(node)}: has no address")
    try:
        parse_place(join_place(host, port))
    except LocalError as error:
        raise BadMasterNode(f"node {shorten(node)}: {error}") from None
    return join_place(host, port)


class _Address(Struct):
    ip: str = ""
    port: int = 5050


class _Info(Struct):
    ip: int = 0
    port: int = 5050
    address: _Address | None = None


_decoder = msgspec.json.Decoder(_Info, strict=False)


def _from_json(data: bytes) -> _Info:
    return _decoder.decode(data)


def _from_protobuf(data: bytes) -> _Info:
    """The fields of `MasterInfo` that say where it is (include/mesos/mesos.proto)."""
    info = _Info()
    for number, value in _fields(data):
        match number, value:
            case 2, int():
                info.ip = value
            case 3, int():
                info.port = value
            case 7, bytes():
                info.address = _Address()
                for inner, told in _fields(value):
                    match inner, told:
                        case 2, bytes():
                            info.address.ip = told.decode()
                        case 3, int():
                            info.address.port = told
    return info


def _fields(data: bytes) -> Iterable[tuple[int, int | bytes]]:
    """Field numbers and values of a protobuf message.  Raises ValueError."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire_type == 2:
            size, at = _varint(data, at)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if at + size > len(data):
            raise ValueError(f"cut off in field {number}")
        if wire_type == 2:
            yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("cut off in a number")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _server(text: str) -> str:
    try:
        return join_place(*parse_place(text, ZOOKEEPER_PORT))
    except LocalError as error:
        raise LocalError(f"zk: {error}") from None


def _is_host(text: str) -> bool:
    """Letters, digits and what stands in host names and addresses; nothing that ends a URL part."""
    return 0 < len(text) <= 255 and text.isascii() and all(c.isalnum() or c in "-._:" for c in text)
