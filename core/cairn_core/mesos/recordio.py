"""RecordIO framing of the streaming answers: `<decimal length>\\n<bytes>`, nothing in between.

Defined by Mesos docs/recordio.md. Chunk boundaries of HTTP carry no meaning, so the decoder takes
bytes as they come. What is in a record (JSON or protobuf) is not this module's business.
"""

from cairn_core.errors import RemoteError

#: The same bound as for a request body; SUBSCRIBED of a very large cluster stays below it.
MAX_RECORD_BYTES = 64 * 1024 * 1024
#: A uint64 in decimal has at most 20 digits.
MAX_DIGITS = 20


class RecordError(RemoteError):
    """The stream is not RecordIO; nothing after this point can be read."""


def encode(data: bytes) -> bytes:
    """One record around `data`, which may be empty."""
    return b"%d\n%b" % (len(data), data)


class Decoder:
    """Takes bytes in pieces of any size and gives back whole records.

    Invariant: `_buffer` starts at the first byte of a header, or, when `_want` is not None,
    at the first byte of a record of that length.
    """

    __slots__ = ("_buffer", "_limit", "_want")

    def __init__(self, limit: int = MAX_RECORD_BYTES) -> None:
        """limit: the largest record accepted, bytes >= 0."""
        self._limit = limit
        self._buffer = bytearray()
        self._want: int | None = None

    @property
    def pending(self) -> int:
        """Bytes received that do not make a record yet; 0 at a clean end of stream."""
        return len(self._buffer) + (1 if self._want is not None else 0)

    def feed(self, data: bytes) -> list[bytes]:
        """Records completed by `data`, in order; O(bytes).

        Raises RecordError when a length is not decimal or above the limit. The decoder must
        not be used after that.
        """
        self._buffer += data
        records: list[bytes] = []
        at = 0
        while True:
            if self._want is None:
                end = self._buffer.find(b"\n", at, at + MAX_DIGITS + 1)
                if end < 0:
                    if len(self._buffer) - at > MAX_DIGITS:
                        raise RecordError(
                            f"record length too long: {bytes(self._buffer[at : at + MAX_DIGITS])!r}"
                        )
                    break
                if end == at:
                    # Compat: clients of the original skip empty lines before a length.
                    at += 1
                    continue
                self._want = self._length(bytes(self._buffer[at:end]))
                at = end + 1
            if len(self._buffer) - at < self._want:
                break
            records.append(bytes(self._buffer[at : at + self._want]))
            at += self._want
            self._want = None
        del self._buffer[:at]
        return records

    def _length(self, header: bytes) -> int:
        if not header.isdigit():
            raise RecordError(f"record length not a decimal number: {header!r}")
        length = int(header)
        if length > self._limit:
            raise RecordError(f"record of {length} bytes is above the limit of {self._limit}")
        return length
