"""Answers of other servers, kept as bytes that are ready to be sent.

RFC 1035 and 2308 (how long), RFC 8767 (stale answers).  An answer is kept behind the question: its
TTLs are turned down in place, at most once a second, so that a hit costs a look-up and a join.
Bounded by entries and by bytes; what was not used since it was last looked at goes first (second
chance).  No clock: `now` is in seconds on the monotonic clock.
"""

import struct
from collections import OrderedDict
from dataclasses import dataclass

from cairn_dns.wire import HEADER_BYTES, NOERROR, NXDOMAIN, OPT, SOA

from .message import AA, AD, CD, RCODE, RD, TC, Malformed, walk

#: TTL of a stale answer, seconds (RFC 8767, 5).
STALE_TTL = 5
#: What an entry costs beside its bytes: objects, index.
ENTRY_BYTES = 600
#: OPT without options, as almost all clients send it.
_PLAIN_OPT = b"\0\0\x29"
PLAIN_OPT_BYTES = 11
#: Entries that one `put` gives a second chance; bounds what it costs.
MAX_CHANCES = 32
#: Bits of a key's last byte.
EDNS, DO = 0x01, 0x02
_RD, _CD, _AD = 0x04, 0x08, 0x40


def key_of(query: bytes) -> bytes | None:
    """Key of a query of the usual form (a question, perhaps an OPT without options), or None.

    The question is not looked at: a key made of nonsense is never found.
    """
    more = query[4:12]
    if more == b"\0\1\0\0\0\0\0\0":
        return query[12:].lower() + _FLAGS[query[2] & 1][query[3] & 0x30]
    if more == b"\0\1\0\0\0\0\0\1" and query[-11:-8] == _PLAIN_OPT and query[-6:-4] == b"\0\0":
        extra = EDNS | (DO if query[-4] & 0x80 else 0)
        if query[-2:] == b"\0\0":
            return query[12:-11].lower() + bytes(
                (extra | _FLAGS[query[2] & 1][query[3] & 0x30][0],)
            )
    return None


#: By RD and by the byte of AD and CD: the key's last byte without EDNS.
_FLAGS = [
    {
        bits: bytes((rd * _RD | (_AD if bits & AD else 0) | (_CD if bits & CD else 0),))
        for bits in (0, AD, CD, AD | CD)
    }
    for rd in (0, 1)
]


def make_key(question: bytes, bits: int, *, edns: bool, dnssec: bool) -> bytes:
    """Key of a question (wire form with type and class) under the header bits of its query."""
    last = EDNS * edns | DO * dnssec
    last |= (_RD if bits & RD else 0) | (_AD if bits & AD else 0) | (_CD if bits & CD else 0)
    return question.lower() + bytes((last,))


@dataclass(slots=True)
class Entry:
    """One answer.

    head: header behind the id, AA cleared. tail: what follows the question. offsets: where in
    the tail TTLs lie, with their values. ready: the tail as of the second `ready_at`.
    fresh_until, stale_until: until then it is given without asking, or when nobody answers.
    retry_at: before that, nobody is asked again, because nobody answered a moment ago.
    """

    head: bytes
    tail: bytes
    offsets: tuple[tuple[int, int], ...]
    stored: float
    fresh_until: float
    stale_until: float
    retry_at: float = 0.0
    ready: bytes = b""
    ready_at: int = -1
    used: bool = False

    @property
    def wire_bytes(self) -> int:
        """Bytes of an answer beside its question."""
        return HEADER_BYTES + len(self.tail)

    @property
    def size(self) -> int:
        """Bytes that it is counted as, without its key."""
        return len(self.tail) + ENTRY_BYTES + 100 * len(self.offsets)


class Limits:
    """How long answers are kept, seconds; all of them settings."""

    __slots__ = ("cluster_s", "max_ttl", "negative_s", "stale_s")

    def __init__(
        self,
        *,
        max_ttl: float = 3600,
        negative_s: float = 900,
        cluster_s: float = 0.1,
        stale_s: float = 86400,
    ) -> None:
        self.max_ttl = max_ttl
        self.negative_s = negative_s
        self.cluster_s = cluster_s
        self.stale_s = stale_s


class Cache:
    """Entries by key.

    Invariant: `bytes` is the sum over entries, and neither bound is exceeded after a `put`.
    """

    def __init__(self, limits: Limits, *, entries: int = 20_000, size: int = 64 << 20) -> None:
        self.limits = limits
        self.bytes = 0
        self.hits = self.misses = self.stale_hits = self.evicted = 0
        self._max_entries, self._max_bytes = entries, size
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: bytes, now: float) -> Entry | None:
        """A fresh answer; counts hits."""
        entry = self._entries.get(key)
        if entry is not None and now < entry.fresh_until:
            entry.used = True
            self.hits += 1
            return entry
        return None

    def stale(self, key: bytes, now: float) -> Entry | None:
        """An answer that may still be given when nobody else gives one."""
        entry = self._entries.get(key)
        return entry if entry is not None and now < entry.stale_until else None

    def put(self, key: bytes, reply: bytes, *, now: float, cluster: bool = False) -> Entry | None:
        """Keep a whole reply; None when it may not be kept, or makes no sense.

        cluster: a name that the masters know, which follows the cluster.
        """
        entry = self._entry(reply, len(key) - 1, now, cluster)
        if entry is None or entry.stale_until <= now:
            return None
        self.drop(key)
        self._entries[key] = entry
        self.bytes += entry.size + len(key)
        chances = MAX_CHANCES
        while len(self._entries) > self._max_entries or self.bytes > self._max_bytes:
            chances = self._evict(chances)
        return self._entries.get(key)

    def drop(self, key: bytes) -> None:
        """Forget one answer."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size + len(key)

    def expire(self, key: bytes, now: float) -> None:
        """Give an answer only when nobody else gives one, as long as before."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.fresh_until = min(entry.fresh_until, now)

    def below(self, suffixes: tuple[bytes, ...]) -> list[bytes]:
        """Keys of all names that end in one of these (wire form, lower case), and perhaps a few
        more: borders of labels are not looked at.  O(entries)."""
        return [key for key in self._entries if key.endswith(suffixes, 0, -5)]

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self.bytes = 0

    def _evict(self, chances: int) -> int:
        """Let the oldest entry go, or give it one of the second chances that are left."""
        key, entry = self._entries.popitem(last=False)
        if entry.used and chances:
            entry.used = False
            self._entries[key] = entry
            return chances - 1
        self.bytes -= entry.size + len(key)
        self.evicted += 1
        return chances

    def _entry(self, reply: bytes, question: int, now: float, cluster: bool) -> Entry | None:
        start = HEADER_BYTES + question
        bits = reply[2] << 8 | reply[3]
        rcode = bits & RCODE
        if bits & TC or rcode not in (NOERROR, NXDOMAIN):
            return None
        try:
            offsets, ttl = _times(reply, start)
        except Malformed:
            return None
        negative = rcode == NXDOMAIN or reply[6:8] == b"\0\0"
        limits = self.limits
        if cluster:
            fresh = limits.cluster_s
        else:
            fresh = min(ttl, limits.negative_s if negative else limits.max_ttl)
        # A name that was missing once is not missing for as long as nobody answers.
        stale = 0.0 if negative else limits.stale_s
        head = struct.pack("!H", bits & ~AA) + reply[4:HEADER_BYTES]
        return Entry(head, reply[start:], offsets, now, now + fresh, now + fresh + stale)


def _times(reply: bytes, start: int) -> tuple[tuple[tuple[int, int], ...], float]:
    """TTLs and where they lie behind the question, and the smallest; RFC 2308, 5 for a negative
    answer, which has none without an SOA.  Raises Malformed."""
    offsets: list[tuple[int, int]] = []
    least, negative_ttl = 0x7FFFFFFF, 0
    for place in walk(reply):
        if place.kind == OPT:
            continue
        # RFC 2181, 8: a TTL with its highest bit set is 0.
        ttl = place.ttl if place.ttl <= 0x7FFFFFFF else 0
        offsets.append((place.fixed + 4 - start, ttl))
        least = min(least, ttl)
        if place.section == 1 and place.kind == SOA and place.end - place.data >= 22:
            (minimum,) = struct.unpack_from("!I", reply, place.end - 4)
            negative_ttl = min(ttl, minimum)
    negative = reply[3] & RCODE == NXDOMAIN or reply[6:8] == b"\0\0"
    if negative:
        return tuple(offsets), min(least, negative_ttl)
    return tuple(offsets), least if offsets else 0


def answer_from(entry: Entry, query: bytes, question_end: int, now: float) -> bytes:
    """The answer to a query that has the entry's key, TTLs as of `now`."""
    second = int(now - entry.stored)
    if second != entry.ready_at:
        entry.ready, entry.ready_at = _aged(entry, second), second
    return b"".join((query[:2], entry.head, query[HEADER_BYTES:question_end], entry.ready))


def stale_from(entry: Entry, query: bytes, question_end: int) -> bytes:
    """The same when nobody answers: all TTLs are `STALE_TTL` at most."""
    tail = bytearray(entry.tail)
    for at, ttl in entry.offsets:
        struct.pack_into("!I", tail, at, min(ttl, STALE_TTL))
    return b"".join((query[:2], entry.head, query[HEADER_BYTES:question_end], tail))


def _aged(entry: Entry, seconds: int) -> bytes:
    if seconds <= 0:
        return entry.tail
    tail = bytearray(entry.tail)
    for at, ttl in entry.offsets:
        struct.pack_into("!I", tail, at, max(ttl - seconds, 0))
    return bytes(tail)
