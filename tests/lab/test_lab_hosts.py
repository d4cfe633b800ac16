"""Labs of bare hosts on the real kernel: up, down, and `up` killed anywhere."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn_core.testing.requires import requires
from cairn_lab import cgroups, hosts, lab, relays, state
from cairn_lab.errors import LabError
from cairn_lab.topology import lab_cgroup, plan

pytestmark = pytest.mark.netns

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=0.3)
except ConnectionRefusedError:
    print("reached")
except OSError:
    print("nothing")
"""


@pytest.fixture
def name() -> Iterator[str]:
    requires("root", "ip", "nsenter")
    name = f"t-{uuid.uuid4().hex[:8]}"
    try:
        yield name
    finally:
        lab.down(name)


def traces(name: str) -> list[str]:
    """Everything of a lab that this machine shows."""
    found = [str(state.directory(name))] if state.directory(name).exists() else []
    found += [str(place) for place in lab._cgroup_places(name)]
    found += [f"process {pid}" for pid in cgroups.processes(lab_cgroup(name))]
    mounts = Path("/proc/self/mounts").read_text()
    return found + [line for line in mounts.splitlines() if f"cairn-lab/{name}" in line]


def run(made: lab.Lab, host: str, *command: str) -> str:
    """Output of a command that succeeds on a host."""
    return subprocess.run(
        hosts.enter(made.pid(host), command), check=True, capture_output=True, text=True
    ).stdout


def reaches(made: lab.Lab, host: str, address: str) -> bool:
    return run(made, host, sys.executable, "-c", CONNECT, address) == "reached\n"


def cairn_lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cairn_lab", *arguments], capture_output=True, text=True
    )


def test_hosts_have_names_addresses_and_files_of_their_own(name: str) -> None:
    made, changed = lab.up(name, bare=True)
    assert changed
    assert made.broken() == []
    assert run(made, "agent1", "hostname") == "agent1\n"
    assert run(made, "agent1", "cat", "/etc/hostname") == "agent1\n"
    assert run(made, "agent1", "cat", "/etc/resolv.conf").startswith("nameserver 203.0.113.11\n")
    links = json.loads(run(made, "agent1", "ip", "-j", "address", "show", "eth0"))
    addresses = {a["local"] for a in links[0]["addr_info"]}
    assert {"203.0.113.101", "2001:db8:cafe::101"} <= addresses
    assert reaches(made, "agent1", "public1")
    assert reaches(made, "agent1", "2001:db8:cafe::11")


def test_a_host_sees_its_own_processes_links_and_all_cgroups(name: str) -> None:
    made, _ = lab.up(name, bare=True, agents=1, public=0)
    assert run(made, "agent1", "cat", "/proc/1/comm").startswith("python")
    assert sorted(run(made, "agent1", "ls", "/sys/class/net").split()) == ["eth0", "lo"]
    for hierarchy in cgroups.hierarchies():
        own = hierarchy / f"cairn/{name}/agent1"
        assert run(made, "agent1", "ls", "-d", str(own)).strip() == str(own)
    run(made, "agent1", "touch", "/var/lib/cairn/written", "/run/cairn/volatile")
    assert (made.folder("agent1") / "lib/written").exists()
    assert not Path("/run/cairn/volatile").exists()


def test_up_while_up_changes_nothing(name: str) -> None:
    first, _ = lab.up(name, bare=True, agents=1, public=0)
    again, changed = lab.up(name, bare=True, agents=1, public=0)
    assert not changed
    assert again.state == first.state


def test_up_with_other_numbers_while_up_is_refused(name: str) -> None:
    lab.up(name, bare=True, agents=1, public=0)
    with pytest.raises(LabError, match="is up with other hosts"):
        lab.up(name, bare=True, agents=2, public=0)


def test_down_leaves_no_trace_and_takes_processes_along(name: str) -> None:
    made, _ = lab.up(name, bare=True, agents=1, public=0)
    with subprocess.Popen(
        hosts.enter(made.pid("agent1"), ["sleep", "1000"]), stdout=subprocess.DEVNULL
    ) as sleeper:
        assert lab.down(name)
        assert sleeper.wait(timeout=10) != 0
    assert traces(name) == []
    assert not lab.down(name)


def test_a_cut_host_reaches_nobody_until_it_is_healed(name: str) -> None:
    made, _ = lab.up(name, bare=True, agents=2, public=0)
    hosts.cut(made.switch_pid(), "agent1")
    hosts.cut(made.switch_pid(), "agent1")
    assert [one.host.name for one in made.status() if one.cut] == ["agent1"]
    assert not reaches(made, "agent2", "agent1")
    assert not reaches(made, "agent1", "master1")
    assert reaches(made, "agent2", "master1")
    assert "203.0.113.101/24" in run(made, "agent1", "ip", "address")
    hosts.heal(made.switch_pid(), "agent1")
    hosts.heal(made.switch_pid(), "agent1")
    assert reaches(made, "agent2", "agent1")


def test_two_labs_with_the_same_addresses_do_not_meet(name: str) -> None:
    made, _ = lab.up(name, bare=True, agents=1, public=0)
    with contextlib.ExitStack() as stack:
        stack.callback(lab.down, f"{name}-b")
        other, _ = lab.up(f"{name}-b", bare=True, agents=0, public=0)
        assert reaches(made, "master1", "agent1")
        assert not reaches(other, "master1", "203.0.113.101")
    # the mount points are shared: they stay while a lab needs them
    assert run(made, "agent1", "hostname") == "agent1\n"
    run(made, "agent1", "ls", "/var/lib/cairn", "/etc/cairn/units")


def test_a_dead_host_is_reported_and_down_and_up_mend_it(name: str) -> None:
    made, _ = lab.up(name, bare=True, agents=1, public=0)
    os.kill(made.pid("agent1"), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while state.alive(made.state.hosts["agent1"]):
        assert time.monotonic() < deadline
    assert made.broken() == ["agent1"]
    with pytest.raises(LabError, match="host agent1 is gone"):
        made.pid("agent1")
    with pytest.raises(LabError, match=r"partly dead \(agent1\)"):
        lab.up(name, bare=True, agents=1, public=0)
    assert lab.down(name)
    assert lab.up(name, bare=True, agents=1, public=0)[1]


def test_processes_of_somebody_else_in_our_cgroup_stop_up_but_are_not_touched(name: str) -> None:
    lab.up(name, bare=True, agents=0, public=0)
    state.forget(name)
    before = cgroups.processes(lab_cgroup(name))
    with pytest.raises(LabError, match="choose another --name"):
        lab.up(name, bare=True, agents=0, public=0)
    assert cgroups.processes(lab_cgroup(name)) == before
    assert lab.down(name)
    assert traces(name) == []


# Calls after which the killed `up` never returns; together they lie in every step.
STEPS = [
    "cairn_lab.state.save",
    "cairn_lab.state.MadePaths.make",
    "cairn_lab.lab._make_places",
    "cairn_lab.cgroups.create",
    "cairn_lab.starting.Starting.__init__",
    "cairn_lab.starting.Starting.wait_pid",
    "cairn_lab.starting.Starting.wait_ready",
    "cairn_lab.hosts.ip_batch",
    "cairn_lab.relays.start",
    "cairn_lab.lab._record",
    "cairn_lab.starting.Starting.go",
]
KILLED_UP = """
import importlib, os, signal, sys
name, step = sys.argv[1:]
module, _, function = step.rpartition(".")
try:
    owner = importlib.import_module(module)
except ModuleNotFoundError:
    module, _, attribute = module.rpartition(".")
    owner = getattr(importlib.import_module(module), attribute)
original = getattr(owner, function)
def then_die(*args, **kwargs):
    original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, function, then_die)
from cairn_lab import lab
lab.up(name, bare=True, agents=1, public=0, ports={"master": 0})
"""


@pytest.mark.parametrize("step", STEPS)
def test_up_killed_at_any_step_leaves_nothing_after_down(name: str, step: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_UP, name, step], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    lab.down(name)
    assert traces(name) == []


@pytest.mark.parametrize("step", STEPS[:2] + STEPS[-2:])
def test_up_killed_at_any_step_can_be_repeated(name: str, step: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_UP, name, step], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    made, changed = lab.up(name, bare=True, agents=1, public=0)
    assert changed
    assert run(made, "agent1", "hostname") == "agent1\n"


def test_commands_say_what_they_did_in_one_line(name: str) -> None:
    up = cairn_lab("up", "--bare", "--name", name, "--agents", "1", "--public", "0")
    assert (up.returncode, up.stdout) == (0, f"lab {name} is up: master1, agent1\n")
    again = cairn_lab("up", "--bare", "--name", name, "--agents", "1", "--public", "0")
    assert (again.returncode, again.stdout) == (0, f"lab {name} was up already: master1, agent1\n")
    ran = cairn_lab("exec", "--name", name, "agent1", "--", "sh", "-c", "hostname; exit 3")
    assert (ran.returncode, ran.stdout) == (3, "agent1\n")
    shown = cairn_lab("status", "--json", "--name", name)
    assert [h["host"] for h in json.loads(shown.stdout)["hosts"]] == ["master1", "agent1"]
    wrong = cairn_lab("cut", "--name", name, "agent9")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("Error: no host 'agent9'")
    down = cairn_lab("down", "--name", name)
    assert (down.returncode, down.stdout) == (0, f"lab {name} is down\n")
    gone = cairn_lab("status", "--name", name)
    assert (gone.returncode, gone.stdout) == (1, "")


def test_a_busy_port_is_named_with_the_flag_that_moves_it(name: str) -> None:
    with contextlib.ExitStack() as stack:
        [taken] = relays.listen(plan(ports={"master": 0}).relays, stack)
        port = taken.listener.getsockname()[1]
        with pytest.raises(LabError, match=f"127.0.0.1:{port} .*--port master=PORT"):
            lab.up(name, bare=True, ports={"master": port})
    assert traces(name) == []


ECHO = """
import http.server
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Path", self.path)
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("203.0.113.11", 5050), Echo)
print("listening", flush=True)
server.serve_forever()
"""


def test_a_relay_reaches_the_master_for_people_but_not_for_other_sites(name: str) -> None:
    with contextlib.ExitStack() as stack:
        [free] = relays.listen(plan(ports={"master": 0}).relays, stack)
        port = free.listener.getsockname()[1]
    made, _ = lab.up(name, bare=True, agents=0, public=0, ports={"master": port})
    url = f"http://127.0.0.1:{port}/a%2Fb?c=d"
    with pytest.raises(urllib.error.HTTPError, match="502"):
        urllib.request.urlopen(url, timeout=10).close()
    with subprocess.Popen(
        hosts.enter(made.pid("master1"), [sys.executable, "-c", ECHO]), stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            body = b"x" * 100_000
            with urllib.request.urlopen(url, data=body, timeout=10) as answer:
                assert answer.read() == body
                assert answer.headers["X-Path"] == "/a%2Fb?c=d"
            evil = urllib.request.Request(url, data=b"", headers={"Origin": "http://example.org"})
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(evil, timeout=10).close()
        finally:
            server.kill()
    assert threading.active_count() == 1
