"""`cairn-l4lb` under measurement: the real daemon in a client's namespace, fed by a master."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.dns_servers import BIN, Server
from bench.l4lb_net import Client, Host
from bench.report import CannotRun
from cairn_core.mesos.feed_rows import Row
from cairn_core.testing.feed_master import FeedMaster

API_PORT = 61421
START_S = 60.0


class Daemon:
    """One daemon.  `start` may be called again once it has ended."""

    def __init__(self, host: Host, directory: Path, config: dict[str, Any]) -> None:
        self._host = host
        self._directory = directory
        file = directory / "l4lb.json"
        file.write_text(json.dumps(config))
        # Whatever ends this process, the daemon ends too.
        self._argv = ["setpriv", "--pdeathsig", "KILL", str(BIN / "cairn-l4lb"), "--config",
                      str(file)]  # fmt: skip
        self.server: Server

    def start(self) -> None:
        """Start it; returns at once."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CAIRN")}
        with (self._directory / "log").open("ab") as log:
            process = self._host.start(
                *self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                cwd=self._directory,
            )  # fmt: skip
        self.server = Server(process, API_PORT, self._directory)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait for that."""
        self.server.process.send_signal(how)
        try:
            self.server.process.wait(20)
        except subprocess.TimeoutExpired:
            self.server.process.kill()
            self.server.process.wait()

    def control(self) -> int:
        """Process id of the controlling process."""
        return self.server.process.pid

    def steer(self) -> int:
        """Process id of the steering process, once it is ready."""
        return int(self.until(self._steer, "no steering process"))

    def _steer(self) -> int | None:
        steering = (self.get("/debug/state") or {}).get("steering", {})
        return steering["pid"] if steering.get("ready") else None

    def get(self, path: str) -> Any:
        """What the API answers; None while it does not or says that it is not ready."""
        try:
            with self._host.inside():
                sock = socket.create_connection(("127.0.0.1", API_PORT), 10)
            with sock:
                sock.sendall(f"GET {path} HTTP/1.0\r\nAccept: application/json\r\n\r\n".encode())
                answer = b"".join(iter(lambda: sock.recv(65536), b""))
        except OSError:
            return None
        head, _, body = answer.partition(b"\r\n\r\n")
        if b" 200" not in head[:16]:
            return None
        return json.loads(body) if body[:1] in (b"{", b"[") else body.decode()

    def ready(self, vips: int) -> None:
        """Wait until it knows so many VIPs and says that it is ready."""
        self.until(lambda: (self.get("/debug/state") or {}).get("vips", 0) >= vips, "too few VIPs")
        self.until(lambda: self.get("/ready"), "not ready")
        self.steer()

    def until(self, found: Callable[[], Any], problem: str, timeout_s: float = START_S) -> Any:
        """Wait for a true value, and give it."""
        deadline = time.monotonic() + timeout_s
        while not (value := found()):
            if self.server.process.poll() is not None or time.monotonic() > deadline:
                said = (self._directory / "log").read_text(errors="replace").strip()
                raise CannotRun(f"cairn-l4lb: {problem}: {said.rpartition(chr(10))[2][-300:]}")
            time.sleep(0.02)
        return value


@contextmanager
def daemon(
    client: Client, rows: Iterable[Row], vips: int, **settings: Any
) -> Iterator[tuple[Daemon, FeedMaster]]:
    """A daemon that serves these rows, and the master that may change them."""
    with client.host.inside():
        listener = socket.create_server(("127.0.0.1", 0))
    with FeedMaster(rows, listener) as master, TemporaryDirectory() as name:
        directory = Path(name)
        config = {
            "masters": [master.address], "source": "feed", "private_ip": client.sources[0],
            "api_listen_ip": "127.0.0.1", "api_listen_port": API_PORT, "proxy_socket": "",
            "vips_socket": "", "control_socket": "", "state_dir": str(directory / "state"),
            "run_dir": str(directory), "agent_polling_enabled": False, **settings,
        }  # fmt: skip
        made = Daemon(client.host, directory, config)
        made.start()
        try:
            made.ready(vips)
            yield made, master
        finally:
            made.stop()
