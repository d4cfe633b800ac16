"""Sockets and HTTP requests inside a host, made by a process that stays outside.

A thread that once entered the host's network namespace creates the sockets; a socket keeps
the namespace in which it was made, whoever uses it.
"""

import concurrent.futures
import http.client
import os
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import msgspec

from cairn_lab import kernel


class Namespace:
    """The network namespace of a process; a context manager that ends its thread."""

    def __init__(self, pid: int) -> None:
        """pid: any process in the namespace; raises OSError when there is none."""
        self._namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, initializer=self._enter)

    def _enter(self) -> None:
        kernel.setns(self._namespace, kernel.CLONE_NEWNET)

    def socket(self, address: tuple[Any, Any, int, str, Any]) -> socket.socket:
        """A non-blocking socket for `address`, an entry of getaddrinfo()."""
        family, kind, protocol, _, _ = address
        made = self._thread.submit(socket.socket, family, kind, protocol).result()
        made.setblocking(False)
        return made

    def close(self) -> None:
        """End the thread; sockets made before live on."""
        self._thread.shutdown()
        os.close(self._namespace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP server in the lab said."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON; raises msgspec.DecodeError when it is none."""
        return msgspec.json.decode(self.body)


class _Connection(http.client.HTTPConnection):
    def __init__(self, namespace: Namespace, address: str, port: int, timeout_s: float) -> None:
        super().__init__(address, port, timeout=timeout_s)
        self._in = namespace

    def connect(self) -> None:
        made = self._in.socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", None))
        self.sock = made  # from here on `close` closes it, also when nobody answers
        made.settimeout(self.timeout)
        made.connect((self.host, self.port))


def request(
    pid: int,
    method: str,
    address: str,
    port: int,
    path: str,
    document: object = None,
    *,
    timeout_s: float = 10.0,
) -> Answer:
    """Send one HTTP request from the host whose PID 1 is `pid`.

    address: IPv4, for names mean something else inside. document: sent as JSON unless None.
    Raises OSError or http.client.HTTPException when there is no answer in time.
    """
    with Namespace(pid) as namespace:
        connection = _Connection(namespace, address, port, timeout_s)
        try:
            body = None if document is None else msgspec.json.encode(document)
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, path, body, {"Accept": "application/json", **headers})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read())
        finally:
            connection.close()
