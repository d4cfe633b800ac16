"""The host around our rules: system settings, a route to named VIPs, and its counters."""

import ipaddress
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from cairn_core.errors import Unavailable, cause

from . import host_stats
from .io_programs import run
from .rules import KernelSettings

log = logging.getLogger(__name__)

#: Our routes are known by this origin (`proto`); nobody in iproute2's rt_protos has it.
PROTO = "161"
#: Packets that conntrack finds out of window would not be translated, and reset the connection.
_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"
_FORWARD = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
_SYS, _NET = Path("/proc/sys"), Path("/proc/thread-self/net")


@dataclass(frozen=True, slots=True)
class Reading:
    """counters: `conntrack_*` and `queue_*` since the host started. used, most: entries of the
    connection table; most 0: unknown."""

    counters: dict[str, int]
    used: int
    most: int


def read(queues: tuple[int, int]) -> Reading:
    """What tells of lost packets; queues: first and last number of ours.  What cannot be read is
    left out."""
    counters = {
        f"conntrack_{name}": value
        for name, value in host_stats.conntrack(_text(_NET / "stat/nf_conntrack")).items()
        if name in ("insert_failed", "drop", "early_drop")
    }
    counters |= host_stats.queues(
        _text(_NET / "netfilter/nfnetlink_queue"), range(queues[0], queues[1] + 1)
    )
    used, most = (_number(f"net/netfilter/nf_conntrack_{name}") or 0 for name in ("count", "max"))
    return Reading(counters, used, most)


def complaints(settings: KernelSettings) -> list[str]:
    """What the host's operator should know, one line each."""
    names = _FORWARD if settings.ipv6 else _FORWARD[:1]
    return [
        f"{name.replace('/', '.')} is 0: containers cannot reach VIPs"
        for name in names
        if _number(name) == 0
    ]


class Host:
    """Settings and routes of the host that we need.

    memory: file that remembers what a setting was before us until the host starts anew, so that
    another process can put it back.
    """

    def __init__(self, settings: KernelSettings, memory: Path) -> None:
        self._settings, self._memory = settings, memory
        self._told: set[str] = set()

    def plan(self) -> list[tuple[str, ...]]:
        """Commands that put settings and routes right; empty when they are."""
        commands: list[tuple[str, ...]] = []
        if _number(_LIBERAL) == 0:
            commands.append(("sysctl", "-w", f"{_LIBERAL.replace('/', '.')}=1"))
        return commands + [
            command for command in map(self._route, self._named()) if command is not None
        ]

    def apply(self) -> list[str]:
        """Put settings and routes right; the commands that it took.

        What fails is logged, once: most of the balancer works without.
        """
        done = []
        for command in self.plan():
            try:
                if command[0] == "sysctl":
                    self._remember()
                    _write(_LIBERAL, 1)
                else:
                    run(command)
            except Unavailable as error:
                if str(error) not in self._told:
                    log.warning("%s", error)
                    self._told.add(str(error))
            else:
                done.append(" ".join(command))
        return done

    def remove(self) -> list[str]:
        """Undo all of it, also what an earlier process did; what was undone."""
        undone = []
        for family in ("-4", "-6"):
            found = run(("ip", family, "route", "show", "proto", PROTO))
            for line in found.splitlines():
                prefix = line.split()[0]
                run(("ip", family, "route", "del", prefix, "proto", PROTO))
                undone.append(f"route {prefix}")
        try:
            before = int(json.loads(self._memory.read_text())[_LIBERAL])
        except (OSError, ValueError, TypeError, LookupError):
            return undone
        if _number(_LIBERAL) == 1:
            _write(_LIBERAL, before)
            undone.append(f"{_LIBERAL.replace('/', '.')}={before}")
        self._memory.unlink(missing_ok=True)
        return undone

    def _named(self) -> list[tuple[str, str, str]]:
        """Of each family: first and last address of named VIPs, and our own."""
        settings = self._settings
        result = [(*settings.named, settings.source)]
        if settings.ipv6 and settings.named6 is not None:
            result.append((*settings.named6, settings.source6))
        return result

    def _route(self, named: tuple[str, str, str]) -> tuple[str, ...] | None:
        """How to make a route where there is none.  Without one connect() fails before any rule of
        ours is asked; with any the destination, and so the route, is changed in time."""
        first, last, source = named
        family = "-6" if ":" in first else "-4"
        try:
            run(("ip", family, "route", "get", last))
        except Unavailable:
            prefix = _covering(first, last)
            own = ("src", source) if source else ()
            return ("ip", family, "route", "add", prefix, "dev", "lo", *own, "proto", PROTO)
        return None

    def _remember(self) -> None:
        """Note what the setting was, unless an earlier process did."""
        if self._memory.exists():
            return
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            self._memory.write_text(json.dumps({_LIBERAL: _number(_LIBERAL)}))
        except OSError as error:
            log.warning("%s: %s; uninstalling will not restore it", self._memory, cause(error))


def _covering(first: str, last: str) -> str:
    """The smallest network with both addresses."""
    low, high = ipaddress.ip_address(first), ipaddress.ip_address(last)
    length = low.max_prefixlen - (int(low) ^ int(high)).bit_length()
    return str(ipaddress.ip_network(f"{first}/{length}", strict=False))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(name: str) -> int | None:
    """A setting of the system; None: this kernel does not have it."""
    try:
        return int(_text(_SYS / name))
    except ValueError:
        return None


def _write(name: str, value: int) -> None:
    try:
        (_SYS / name).write_text(f"{value}\n")
    except OSError as error:
        raise Unavailable(f"{name.replace('/', '.')}: {cause(error)}") from None
