"""One HTTP exchange with the agent that never blocks: its domain socket, else TCP."""

import contextlib
import errno
import json
import os
import selectors
import socket
from typing import Any

from cairn_core.executor.settings import Settings
from cairn_core.executor.stream import Answer

READ_BYTES = 65536
CONNECTING = (0, errno.EINPROGRESS)


class Exchange:
    """A POST of one call and the answer to it. The constructor and `ready` raise OSError."""

    def __init__(self, settings: Settings, call: dict[str, Any]) -> None:
        self.answer = Answer()
        self.closed = False  # the agent has ended the connection
        self._out = request(settings, call)
        self.sock = connect(settings)

    def events(self) -> int:
        """What to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)

    def ready(self, mask: int) -> bytes:
        """Write and read what is possible; returns bytes of the answer's body."""
        if mask & selectors.EVENT_WRITE and self._out:
            with contextlib.suppress(BlockingIOError):
                self._out = self._out[self.sock.send(self._out) :]
        if not mask & selectors.EVENT_READ:
            return b""
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self.closed = True
            return b""
        return self.answer.feed(data)

    def close(self) -> None:
        """Give the connection up."""
        self.sock.close()


def connect(settings: Settings) -> socket.socket:
    """A socket on its way to the agent. Raises OSError."""
    if settings.domain_socket is not None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _connect_unix(sock, settings.domain_socket)
        except OSError:
            sock.close()
            raise
        return sock
    host, _, port = settings.endpoint.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    code = sock.connect_ex((host, int(port)))
    if code not in CONNECTING:
        sock.close()
        raise OSError(code, f"{settings.endpoint}: {os.strerror(code)}")
    return sock


def _connect_unix(sock: socket.socket, path: str) -> None:
    """Connect by way of the directory's descriptor, for a path may be longer than sun_path."""
    directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        with contextlib.suppress(BlockingIOError):
            sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def request(settings: Settings, call: dict[str, Any]) -> bytes:
    """The bytes of a POST; only a subscription keeps its connection."""
    body = json.dumps(call).encode()
    lines = [
        "POST /api/v1/executor HTTP/1.1",
        f"Host: {settings.endpoint or 'localhost'}",
        "Content-Type: application/json",
        "Accept: application/json",
        f"Content-Length: {len(body)}",
    ]
    if call["type"] != "SUBSCRIBE":
        lines.append("Connection: close")
    if settings.token is not None:
        lines.append(f"Authorization: Bearer {settings.token}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
