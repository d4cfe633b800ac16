"""The DNS servers under measurement, as processes: ours, Mesos-DNS, NSD.

Each runs in a directory of its own and answers on 127.0.0.1. What they use is read from /proc, over
all their processes.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.dns_client import Client
from bench.report import CannotRun

BIN = Path(sys.executable).parent
#: How long a server may take to know its names, seconds.
START_S = 120.0
#: Servers ask for the state only once within a benchmark, unless it says otherwise; seconds.
NEVER_S = 86_400

NSD = """
server:
  ip-address: 127.0.0.1@{port}
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "{directory}"
  pidfile: "{directory}/pid"
  xfrdir: "{directory}"
  xfrdfile: "{directory}/xfrd"
  zonelistfile: "{directory}/list"
  round-robin: yes
  rrl-ratelimit: 0
  minimal-responses: no
remote-control:
  control-enable: no
zone:
  name: {origin}
  zonefile: zone
"""


def mesos_dns() -> Path | None:
    """The peer's program; None where nobody named one."""
    named = os.environ.get("MESOS_DNS_BINARY")
    if not named:
        return None
    if not os.access(named, os.X_OK):
        raise CannotRun(f"MESOS_DNS_BINARY names no program: {named!r}")
    return Path(named)


def free_port() -> int:
    """A port that is free for UDP and TCP now."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as tcp:
            port = int(tcp.getsockname()[1])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, suppress(OSError):
                udp.bind(("127.0.0.1", port))
                return port


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.  peer: as in `Result`; None is Cairn itself."""

    process: "subprocess.Popen[Any]"
    port: int
    directory: Path
    peer: str | None = None

    def pids(self) -> list[int]:
        """Its processes, the first one first."""
        children: dict[int, list[int]] = {}
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                parent = int(file.read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(file.parent.name))
        found = [self.process.pid]
        for pid in found:
            found += children.get(pid, ())
        return found

    def cpu_s(self) -> float:
        """Processor seconds of all its processes that live."""
        spent = 0
        for pid in self.pids():
            for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with suppress(OSError):
                    spent += int(file.read_text().split()[0])
        return spent / 1e9

    def pss_mb(self) -> float:
        """Memory of all its processes; pages that several share count once."""
        return sum(_kb(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in self.pids()) / 1000

    def peak_mb(self) -> float:
        """The most each process ever had, summed up."""
        return sum(_kb(f"/proc/{pid}/status", "VmHWM:") for pid in self.pids()) / 1000

    def wait(self, name: str, kind: int = 1, *, timeout_s: float = START_S) -> float:
        """Wait for records of a name; seconds it took."""
        start = time.perf_counter()
        with Client(self.port) as client:
            while not client.ask(name, kind, timeout_s=0.2):
                if self.process.poll() is not None:
                    raise CannotRun(f"{self.process.args!r} has ended: {self._said()}")
                if time.perf_counter() - start > timeout_s:
                    raise CannotRun(f"{self.process.args!r} knows no {name} after {timeout_s} s")
                time.sleep(0.005)
        return time.perf_counter() - start

    def _said(self) -> str:
        text = (self.directory / "log").read_text(errors="replace").strip()
        return text.rpartition("\n")[2][-300:]


@contextmanager
def cairn_dns(
    directory: Path, masters: Sequence[str], *, processes: int | None = None, **settings: Any
) -> Iterator[Server]:
    """`cairn-dns` with so many serving processes, or as many as it chooses."""
    port = free_port()
    config = {
        "masters": list(masters), "listener": "127.0.0.1", "port": port,
        "httpListener": "127.0.0.1", "httpport": free_port(), "refreshSeconds": NEVER_S,
        "state_dir": str(directory / "state"), "IPSources": ["netinfo", "host"],
        **settings,
    }  # fmt: skip
    if processes is not None:
        config["processes"] = processes
    directory.mkdir(parents=True)
    file = directory / "dns.json"
    file.write_text(json.dumps(config))
    with _process([BIN / "cairn-dns", "--config", file], port, directory) as server:
        yield server


@contextmanager
def cairn_dns_proxy(
    directory: Path, master_port: int, upstreams: Sequence[str]
) -> Iterator[Server]:
    """`cairn-dns-proxy` before a cairn-dns on 127.0.0.1, and servers for other names."""
    port = free_port()
    config = {
        "masters": [f"127.0.0.1:{master_port}"], "upstream_resolvers": list(upstreams),
        "udp_port": port, "tcp_port": port, "bind_ips": ["127.0.0.1"], "proxy_addresses": [],
        "add_addresses": False, "http_port": 0, "control_socket": str(directory / "control"),
        "state_dir": str(directory / "state"),
    }  # fmt: skip
    directory.mkdir(parents=True)
    file = directory / "proxy.json"
    file.write_text(json.dumps(config))
    with _process([BIN / "cairn-dns-proxy", "--config", file], port, directory) as server:
        yield server


@contextmanager
def original(directory: Path, masters: Sequence[str], **settings: Any) -> Iterator[Server]:
    """Mesos-DNS with the same settings; call only where `mesos_dns` names it."""
    program, port = mesos_dns(), free_port()
    assert program is not None
    config = {
        "masters": list(masters), "listener": "127.0.0.1", "port": port,
        "httpListener": "127.0.0.1", "httpport": free_port(), "refreshSeconds": NEVER_S,
        "IPSources": ["netinfo", "host"], "externalon": False, **settings,
    }  # fmt: skip
    directory.mkdir(parents=True)
    file = directory / "config.json"
    file.write_text(json.dumps(config))
    command = (program, f"-config={file}", "-logtostderr")
    with _process(command, port, directory, "mesos-dns") as server:
        yield server


@contextmanager
def nsd(directory: Path, origin: str, zone: str) -> Iterator[Server]:
    """NSD with one serving process and one zone."""
    program = shutil.which("nsd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise CannotRun("needs nsd (Debian package nsd)")
    port = free_port()
    directory.mkdir(parents=True)
    (directory / "zone").write_text(zone)
    file = directory / "nsd.conf"
    file.write_text(NSD.format(port=port, directory=directory, origin=origin))
    with _process([program, "-d", "-c", file], port, directory, "nsd") as server:
        yield server


@contextmanager
def _process(
    argv: Sequence[str | Path], port: int, directory: Path, peer: str | None = None
) -> Iterator[Server]:
    """A process as long as the context; its output goes to the file `log`."""
    foreign = ("CAIRN", "MESOS_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=directory
        )
    try:
        yield Server(process, port, directory, peer)
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _kb(file: str, key: str) -> int:
    with suppress(OSError):
        for line in Path(file).read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1])
    return 0
