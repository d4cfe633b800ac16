"""ipset by netlink: entries of sets of the type `hash:ip,port`.

Sets themselves are made by ipset(8), which knows the revisions of types.

Documents: linux/netfilter/ipset/ip_set.h.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from . import netlink
from .model import Vip
from .netlink import ACK, DUMP, IPSET, Malformed, Message

_FLUSH, _LIST, _ADD, _DEL = 4, 7, 9, 10
#: IPSET_ATTR_*
_PROTOCOL, _SETNAME, _TYPENAME, _FAMILY, _DATA, _ADT, _LINENO = 1, 2, 3, 5, 7, 8, 9
_IP, _PORT, _TIMEOUT, _PROTO, _MAXELEM, _REFERENCES = 1, 4, 6, 7, 19, 25
_IPV4, _IPV6 = 1, 2
_NET_BYTEORDER = 0x4000
#: The oldest protocol that has all we need, so that old kernels answer too.
_VERSION = 6
_NUMBERS = {"tcp": 6, "udp": 17}
_NAMES = {number: name for name, number in _NUMBERS.items()}
#: Bytes of entries in one message: an attribute has 16 bits for its length.
_FULL = 60_000


#: IPSET_ERR_*, which errno(3) does not have.
_ERRORS = {
    4097: "this kernel speaks another protocol of ipset",
    4098: "this kernel does not have its type",
    4099: "there are as many sets as the kernel allows",
    4100: "a rule or another set uses it",
    4101: "there is a set of the new name",
    4102: "the sets are of different types",
    4103: "it exists",
    4106: "its type does not have this family",
    4107: "it has no timeouts",
    4108: "a rule or another set uses it",
    4352: "it is full, see its maxelem",
}


class Listing(NamedTuple):
    """A set. typename: as `hash:ip,port`. family: as of sockets. foreign: how many entries it has
    that are no VIP of TCP or UDP. maxelem: so many entries it can have. timeout: seconds that an
    entry stays, None for ever. references: rules and sets that use it."""

    typename: str
    family: int
    vips: set[Vip]
    foreign: int
    maxelem: int = 0
    timeout: int | None = None
    references: int = 0


def reason(number: int) -> str | None:
    """What an error of ipset means; None: it is one of errno(3)."""
    if number < 4096:
        return None
    return _ERRORS.get(number, f"error {number} of ipset")


def add(name: str, vips: Iterable[Vip]) -> list[bytes]:
    """Messages that add to a set; what is there already is no error."""
    return _change(_ADD, name, vips)


def delete(name: str, vips: Iterable[Vip]) -> list[bytes]:
    """Messages that delete from a set; what is not there is no error."""
    return _change(_DEL, name, vips)


def flush(name: str) -> bytes:
    """Empty a set."""
    return netlink.netfilter(IPSET, _FLUSH, ACK, _version(), netlink.text(_SETNAME, name))


def dump(name: str) -> bytes:
    """A question for a set with its entries; see `listing`.  ENOENT: there is none."""
    return netlink.netfilter(IPSET, _LIST, DUMP, _version(), netlink.text(_SETNAME, name))


def listing(messages: Iterable[Message]) -> Listing:
    """The answers to `dump`.  Raises Malformed."""
    typename, family, foreign, most, timeout, references = "", 0, 0, 0, None, 0
    vips: set[Vip] = set()
    for message in messages:
        found = message.attributes()
        if _TYPENAME in found:
            typename = bytes(found[_TYPENAME]).rstrip(b"\0").decode("ascii", "replace")
        if _FAMILY in found:
            family = netlink.number(found[_FAMILY])
        if _DATA in found:
            made = dict(netlink.attributes(found[_DATA]))
            most = netlink.number(made.get(_MAXELEM, b"\0"))
            timeout = netlink.number(made[_TIMEOUT]) if _TIMEOUT in made else None
            references = netlink.number(made.get(_REFERENCES, b"\0"))
        for _, entry in netlink.attributes(found.get(_ADT, b"")):
            vip = _vip(dict(netlink.attributes(entry)))
            if vip is None:
                foreign += 1
            else:
                vips.add(vip)
    return Listing(typename, family, vips, foreign, most, timeout, references)


def _vip(entry: dict[int, netlink.Buffer]) -> Vip | None:
    try:
        protocol = _NAMES[netlink.number(entry[_PROTO])]
        port = netlink.number(entry[_PORT])
        address = next(bytes(data) for _, data in netlink.attributes(entry[_IP]))
    except (KeyError, StopIteration):
        return None
    if len(address) not in (4, 16):
        raise Malformed(f"address has {len(address)} bytes")
    return Vip("tcp" if protocol == "tcp" else "udp", str(ipaddress.ip_address(address)), port)


def _change(command: int, name: str, vips: Iterable[Vip]) -> list[bytes]:
    head = (_version(), netlink.text(_SETNAME, name))
    return [
        netlink.netfilter(
            IPSET, command, ACK, *head, netlink.u32(_LINENO, 0), netlink.nested(_ADT, part)
        )
        for part in _parts(vips)
    ]


def _parts(vips: Iterable[Vip]) -> Iterator[bytes]:
    """Entries joined, each part short enough for one message."""
    part: list[bytes] = []
    size = 0
    for vip in vips:
        address = ipaddress.ip_address(vip.address)
        one = netlink.nested(
            _DATA,
            netlink.nested(
                _IP,
                netlink.attribute(
                    (_IPV6 if address.version == 6 else _IPV4) | _NET_BYTEORDER, address.packed
                ),
            ),
            netlink.attribute(_PORT | _NET_BYTEORDER, vip.port.to_bytes(2, "big")),
            netlink.u8(_PROTO, _NUMBERS[vip.protocol]),
            netlink.attribute(_LINENO | _NET_BYTEORDER, b"\0\0\0\0"),
        )
        if size + len(one) > _FULL:
            yield b"".join(part)
            part, size = [], 0
        part.append(one)
        size += len(one)
    if part:
        yield b"".join(part)


def _version() -> bytes:
    return netlink.u8(_PROTOCOL, _VERSION)
