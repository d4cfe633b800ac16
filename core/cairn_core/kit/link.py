"""One end of the connection between an agent and its master: frames, numbers, credit.

    frame   = length u32 | kind u8 | seq u64 | ack u64 | body      (big endian; length of the rest)
    HELLO   body: msgpack of Hello; first frame in both directions
    BATCH   body: msgpack array of messages; seq is the number of the batch, from 1
    ACK     no body; `ack` is the last batch taken, as in every frame
    PING    no body; asks for any frame

Both directions number their batches. A sender keeps each batch until it is acknowledged and sends
no more while the unacknowledged bytes reach the receiver's credit. A *session* outlives its
connections: the HELLOs of a new connection name the last batch received, and what the other side
lacks is sent again, so nothing is lost or doubled. When either side does not know the session any
more the numbering starts over and so must the upper layer.

No I/O and no clock here; `io_link` moves the bytes. One Link takes about 0.5 KB while idle, since a
master holds 20,000 of them.
"""

import struct
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec

from cairn_core.errors import LocalError, RemoteError, Unavailable, shorten

S = TypeVar("S")
R = TypeVar("R")

VERSION = 1
MAX_FRAME_BYTES = 4 * 1024 * 1024
#: What one side may have in flight, and what the other must be ready to hold.
DEFAULT_CREDIT_BYTES = 1024 * 1024
#: What `send` takes in all, in flight and waiting, before it refuses.
DEFAULT_LIMIT_BYTES = 8 * 1024 * 1024

HELLO, BATCH, ACK, PING = 1, 2, 3, 4

_HEADER = struct.Struct(">IBQQ")
_REST = _HEADER.size - 4
MAX_MESSAGE_BYTES = MAX_FRAME_BYTES - _REST - 5


class LinkError(RemoteError):
    """The other side broke the protocol; this connection must be closed."""


class LinkFull(Unavailable):
    """More is unacknowledged or waiting than the link may hold; nothing was taken."""


class MessageTooLarge(LocalError):
    """A message does not fit one frame."""


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """First frame of each side.

    oldest, newest: protocol versions understood. session: chosen by the side that connects,
    unguessable. received: last batch taken in this session. credit: bytes that the other side
    may have in flight to us. fresh: whoever says it knows nothing of this session; both start
    over. body: what the upper layers tell each other.
    """

    oldest: int = VERSION
    newest: int = VERSION
    session: str
    received: int = 0
    credit: int = DEFAULT_CREDIT_BYTES
    fresh: bool = False
    body: bytes = b""


_hello_decoder = msgspec.msgpack.Decoder(Hello)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came; the body is not looked at yet."""

    kind: int
    seq: int
    ack: int
    body: bytes


def encode_frame(kind: int, seq: int = 0, ack: int = 0, body: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return _HEADER.pack(len(body) + _REST, kind, seq, ack) + body


def decode_hello(frame: Frame) -> Hello:
    """The HELLO in a frame; raises LinkError for anything else or without a common version."""
    if frame.kind != HELLO:
        raise LinkError(f"first frame is of kind {frame.kind}, not HELLO")
    try:
        hello = _hello_decoder.decode(frame.body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LinkError(f"malformed hello: {shorten(str(error))}") from None
    if not hello.oldest <= VERSION <= hello.newest:
        raise LinkError(
            f"no common version: they speak {hello.oldest}-{hello.newest}, we {VERSION}"
        )
    if not 0 < len(hello.session) <= 64 or hello.received < 0 or hello.credit <= 0:
        raise LinkError(f"hello out of range: session of {len(hello.session)} characters, "
                        f"received {hello.received}, credit {hello.credit}")  # fmt: skip
    return hello


class FrameReader:
    """Cuts a byte stream into frames.

    Invariant: what is buffered is less than one frame, so at most MAX_FRAME_BYTES.
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer: bytes | bytearray = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Frames completed by `data`; raises LinkError for one that is too long or short."""
        if self._buffer:
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
        else:
            self._buffer = data
        buffer = self._buffer
        frames: list[Frame] = []
        at, size = 0, len(buffer)
        while size - at >= _HEADER.size:
            length, kind, seq, ack = _HEADER.unpack_from(buffer, at)
            if not _REST <= length <= MAX_FRAME_BYTES:
                raise LinkError(f"frame of {length} bytes")
            end = at + 4 + length
            if end > size:
                break
            frames.append(Frame(kind, seq, ack, bytes(buffer[at + _HEADER.size : end])))
            at = end
        if at == size:
            self._buffer = b""
        elif isinstance(buffer, bytearray):
            del buffer[:at]
        else:
            self._buffer = buffer[at:]
        # a length can be judged before the rest is there
        if len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if not _REST <= length <= MAX_FRAME_BYTES:
                raise LinkError(f"frame of {length} bytes")
        return frames


@cache
def _decoder(receive_type: Any) -> msgspec.msgpack.Decoder[list[Any]]:
    return msgspec.msgpack.Decoder(list[receive_type])


_encoder = msgspec.msgpack.Encoder()


def encode_message(message: Any) -> bytes:
    """A message as `Link.send_encoded` takes it: encode once, send to many."""
    return _encoder.encode(message)


class Link(Generic[S, R]):
    """State of one session at one end; S is what we send, R what we receive.

    Invariant: batches `_next_seq - len(_unacked)` to `_next_seq - 1` are in `_unacked`, in
    order; the last `_unwritten` of them were not written to this connection yet.
    Invariant: `_unsaid_bytes` came in since the last acknowledgement that we sent;
    `_sayable_bytes` of them are taken care of and may be acknowledged.
    """

    __slots__ = (
        "_ack_said", "_ackable", "_auto", "_credit", "_decoder", "_limit", "_next_seq",
        "_open", "_ping", "_queue", "_queue_bytes", "_received", "_sayable_bytes", "_unacked",
        "_unacked_bytes", "_unsaid_bytes", "_unwritten", "_window", "session",
    )  # fmt: skip

    def __init__(
        self,
        receive_type: Any,
        *,
        session: str,
        window_bytes: int = DEFAULT_CREDIT_BYTES,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        auto_acknowledge: bool = True,
    ) -> None:
        """A link that is not connected.

        receive_type: what msgspec decodes messages as, a union of tagged structs as a rule.
        window_bytes: the credit we give. limit_bytes: what `send` takes before LinkFull.
        auto_acknowledge: batches count as taken when `receive` returned them; otherwise the
            upper layer calls `acknowledge` and so slows the sender down.
        """
        self._decoder = _decoder(receive_type)
        self.session = session
        self._window = window_bytes
        self._limit = limit_bytes
        self._auto = auto_acknowledge
        self.restart()

    def restart(self) -> None:
        """Forget everything said in this session; both sides begin at batch 1."""
        self._open = False
        self._ping = False
        self._queue: list[bytes] = []
        self._queue_bytes = 0
        self._unacked: list[bytes] = []
        self._unacked_bytes = 0
        self._unwritten = 0
        self._next_seq = 1
        self._received = 0
        self._ackable = 0
        self._ack_said = 0
        self._unsaid_bytes = 0
        self._sayable_bytes = 0
        self._credit = 0

    # -- connecting ----------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether HELLOs were exchanged on the present connection."""
        return self._open

    def hello(self, body: bytes = b"", *, fresh: bool = False) -> bytes:
        """Our first frame on a new connection."""
        hello = Hello(
            session=self.session,
            received=self._received,
            credit=self._window,
            fresh=fresh,
            body=body,
        )
        return encode_frame(HELLO, body=msgspec.msgpack.encode(hello))

    def can_resume(self, hello: Hello) -> bool:
        """Whether what the other side has and what we keep fit together without a gap."""
        kept_from = self._next_seq - len(self._unacked)
        return (
            not hello.fresh
            and hello.session == self.session
            and kept_from - 1 <= hello.received < self._next_seq
        )

    def attach(self, hello: Hello, *, fresh: bool = False) -> bool:
        """Go on over a new connection after the other side's HELLO.

        fresh: we said in ours that we know nothing of the session.
        Returns whether the session goes on; if not, everything sent or waiting was dropped.
        Raises LinkError when the other side claims to resume what cannot be.
        """
        if hello.session != self.session:
            raise LinkError(f"hello of session {hello.session!r}, expected {self.session!r}")
        resumed = not (hello.fresh or fresh)
        if resumed and not self.can_resume(hello):
            raise LinkError(
                f"hello says {hello.received} received, batches kept up to {self._next_seq - 1}"
            )
        if resumed:
            self._acknowledged(hello.received)
        else:
            self.restart()
        self._credit = hello.credit
        self._unwritten = len(self._unacked)
        # our HELLO named the last batch received
        self._ackable = self._ack_said = self._received
        self._unsaid_bytes = self._sayable_bytes = 0
        self._open = True
        return resumed

    def detach(self) -> None:
        """The connection is gone; `send` still takes messages for the next one."""
        self._open = False
        self._ping = False

    # -- sending -------------------------------------------------------------------------------

    @property
    def outstanding_bytes(self) -> int:
        """Bytes sent and not acknowledged, and waiting to be sent."""
        return self._unacked_bytes + self._queue_bytes

    @property
    def is_full(self) -> bool:
        """Whether `send` would refuse."""
        return self.outstanding_bytes >= self._limit

    def send(self, message: S) -> None:
        """Take a message; it goes out with the next `bytes_to_send`.

        Raises LinkFull, MessageTooLarge; then nothing was taken.
        """
        self.send_encoded(_encoder.encode(message))

    def send_encoded(self, data: bytes) -> None:
        """Take a message that `encode_message` made."""
        if self._unacked_bytes + self._queue_bytes >= self._limit:
            raise LinkFull(f"link is full: {self.outstanding_bytes} bytes outstanding")
        if len(data) > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(f"message of {len(data)} bytes is above {MAX_MESSAGE_BYTES}")
        self._queue.append(data)
        self._queue_bytes += len(data)

    def ping(self) -> None:
        """Ask the other side for a sign of life with the next `bytes_to_send`."""
        self._ping = True

    def bytes_to_send(self, *, acknowledge_now: bool = False) -> bytes:
        """What may be written now; empty when there is nothing or no credit.

        A bare acknowledgement is held back until a quarter of the window is owed or the caller
        asks for it: frames that go out anyway carry it for nothing.
        """
        if not self._open:
            return b""
        parts: list[bytes] = []
        if self._unwritten:
            parts += self._unacked[-self._unwritten :]
            self._unwritten = 0
        # one batch may go over the credit, or a message larger than it would never go
        while self._queue and self._unacked_bytes < self._credit:
            parts.append(self._batch())
        if self._ping:
            self._ping = False
            parts.append(encode_frame(PING, 0, self._say()))
        elif not parts and (self._owes_much() or (acknowledge_now and self.owes_acknowledgement)):
            parts.append(encode_frame(ACK, 0, self._say()))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _say(self) -> int:
        """The acknowledgement to put into a frame that goes out now."""
        self._ack_said = self._ackable
        self._unsaid_bytes -= self._sayable_bytes
        self._sayable_bytes = 0
        return self._ackable

    def _owes_much(self) -> bool:
        return self._sayable_bytes * 4 >= self._window

    def _batch(self) -> bytes:
        """The next batch from the queue, numbered and kept."""
        queue, size, count = self._queue, 0, 0
        room = min(MAX_MESSAGE_BYTES, max(self._credit - self._unacked_bytes, 1))
        for data in queue:
            if count and size + len(data) > room:
                break
            size += len(data)
            count += 1
        if count < 16:
            head = bytes((0x90 | count,))
        elif count < 65536:
            head = b"\xdc" + count.to_bytes(2, "big")
        else:
            head = b"\xdd" + count.to_bytes(4, "big")
        if count == len(queue):
            body = head + b"".join(queue)
            queue.clear()
        else:
            body = head + b"".join(queue[:count])
            del queue[:count]
        self._queue_bytes -= size
        frame = encode_frame(BATCH, self._next_seq, self._say(), body)
        self._next_seq += 1
        self._unacked.append(frame)
        self._unacked_bytes += len(frame)
        return frame

    # -- receiving -----------------------------------------------------------------------------

    @property
    def owes_acknowledgement(self) -> bool:
        """Whether the other side waits for an acknowledgement that no frame has carried yet."""
        return self._ackable > self._ack_said

    def receive(self, frame: Frame) -> list[R]:
        """Messages in a frame; empty for control frames and for batches had before.

        Raises LinkError when the other side broke the protocol.
        """
        if not self._open:
            raise LinkError(f"frame of kind {frame.kind} before HELLO")
        if frame.ack:
            self._acknowledged(frame.ack)
        if frame.kind == BATCH:
            return self._received_batch(frame)
        if frame.kind == PING:
            # answered by the next acknowledgement, owed or not
            self._ack_said = -1
        elif frame.kind != ACK:
            raise LinkError(f"frame of kind {frame.kind} out of place")
        return []

    def _received_batch(self, frame: Frame) -> list[R]:
        if frame.seq <= self._received:
            return []
        if frame.seq != self._received + 1:
            raise LinkError(f"batch {frame.seq} after {self._received}")
        if self._unsaid_bytes > self._window + MAX_FRAME_BYTES:
            raise LinkError(f"{self._unsaid_bytes} bytes sent over a credit of {self._window}")
        try:
            messages = self._decoder.decode(frame.body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise LinkError(f"malformed batch: {shorten(str(error))}") from None
        self._received = frame.seq
        self._unsaid_bytes += len(frame.body)
        if self._auto:
            self.acknowledge()
        return messages

    def acknowledge(self) -> None:
        """All messages returned so far were taken care of."""
        self._ackable = self._received
        self._sayable_bytes = self._unsaid_bytes

    def _acknowledged(self, seq: int) -> None:
        """The other side has taken all batches up to `seq`."""
        first = self._next_seq - len(self._unacked)
        if seq >= self._next_seq:
            raise LinkError(f"batch {seq} acknowledged, last sent is {self._next_seq - 1}")
        if seq < first:
            return
        done = self._unacked[: seq - first + 1]
        del self._unacked[: len(done)]
        self._unacked_bytes -= sum(map(len, done))
        self._unwritten = min(self._unwritten, len(self._unacked))
