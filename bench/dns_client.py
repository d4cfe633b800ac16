"""What asks: one question at a time, many at a fixed rate, and dnsperf.

`python -m bench.dns_client PORT NAME RATE` asks until its standard input ends, and then prints a
JSON list of [time of asking (CLOCK_MONOTONIC), seconds until the answer or null].
"""

import json
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from select import select

from bench.dns_cluster import A
from bench.report import CannotRun

#: How long a question of `Prober` may take before it counts as lost, seconds.
LOST_S = 2.0


def query(number: int, name: str, kind: int) -> bytes:
    """A question as a client sends it, without EDNS."""
    labels = b"".join(bytes([len(one)]) + one for one in name.encode().split(b"."))
    return (
        struct.pack("!HHHHHH", number & 0xFFFF, 0x0100, 1, 0, 0, 0)
        + labels
        + struct.pack("!BHH", 0, kind, 1)
    )


class Client:
    """Asks one server over UDP, one question at a time."""

    def __init__(self, port: int) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect(("127.0.0.1", port))
        self._number = 0

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def ask(self, name: str, kind: int = A, *, timeout_s: float = LOST_S) -> bytes:
        """The answer when it has records; empty for any other, and for none in time."""
        self._number += 1
        deadline = time.perf_counter() + timeout_s
        try:
            self._sock.send(query(self._number, name, kind))
            while (left := deadline - time.perf_counter()) > 0:
                self._sock.settimeout(left)
                reply = self._sock.recv(4096)
                if reply[:2] == struct.pack("!H", self._number & 0xFFFF):
                    return reply if reply[3] & 15 == 0 and reply[6:8] != b"\0\0" else b""
        except (TimeoutError, ConnectionRefusedError):
            pass
        return b""

    def until(self, name: str, address: str, *, every_s: float, timeout_s: float = 60.0) -> float:
        """Ask for an address until the answer has it; the time (perf_counter) when it had."""
        wanted = socket.inet_aton(address)
        deadline = time.perf_counter() + timeout_s
        while time.perf_counter() < deadline:
            reply = self.ask(name)
            now = time.perf_counter()
            if wanted in reply:
                return now
            time.sleep(every_s)
        raise CannotRun(f"{name} is not {address} after {timeout_s} s")


# -- dnsperf ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """What dnsperf saw.  latencies: seconds, sorted; only of runs that wanted them."""

    completed: int
    lost: int
    qps: float
    rcodes: dict[str, int]
    latencies: list[float]


def question_file(path: Path, questions: Iterable[tuple[str, str]]) -> Path:
    """The questions as dnsperf reads them."""
    path.write_text("".join(f"{name} {kind}\n" for name, kind in questions))
    return path


def dnsperf(
    port: int, file: Path, seconds: float, *, rate: int | None = None, tcp: bool = False
) -> Load:
    """Ask as fast as answers come, 200 under way from 8 sockets; or at a fixed rate per second,
    and then with the latency of each.
    """
    if shutil.which("dnsperf") is None:
        raise CannotRun("needs dnsperf (Debian package dnsperf)")
    argv = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(file), "-c", "8", "-T", "1"]
    argv += ["-l", str(seconds), "-q", "200", "-t", "1", "-O", "suppress=timeout,congestion"]
    if rate is not None:
        argv += ["-Q", str(rate), "-v"]
    if tcp:
        argv += ["-m", "tcp"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRun(f"dnsperf exited with {done.returncode}: {done.stderr.strip()[-300:]}")
    return read_dnsperf(done.stdout)


def read_dnsperf(text: str) -> Load:
    """The figures in what dnsperf prints."""
    figures = dict(re.findall(r"^ {2}(Queries [a-z ]+?): +([\d.]+)", text, re.MULTILINE))
    told = re.search(r"Response codes: +(.*)", text)
    rcodes = re.findall(r"([A-Z]+) (\d+)", told[1]) if told else []
    latencies = re.findall(r"^> [A-Z]+ \S+ \S+ ([\d.]+)$", text, re.MULTILINE)
    return Load(
        int(figures["Queries completed"]), int(figures["Queries lost"]),
        float(figures["Queries per second"]), {name: int(n) for name, n in rcodes},
        sorted(map(float, latencies)),
    )  # fmt: skip


def percentile(ordered: list[float], share: float) -> float:
    """The value that this share of a sorted list does not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


# -- a fixed rate, with the time of each question --------------------------------------------


class Prober:
    """A process that asks all the time; `stop` gives what it saw."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def stop(self) -> list[tuple[float, float | None]]:
        """Time of asking (perf_counter), and seconds until the answer or None, in order."""
        out, _ = self._process.communicate()
        return [(at, took) for at, took in json.loads(out)]


@contextmanager
def prober(port: int, name: str, rate: int) -> Iterator[Prober]:
    """Ask for a name so many times a second."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.dns_client", str(port), name, str(rate)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    try:
        yield Prober(process)
    finally:
        process.kill()
        process.communicate()


def probe(port: int, name: str, rate: int) -> list[tuple[float, float | None]]:
    """Ask at a fixed rate, whatever is answered, until standard input ends."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    asked: list[float] = []
    took: list[float | None] = []
    stop_at = float("inf")
    next_at = time.perf_counter()
    while (now := time.perf_counter()) < stop_at + LOST_S:
        due = now >= next_at and now < stop_at
        if due:
            asked.append(now)
            took.append(None)
            sock.send(query(len(asked) - 1, name, A))
            next_at = max(next_at + 1 / rate, now - 1.0)
        wait = next_at - time.perf_counter() if now < stop_at else 0.05
        watched = [sock, sys.stdin] if now < stop_at else [sock]
        ready = select(watched, [], [], max(0.0, wait))[0]
        if sock in ready:
            _receive(sock, asked, took)
        if sys.stdin in ready:
            stop_at = time.perf_counter()
        if now >= stop_at and None not in took:
            break
    return list(zip(asked, took, strict=True))


def _receive(sock: socket.socket, asked: list[float], took: list[float | None]) -> None:
    try:
        while True:
            reply = sock.recv(4096)
            now = time.perf_counter()
            # The newest question with this number; older ones are long lost.
            index = len(asked) - 1 - ((len(asked) - 1 - int.from_bytes(reply[:2], "big")) & 0xFFFF)
            if index >= 0 and took[index] is None:
                took[index] = now - asked[index]
    except (BlockingIOError, ConnectionRefusedError):
        return


if __name__ == "__main__":
    json.dump(probe(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])), sys.stdout)
