"""Reading systemd unit files: the subset that our own units use.

Defined by systemd.syntax(7), systemd.service(5), systemd.socket(5). Pure: text in, values out. Keys
outside the subset are listed in `ignored`, since they matter only where the real systemd reads the
file; a known key with a wrong value is an error.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from cairn_core.errors import LocalError, shorten

Restart = Literal["no", "always", "on-success", "on-failure", "on-abnormal", "on-abort"]
KillMode = Literal["control-group", "process", "mixed", "none"]
ServiceType = Literal["simple", "exec", "notify", "oneshot"]
IPv6Only = Literal["default", "both", "ipv6-only"]

_SPAN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)")
_SPAN_UNITS = {
    "": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6,
    "m": 60.0, "min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hr": 3600.0,
}  # fmt: skip
_TRUE, _FALSE = ("1", "yes", "y", "true", "t", "on"), ("0", "no", "n", "false", "f", "off")
_SIZE = re.compile(r"([0-9]{1,9})\s*([KMG]?)", re.ASCII)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
#: The kernel counts buffers in a C int.
_MOST_BYTES = (1 << 31) - 1
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))", re.ASCII)


class UnitError(LocalError):
    """A unit file is wrong; `unit` is its name."""

    def __init__(self, unit: str, problem: str) -> None:
        super().__init__(f"unit {unit}: {problem}")
        self.unit = unit
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One `.service`; `name` is without the ending. Times are seconds."""

    name: str
    argv: tuple[str, ...]
    pre: tuple[tuple[str, ...], ...] = ()
    type: ServiceType = "simple"
    restart: Restart = "no"
    restart_s: float = 0.1
    start_timeout_s: float = 90.0
    stop_timeout_s: float = 90.0
    kill_mode: KillMode = "control-group"
    environment: Mapping[str, str] = field(default_factory=dict)
    environment_files: tuple[str, ...] = ()
    notify_all: bool = False
    user: str | None = None
    group: str | None = None
    directory: str | None = None
    open_files: int | None = None
    after: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def restarts_after(self, code: int) -> bool:
        """Whether to start again after an exit; code: as subprocess, negative for a signal."""
        clean = code == 0 or code in (-15, -2, -1, -13)
        match self.restart:
            case "always":
                return True
            case "no":
                return False
            case "on-success":
                return clean
            case "on-failure":
                return not clean
            case "on-abnormal" | "on-abort":
                return code < 0 and not clean


@dataclass(frozen=True, slots=True)
class Listen:
    """One listening address: a path, or host and port (host "" is every address)."""

    kind: Literal["stream", "datagram"]
    path: str | None = None
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """One `.socket`; `service` is the name of the service that gets it.

    reuse_port: equal addresses share the work, a socket for each. free_bind: addresses may come
    later. ipv6_only: "default" leaves it to the kernel. receive_buffer: bytes.
    """

    name: str
    service: str
    listens: tuple[Listen, ...]
    fd_name: str
    mode: int = 0o666
    backlog: int = 4096
    reuse_port: bool = False
    free_bind: bool = False
    ipv6_only: IPv6Only = "default"
    receive_buffer: int | None = None
    ignored: tuple[str, ...] = ()


def parse(unit: str, text: str) -> dict[str, dict[str, list[str]]]:
    """Section -> key -> values in order; an empty value forgets the ones before it.

    Raises UnitError for lines that are neither section, setting nor comment.
    """
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] | None = None
    held = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith(("#", ";")) or (not line and not held):
            continue  # a comment inside a continued line is skipped too
        line = f"{held}{line}"
        if line.endswith("\\"):
            held = line[:-1].rstrip() + " "
            continue
        held = ""
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], {})
            continue
        key, equals, value = line.partition("=")
        if not equals or current is None:
            raise UnitError(unit, f"line {number} not understood: {shorten(line, 60)!r}")
        if value.strip():
            current.setdefault(key.strip(), []).append(value.strip())
        else:
            current[key.strip()] = []
    return sections


class _Reader:
    """Takes known keys out of one section; what is left over was not understood."""

    def __init__(self, unit: str, section: Mapping[str, list[str]]) -> None:
        self.unit = unit
        self._left = dict(section)

    def all(self, key: str) -> list[str]:
        return self._left.pop(key, [])

    def one(self, key: str) -> str | None:
        values = self.all(key)
        return values[-1] if values else None

    def choice(self, key: str, allowed: Sequence[str], default: str) -> str:
        value = self.one(key) or default
        if value not in allowed:
            raise UnitError(self.unit, f"{key}={shorten(value, 40)}: expected {'|'.join(allowed)}")
        return value

    def seconds(self, key: str, default: float) -> float:
        value = self.one(key)
        if value is None:
            return default
        if value == "infinity":
            return float("inf")
        total, at = 0.0, 0
        while at < len(value):
            match = _SPAN.match(value, at)
            if match is None or match[2] not in _SPAN_UNITS:
                raise UnitError(self.unit, f"{key}={shorten(value, 40)}: not a time span")
            total += float(match[1]) * _SPAN_UNITS[match[2]]
            at = match.end()
        return total

    def number(self, key: str, base: int = 10) -> int | None:
        value = self.one(key)
        if value is None:
            return None
        try:
            return int(value.rpartition(":")[2], base)
        except ValueError:
            raise UnitError(self.unit, f"{key}={shorten(value, 40)}: not a number") from None

    def flag(self, key: str) -> bool:
        return self.choice(key, (*_TRUE, *_FALSE), "no") in _TRUE

    def size(self, key: str) -> int | None:
        value = self.one(key)
        if value is None:
            return None
        match = _SIZE.fullmatch(value)
        size = int(match[1]) * _SIZE_UNITS[match[2]] if match else 0
        if not 0 < size <= _MOST_BYTES:
            raise UnitError(self.unit, f"{key}={shorten(value, 40)}: not a size in bytes")
        return size

    def words(self, key: str, value: str) -> list[str]:
        try:
            return shlex.split(value)
        except ValueError as error:
            raise UnitError(self.unit, f"{key}={shorten(value, 40)}: {error}") from None

    def left(self) -> tuple[str, ...]:
        return tuple(sorted(self._left))


def parse_service(unit: str, text: str) -> Service:
    """The service in a unit file; unit: its name, with or without `.service`."""
    name = unit.removesuffix(".service")
    sections = parse(name, text)
    if "Service" not in sections:
        raise UnitError(name, "no section [Service]")
    service = _Reader(name, sections["Service"])
    unit_part = _Reader(name, sections.get("Unit", {}))
    kind = service.choice("Type", get_args(ServiceType), "simple")
    commands = service.all("ExecStart")
    if len(commands) != 1:
        raise UnitError(name, f"expected one ExecStart, found {len(commands)}")
    environment: dict[str, str] = {}
    for value in service.all("Environment"):
        for word in service.words("Environment", value):
            key, equals, text_value = word.partition("=")
            if not equals or not key.isidentifier():
                raise UnitError(name, f"Environment={shorten(word, 40)}: expected NAME=VALUE")
            environment[key] = text_value.replace("%%", "%")
    notify = service.choice("NotifyAccess", ("none", "main", "exec", "all"), "main")
    return Service(
        name=name,
        argv=_command(service, "ExecStart", commands[0]),
        pre=tuple(_command(service, "ExecStartPre", c) for c in service.all("ExecStartPre")),
        type=cast(ServiceType, kind),
        restart=cast(Restart, service.choice("Restart", get_args(Restart), "no")),
        restart_s=service.seconds("RestartSec", 0.1),
        start_timeout_s=service.seconds("TimeoutStartSec", 90.0),
        stop_timeout_s=service.seconds("TimeoutStopSec", 90.0),
        kill_mode=cast(KillMode, service.choice("KillMode", get_args(KillMode), "control-group")),
        environment=environment,
        environment_files=tuple(service.all("EnvironmentFile")),
        notify_all=notify == "all",
        user=service.one("User"),
        group=service.one("Group"),
        directory=service.one("WorkingDirectory"),
        open_files=service.number("LimitNOFILE"),
        after=tuple(
            word.removesuffix(".service")
            for value in unit_part.all("After")
            for word in value.split()
            if word.endswith(".service")
        ),
        sockets=tuple(
            word.removesuffix(".socket")
            for value in service.all("Sockets")
            for word in value.split()
        ),
        ignored=service.left(),
    )


def _command(reader: _Reader, key: str, line: str) -> tuple[str, ...]:
    # "-" (failure is fine), "@", "+", "!", ":" change details that we do not have
    words = reader.words(key, line.lstrip("-@+!:"))
    if not words:
        raise UnitError(reader.unit, f"{key} is empty")
    return tuple(word.replace("%%", "%") for word in words)


def expand(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Arguments with `$NAME` and `${NAME}` replaced; unknown ones become empty, `$$` is `$`.

    A word that is just `$NAME` is split at blanks, as systemd does.
    """
    done: list[str] = [argv[0]]
    for word in argv[1:]:
        whole = re.fullmatch(r"\$(\w+)", word, re.ASCII)
        if whole:
            done += environment.get(whole[1], "").split()
            continue
        parts = [
            _VARIABLE.sub(lambda m: environment.get(m[1] or m[2], ""), part)
            for part in word.split("$$")
        ]
        done.append("$".join(parts))
    return done


def parse_environment_file(text: str) -> dict[str, str]:
    """NAME=VALUE lines of an EnvironmentFile; others are skipped, as systemd does."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and key.isidentifier():
            try:
                found[key] = " ".join(shlex.split(value, comments=False))
            except ValueError:
                continue
    return found


def parse_socket(unit: str, text: str) -> Socket:
    """The sockets in a unit file; unit: its name, with or without `.socket`."""
    name = unit.removesuffix(".socket")
    sections = parse(name, text)
    if "Socket" not in sections:
        raise UnitError(name, "no section [Socket]")
    reader = _Reader(name, sections["Socket"])
    listens = [_listen(name, "stream", value) for value in reader.all("ListenStream")]
    listens += [_listen(name, "datagram", value) for value in reader.all("ListenDatagram")]
    if not listens:
        raise UnitError(name, "no ListenStream or ListenDatagram")
    fd_name = reader.one("FileDescriptorName") or f"{name}.socket"
    if ":" in fd_name or len(fd_name) > 255 or not fd_name.isprintable():
        raise UnitError(name, f"FileDescriptorName={shorten(fd_name, 40)} is not allowed")
    mode, backlog = reader.number("SocketMode", 8), reader.number("Backlog")
    return Socket(
        name=name,
        service=(reader.one("Service") or name).removesuffix(".service"),
        listens=tuple(listens),
        fd_name=fd_name,
        mode=0o666 if mode is None else mode,
        backlog=4096 if backlog is None else backlog,
        reuse_port=reader.flag("ReusePort"),
        free_bind=reader.flag("FreeBind"),
        ipv6_only=cast(IPv6Only, reader.choice("BindIPv6Only", get_args(IPv6Only), "default")),
        receive_buffer=reader.size("ReceiveBuffer"),
        ignored=reader.left(),
    )


def _listen(unit: str, kind: Literal["stream", "datagram"], value: str) -> Listen:
    if value.startswith("/"):
        return Listen(kind, path=value)
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UnitError(unit, f"cannot listen on {shorten(value, 60)!r}")
    return Listen(kind, host=host, port=int(port))


def start_order(services: Iterable[Service]) -> list[Service]:
    """Services so that each comes behind those it names in After; by name otherwise.

    A circle is broken at the name that comes first, as there is no right order.
    """
    left = {service.name: service for service in sorted(services, key=lambda s: s.name)}
    ordered: list[Service] = []
    while left:
        free = [s for s in left.values() if not any(name in left for name in s.after)]
        for service in free or [next(iter(left.values()))]:
            ordered.append(left.pop(service.name))
    return ordered
