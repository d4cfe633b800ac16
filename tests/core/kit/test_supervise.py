"""The supervisor with real processes."""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cairn_core.errors import LocalError, Unavailable
from cairn_core.kit import spawn, units
from cairn_core.kit.supervise import ask
from cairn_core.testing.requires import requires

READY = """
import os, socket, sys, time
print("hello from", os.environ["WHO"], flush=True)
def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text, os.environ["NOTIFY_SOCKET"])
tell(b"STATUS=warming up")
if "READY" in os.environ:
    tell(b"READY=1\\nSTATUS=at work")
time.sleep(1000)
"""
ECHO = """
import os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDNAMES"] == "echo"
server = socket.socket(fileno=3)
while True:
    client, _ = server.accept()
    client.sendall(str(os.getpid()).encode())
    client.close()
"""


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What `condition()` gives, once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "condition not reached in time"
        time.sleep(0.01)
    return value


class World:
    """A supervisor on a folder of units."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.units = path / "units"
        self.units.mkdir()
        self.control = path / "control.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def unit(self, name: str, code: str, *lines: str, unit: str = "") -> None:
        script = self.path / f"{name}.py"
        script.write_text(code)
        command = shlex.join([sys.executable, "-I", "-S", str(script)])
        text = f"[Unit]\n{unit}\n[Service]\nExecStart={command}\n" + "\n".join(lines)
        (self.units / f"{name}.service").write_text(text)

    def start(self) -> None:
        with (self.path / "supervisor.log").open("wb") as out:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "cairn_core.kit.supervise", "--units", str(self.units),
                    "--log", str(self.path / "log"), "--control", str(self.control),
                ],
                stderr=out,
            )  # fmt: skip
        until(self.answers)

    def answers(self) -> bool:
        """Whether it listens already; the file is there a moment before."""
        try:
            ask(self.control, "status")
        except Unavailable:
            return False
        return True

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = ask(self.control, "status")["units"][name]
        return found

    def wait(self, name: str, state: str) -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            status = self.status(name)
            return status if status["state"] == state else None

        found: dict[str, Any] = until(there)
        return found

    def log(self, name: str) -> str:
        path = self.path / "log" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.terminate()
                self.process.wait(20)
            self.process.kill()
            self.process.wait()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_notifying_service_is_ready_when_it_says_so(world: World) -> None:
    world.unit("ready", READY, "Type=notify", 'Environment="WHO=the test" READY=1')
    world.unit("slow", READY, "Type=notify", "Environment=WHO=slow")
    world.unit(
        "later", READY, "Environment=WHO=later NOTIFY_SOCKET=/none", unit="After=slow.service"
    )
    world.start()
    assert world.wait("ready", "running")["status"] == "at work"
    until(lambda: world.status("slow")["status"] == "warming up")
    assert world.status("slow")["state"] == "starting"
    assert world.status("later")["state"] == "waiting"
    assert world.log("ready") == "hello from the test\n"


def test_a_service_that_does_not_get_ready_is_killed(world: World) -> None:
    lines = ("Type=notify", "Environment=WHO=x", "TimeoutStartSec=200ms", "Restart=no")
    world.unit("late", READY, *lines)
    world.start()
    assert world.wait("late", "failed")["exit_code"] == -9


def test_a_failing_service_is_restarted_and_another_kind_is_not(world: World) -> None:
    world.unit(
        "always", "print('x', flush=True); raise SystemExit(3)", "Restart=always", "RestartSec=10ms"
    )
    world.unit("once", "raise SystemExit(4)")
    world.unit("fine", "pass", "Restart=on-failure")
    (world.units / "absent.service").write_text("[Service]\nExecStart=/no/such/program")
    (world.units / "nobody.service").write_text("[Service]\nExecStart=/bin/true\nUser=no-such-user")
    world.start()
    until(lambda: world.status("always")["restarts"] >= 3)
    assert world.log("always").startswith("x\nx\nx\n")
    assert world.wait("once", "failed")["exit_code"] == 4
    assert world.wait("fine", "stopped")["exit_code"] == 0
    assert world.wait("absent", "failed")["exit_code"] == 203
    assert world.wait("nobody", "failed")["exit_code"] == 203


def test_control_kills_restarts_and_stops(world: World) -> None:
    lines = ("Type=notify", "Environment=WHO=x READY=1", "Restart=on-failure", "RestartSec=10ms")
    world.unit("one", READY, *lines)
    world.start()
    first = world.wait("one", "running")["pid"]
    ask(world.control, "kill", name="one", signal="KILL")
    until(lambda: world.status("one")["pid"] not in (None, first))
    second = world.wait("one", "running")["pid"]
    assert world.status("one")["restarts"] == 1
    ask(world.control, "restart", name="one")
    third = world.wait("one", "running")["pid"]
    assert third not in (first, second)
    assert world.status("one")["restarts"] == 1
    ask(world.control, "stop", name="one")
    assert world.wait("one", "stopped")["pid"] is None
    with pytest.raises(LocalError, match="unit is not running: one"):
        ask(world.control, "kill", name="one", signal=9)
    ask(world.control, "restart", name="one")
    world.wait("one", "running")
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("kill", {"name": "two"}, "no such unit: 'two'"),
        ("kill", {"name": "one", "signal": "x"}, "no such signal"),
        ("dance", {"name": "one"}, "no such command: 'dance'"),
    ]
    for command, fields, message in refused:
        with pytest.raises(LocalError, match=message):
            ask(world.control, command, **fields)
    ask(world.control, "stop")
    assert world.process is not None
    assert world.process.wait(20) == 0
    with pytest.raises(Unavailable, match="no supervisor answers"):
        ask(world.control, "status")


def test_the_command_line_is_a_client_too(world: World) -> None:
    world.unit("one", "import time; time.sleep(1000)")
    world.start()
    client = [sys.executable, "-m", "cairn_core.kit.supervise", "--control", str(world.control)]
    out = subprocess.run([*client, "status"], check=True, capture_output=True, timeout=20).stdout
    assert set(json.loads(out)["units"]) == {"one"}
    done = subprocess.run([*client, "kill", "x"], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (1, b"cairn-supervise: no such unit: 'x'\n")


def test_sockets_stay_open_while_the_service_restarts(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    world.unit("echo", ECHO, "Restart=always", "RestartSec=10ms")
    (world.units / "echo.socket").write_text(
        f"[Socket]\nListenStream=127.0.0.1:{port}\nFileDescriptorName=echo"
    )
    world.start()

    def query() -> int:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            return int(client.recv(100))

    first = query()
    ask(world.control, "kill", name="echo", signal=9)
    assert query() != first  # waits in the queue of the socket, is never refused


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def listening(text: str) -> Iterator[list[socket.socket]]:
    """The sockets of a `.socket` file."""
    made = spawn.listen(units.parse_socket("x", f"[Socket]\n{text}"))
    try:
        yield made
    finally:
        for sock in made:
            sock.close()


def test_equal_addresses_with_reuse_port_share_the_datagrams() -> None:
    line = f"ListenDatagram=127.0.0.1:{free_udp_port()}\n"
    with listening(f"{line * 4}ReusePort=yes") as made, contextlib.ExitStack() as clients:
        assert len({sock.getsockname() for sock in made}) == 1
        for _ in range(64):  # the kernel spreads senders, by a hash of their port
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            clients.enter_context(client).sendto(b"x", made[0].getsockname())
        shares = []
        for sock in made:
            sock.setblocking(False)
            shares.append(0)
            with contextlib.suppress(BlockingIOError):
                while sock.recv(1):
                    shares[-1] += 1
        assert sum(shares) == 64
        assert min(shares) > 0


def test_equal_stream_addresses_need_reuse_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    lines = f"ListenStream=127.0.0.1:{port}\n" * 2
    with (
        pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{port}: Address already"),
        listening(lines),
    ):
        pass
    with listening(f"{lines}ReusePort=yes") as made:
        assert len(made) == 2


@pytest.mark.parametrize(("setting", "both"), [("both", True), ("ipv6-only", False)])
def test_ipv6_sockets_take_ipv4_only_where_told(setting: str, both: bool) -> None:
    port = free_udp_port()
    with (
        listening(f"ListenDatagram=[::]:{port}\nBindIPv6Only={setting}") as [sock],
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.connect(("127.0.0.1", port))
        client.send(b"x")
        if both:
            sock.settimeout(10)
            assert sock.recv(1) == b"x"
        else:  # on loopback the refusal is there before send returns
            with pytest.raises(ConnectionRefusedError):
                client.send(b"x")


def test_the_receive_buffer_is_as_large_as_told() -> None:
    text = f"ListenDatagram=127.0.0.1:{free_udp_port()}\nReceiveBuffer=100K"
    with listening(text) as [sock]:
        # the kernel doubles it for its own bookkeeping, socket(7)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 200 << 10


def test_only_free_binding_takes_addresses_that_are_not_there_yet() -> None:
    lines = "ListenDatagram=198.51.100.77:5300\nListenStream=[fd01:d::c633:644d]:5300\n"
    with (
        pytest.raises(Unavailable, match="Cannot assign requested address"),
        listening(lines),
    ):
        pass
    with listening(f"{lines}FreeBind=yes") as made:
        names = {sock.getsockname()[0] for sock in made}
        assert names == {"198.51.100.77", "fd01:d::c633:644d"}


LATE = """
import socket, subprocess
from cairn_core.kit import spawn, units
text = "[Socket]\\nFreeBind=yes\\n" + "".join(
    f"{kind}={host}:53\\n" for kind in ("ListenStream", "ListenDatagram")
    for host in ("198.51.100.1", "[fd01:d::c633:6401]")
)
made = spawn.listen(units.parse_socket("x", text))
for command in ("link set lo up", "addr add 198.51.100.1/32 dev lo",
                "addr add fd01:d::c633:6401/128 dev lo nodad"):
    subprocess.run(["ip", *command.split()], check=True)
for sock in made:
    with socket.socket(sock.family, sock.type) as client:
        client.settimeout(10)
        client.connect(sock.getsockname())
        client.send(b"x")
        if sock.type == socket.SOCK_STREAM:
            sock = sock.accept()[0]
        sock.settimeout(10)
        print(sock.recv(1).decode(), end="")
"""


@pytest.mark.netns
def test_a_freely_bound_socket_works_once_its_address_has_come() -> None:
    requires("root", "ip", "unshare")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-W", "ignore", "-c", LATE],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("xxxx", "")


def test_kill_modes_and_orphans(world: World) -> None:
    parent = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(1000)"])
print(child.pid, flush=True)
time.sleep(1000)
"""
    world.unit("group", parent)
    world.unit("lone", parent, "KillMode=process")
    world.start()

    def child_of(name: str) -> int:
        until(lambda: world.log(name).endswith("\n"))
        return int(world.log(name))

    group, lone = child_of("group"), child_of("lone")
    ask(world.control, "stop", name="group")
    ask(world.control, "stop", name="lone")
    until(lambda: not alive(group))
    assert alive(lone)
    # the orphan is now the supervisor's child and is reaped when it ends
    os.kill(lone, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{lone}").exists())


def test_sigterm_stops_in_reverse_order(world: World) -> None:
    code = """
import pathlib, signal, sys, time
def end(*_):
    with open({path!r}, "a") as f: f.write("{name} ")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("on", flush=True)
time.sleep(1000)
"""
    path = str(world.path / "order")
    world.unit("a", code.format(path=path, name="a"), unit="After=b.service")
    world.unit("b", code.format(path=path, name="b"))
    world.start()
    until(lambda: world.log("a") and world.log("b"))
    world.close()
    assert (world.path / "order").read_text() == "a b "
    assert not world.control.exists()


def test_a_wrong_unit_file_stops_the_start(world: World) -> None:
    (world.units / "bad.service").write_text("[Service]\nRestart=always")
    done = subprocess.run(
        [sys.executable, "-m", "cairn_core.kit.supervise", "--units", str(world.units),
         "--log", str(world.path), "--control", str(world.control)],
        capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == b"cairn-supervise: unit bad: expected one ExecStart, found 0\n"
