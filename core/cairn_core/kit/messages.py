"""Messages between two processes of ours over a Unix stream socket.

A message is its length (4 bytes, big endian), its kind (1 byte), and data of so many bytes.
"""

import struct

_HEAD = struct.Struct("!Ic")
#: A longer message is a bug; an update is never near.
MAX_MESSAGE_BYTES = 256 * 1024 * 1024


def message(kind: bytes, data: bytes = b"") -> bytes:
    """A message, ready to be sent."""
    return _HEAD.pack(len(data), kind) + data


class Messages:
    """Cuts a stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        """More of the stream."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next(self) -> tuple[bytes, bytes] | None:
        """Kind and data of the next whole message.  Raises ValueError for one that is too long."""
        if len(self._buffer) - self._at < _HEAD.size:
            return None
        size, kind = _HEAD.unpack_from(self._buffer, self._at)
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"message is too long: {size} bytes")
        start = self._at + _HEAD.size
        if len(self._buffer) < start + size:
            return None
        self._at = start + size
        return kind, bytes(self._buffer[start : self._at])
