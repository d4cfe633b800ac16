"""The form of the file in which the last known cluster is kept: frames that are only appended.

    MAGIC, then frames: length u32, CRC-32 of the payload u32, payload

A payload is a `Frame` in msgpack.  The rows of frames count from the next frame that is `done`
on, so that the first such frame ends the base, and each later one a batch of changes.  A file that
was cut off anywhere, or damaged, is good up to the last such frame before the damage.  No I/O.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from struct import Struct as Layout
from struct import error as LayoutError

import msgspec
from msgspec import Struct

MAGIC = b"cairn\x00kept\x002"
#: Rows in one frame.
FRAME_ROWS = 500
#: Bytes of one frame that are believed.
MAX_FRAME_BYTES = 256 * 1024 * 1024
_HEAD = Layout(">II")

_encoder = msgspec.msgpack.Encoder()


class Frame(Struct, frozen=True, array_like=True):
    """Some rows; None: gone.

    wall: when they were true, seconds since the epoch. done: with this frame the table is whole.
    """

    wall: float
    done: bool
    rows: list[tuple[str, bytes | None]] = []


_decoder = msgspec.msgpack.Decoder(Frame)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file holds.

    base: bytes up to the end of the base. good: bytes up to the end of the last batch; what
    follows it is torn and must be cut off before anything is appended.
    """

    rows: dict[str, bytes]
    wall: float
    base: int
    good: int


def encode_batch(rows: Iterable[tuple[str, bytes | None]], wall: float) -> Iterator[bytes]:
    """Frames of a batch, one at a time; also of the base, after MAGIC."""
    left = iter(rows)
    some = list(islice(left, FRAME_ROWS))
    while True:
        following = list(islice(left, FRAME_ROWS))
        payload = _encoder.encode(Frame(wall, not following, some))
        yield _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        if not following:
            return
        some = following


def read_kept(data: bytes) -> Kept | None:
    """What a file says; None when it is none of ours or holds no whole table."""
    if not data.startswith(MAGIC):
        return None
    rows: dict[str, bytes] = {}
    pending: dict[str, bytes | None] = {}
    wall, base, good = 0.0, 0, 0
    for frame, end in _frames(data):
        pending.update(frame.rows)
        if not frame.done:
            continue
        for key, value in pending.items():
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        pending = {}
        wall, good, base = frame.wall, end, base or end
    return Kept(rows, wall, base, good) if good else None


def _frames(data: bytes) -> Iterator[tuple[Frame, int]]:
    """Frames and where they end, up to the first that is not whole."""
    at = len(MAGIC)
    view = memoryview(data)
    while True:
        try:
            size, crc = _HEAD.unpack_from(data, at)
        except LayoutError:
            return
        at += _HEAD.size
        payload = view[at : at + size]
        if not 0 < size <= MAX_FRAME_BYTES or len(payload) < size or zlib.crc32(payload) != crc:
            return
        at += size
        try:
            yield _decoder.decode(payload), at
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
