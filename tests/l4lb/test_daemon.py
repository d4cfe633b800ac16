"""The whole daemon: without a kernel, and in a host of its own with servers and clients."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cairn_core.clusterview.io_kept import KeptFile
from cairn_core.clusterview.view import ClusterView
from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    PortRow,
    Row,
    TaskRow,
    VipRow,
)
from cairn_core.testing.feed_master import FeedMaster
from cairn_core.testing.requires import requires
from cairn_l4lb.testing import Namespace, Site, site

DEADLINE_S = 30.0
VIP = "11.0.0.77"
MATCH = "-p tcp -m set --match-set minuteman dst,dst -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"


def task(number: int, port: int = 8080, label: str = "/web:80", **more: Any) -> TaskRow:
    """A task of the app, on the agent of the same number."""
    return TaskRow(
        f"web.{number}", "web", "F", f"S{number}", "TASK_RUNNING", discovery_name="web",
        discovery_ports=(PortRow(port, "http", "tcp", (("VIP_0", label),)),), **more,
    )  # fmt: skip


def rows(addresses: list[str]) -> list[Row]:
    """A cluster with the app on so many hosts."""
    agents = [AgentRow(f"S{n}", f"agent{n}", one) for n, one in enumerate(addresses)]
    return [
        MasterRow("m1", "master1", "10.98.0.9", leads=True),
        FrameworkRow("F", "marathon"),
        VipRow("web.marathon", VIP, "fd01:c::77"),
        *agents,
        *(task(number) for number in range(len(addresses))),
    ]


class Daemon:
    """One daemon process, which may be started again."""

    def __init__(self, folder: Path, master: FeedMaster, host: Namespace | None, **more: Any):
        self.host = host
        with self._inside(), socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        self.control = folder / "control.sock"
        config = {
            "masters": [master.address], "source": "feed",
            "api_listen_ip": "127.0.0.1", "api_listen_port": self.port,
            "proxy_socket": "", "vips_socket": str(folder / "vips.sock"),
            "control_socket": str(self.control), "state_dir": str(folder / "state"),
            "run_dir": str(folder), "agent_polling_enabled": False,
            "enable_networking": host is not None, **more,
        }  # fmt: skip
        self.file = folder / "l4lb.json"
        self.file.write_text(json.dumps(config))
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def _inside(self) -> Any:
        return self.host.inside() if self.host is not None else nullcontext()

    def launch(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CAIRN")}
        with self._inside(), self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cairn_l4lb", "--config", self.file],
                stdout=log, stderr=log, env=environment,
            )  # fmt: skip

    def start(self) -> None:
        self.launch()
        self.until(lambda: self.get("/ready")["ready"], "ready")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def get(self, path: str) -> Any:
        """The JSON answer; an empty object while there is none."""
        with self._inside():
            try:
                sock = socket.create_connection(("127.0.0.1", self.port), 10)
            except OSError:
                return {"ready": False}
        with sock:
            sock.sendall(f"GET {path} HTTP/1.0\r\nAccept: application/json\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    def backends(self, vip: str = f"{VIP}:80") -> set[str]:
        return set(self.get("/vips").get("vips", {}).get(vip, ()))

    def ctl(self, *words: str) -> str:
        """What `cairn l4lb` prints."""
        argv = [sys.executable, "-m", "cairn_core.cli", "l4lb", *words]
        with self._inside():
            done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def dry_run(self) -> str:
        argv = [sys.executable, "-m", "cairn_l4lb", "--config", str(self.file), "--dry-run"]
        with self._inside():
            done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def until(self, done: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            ended = self.process is not None and self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                pytest.fail(f"not {what}:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.01)  # another process: there is nothing to wait on


@contextmanager
def running(
    folder: Path, cluster: list[Row], host: Namespace | None = None, **more: Any
) -> Iterator[tuple[Daemon, FeedMaster]]:
    with ExitStack() as stack:
        with host.inside() if host is not None else nullcontext():
            listener = socket.create_server(("127.0.0.1", 0))
        master = stack.enter_context(FeedMaster(cluster, listener))
        daemon = Daemon(folder, master, host, **more)
        try:
            daemon.start()
            yield daemon, master
        finally:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.stop()


def test_without_networking_the_table_follows_the_cluster(tmp_path: Path) -> None:
    with running(tmp_path, rows(["10.9.0.1", "10.9.0.2"])) as (daemon, master):
        daemon.until(lambda: daemon.backends() == {"10.9.0.1:8080", "10.9.0.2:8080"}, "there")
        master.delete(task(1).key)
        daemon.until(lambda: daemon.backends() == {"10.9.0.1:8080"}, "gone")
        master.put(task(0, label="nonsense:99999999"))
        daemon.until(lambda: daemon.get("/debug/state")["problems"], "told")
        (problem,) = daemon.get("/debug/state")["problems"]
        assert problem["task"] == "web.0"
        assert "99999999" in problem["reason"]
        told = "not served as asked for of=web.0 reason=label 'VIP_0'"
        daemon.until(lambda: told in daemon.log.read_text(), "logged")
        told_by = daemon.get("/v1/problems")
        assert (told_by["count"], told_by["problems"]) == (1, [problem])
        assert daemon.stop() == 0


def test_what_was_kept_is_shown_before_a_master_answers(tmp_path: Path) -> None:
    with running(tmp_path, rows(["10.9.0.1"])) as (daemon, _):
        daemon.until(lambda: daemon.backends() == {"10.9.0.1:8080"}, "there")
        daemon.stop()
    daemon.start()  # the master is gone
    assert daemon.backends() == {"10.9.0.1:8080"}
    assert daemon.get("/v1/table")["source"]["kind"] == "disk"
    assert daemon.stop() == 0


def test_without_a_master_and_without_a_state_nothing_is_ready(tmp_path: Path) -> None:
    with FeedMaster() as master:
        daemon = Daemon(tmp_path, master, None)
    daemon.file.write_text(daemon.file.read_text().replace(master.address, "127.0.0.1:9"))
    daemon.launch()
    try:
        daemon.until(lambda: "reason" in daemon.get("/ready"), "answering")
        assert daemon.get("/ready")["reason"] == "no state of the cluster is known yet"
    finally:
        assert daemon.stop() == 0


def test_a_drain_holds_over_a_restart(tmp_path: Path) -> None:
    requires("root")

    def states(daemon: Daemon) -> dict[str, str]:
        return {
            one["backend"]: one["state"]
            for vip in daemon.get("/v1/table")["vips"]
            for one in vip["backends"]
        }

    with running(tmp_path, rows(["10.9.0.1", "10.9.0.2"])) as (daemon, _):
        wanted = {"10.9.0.1:8080": "drained", "10.9.0.2:8080": "open"}
        daemon.ctl("drain", "10.9.0.1", "--socket", str(daemon.control))
        daemon.until(lambda: states(daemon) == wanted, "drained")
        why = daemon.get("/v1/table")["vips"][0]["backends"][0]["why"]
        assert why == "drained"  # by an operator
        daemon.stop()
        daemon.start()
        assert states(daemon) == wanted
        daemon.ctl("undrain", "10.9.0.1", "--socket", str(daemon.control))
        daemon.until(lambda: states(daemon)["10.9.0.1:8080"] == "open", "undrained")


@contextmanager
def answering(state: dict[str, Any]) -> Iterator[str]:
    """A master of Apache Mesos, or an agent, that has nothing but `/state`; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.partition("?")[0] in ("/state", "/master/state")
            body = json.dumps(state if known else {}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        place = f"127.0.0.1:{server.server_address[1]}"
        state["pid"] = state["pid"].format(place)
        state["leader"] = state["pid"]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield place
        finally:
            server.shutdown()
            thread.join()


def mesos_task(name: str, port: int, **more: Any) -> dict[str, Any]:
    labels = {"labels": [{"key": "VIP_0", "value": f"/{name}:80"}]}
    ports = [{"number": port, "name": "http", "protocol": "tcp", "labels": labels}]
    return {
        "id": f"{name}.1", "name": name, "framework_id": "F", "slave_id": "S0",
        "state": "TASK_RUNNING", "resources": {"ports": f"[{port}-{port}]"},
        "statuses": [{"state": "TASK_RUNNING", "timestamp": 1.0}],
        "discovery": {"name": name, "visibility": "FRAMEWORK", "ports": {"ports": ports}}, **more,
    }  # fmt: skip


def test_with_a_foreign_master_this_host_gives_the_originals_addresses(tmp_path: Path) -> None:
    state = {
        "id": "m", "pid": "master@{}", "hostname": "master1",
        "slaves": [{"id": "S0", "pid": "slave(1)@10.9.0.1:5051", "hostname": "a1", "active": True}],
        "frameworks": [
            {"id": "F", "name": "marathon", "active": True, "hostname": "m",
             "tasks": [mesos_task("nginxdocker", 31000)]}
        ],
    }  # fmt: skip
    with FeedMaster() as nobody, answering(state) as place:
        daemon = Daemon(tmp_path, nobody, None, masters=[place], source="poll", poll_interval=100)
        try:
            daemon.start()
            daemon.until(lambda: daemon.backends("11.112.175.214:80") == {"10.9.0.1:31000"}, "it")
            assert json.loads((tmp_path / "state" / "addresses.json").read_text()) == {
                "nginxdocker.marathon": ["11.112.175.214", daemon_ipv6(daemon)],
            }
        finally:
            daemon.stop()
        daemon.start()
        assert daemon.backends("11.112.175.214:80") == {"10.9.0.1:31000"}
        daemon.stop()


def daemon_ipv6(daemon: Daemon) -> str:
    """The IPv6 address that the name has: it is kept, though no backend has one."""
    kept = json.loads((daemon.file.parent / "state" / "addresses.json").read_text())
    address = str(kept["nginxdocker.marathon"][1])
    assert address.startswith("fd01:c")
    return address


def agent_state(port: int) -> dict[str, Any]:
    """An agent whose task has this port."""
    executor = {"id": "e", "tasks": [mesos_task("web", port)]}
    return {
        "id": "S0", "pid": "slave(1)@127.0.0.1:5051", "hostname": "a1",
        "frameworks": [{"id": "F", "name": "marathon", "executors": [executor]}],
    }  # fmt: skip


def follow_agent(daemon: Daemon, place: str, **more: Any) -> None:
    config = json.loads(daemon.file.read_text()) | {
        "agent_polling_enabled": True, "private_ip": "127.0.0.1",
        "agent_port": int(place.rpartition(":")[2]), "agent_poll_interval": 50, **more,
    }  # fmt: skip
    daemon.file.write_text(json.dumps(config))


def test_the_own_agent_is_asked_while_no_master_answers(tmp_path: Path) -> None:
    with running(tmp_path, rows(["127.0.0.1"])) as (daemon, _):
        daemon.until(lambda: daemon.backends() == {"127.0.0.1:8080"}, "there")
        daemon.stop()
    with answering(agent_state(31005)) as place:
        follow_agent(daemon, place, stale_s=0.3)
        daemon.start()
        daemon.until(lambda: daemon.backends() == {"127.0.0.1:31005"}, "of the agent")
        assert daemon.get("/debug/state")["overrides"] == ["S0"]
        daemon.stop()


def keep(folder: Path, cluster: list[Row], age_s: float) -> None:
    """Have a daemon find this on its disk."""
    view = ClusterView()
    view.replace(cluster)
    (folder / "state").mkdir()
    file = KeptFile(folder / "state" / "cluster.msgpack")
    file.write({}, view.snapshot, time.time() - age_s)


def test_what_ended_here_while_we_were_away_does_not_come_back(tmp_path: Path) -> None:
    with FeedMaster() as master:
        daemon = Daemon(tmp_path, master, None)
    keep(tmp_path, rows(["127.0.0.1"]), 91.0)
    with answering(agent_state(31005)) as place:
        follow_agent(daemon, place)
        daemon.launch()
        daemon.until(daemon.backends, "serving")
        assert daemon.backends() == {"127.0.0.1:31005"}
        assert daemon.stop() == 0


def test_a_table_that_is_old_is_served_when_nobody_answers(tmp_path: Path) -> None:
    with FeedMaster() as master:
        daemon = Daemon(tmp_path, master, None)
    keep(tmp_path, rows(["127.0.0.1"]), 91.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        follow_agent(daemon, f"127.0.0.1:{silent.getsockname()[1]}")
        daemon.start()
        daemon.until(lambda: daemon.backends() == {"127.0.0.1:8080"}, "what was kept")
        assert daemon.get("/debug/state")["overrides"] == []
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 5.0


# -- with a kernel -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place() -> Iterator[Site]:
    requires("root", "ip", "nft", "iptables", "iptables-restore")
    with site(3) as made:
        made.serve()
        yield made


@contextmanager
def balancing(place: Site, folder: Path) -> Iterator[tuple[Daemon, FeedMaster]]:
    with running(folder, rows(list(place.backends)), place.host) as (daemon, master):
        daemon.until(lambda: len(daemon.backends()) == 3, "all backends")
        try:
            yield daemon, master
        finally:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.stop()
            daemon.start()
            daemon.ctl("uninstall", "--yes", "--socket", str(daemon.control))
            assert "minuteman" not in place.host.run("iptables-save")


@pytest.mark.netns
def test_connections_reach_all_backends_from_host_and_client(place: Site, tmp_path: Path) -> None:
    with balancing(place, tmp_path) as (daemon, _):
        for where in ("host", "client"):
            load = place.connect(VIP, 80, where=where, count=90)
            assert not load.failures
            assert set(load.backends) == set(place.backends)
        daemon.until(lambda: daemon.get("/metrics")["successes_counter"]["value"] >= 180, "counted")
        saved = place.host.run("iptables-save")
        assert f"-A OUTPUT {MATCH} -j NFQUEUE --queue-balance 50:58 --queue-bypass" in saved
        told = daemon.get(f"/explain?vip={VIP}:80")["explained"][0]
        assert told["backend"].removesuffix(":8080") in place.backends
        assert told["reasons"]
        assert told["recent"]
        base = ["--url", f"http://127.0.0.1:{daemon.port}"]
        assert "3/3 open" in daemon.ctl("list", *base)
        assert "a new connection goes to" in daemon.ctl("explain", "web.marathon:80", *base)
        assert daemon.dry_run() == "nothing to change\n"


@pytest.mark.netns
def test_no_connection_fails_over_a_restart_or_the_end_of_the_steering_process(
    place: Site, tmp_path: Path
) -> None:
    with balancing(place, tmp_path) as (daemon, _):
        loading = place.start_connecting(VIP, 80, rate=300)
        assert daemon.stop() == 0
        daemon.start()
        os.kill(daemon.get("/debug/state")["steering"]["pid"], signal.SIGKILL)
        daemon.until(
            lambda: (
                daemon.get("/debug/state")["steering"]["deaths"] == 1
                and daemon.get("/ready")["ready"]
            ),
            "replaced",
        )
        daemon.stop(signal.SIGKILL)
        daemon.start()
        load = loading.stop()
        assert load.connections > 100
        assert not load.failures


@pytest.mark.netns
def test_a_vip_that_is_not_on_disk_yet_outlives_the_process(place: Site, tmp_path: Path) -> None:
    with balancing(place, tmp_path) as (daemon, master):
        file = tmp_path / "state" / "cluster.msgpack"
        daemon.until(file.exists, "kept")
        before = file.read_bytes()
        late = "11.0.0.78"
        master.put(VipRow("late.marathon", late))
        master.put(replace(task(0, label="/late:80"), id="late.0"))
        daemon.until(lambda: f"{late}:80" in daemon.get("/vips")["vips"], "served")
        loading = place.start_connecting(late, 80, rate=300)
        daemon.stop(signal.SIGKILL)
        file.write_bytes(before)
        daemon.start()
        daemon.until(lambda: f"{late}:80" in daemon.get("/vips")["vips"], "served again")
        load = loading.stop()
        assert load.connections > 100
        assert not load.failures


@pytest.mark.netns
def test_backends_come_and_go_under_load_without_failures(place: Site, tmp_path: Path) -> None:
    with balancing(place, tmp_path) as (daemon, master):
        loading = place.start_connecting(VIP, 80, rate=300, where="client")
        for _ in range(4):
            master.delete(task(0).key)
            daemon.until(lambda: len(daemon.backends()) == 2, "gone")
            master.put(task(0))
            daemon.until(lambda: len(daemon.backends()) == 3, "back")
        load = loading.stop()
        assert not load.failures
        assert set(load.backends) == set(place.backends)
        for number in range(3):
            master.delete(task(number).key)
        daemon.until(lambda: not daemon.backends(), "none")
        load = place.connect(VIP, 80, count=3, threads=1)
        assert load.failures == {"ECONNREFUSED": 3}


@pytest.mark.netns
def test_what_others_take_away_is_put_back(place: Site, tmp_path: Path) -> None:
    with balancing(place, tmp_path) as (daemon, _):
        daemon.stop()
        config = {**json.loads(daemon.file.read_text()), "reconcile_timeout": 200}
        daemon.file.write_text(json.dumps(config))
        daemon.start()
        place.host.run("nft", "delete", "table", "inet", "cairn_l4lb")
        place.host.run("iptables", "-t", "raw", "-F")
        daemon.until(lambda: daemon.get("/debug/state")["kernel"]["repaired"], "repaired")
        daemon.until(lambda: MATCH in place.host.run("iptables-save", "-t", "raw"), "back")
        assert not place.connect(VIP, 80, count=30).failures


@pytest.mark.netns
def test_rules_that_others_flush_are_back_within_a_second(place: Site, tmp_path: Path) -> None:
    with balancing(place, tmp_path) as (daemon, _):
        loading = place.start_connecting(VIP, 80, rate=200, where="client", timeout_s=5.0)

        def is_back() -> bool:
            return (
                "cairn_l4lb" in place.host.run("nft", "list", "tables")
                and MATCH in place.host.run("iptables-save", "-t", "raw")
            )  # fmt: skip

        for command in ("nft flush ruleset", "iptables -t raw -F", "nft flush ruleset"):
            place.host.run(*command.split())
            began = time.monotonic()
            daemon.until(is_back, "back")
            assert time.monotonic() - began < 1.0
            assert not place.connect(VIP, 80, count=30, where="client").failures
        loading.stop()


@pytest.mark.netns
def test_changes_of_others_that_do_not_concern_us_cost_little(place: Site, tmp_path: Path) -> None:
    with balancing(place, tmp_path) as (daemon, _):
        place.host.run("nft", "add table inet other; add chain inet other c")
        assert daemon.process is not None
        times = Path(f"/proc/{daemon.process.pid}/stat")

        def used_s() -> float:
            words = times.read_text().rpartition(")")[2].split()
            return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")

        used, until, changes = used_s(), time.monotonic() + 4.0, 0
        with place.host.inside():
            while time.monotonic() < until:
                subprocess.run(
                    ["nft", "flush chain inet other c; add rule inet other c accept"], check=True
                )
                changes += 1
        used = used_s() - used
        assert changes > 20
        assert used < 1.5
        assert "something else changed it" not in daemon.log.read_text()
        place.host.run("nft", "delete", "table", "inet", "other")


@pytest.mark.netns
def test_a_dry_run_tells_and_changes_nothing(place: Site, tmp_path: Path) -> None:
    def rules() -> list[str]:
        saved = place.host.run("iptables-save").splitlines()
        return [line for line in saved if not line.startswith("#")]

    before = rules()
    with place.host.inside():
        listener = socket.create_server(("127.0.0.1", 0))
    with FeedMaster(rows(list(place.backends)), listener) as master:
        plan = Daemon(tmp_path, master, place.host).dry_run()
    assert "NFQUEUE" in plan
    assert f"{VIP},tcp:80" in plan
    assert rules() == before
    assert "cairn_l4lb" not in place.host.run("nft", "list", "tables")


@pytest.mark.netns
def test_what_stands_in_the_way_is_named_and_used_once_it_can_be(
    place: Site, tmp_path: Path
) -> None:
    requires("ipset")
    taken = ["INPUT", "-m", "set", "--match-set", "minuteman", "src", "-j", "ACCEPT"]
    place.host.run("ipset", "create", "minuteman", "hash:net")
    place.host.run("iptables", "-A", *taken)
    free = ExitStack()
    free.callback(place.host.run, "ipset", "destroy", "minuteman")
    free.callback(place.host.run, "iptables", "-D", *taken)
    with place.host.inside():
        listener = socket.create_server(("127.0.0.1", 0))
    with free, FeedMaster(rows(list(place.backends)), listener) as master:
        daemon = Daemon(tmp_path, master, place.host, reconcile_timeout=200)
        try:
            daemon.start()
            (told,) = daemon.get("/debug/state")["kernel"]["problems"]
            assert "minuteman" in told
            assert told in daemon.log.read_text()
            assert not place.connect(VIP, 80, count=30).failures  # the kernel chooses
            free.close()
            daemon.until(lambda: not daemon.get("/debug/state")["kernel"]["problems"], "free")
            daemon.until(lambda: MATCH in place.host.run("iptables-save", "-t", "raw"), "used")
            assert not place.connect(VIP, 80, count=30).failures
        finally:
            daemon.ctl("uninstall", "--yes", "--socket", str(daemon.control))
            daemon.stop()


@pytest.mark.netns
def test_uninstall_leaves_nothing_and_lasts_until_a_restart(place: Site, tmp_path: Path) -> None:
    with balancing(place, tmp_path) as (daemon, master):
        text = daemon.ctl("uninstall", "--yes", "--socket", str(daemon.control))
        assert "removed set minuteman" in text
        master.delete(task(0).key)
        daemon.until(lambda: not daemon.get("/ready")["ready"], "not ready")
        assert "uninstalled" in daemon.get("/ready")["reason"]
        assert "minuteman" not in place.host.run("iptables-save")
        assert "cairn_l4lb" not in place.host.run("nft", "list", "tables")
