"""This host's own addresses and networks, as the kernel has them now."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from . import netlink
from .io_netlink import Netlink
from .netlink import Malformed

_GET_ADDRESS, _NEW_ADDRESS = 22, 20
#: ifaddrmsg: family, prefix length, flags, scope, index of the link.
_HEAD = struct.Struct("=BBBBI")
_ADDRESS, _LOCAL = 1, 2


@dataclass(frozen=True, slots=True)
class OwnAddresses:
    """Of all links.  interfaces: without loopback and link-local ones, IPv4 first."""

    interfaces: tuple[IPv4Interface | IPv6Interface, ...] = ()

    @property
    def addresses(self) -> list[str]:
        """Canonical texts."""
        return [str(one.ip) for one in self.interfaces]

    @property
    def networks(self) -> list[str]:
        """Networks of the links; a single address is none."""
        return [
            str(one.network)
            for one in self.interfaces
            if 0 < one.network.prefixlen < one.max_prefixlen
        ]

    @property
    def everything(self) -> list[str]:
        """The networks, and the addresses that are in none."""
        return self.networks + [
            str(one.ip)
            for one in self.interfaces
            if one.network.prefixlen in (0, one.max_prefixlen)
        ]

    def first(self, version: int) -> str:
        """The first address of a family, 4 or 6, that is in a network; empty when there is none.

        One that is alone is often the same on every host, as the DNS proxy's are.
        """
        return next(
            (
                str(one.ip)
                for one in self.interfaces
                if one.version == version and one.network.prefixlen < one.max_prefixlen
            ),
            "",
        )


def read() -> OwnAddresses | None:
    """Ask the kernel; None where it does not answer.  Some 0.1 milliseconds."""
    try:
        socket = Netlink(netlink.ROUTE, buffer_bytes=256 << 10)
    except OSError:
        return None
    request = netlink.message(
        _GET_ADDRESS, netlink.REQUEST | netlink.DUMP, _HEAD.pack(0, 0, 0, 0, 0)
    )
    # the same one may be on many links
    found: dict[IPv4Interface | IPv6Interface, None] = {}
    try:
        for answer in socket.request(request):
            if answer.kind != _NEW_ADDRESS:
                continue
            parts = dict(netlink.attributes(answer.body, _HEAD.size))
            packed = bytes(parts.get(_LOCAL) or parts.get(_ADDRESS) or b"")
            if len(packed) in (4, 16):
                one = ip_interface((packed, answer.body[1]))
                if not one.is_loopback and not one.is_link_local:
                    found[one] = None
    except (OSError, Malformed):
        return None
    finally:
        socket.close()
    return OwnAddresses(tuple(sorted(found, key=lambda one: one.version)))
