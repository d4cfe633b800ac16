"""This host's addresses, and the source that the kernel prefers for an address."""

from random import Random
from struct import Struct

from . import netlink
from .io_netlink import Netlink
from .netlink import Malformed
from .sources import new_source

#: How long they hold, seconds; a route up to twice as long, so that not all are asked for at once
#: (dcos/minuteman `src/minuteman_iface_server.erl`, `src/minuteman_routes.erl`).
ADDRESSES_S, ROUTE_S = 5.0, 10.0
_MAX_ROUTES = 10_000
_GET_ADDRESS, _GET_ROUTE, _NEW_ADDRESS, _NEW_ROUTE = 22, 26, 20, 24
_ADDRESS_HEAD = Struct("=BBBBI")
_ROUTE_HEAD = Struct("=BBBBBBBBI")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_PREFSRC = 1, 7


class Sources:
    """Answers from what is known, and asks the kernel for what is not: some 20 microseconds."""

    def __init__(self, rng: Random) -> None:
        self._netlink = Netlink(netlink.ROUTE)
        self._rng = rng
        self._local: set[bytes] = set()
        self._local_until = 0.0
        #: Preferred source and until when it holds, by destination.
        self._routes: dict[bytes, tuple[bytes | None, float]] = {}

    def choose(self, client: bytes, backend: bytes, now: float) -> bytes | None:
        """The source address that the backend is to see; None when it cannot be reached."""
        if now >= self._local_until:
            self._local = self._addresses() or self._local
            self._local_until = now + ADDRESSES_S
        return new_source(client, backend, self._local, lambda address: self._route(address, now))

    def _addresses(self) -> set[bytes]:
        request = netlink.message(
            _GET_ADDRESS, netlink.REQUEST | netlink.DUMP, _ADDRESS_HEAD.pack(0, 0, 0, 0, 0)
        )
        found: set[bytes] = set()
        try:
            for answer in self._netlink.request(request):
                if answer.kind == _NEW_ADDRESS:
                    parts = dict(netlink.attributes(answer.body, _ADDRESS_HEAD.size))
                    # of a point-to-point link the first is its other end
                    address = parts.get(_IFA_LOCAL) or parts.get(_IFA_ADDRESS)
                    found.add(bytes(address or b""))
        except (OSError, Malformed):
            return set()
        return found

    def _route(self, address: bytes, now: float) -> bytes | None:
        known = self._routes.get(address)
        if known is not None and now < known[1]:
            return known[0]
        source = self._ask(address)
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[address] = source, now + ROUTE_S * (1 + self._rng.random())
        return source

    def _ask(self, address: bytes) -> bytes | None:
        family = netlink.INET if len(address) == 4 else netlink.INET6
        head = _ROUTE_HEAD.pack(family, len(address) * 8, 0, 0, 0, 0, 0, 0, 0)
        request = netlink.message(
            _GET_ROUTE,
            netlink.REQUEST | netlink.ACK,
            head + netlink.attribute(_RTA_DST, address),
        )
        try:
            for answer in self._netlink.request(request):
                if answer.kind == _NEW_ROUTE:
                    parts = dict(netlink.attributes(answer.body, _ROUTE_HEAD.size))
                    if _RTA_PREFSRC in parts:
                        return bytes(parts[_RTA_PREFSRC])
        except (OSError, Malformed):
            pass
        return None

    def close(self) -> None:
        """Give the socket back."""
        self._netlink.close()
