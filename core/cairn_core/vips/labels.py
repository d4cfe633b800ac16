"""What tasks declare to be reached at: labels `VIP_0` of ports, and `VIP_PORT0` of tasks.

    a discovery port    VIP_0 = web:80, /group/web:80, 1.2.3.4:80, [fd00::1]:80
    the task itself     VIP_PORT0 = tcp://1.2.3.4:80, udp://web:53, web:80

Source: dcos/minuteman `src/minuteman_mesos_poller.erl`, dcos-net
`apps/dcos_l4lb/src/dcos_l4lb_mesos_poller.erl`; what either accepts is accepted, unless a comment
says so.  One wrong label takes away nothing but itself.
"""

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Literal, TypeAlias

from msgspec import Struct

from cairn_core.errors import shorten
from cairn_core.mesos.feed_rows import PortRow, TaskRow

Protocol: TypeAlias = Literal["tcp", "udp"]
Scope: TypeAlias = Literal["host", "container"]

#: What of one task is looked at; the rest is a problem of its own.
MAX_DECLARED = 64
MAX_VALUE = 512
MAX_KEY = 128
MAX_PROBLEMS = 64
MAX_PORT = 65535
#: Label by which Marathon says what the number of a discovery port counts in.
SCOPE_LABEL = "network-scope"

_TASK_KEY = re.compile(r"vip_port([0-9]{1,4})", re.IGNORECASE | re.ASCII)
_PORT_KEY = re.compile(r"vip_[0-9]+", re.IGNORECASE | re.ASCII)
_PROTOCOL_PREFIX = re.compile(r"(tcp|udp)://", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"0*([0-9]{1,5})", re.ASCII)
#: What nobody would call a service: an address that is none.
_LIKE_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3}|.*[:\[\]%].*", re.ASCII | re.DOTALL)


class DiscoveryPort(Struct, frozen=True, gc=False):
    """The backend's port is one of the discovery information.

    number: 1-65535, on the host or in the container as `scope` says; a port without scope is one
    of the host. labels: of the port, with the VIPs among them. name: of the port, may be empty.
    """

    number: int
    scope: Scope = "host"
    labels: tuple[tuple[str, str], ...] = ()
    name: str = ""


class ResourcePort(Struct, frozen=True, gc=False):
    """The backend's port is that of the agent's ports which the task got as number `index`, from 0
    on in ascending order."""

    index: int


class Declared(Struct, frozen=True, kw_only=True, gc=False):
    """One VIP that a task wants to be a backend of.

    host: address of a literal VIP as `ipaddress` writes it, empty for a named one. label: the name
    as written, without port; empty for a literal one; `names.full_name` makes a name of it. port:
    of the VIP, 1-65535. source: where the backend listens. key: of the label.
    """

    protocol: Protocol
    host: str = ""
    label: str = ""
    port: int
    source: DiscoveryPort | ResourcePort
    key: str

    @property
    def index(self) -> str:
        """What follows `VIP_` in the key, or `VIP`, in upper case: options name the VIP by it."""
        return self.key[3:].removeprefix("_").upper()


class Problem(Struct, frozen=True, gc=False):
    """A label that declares nothing, and why; all three fit a line.  value: shortened."""

    key: str
    value: str
    reason: str


class Declarations(Struct, frozen=True, gc=False):
    """What a task declares, in the order of its labels, and what was wrong."""

    vips: tuple[Declared, ...] = ()
    problems: tuple[Problem, ...] = ()


NOTHING = Declarations()


class _Bad(Exception):
    """A label declares nothing; the text says why."""


def is_vip_key(key: str) -> bool:
    """Whether a label may declare a VIP.

    Differs: Minuteman of DC/OS 1.8 took keys that contain `VIP` anywhere, those before and after
    it only such that begin with it; nobody is known to depend on it.
    """
    return key[:3].lower() == "vip"


def may_declare(task: TaskRow) -> bool:
    """Whether `declared` could find anything; some 0.2 microseconds where not."""
    if task.vip_labels:
        return True
    for port in task.discovery_ports:
        for key, _ in port.labels:
            if key[:3].lower() == "vip":
                return True
    return False


def declared(task: TaskRow) -> Declarations:
    """What the labels of a task declare; never raises, whatever is in them.

    Says nothing of the task's state or health: whether it counts is for the reader to decide.
    """
    if not may_declare(task):
        return NOTHING
    vips: list[Declared] = []
    problems: list[Problem] = []
    for key, value, port in _labels(task):
        if len(vips) >= MAX_DECLARED:
            problems.append(_problem(key, value, f"more than {MAX_DECLARED} VIPs of one task"))
            break
        if len(problems) >= MAX_PROBLEMS:
            break
        try:
            vips += _of_task(key, value) if port is None else _of_port(key, value, port)
        except _Bad as error:
            problems.append(_problem(key, value, str(error)))
    return Declarations(tuple(vips[:MAX_DECLARED]), tuple(problems))


def _labels(task: TaskRow) -> Iterator[tuple[str, str, PortRow | None]]:
    for port in task.discovery_ports:
        for key, value in port.labels:
            if is_vip_key(key):
                yield key, value, port
    for key, value in task.vip_labels:
        # The labels of a task may be about anything that begins with these three letters.
        if _TASK_KEY.fullmatch(key) or _PORT_KEY.fullmatch(key):
            yield key, value, None


def _of_port(key: str, value: str, port: PortRow) -> list[Declared]:
    if not 1 <= port.number <= MAX_PORT:
        raise _Bad(f"port {port.number} of the task is not 1-{MAX_PORT}")
    protocols = _protocols(port.protocol)
    host, label, number = _target(key, value)
    scope: Scope = "container" if (SCOPE_LABEL, "container") in port.labels else "host"
    source = DiscoveryPort(port.number, scope, port.labels, port.name)
    return [
        Declared(protocol=one, host=host, label=label, port=number, source=source, key=key)
        for one in protocols
    ]


def _of_task(key: str, value: str) -> list[Declared]:
    match = _TASK_KEY.fullmatch(key)
    if match is None:
        raise _Bad("a label of a task is VIP_PORT<n>; VIP_<n> is one of a port")
    value = value.strip()
    protocol: Protocol = "tcp"
    if prefix := _PROTOCOL_PREFIX.match(value):
        protocol = "udp" if prefix[1].lower() == "udp" else "tcp"
        value = value[prefix.end() :]
    host, label, number = _target(key, value)
    source = ResourcePort(int(match[1]))
    return [
        Declared(protocol=protocol, host=host, label=label, port=number, source=source, key=key)
    ]


def _protocols(text: str) -> list[Protocol]:
    """The protocols of a port: `tcp,udp` is both, none is tcp."""
    names = dict.fromkeys(part.strip().lower() for part in text[:32].split(","))
    found: list[Protocol] = []
    for name in names:
        match name:
            case "tcp" | "":
                found.append("tcp")
            case "udp":
                found.append("udp")
            case _:
                raise _Bad(f"protocol of the port is not tcp or udp: {_line(text, 40)!r}")
    return list(dict.fromkeys(found))


def _target(key: str, value: str) -> tuple[str, str, int]:
    """Address or name, one of them empty, and port.  The last colon parts them."""
    if len(key) > MAX_KEY:
        raise _Bad(f"key longer than {MAX_KEY} characters")
    if len(value) > MAX_VALUE:
        raise _Bad(f"value longer than {MAX_VALUE} characters")
    where, colon, port = value.strip().rpartition(":")
    if not colon:
        raise _Bad("no port: expected name:port or address:port")
    number = _NUMBER.fullmatch(port.strip())
    if number is None or not 1 <= int(number[1]) <= MAX_PORT:
        raise _Bad(f"port is not 1-{MAX_PORT}: {_line(port, 40)!r}")
    where = where.strip()
    if not where:
        raise _Bad("no name or address before the port")
    host = _address(where)
    return host, "" if host else where, int(number[1])


def _address(where: str) -> str:
    """The canonical text of an address; empty for a name."""
    bracketed = where.startswith("[") and where.endswith("]")
    text = where[1:-1] if bracketed else where
    try:
        address = ip_address(text)
    except ValueError:
        address = None
    if address is None or "%" in text or (bracketed and address.version == 4):
        # Differs: what looks like an address and is none would be a name in the original.
        if _LIKE_ADDRESS.fullmatch(where):
            raise _Bad(f"no address: {_line(where, 60)!r}")
        return ""
    return str(address)


def _problem(key: str, value: str, reason: str) -> Problem:
    return Problem(_line(key, 80), _line(value, 120), reason)


def _line(text: str, limit: int) -> str:
    """A text for a log or a page: short, on one line, writable in any encoding of Unicode."""
    return shorten(text[:4096], limit).encode(errors="backslashreplace").decode()
