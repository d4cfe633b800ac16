"""The node feed: a keyed table that many readers follow, each at its own speed.

No I/O; `io_feed` serves it over HTTP, `cairn_core.clusterview` reads it.  Each change of the
table has a sequence number, counted from 1 within an *epoch* (that of the leader's log).  A
reader says which (epoch, sequence number) it has and gets what changed since: for each key its
newest value only, in the order of sequence.  Where that cannot be told any more (another epoch,
or deletions already forgotten) it gets the whole table and starts from nothing.

A stream is RecordIO; each record is one message in msgpack:

    Hello   first; what follows brings the reader to (epoch, seq); `whole` means: start empty
    Rows    frames [seq, key, value or nil]
    Digest  the reader now has everything up to `seq`, and its table must hash to `shards`

Each frame is encoded once, however many readers get it.
"""

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct

from cairn_core.errors import RemoteError, shorten

#: The digest has one hash for each of these parts of the key space.
SHARDS = 64
#: Deletions that are remembered for readers that come back.
MAX_TOMBSTONES = 100_000
#: Bytes of one key and of one value.
MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = 256 * 1024
#: Aimed-at size of one Rows message in bytes.
MESSAGE_BYTES = 64 * 1024


class Frame(Struct, frozen=True, array_like=True, gc=False):
    """One change; value None: the key is gone."""

    seq: int
    key: str
    value: bytes | None = None


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """First message of a stream; epoch and seq are what the following frames lead to."""

    epoch: int
    seq: int
    whole: bool


class Rows(Struct, frozen=True, array_like=True, tag="rows"):
    """Some frames, in the order of sequence."""

    frames: list[Frame]


class Digest(Struct, frozen=True, array_like=True, tag="digest"):
    """Hashes of the table at `seq`, one for each shard; also the heartbeat of an idle feed."""

    epoch: int
    seq: int
    shards: list[int]


Message: TypeAlias = Hello | Rows | Digest


class _RawRows(Struct, frozen=True, array_like=True, tag="rows"):
    """`Rows` with frames that are encoded already."""

    frames: list[Raw]


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class BadMessage(RemoteError):
    """The bytes are no message of a feed."""


def encode(message: Message) -> bytes:
    """A message as msgpack."""
    return _encoder.encode(message)


def decode(data: bytes) -> Message:
    """The message of these bytes.  Raises BadMessage."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"feed message: {shorten(str(error))}") from None


def shard_of(key: str) -> int:
    """Which part of the digest a key counts in."""
    return zlib.crc32(key.encode()) % SHARDS


def row_hash(key: str, value: bytes) -> int:
    """64 bits over key and value; a shard is the exclusive or of those of its rows."""
    digest = hashlib.blake2b(key.encode() + b"\0" + value, digest_size=8).digest()
    return int.from_bytes(digest, "big")


@dataclass(frozen=True, slots=True)
class _Held:
    """A row of the table: its value, and its frame as sent."""

    seq: int
    value: bytes
    frame: Raw


@dataclass(slots=True)
class Backlog:
    """What one reader still has to get to be at (epoch, seq)."""

    hello: Hello
    frames: list[Raw]
    digest: bytes
    _next: int = 0

    def messages(self) -> Iterator[bytes]:
        """Messages in order, the digest last; each call goes on where the last one stopped."""
        while self._next < len(self.frames):
            first, size = self._next, 0
            while self._next < len(self.frames) and size < MESSAGE_BYTES:
                size += len(memoryview(self.frames[self._next]))
                self._next += 1
            yield _encoder.encode(_RawRows(self.frames[first : self._next]))
        yield self.digest


@dataclass(slots=True)
class FeedPublisher:
    """The table that is published.

    epoch: of the publisher; a reader that comes with another one starts from nothing.
    Invariant: `_rows` and `_gone` are ordered by sequence, and no key is in both.
    """

    epoch: int
    seq: int = 0
    _rows: OrderedDict[str, _Held] = field(default_factory=OrderedDict)
    #: Deleted keys: sequence number and frame of the deletion.
    _gone: OrderedDict[str, tuple[int, Raw]] = field(default_factory=OrderedDict)
    #: Deletions up to this sequence number are forgotten.
    _forgotten: int = 0
    _shards: list[int] = field(default_factory=lambda: [0] * SHARDS)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def put(self, key: str, value: bytes) -> bool:
        """Set a row; False when it is so already.  Raises ValueError above the limits."""
        held = self._rows.get(key)
        if held is not None and held.value == value:
            return False
        if not 0 < len(key.encode()) <= MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
            raise ValueError(f"row {shorten(key, 80)} of {len(value)} bytes exceeds the limits")
        self._remove(key)
        self._gone.pop(key, None)
        self.seq += 1
        frame = Raw(_encoder.encode(Frame(self.seq, key, value)))
        self._rows[key] = _Held(self.seq, value, frame)
        self._shards[shard_of(key)] ^= row_hash(key, value)
        return True

    def delete(self, key: str) -> bool:
        """Remove a row; False when there is none."""
        if not self._remove(key):
            return False
        self.seq += 1
        self._gone[key] = (self.seq, Raw(_encoder.encode(Frame(self.seq, key))))
        if len(self._gone) > MAX_TOMBSTONES:
            _, (self._forgotten, _) = self._gone.popitem(last=False)
        return True

    def frames_since(self, epoch: int, seq: int) -> Backlog:
        """What a reader at (epoch, seq) has to get; (0, 0) is a reader that has nothing.

        O(number of changes since then).
        """
        whole = epoch != self.epoch or not self._forgotten <= seq <= self.seq
        after = 0 if whole else seq
        found: list[tuple[int, Raw]] = []
        for held in reversed(self._rows.values()):
            if held.seq <= after:
                break
            found.append((held.seq, held.frame))
        if not whole:
            for gone_seq, frame in reversed(self._gone.values()):
                if gone_seq <= after:
                    break
                found.append((gone_seq, frame))
        found.sort(key=lambda one: one[0])
        frames = [frame for _, frame in found]
        return Backlog(Hello(self.epoch, self.seq, whole), frames, self.digest())

    def digest(self) -> bytes:
        """The Digest message of the table as it is now."""
        return encode(Digest(self.epoch, self.seq, list(self._shards)))

    def _remove(self, key: str) -> bool:
        held = self._rows.pop(key, None)
        if held is None:
            return False
        self._shards[shard_of(key)] ^= row_hash(key, held.value)
        return True
