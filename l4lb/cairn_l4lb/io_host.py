"""The host around our rules: system settings, routes to VIPs, and its counters."""

import contextlib
import errno
import json
import logging
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, TypeAlias

from cairn_core.errors import Unavailable, cause

from . import host_stats
from .io_programs import run
from .rules import KernelSettings

log = logging.getLogger(__name__)

#: Our routes are known by this origin (`proto`); nobody in iproute2's rt_protos has it.
PROTO = "161"
#: Packets that conntrack finds out of window would not be translated, and reset the connection.
_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"
#: What the memory calls our routes.
_ROUTES = "routes"
_FORWARD = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
_SYS, _NET = Path("/proc/sys"), Path("/proc/thread-self/net")


Address: TypeAlias = IPv4Address | IPv6Address


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

    A VIP needs some route: without one connect() fails before any rule of ours is asked, and with
    any the destination, and so the route, is changed in time.  Named VIPs share one, each other
    address has its own; both only where there is none.

    memory: file that remembers what a setting was before us, and routes that are ours, until the
    host starts anew, so that another process can put it back.
    """

    def __init__(self, settings: KernelSettings, memory: Path) -> None:
        self._settings, self._memory = settings, memory
        self._told: set[str] = set()
        ranges = [settings.named]
        if settings.ipv6 and settings.named6 is not None:
            ranges.append(settings.named6)
        self._named = [(ip_address(first), ip_address(last)) for first, last in ranges]
        #: Addresses of VIPs that are not of the named ranges.
        self._literals: set[str] = set()

    def plan(self, addresses: Iterable[str] = ()) -> list[tuple[str, ...]]:
        """Commands that put settings and routes right; empty when they are.  addresses: of VIPs
        that will come."""
        commands: list[tuple[str, ...]] = []
        if _number(_LIBERAL) == 0:
            commands.append(("sysctl", "-w", f"{_LIBERAL.replace('/', '.')}=1"))
        literals = self._literals.union(filter(self._is_literal, addresses))
        return commands + [self._route(prefix) for prefix in self._missing(literals, named=True)]

    def apply(self) -> list[str]:
        """Put settings and routes right; the commands that it took.

        What fails is logged, once: most of the balancer works without.
        """
        done = []
        if _number(_LIBERAL) == 0:
            with self._telling():
                memory = self._recall()
                self._remember({_LIBERAL: 0, **memory})  # what an earlier process found counts
                _write(_LIBERAL, 1)
                done.append(f"sysctl -w {_LIBERAL.replace('/', '.')}=1")
        return done + self._add(self._missing(self._literals, named=True))

    def serve(self, addresses: Iterable[str]) -> None:
        """VIPs with these addresses come.  O(new ones)."""
        new = set(filter(self._is_literal, set(addresses) - self._literals))
        self._literals |= new
        self._add(self._missing(new))

    def keep(self, addresses: Collection[str]) -> None:
        """VIPs have no addresses but these: routes to others go, also those that an earlier
        process made."""
        self._literals.intersection_update(addresses)
        wanted = {str(ip_network(one)) for one in self._literals}
        for prefix in self._ours() - wanted - set(self._ranges()):
            with self._telling():
                if prefix in _lo_routes(_family(prefix)):
                    run(_delete(prefix))
                self._note(gone=[prefix])

    def needs(self, address: str) -> bool:
        """Whether the VIP with this address has, or would have had, a route for itself."""
        return address in self._literals

    def remove(self) -> tuple[list[str], list[str]]:
        """Undo all of it, also what an earlier process did; what was undone and what could not be,
        one line each."""
        undone, problems = [], []
        ours = self._ours().union(self._ranges())
        for family in ("-4", "-6"):
            try:
                found = _lo_routes(family) & ours
            except Unavailable as error:
                problems.append(str(error))
                continue
            for prefix in sorted(found):
                try:
                    run(_delete(prefix))
                    undone.append(f"route {prefix}")
                except Unavailable as error:
                    problems.append(str(error))
        before = self._recall().get(_LIBERAL)
        if isinstance(before, int) and _number(_LIBERAL) == 1:
            try:
                _write(_LIBERAL, before)
                undone.append(f"{_LIBERAL.replace('/', '.')}={before}")
            except Unavailable as error:
                problems.append(str(error))
        if not problems:
            self._memory.unlink(missing_ok=True)
        return undone, problems

    # -- routes --------------------------------------------------------------------------------

    def _is_literal(self, text: str) -> bool:
        address = ip_address(text)
        if address.version == 6 and not self._settings.ipv6:
            return False
        return not any(
            first.version == address.version and int(first) <= int(address) <= int(last)
            for first, last in self._named
        )

    def _ranges(self) -> list[str]:
        return [_covering(first, last) for first, last in self._named]

    def _missing(self, literals: Iterable[str], *, named: bool = False) -> list[str]:
        """What needs a route of ours, as prefixes."""
        result = [_covering(*ends) for ends in self._named if named and not _has_route(ends[1])]
        return result + [
            str(ip_network(one)) for one in sorted(literals) if not _has_route(ip_address(one))
        ]

    def _route(self, prefix: str) -> tuple[str, ...]:
        """How a route is made."""
        family = _family(prefix)
        source = self._settings.source6 if family == "-6" else self._settings.source
        own = ("src", source) if source else ()
        return ("ip", family, "route", "add", prefix, "dev", "lo", *own, "proto", PROTO)

    def _add(self, prefixes: Sequence[str]) -> list[str]:
        done: list[str] = []
        self._note(come=prefixes)  # before it is true: it may be the last that we do
        for prefix in prefixes:
            with self._telling():
                try:
                    run(self._route(prefix))
                except Unavailable:
                    self._note(gone=[prefix])
                    raise
                done.append(" ".join(self._route(prefix)))
        return done

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """What fails is logged, once."""
        try:
            yield
        except Unavailable as error:
            if str(error) not in self._told:
                log.warning("%s", error)
                self._told.add(str(error))

    # -- memory --------------------------------------------------------------------------------

    def _ours(self) -> set[str]:
        """Routes that are ours, as far as it is known."""
        routes = self._recall().get(_ROUTES)
        return {str(one) for one in routes} if isinstance(routes, list) else set()

    def _note(self, come: Collection[str] = (), gone: Collection[str] = ()) -> None:
        ours = self._ours()
        if (new := ours.union(come).difference(gone)) != ours:
            self._remember({**self._recall(), _ROUTES: sorted(new)})

    def _recall(self) -> dict[str, Any]:
        try:
            found = json.loads(self._memory.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _remember(self, what: dict[str, Any]) -> None:
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            self._memory.write_text(json.dumps(what))
        except OSError as error:
            problem = f"{self._memory}: {cause(error)}; uninstalling will not undo everything"
            if problem not in self._told:
                log.warning("%s", problem)
                self._told.add(problem)


def _has_route(address: Address) -> bool:
    """Whether packets to it would get as far as our rules."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))  # looks the route up, and sends nothing
    except OSError as error:
        # other errors are no matter of routes
        return error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    return True


def _lo_routes(family: str) -> set[str]:
    """Routes such as we make, whoever made them, as prefixes."""
    found = json.loads(run(("ip", "-j", family, "route", "show", "dev", "lo", "proto", PROTO)))
    return {
        str(ip_network(one["dst"]))
        for one in found
        if one["dst"] != "default" and not {"gateway", "via", "nexthops", "type"} & one.keys()
    }


def _delete(prefix: str) -> tuple[str, ...]:
    return ("ip", _family(prefix), "route", "del", prefix, "dev", "lo", "proto", PROTO)


def _family(prefix: str) -> str:
    return "-6" if ":" in prefix else "-4"


def _covering(low: Address, high: Address) -> str:
    """The smallest network with both addresses."""
    length = low.max_prefixlen - (int(low) ^ int(high)).bit_length()
    return str(ip_network(f"{low}/{length}", strict=False))


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
