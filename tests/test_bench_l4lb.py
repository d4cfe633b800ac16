"""What the benchmarks of the layer-4 load balancer measure with."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cairn_core.testing.requires import requires

ROOT = Path(__file__).resolve().parent.parent
#: For what happens soon, seconds.
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    requires("cc", "root")
    made = tmp_path_factory.mktemp("load") / "l4lb_load"
    source = ROOT / "bench" / "l4lb_load.c"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    done = subprocess.run(["cc", *flags, "-o", made, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return made


class Server:
    def __init__(self, program: Path, mode: str, port: int, *addresses: str) -> None:
        self.process = subprocess.Popen(
            [program, "serve", mode, str(port), *addresses], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.read() == {"ready": True}

    def read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def accepted(self) -> dict[str, int]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        counts: dict[str, int] = self.read()["accepted"]
        return counts


@contextmanager
def serving(program: Path, mode: str, port: int, *addresses: str) -> Iterator[Server]:
    server = Server(program, mode, port, *addresses)
    with server.process:
        yield server
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(PATIENCE_S) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def connect(program: Path, *words: object) -> dict[str, Any]:
    done = subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, timeout=60, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_connections_are_counted_on_both_sides_and_shared_in_turn(program: Path) -> None:
    port = free_port()
    places = [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
    with serving(program, "close", port, "127.0.0.1", "127.0.0.2") as server:
        load = connect(program, "connect", "threads", 4, "count", 200, "seconds", 30, *places)
        assert (load["connections"], load["failures"], load["busy"]) == (200, 0, 0)
        assert 0 < load["p50_us"] <= load["p99_us"] <= load["max_us"] * 1.02
        until(lambda: sum(server.accepted().values()) == 200)
        assert server.accepted() == {"127.0.0.1": 100, "127.0.0.2": 100}


def test_a_rate_is_kept_and_time_is_up(program: Path) -> None:
    port = free_port()
    with serving(program, "close", port, "127.0.0.1"):
        load = connect(
            program, "connect", "threads", 2, "rate", 200, "seconds", 0.5, f"127.0.0.1:{port}"
        )
    assert load["connections"] == 100
    assert 0.4 < load["seconds"] < 10


@pytest.mark.parametrize("close", ["rst", "eof"])
def test_a_few_source_ports_serve_many_connections(program: Path, close: str) -> None:
    port, first = free_port(), 21000
    with serving(program, "close", port, "127.0.0.1"):
        load = connect(
            program, "connect", "close", close, "ports", f"{first}-{first + 3}", "count", 100,
            "from", "127.0.0.3", "seconds", 30, f"127.0.0.1:{port}",
        )  # fmt: skip
    assert load["connections"] + load["busy"] == 100
    assert load["connections"] > 3
    assert load["failures"] == 0


def test_refusals_and_silence_are_failures_by_name(program: Path) -> None:
    port = free_port()
    load = connect(program, "connect", "count", 5, f"127.0.0.1:{port}")
    assert (load["connections"], load["errors"]) == (0, {"ECONNREFUSED": 5})
    with serving(program, "close", port, "127.0.0.1"):
        # A reset after the connection is there is one of the exchange.
        load = connect(program, "connect", "count", 5, "exchange", 1, f"127.0.0.1:{port}")
    assert load["failures"] == 5


def test_a_byte_goes_there_and_back(program: Path) -> None:
    port = free_port()
    with serving(program, "echo", port, "::1"):
        load = connect(program, "pingpong", 50, f"[::1]:{port}")
        assert (load["connections"], load["failures"]) == (50, 0)
        load = connect(program, "connect", "count", 5, "exchange", 1, f"[::1]:{port}")
        assert (load["connections"], load["failures"]) == (5, 0)


@pytest.mark.parametrize(
    "words",
    [[], ["dance"], ["connect"], ["connect", "threads", "0", "127.0.0.1:1"],
     ["connect", "speed", "1", "127.0.0.1:1"], ["connect", "nowhere:1"],
     ["serve", "sing", "1", "127.0.0.1"]],
)  # fmt: skip
def test_bad_arguments_exit_2_with_one_line(program: Path, words: list[str]) -> None:
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("l4lb_load: bad argument ")


@pytest.mark.parametrize("name", ["l4lb", "l4lb_balance", "l4lb_failover", "l4lb_table"])
def test_a_machine_without_programs_is_told_so_in_one_line(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", name, "--quick"], cwd=ROOT, capture_output=True,
        text=True, timeout=60, env={**os.environ, "PATH": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"bench: {name} cannot run: needs ")


ALL_WAYS = """
from bench.l4lb_net import accepted, site
from bench.l4lb_paths import direct, nft
with site(2) as place, direct(place) as one, nft(place) as other, place.listening() as server:
    for way in (one, other):
        before = accepted(server)
        load = way.client.connect("threads", 2, "count", 200, "seconds", 30)
        assert (load["connections"], load["failures"]) == (200, 0), load
        after = accepted(server)
        assert sum(after.values()) - sum(before.values()) == 200
        assert all(after[one] > before[one] for one in after)
    place.deny(place.backends[0])
    load = one.client.connect("threads", 20, "count", 20, "timeout", 0.5)
    assert load["errors"] == {"ETIMEDOUT": 10}, load
    place.heal()
    place.deny(place.backends[0], "reject with tcp reset")
    load = one.client.connect("count", 20, "seconds", 30)
    assert load["errors"] == {"ECONNREFUSED": 10}, load
    place.heal()
    load = one.client.connect("count", 20, "seconds", 30)
    assert load["failures"] == 0, load
"""


@pytest.mark.netns
def test_ways_reach_all_backends_and_backends_can_be_denied() -> None:
    requires("root", "cc", "ip", "nft", "taskset")
    done = subprocess.run(
        [sys.executable, "-c", ALL_WAYS], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.netns
@pytest.mark.slow
def test_no_process_is_left_of_a_benchmark_that_is_killed(tmp_path: Path) -> None:
    requires("root", "cc", "ip", "nft", "taskset", "setpriv", "iptables", "ipset")
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "l4lb_failover", "--quick"], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    with process:
        try:
            until(lambda: any("steer" in command_line(pid) for pid in below(process.pid)))
            started = below(process.pid)
        finally:
            process.send_signal(signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def below(pid: int) -> set[int]:
    """Processes that descend from one."""
    parents: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found: set[int] = set()
    while more := {one for one, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.02)
