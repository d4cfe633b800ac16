"""Servers and clients for tests: `serve ADDRESSES PORT tcp|udp`, `connect OPTIONS`, both as JSON.

Started by `testing` in a namespace; ends when its standard input does.
"""

import json
import os
import selectors
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from errno import errorcode
from typing import Any

_BACKLOG = 4096
_LINGER = struct.Struct("ii")
#: Has the server end the connection.
_END = b"end\n"


# -- servers ---------------------------------------------------------------------------------------


class Serving:
    """Listening sockets and connections in one loop."""

    def __init__(self, addresses: list[str], port: int, udp: bool) -> None:
        self._port, self._udp = port, udp
        self._selector = selectors.DefaultSelector()
        self._listening: dict[str, socket.socket] = {}
        for address in addresses:
            self.open(address)

    def open(self, address: str) -> None:
        """Listen at the address."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM if self._udp else socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, self._port))
        sock.setblocking(False)
        if not self._udp:
            sock.listen(_BACKLOG)
        name = f"{address}\n".encode()
        handle = self._datagrams(sock, name) if self._udp else self._accept(sock, name)
        self._selector.register(sock, selectors.EVENT_READ, handle)
        self._listening[address] = sock

    def close(self, address: str) -> None:
        """Listen no longer."""
        sock = self._listening.pop(address)
        self._selector.unregister(sock)
        sock.close()

    def _accept(self, sock: socket.socket, name: bytes) -> Callable[[], None]:
        def handle() -> None:
            for _ in range(64):
                try:
                    connection, _ = sock.accept()
                except OSError:
                    return
                connection.setblocking(False)
                try:
                    connection.send(name)
                except OSError:
                    connection.close()
                    continue
                self._selector.register(connection, selectors.EVENT_READ, self._echo(connection))

        return handle

    def _echo(self, connection: socket.socket) -> Callable[[], None]:
        def handle() -> None:
            try:
                data = connection.recv(65536)
                if data == _END:
                    data = b""
                elif data:
                    connection.send(data)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._selector.unregister(connection)
                connection.close()

        return handle

    def _datagrams(self, sock: socket.socket, name: bytes) -> Callable[[], None]:
        def handle() -> None:
            try:
                data, client = sock.recvfrom(65536)
                sock.sendto(name + data, client)
            except OSError:
                return

        return handle

    def run(self) -> None:
        """Until standard input ends."""
        self._selector.register(0, selectors.EVENT_READ, None)
        os.set_blocking(0, False)
        _say("ok")
        buffer = b""
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    key.data()
                    continue
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    what, address = line.decode().split()
                    getattr(self, {"open": "open", "close": "close"}[what])(address)
                    _say("ok")


# -- clients ---------------------------------------------------------------------------------------


class Connecting:
    """Threads that connect, each to its share."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._left: int = options["count"]
        self._until = time.monotonic() + options["seconds"]
        self._started = time.monotonic()
        self._times: list[float] = []
        self._failures: Counter[str] = Counter()
        self._backends: Counter[str] = Counter()
        self._said = self._stopped = False

    def _take(self) -> int | None:
        """The number of the next connection."""
        with self._lock:
            if self._stopped or self._left <= 0 or time.monotonic() >= self._until:
                return None
            self._left -= 1
            return int(self._options["count"]) - self._left - 1

    def run(self) -> dict[str, Any]:
        """All connections; what came of them."""
        threads = [
            threading.Thread(target=self._work, args=(share,), daemon=True)
            for share in range(self._options["threads"])
        ]
        threading.Thread(target=self._listen, daemon=True).start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, times = time.monotonic() - self._started, sorted(self._times) or [0.0]
        return {
            "connections": len(self._times),
            "failures": self._failures,
            "backends": self._backends,
            "seconds": seconds,
            "p50_s": times[len(times) // 2],
            "p99_s": times[len(times) * 99 // 100],
            "max_s": times[-1],
        }

    def _listen(self) -> None:
        while os.read(0, 4096):
            pass
        self._stopped = True

    def _work(self, share: int) -> None:
        rate = self._options["rate"]
        ports = self._ports(share)
        while (number := self._take()) is not None:
            if rate:
                time.sleep(max(0.0, self._started + number / rate - time.monotonic()))
            self._connect(next(ports))

    def _ports(self, share: int) -> Iterator[int]:
        ports = self._options["source_ports"][share :: self._options["threads"]] or [0]
        while True:
            yield from ports

    def _connect(self, source_port: int) -> None:
        options = self._options
        address = options["address"]
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        with sock:
            sock.settimeout(options["timeout_s"])
            if source_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("", source_port))
            started = time.perf_counter()
            try:
                sock.connect((address, options["port"]))
                took = time.perf_counter() - started
                name = sock.recv(256).decode().strip() if options["read"] else ""
                if options["read"] and not name:
                    raise EOFError
            except (OSError, EOFError) as error:
                number = getattr(error, "errno", None)
                with self._lock:
                    self._failures[errorcode.get(number or 0, type(error).__name__)] += 1
                self._first()
                return
            if options["passive"]:
                sock.send(_END)
                while sock.recv(256):
                    pass
            if options["reset"]:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(1, 0))
        with self._lock:
            self._times.append(took)
            self._backends[name] += 1
        self._first()

    def _first(self) -> None:
        with self._lock:
            said, self._said = self._said, True
        if not said:
            _say("connected")


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """`serve` or `connect`."""
    what, first, *rest = sys.argv[1:]
    if what == "serve":
        Serving(json.loads(first), int(rest[0]), rest[1] == "udp").run()
    else:
        print(json.dumps(Connecting(json.loads(first)).run()))


if __name__ == "__main__":
    main()
