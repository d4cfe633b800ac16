"""nftables by netlink: elements of our maps and sets, and the generation of the rules.

Only elements go this way, for nft(8) needs 16 ms to delete one of 60,000 and this needs one send;
tables, chains and rules are text for nft(8), see `ruleset`.

Documents: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache

from . import netlink
from .netlink import ACK, CREATE, DUMP, NETFILTER_HEADER, NFTABLES, Buffer, Malformed, Message

_NEWTABLE, _GETTABLE, _NEWCHAIN, _GETCHAIN, _GETRULE = 0, 1, 3, 4, 7
_NEWSETELEM, _GETSETELEM, _DELSETELEM = 12, 13, 14
_NEWGEN, _GETGEN = 15, 16
#: NFTA_SET_ELEM_LIST_*
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEM = 1
#: NFTA_SET_ELEM_*
_KEY, _DATA = 1, 2
#: NFTA_DATA_*, NFTA_VERDICT_*
_VALUE, _VERDICT = 1, 2
_CODE, _CHAIN = 1, 2
_GEN_ID, _BATCH_GEN_ID = 1, 1
#: NFTA_TABLE_*; the first attribute of chains and rules is their table.
_TABLE_NAME, _TABLE_USERDATA, _OF_TABLE, _CHAIN_NAME = 1, 6, 1, 3
#: What counts users and packets, by message: changes without anybody changing a rule.
_COUNTS = {_NEWTABLE: frozenset({3}), _NEWCHAIN: frozenset({6, 8})}
#: NFPROTO_INET
_INET_TABLE = 1
_GOTO = (-4 & 0xFFFFFFFF).to_bytes(4, "big")
_HEADER = netlink.HEADER.size
#: Bytes of elements in one message: an attribute has 16 bits for its length.
_FULL = 60_000


def goto(chain: str) -> bytes:
    """The data of an element that is a verdict, for `element`; see `chain_of`."""
    return netlink.nested(_VERDICT, netlink.attribute(_CODE, _GOTO), netlink.text(_CHAIN, chain))


def value(data: bytes) -> bytes:
    """The data of an element that is a value; see `value_of`."""
    return netlink.attribute(_VALUE, data)


def element(key: bytes, data: bytes | None = None) -> bytes:
    """An element of a map, or of a set without `data`, which is from `goto` or `value`.

    key: of a multiple of 4 bytes.
    """
    size = 0 if data is None else len(data)
    before, between = _heads(len(key), size, data is not None)
    return b"".join((before, key, between, data or b""))


@lru_cache(maxsize=256)
def _heads(key: int, data: int, has_data: bool) -> tuple[bytes, bytes]:
    """What comes before the key of an element and between key and data, for so many bytes of each,
    both multiples of 4: there are tens of thousands of elements of few sizes."""
    key_part = netlink.nested(_KEY, netlink.attribute(_VALUE, bytes(key)))
    data_part = netlink.nested(_DATA, bytes(data)) if has_data else b""
    whole = netlink.nested(_LIST_ELEM, key_part, data_part)
    end = len(whole) - len(data_part)
    return whole[: end - key], whole[end : len(whole) - data]


def add(table: str, name: str, elements: Iterable[bytes], sequence: int = 0) -> list[bytes]:
    """Messages that add `elements` to a map or set of an `inet` table.

    One that is there with the same data is no error; with other data it is EBUSY or EEXIST.
    """
    return [_message(_NEWSETELEM, CREATE, table, name, part, sequence) for part in _parts(elements)]


def delete(table: str, name: str, elements: Iterable[bytes], sequence: int = 0) -> list[bytes]:
    """Messages that delete `elements`, of which only keys count; a missing one is ENOENT."""
    return [_message(_DELSETELEM, 0, table, name, part, sequence) for part in _parts(elements)]


def batch(messages: Iterable[bytes], sequence: int, generation: int | None = None) -> bytes:
    """All `messages` or none, in one send; the kernel answers with one acknowledgement.

    generation: as the rules have to be before, or the kernel refuses with ERESTART.
    """
    parts = [] if generation is None else [netlink.u32(_BATCH_GEN_ID, generation)]
    begin = NETFILTER_HEADER.pack(0, 0, NFTABLES) + b"".join(parts)
    end = NETFILTER_HEADER.pack(0, 0, NFTABLES)
    *others, last = messages
    size, kind, flags, _, port = netlink.HEADER.unpack_from(last)
    last = netlink.HEADER.pack(size, kind, flags | ACK, sequence, port) + last[_HEADER:]
    return b"".join(
        (
            netlink.message(netlink.BATCH_BEGIN, netlink.REQUEST, begin, sequence),
            *others,
            last,
            netlink.message(netlink.BATCH_END, netlink.REQUEST, end, sequence),
        )
    )


def dump(table: str, name: str) -> bytes:
    """A question for all elements of a map or set; see `elements`."""
    return netlink.netfilter(
        NFTABLES, _GETSETELEM, DUMP, netlink.text(_LIST_TABLE, table),
        netlink.text(_LIST_SET, name), family=_INET_TABLE,
    )  # fmt: skip


def elements(message: Message) -> Iterator[tuple[bytes, bytes]]:
    """Key and data of an answer to `dump`, the data as `goto` or `value` make it; empty in a set.

    Raises Malformed.
    """
    if message.kind != NFTABLES << 8 | _NEWSETELEM:
        raise Malformed(f"not a list of elements: message {message.kind:#x}")
    for kind, listed in netlink.attributes(message.body, NETFILTER_HEADER.size):
        if kind != _LIST_ELEMENTS:
            continue
        for _, one in netlink.attributes(listed):
            key, data = b"", b""
            for part, content in netlink.attributes(one):
                if part == _KEY:
                    key = bytes(content[4:])  # the only attribute of a key is its value
                elif part == _DATA:
                    data = _data(content)
            yield key, data


def ask_generation() -> bytes:
    """A question for the generation, which each change of any rules makes one more."""
    return netlink.netfilter(NFTABLES, _GETGEN, ACK)


def generation(message: Message) -> int:
    """The answer to `ask_generation`.  Raises Malformed."""
    found = message.attributes().get(_GEN_ID)
    if message.kind != NFTABLES << 8 | _NEWGEN or found is None:
        raise Malformed(f"not a generation: message {message.kind:#x}")
    return netlink.number(found)


def ask_table(table: str) -> bytes:
    """A question for a table; ENOENT: there is none."""
    name = netlink.text(_TABLE_NAME, table)
    return netlink.netfilter(NFTABLES, _GETTABLE, ACK, name, family=_INET_TABLE)


def ask_rules(table: str) -> list[bytes]:
    """Questions for all chains and all rules of a table."""
    return [
        netlink.netfilter(
            NFTABLES, command, DUMP, netlink.text(_OF_TABLE, table), family=_INET_TABLE
        )
        for command in (_GETCHAIN, _GETRULE)
    ]


def comment_of(message: Message) -> str:
    """The comment of a table, from the answer to `ask_table`; empty without one."""
    data = bytes(message.attributes().get(_TABLE_USERDATA, b""))
    # kind, length, text that ends with a zero; a comment is of kind 0
    return (
        data[2 : 2 + data[1]].rstrip(b"\0").decode("utf-8", "replace") if data[:1] == b"\0" else ""
    )


def fingerprint(answers: Iterable[Message], table: str) -> bytes:
    """Of a table, its chains and rules: equal while nobody changed, flushed or replaced any, since
    each has a handle that is never given twice.  answers: to `ask_table` and `ask_rules`."""
    digest = hashlib.sha256()
    for command, found in _of_table(answers, table):
        for kind in sorted(found.keys() - _COUNTS.get(command, frozenset())):
            digest.update(bytes((command, kind)) + bytes(found[kind]))
    return digest.digest()


def chain_names(answers: Iterable[Message], table: str) -> set[str]:
    """The chains of a table.  answers: to `ask_rules`."""
    return {
        bytes(found[_CHAIN_NAME]).rstrip(b"\0").decode("utf-8", "replace")
        for command, found in _of_table(answers, table)
        if command == _NEWCHAIN and _CHAIN_NAME in found
    }


def _of_table(answers: Iterable[Message], table: str) -> Iterator[tuple[int, dict[int, Buffer]]]:
    for message in answers:
        found = message.attributes()
        # old kernels answer with those of all tables
        if bytes(found.get(_OF_TABLE, b"")).rstrip(b"\0") == table.encode():
            yield message.command, found


def chain_of(data: bytes) -> str:
    """Where the data of an element goes to; empty for a value."""
    attributes = dict(netlink.attributes(data))
    if _VERDICT not in attributes:
        return ""
    chain = dict(netlink.attributes(attributes[_VERDICT])).get(_CHAIN, b"")
    return bytes(chain).rstrip(b"\0").decode("ascii", "replace")


def value_of(data: bytes) -> bytes:
    """The value of an element; empty for a verdict."""
    return bytes(dict(netlink.attributes(data)).get(_VALUE, b""))


def _data(content: Buffer) -> bytes:
    """Data as the kernel shows it, in the bytes that we would send, so that equal ones compare."""
    for kind, inner in netlink.attributes(content):
        if kind == _VALUE:
            return value(bytes(inner))
        chain = dict(netlink.attributes(inner)).get(_CHAIN, b"\0")
        return goto(bytes(chain).rstrip(b"\0").decode("ascii", "replace"))
    raise Malformed("element has no data")


def _message(command: int, flags: int, table: str, name: str, part: bytes, sequence: int) -> bytes:
    return netlink.netfilter(
        NFTABLES, command, flags, netlink.text(_LIST_TABLE, table), netlink.text(_LIST_SET, name),
        netlink.nested(_LIST_ELEMENTS, part), family=_INET_TABLE, sequence=sequence,
    )  # fmt: skip


def _parts(elements: Iterable[bytes]) -> Iterator[bytes]:
    """Elements joined, each part short enough for one message."""
    part: list[bytes] = []
    size = 0
    for one in elements:
        if size + len(one) > _FULL:
            yield b"".join(part)
            part, size = [], 0
        part.append(one)
        size += len(one)
    if part:
        yield b"".join(part)
