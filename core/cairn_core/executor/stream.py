"""HTTP/1.1 answers (RFC 9112) and RecordIO (mesos docs/recordio.md) without I/O."""

MAX_HEAD = 64 << 10
MAX_RECORD = 16 << 20


class StreamError(Exception):
    """The agent's answer is not HTTP or not RecordIO; the connection is of no further use."""


class Answer:
    """Takes the bytes of one answer; `status` and `headers` are known once the head is complete."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}  #: names in lower case
        self.done = False
        self._buffer = b""
        self._chunked = False
        self._left: int | None = None  # of the body or the chunk; None until the connection closes
        self._in_chunk = False

    def feed(self, data: bytes) -> bytes:
        """Bytes of the body that `data` completes. Raises StreamError."""
        self._buffer += data
        if not self.status and not self._head():
            return b""
        return self._dechunk() if self._chunked else self._plain()

    def _head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(self._buffer) > MAX_HEAD:
                raise StreamError(f"head of more than {MAX_HEAD} bytes")
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise StreamError(f"not an HTTP answer: {first[:60]!r}")
        if words[1] == "100":  # an interim answer; the real one follows
            self._buffer = rest
            return self._head()
        self.status = int(words[1])
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self._buffer = rest
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        length = self.headers.get("content-length", "")
        if self._chunked:
            self._left = 0
        elif length.isdigit():
            self._left = int(length)
        elif self.status in (204, 304):
            self._left = 0
        return True

    def _plain(self) -> bytes:
        if self._left is None:
            body, self._buffer = self._buffer, b""
            return body
        body, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(body)
        self.done = self._left == 0
        return body

    def _dechunk(self) -> bytes:
        parts = []
        while not self.done:
            if self._left:
                part = self._buffer[: self._left]
                if not part:
                    break
                self._buffer = self._buffer[len(part) :]
                self._left -= len(part)
                parts.append(part)
                continue
            if self._in_chunk:  # the line break behind a chunk
                if len(self._buffer) < 2:
                    break
                self._buffer = self._buffer[2:]
                self._in_chunk = False
            line, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                if len(line) > MAX_HEAD:
                    raise StreamError("chunk size without end")
                break
            try:
                self._left = int(line.partition(b";")[0], 16)
            except ValueError:
                raise StreamError(f"not a chunk size: {line[:20]!r}") from None
            self._buffer = rest
            self._in_chunk = True
            self.done = self._left == 0
        return b"".join(parts)


class Records:
    """Splits a stream of `<length>\\n<bytes>` records."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Records that `data` completes. Raises StreamError."""
        self._buffer += data
        found: list[bytes] = []
        while True:
            length, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                if len(self._buffer) > 20:
                    raise StreamError(f"not a record length: {self._buffer[:20]!r}")
                return found
            if not length.isdigit() or int(length) > MAX_RECORD:
                raise StreamError(f"not a usable record length: {length[:20]!r}")
            size = int(length)
            if len(rest) < size:
                return found
            found.append(rest[:size])
            self._buffer = rest[size:]
