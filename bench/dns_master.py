"""A stand-in for a master, of which the DNS benchmarks decide what it says, and when.

    with StandIn(Cluster(1000), "stream") as master: ...

`poll` has `/master/state` only, `stream` the event stream of the operator API, `feed` the node
feed.
"""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import perf_counter
from types import TracebackType
from typing import Any

from bench import dns_cluster
from bench.dns_cluster import MASTER_ID, Cluster, sentinel, sentinel_address
from cairn_core.mesos import recordio
from cairn_core.mesos.feed_rows import Row
from cairn_core.testing.feed_master import FeedMaster


class StandIn:
    """One master on a port of its own.

    number: of changes of the sentinel until now.  asked: times (perf_counter) of requests for the
    state, and the number of the state that each of them gets.
    """

    def __init__(self, cluster: Cluster, kind: str = "poll") -> None:
        self.kind = kind
        self.number = 0
        self.asked: list[tuple[float, int]] = []
        self._streams: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._state, self._events, self._feed = (b"", b""), [b""], None
        if kind == "poll":
            self._state = cluster.state(self.address)
        elif kind == "stream":
            self._events = [cluster.subscribed(), self._sentinel(dns_cluster.task_added)]
        else:
            self._feed = FeedMaster([*cluster.rows(), self._row()])

    def __enter__(self) -> "StandIn":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        if self._feed is not None:
            self.address = self._feed.__enter__().address
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._feed is not None:
            self._feed.__exit__(kind, error, trace)
        self._server.shutdown()
        self._server.server_close()

    @property
    def state_bytes(self) -> int:
        """Size of a state."""
        return sum(map(len, self._state))

    def change(self) -> None:
        """Give the sentinel another address, and tell it to whoever listens."""
        with self._lock:
            self.number += 1
            if self._feed is not None:
                self._feed.put(self._row())
            self._events.append(self._sentinel(dns_cluster.task_updated))
            for send in self._streams:
                send()

    # -- for the handler ---------------------------------------------------------------------

    def state(self) -> bytes:
        """The state as it is now."""
        with self._lock:
            self.asked.append((perf_counter(), self.number))
            task = self._sentinel(dns_cluster.state_task)
        return self._state[0] + task + self._state[1]

    def subscribe(self, write: Callable[[bytes], None]) -> None:
        """Send what there is, and from now on what comes."""
        sent = 0

        def send() -> None:
            nonlocal sent
            events, sent = self._events[sent:], len(self._events)
            for event in events:
                write(recordio.encode(event))

        with self._lock:
            send()
            self._streams.append(send)

    def _sentinel(self, form: Callable[[dns_cluster.Instance], bytes]) -> bytes:
        return form(sentinel(sentinel_address(self.number)))

    def _row(self) -> Row:
        return dns_cluster.row(sentinel(sentinel_address(self.number)))


def _handler(master: StandIn) -> type[BaseHTTPRequestHandler]:
    """The class that answers for one master."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing; who asked is in `asked`."""

        def do_GET(self) -> None:
            if self.path in ("/state", "/master/state"):
                self._answer(master.state())
            else:
                self._answer(b"", 404)

        def do_POST(self) -> None:
            call = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path != "/api/v1" or master.kind != "stream":
                self._answer(b"", 404)
            elif json.loads(call)["type"] == "SUBSCRIBE":
                self._begin_stream()
                master.subscribe(self._write)
                self.close_connection = True
                while self.rfile.read(1):  # until the reader goes
                    pass
            else:
                port = int(master.address.rpartition(":")[2])
                info = {
                    "id": MASTER_ID, "ip": 0x0100007F, "port": port, "hostname": "127.0.0.1",
                    "pid": f"master@{master.address}",
                    "address": {"ip": "127.0.0.1", "port": port},
                }  # fmt: skip
                answer = {"type": "GET_MASTER", "get_master": {"master_info": info}}
                self._answer(json.dumps(answer).encode())

        def _answer(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _begin_stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

        def _write(self, data: bytes) -> None:
            try:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                self.wfile.flush()
            except OSError:
                self.close_connection = True

    return Handler
