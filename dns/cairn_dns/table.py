"""The table that queries are answered from, and the messages that keep it up to date.

It is made by one process (`encode`) and used by others (`answer`); what they exchange is `Update`.
"""

from collections import Counter
from typing import TypeAlias

import msgspec
from msgspec import Struct

#: One way to answer a question, in wire form behind the question:
#:   byte 0      which of `Table.counters` counts it
#:   bytes 1-6   ANCOUNT, NSCOUNT, ARCOUNT
#:   rest        the answer records, then the additional ones; every owner is a pointer: C00C to
#:               the question, or to where a name was written out before
#: There is at least one answer, NSCOUNT is 0, ARCOUNT less than 255.  No name inside of a record
#: is compressed.
Variant: TypeAlias = bytes
#: All ways to answer a question, which are used in turn; a single one stands alone.
Entry: TypeAlias = Variant | tuple[Variant, ...]

#: Negative answers that are kept ready; then all are forgotten.
MAX_NEGATIVES = 16_384
#: Likewise variants that are too large for a plain datagram.
MAX_SHORTS = 4096


class ZoneState(Struct, frozen=True, array_like=True):
    """A zone that we have authority for.

    apex: in wire form. soa: the whole SOA record, its owner written out, for the authority
    section. loaded: false until the cluster is known; nobody can say then what does not exist.
    """

    apex: bytes
    soa: bytes
    loaded: bool = True


class Update(Struct, frozen=True, array_like=True):
    """A part of a change of the table, small enough to be applied at once.

    begin: what follows is a whole table, which takes the place of the old one at `done`.
    put, drop: questions (name in lower case, type, class, in wire form) and their entries.
    put_ancestors, drop_ancestors: names in wire form that exist because there are names below
    them, whether they have records or not (empty non-terminals, RFC 8020).
    zones, counters: replace the old ones when given; counters are (zone, type) texts by index.
    done: the change is whole; until then nothing of it may show when `begin` began it.
    """

    put: list[tuple[bytes, bytes | tuple[bytes, ...]]] = []
    drop: list[bytes] = []
    put_ancestors: list[bytes] = []
    drop_ancestors: list[bytes] = []
    zones: list[ZoneState] | None = None
    counters: list[tuple[str, str]] | None = None
    begin: bool = False
    done: bool = False


encode_update = msgspec.msgpack.Encoder().encode
decode_update = msgspec.msgpack.Decoder(Update).decode


class Negative(Struct, frozen=True):
    """Why a question has no answer: NOERROR or NXDOMAIN, and the SOA that says so.

    label: zone, type and rcode, for who counts it.
    """

    rcode: int
    soa: bytes
    label: tuple[str, str, str]


class Short(Struct, frozen=True):
    """What of a variant fits a plain datagram: whether all answers do, ANCOUNT, NSCOUNT and
    ARCOUNT, and the records."""

    whole: bool
    counts: bytes
    body: bytes


class Table:
    """Entries by question, and the zones.

    The attributes that answers come from are replaced or changed between two queries, never
    during one.
    """

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.ancestors: set[bytes] = set()
        #: Grows with every change.
        self.version = 0
        self.zones: dict[bytes, ZoneState] = {}
        #: (zone, type) by the first byte of a variant, and how often each was used since.
        self.counters: list[tuple[str, str]] = []
        self.hits = [0] * 256
        #: Questions that were found to have no answer, until anything changes.
        self.negatives: dict[bytes, Negative] = {}
        #: Variants that are too large for a plain datagram behind a question of so many bytes, and
        #: what of them is not, likewise.
        self.shorts: dict[tuple[int, Variant], Short] = {}
        self._aside: Table | None = None
        #: Entries of earlier tables, which take long to free.
        self._old: list[dict[bytes, Entry]] = []
        self._counted: Counter[tuple[str, str]] = Counter()

    def apply(self, update: Update) -> None:
        """Take one update; O(its size)."""
        if update.begin:
            self._aside = Table()
        table = self._aside or self
        table.entries.update(update.put)
        for question in update.drop:
            table.entries.pop(question, None)
        table.ancestors.update(update.put_ancestors)
        table.ancestors.difference_update(update.drop_ancestors)
        if update.zones is not None:
            table.zones = {zone.apex: zone for zone in update.zones}
        if update.counters is not None:
            table._set_counters(update.counters)
        if update.done and table is not self:
            self._old.append(self.entries)
            self.entries, self.ancestors = table.entries, table.ancestors
            self.zones = table.zones
            self._set_counters(table.counters)
            self._aside = None
        if table is self or update.done:
            self.version += 1
            self.negatives.clear()
            self.shorts.clear()

    def free(self, count: int) -> bool:
        """Free so many entries of earlier tables; whether there are more."""
        while self._old and count > 0:
            entries = self._old[-1]
            while entries and count > 0:
                entries.popitem()
                count -= 1
            if not entries:
                self._old.pop()
        return bool(self._old)

    def put_negative(self, question: bytes, negative: Negative) -> None:
        """Keep that a question (in lower case) has no answer."""
        if len(self.negatives) >= MAX_NEGATIVES:
            self.negatives.clear()
        self.negatives[question] = negative

    def put_short(self, key: tuple[int, Variant], short: Short) -> None:
        """Keep what of a variant fits."""
        if len(self.shorts) >= MAX_SHORTS:
            self.shorts.clear()
        self.shorts[key] = short

    def counted(self) -> Counter[tuple[str, str]]:
        """How many answers were given since the start, by zone and type."""
        for number, label in enumerate(self.counters):
            if self.hits[number]:
                self._counted[label] += self.hits[number]
                self.hits[number] = 0
        return self._counted

    def _set_counters(self, counters: list[tuple[str, str]]) -> None:
        self.counted()
        self.counters = list(counters)
