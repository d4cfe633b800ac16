"""VIPs on every host of the lab, whatever happens to their backends meanwhile."""

import contextlib
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cairn_core.testing.requires import requires
from cairn_lab import hosts
from cairn_lab.demo import Demo
from cairn_lab.roles import MARATHON_PORT, PROXY_ADDRESSES
from cairn_lab.testing import EXAMPLES, Cluster, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAME, ADDRESS = "nginxdocker.marathon.l4lb.thisdcos.directory", "11.112.175.214"
PAGE = "nginxdocker on"
FOLDER = Path(__file__).parent
HOSTS = ("master1", "agent1", "agent2", "public1")
ALIASES = [NAME.replace("l4lb", zone) for zone in ("l4lb", "dclb")]
ALIASES += [alias.replace(".directory", ".global") for alias in ALIASES]


def ask(cluster: Cluster, host: str, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command on a host, whatever comes of it."""
    argv = hosts.enter(cluster.lab.pid(host), command)
    return subprocess.run(argv, capture_output=True, text=True)


def curl(cluster: Cluster, host: str, url: str, *enter: str) -> str:
    """A page, or what is wrong."""
    done = ask(cluster, host, *enter, "curl", "-sS", "--max-time", "5", url)
    return done.stdout if done.returncode == 0 else f"failed: {done.stderr.strip()}"


def vips(cluster: Cluster, host: str) -> dict[str, dict[str, Any]]:
    """What the balancer of a host serves, by VIP and backend."""
    shown = curl(cluster, host, "http://localhost:61421/vips")
    found: dict[str, dict[str, Any]] = json.loads(shown)["vips"] if shown.startswith("{") else {}
    return found


@pytest.fixture(scope="module")
def deployed() -> list[Demo]:
    """Whether the example is there already."""
    return []


@pytest.fixture
def nginxdocker(cluster: Cluster, deployed: list[Demo]) -> Cluster:
    """The lab with the example of a VIP, known to the balancer of each host."""
    requires("curl", "ping", "iptables", "conntrack")
    demo = Demo(cluster.lab, EXAMPLES / "nginxdocker.json")
    if not deployed:
        demo.deploy()
        deployed.append(demo)
    backends = {f"{i.host.ipv4}:{i.port}" for i in demo.wait_for_instances()}
    eventually(
        lambda: all(
            set(vips(cluster, host).get(f"{ADDRESS}:80", ())) == backends for host in HOSTS
        ),
        f"every host has the backends {backends}",
    )
    eventually(
        lambda: all(curl(cluster, host, f"http://{NAME}").startswith(PAGE) for host in HOSTS),
        f"{NAME} answers on every host",
    )
    return cluster


@contextlib.contextmanager
def container(cluster: Cluster, host: str) -> Iterator[list[str]]:
    """A network namespace behind a masqueraded bridge of a host; what enters it."""
    pid = cluster.lab.pid(host)
    argv = hosts.enter(pid, ["unshare", "-n", "sh", "-c", "echo $$; exec sleep 300"])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        inner = process.stdout.readline().strip()
        try:
            cluster.run(
                host, "sh", "-ec",
                f"""
                ip link add c0 type bridge
                ip address add 172.31.255.1/24 dev c0
                ip link add c1 type veth peer name eth0 netns {inner}
                ip link set c1 master c0 up
                ip link set c0 up
                sysctl -qw net.ipv4.ip_forward=1
                iptables -t nat -A POSTROUTING -s 172.31.255.0/24 ! -o c0 -j MASQUERADE
                nsenter -t {inner} -n ip link set lo up
                nsenter -t {inner} -n ip address add 172.31.255.2/24 dev eth0
                nsenter -t {inner} -n ip link set eth0 up
                nsenter -t {inner} -n ip route add default via 172.31.255.1
                """,
            )  # fmt: skip
            yield ["nsenter", "-t", inner, "-n"]
        finally:
            ask(
                cluster, host, "sh", "-c",
                f"kill {inner}; ip link del c0; "
                "iptables -t nat -D POSTROUTING -s 172.31.255.0/24 ! -o c0 -j MASQUERADE",
            )  # fmt: skip
            process.wait(timeout=10)


def test_a_vip_is_reached_by_name_from_every_host(nginxdocker: Cluster) -> None:
    for host in HOSTS:
        for name in ALIASES:
            page = curl(nginxdocker, host, f"http://{name}:80")
            assert page.startswith(PAGE), (host, name)
        resolved = ask(nginxdocker, host, "dig", "+short", f"@{PROXY_ADDRESSES[0]}", NAME)
        assert resolved.stdout.split() == [ADDRESS]


def test_a_vip_does_not_answer_ping(nginxdocker: Cluster) -> None:
    for host in HOSTS:
        assert ask(nginxdocker, host, "ping", "-c1", "-W1", ADDRESS).returncode != 0


def test_a_vip_is_reached_from_a_container_behind_a_bridge(nginxdocker: Cluster) -> None:
    for host in ("agent1", "agent2"):  # one of them runs a backend itself, or both do
        with container(nginxdocker, host) as enter:
            for _ in range(6):
                page = curl(nginxdocker, host, f"http://{NAME}:80", *enter)
                assert page.startswith(PAGE)


def test_the_host_shows_vips_and_rules_as_the_original_does(nginxdocker: Cluster) -> None:
    match = "-p tcp -m set --match-set minuteman dst,dst -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"
    for host in HOSTS:
        rules = nginxdocker.run(host, "iptables-save").splitlines()
        for chain, target in [
            ("PREROUTING", "NFQUEUE --queue-balance 50:58 --queue-bypass"),
            ("OUTPUT", "NFQUEUE --queue-balance 50:58 --queue-bypass"),
            ("FORWARD", "REJECT --reject-with tcp-reset"),
            ("OUTPUT", "REJECT --reject-with tcp-reset"),
        ]:
            assert f"-A {chain} {match} -j {target}" in rules
        [backends] = [vips(nginxdocker, host)[f"{ADDRESS}:80"]]
        for backend in backends.values():
            assert {"is_healthy", "pending_connections", "total_failures", "total_sucesses"} <= set(
                backend
            )
        listed = curl(nginxdocker, host, "http://127.0.0.1:62080/v1/vips")
        [entry] = [one for one in json.loads(listed) if one["vip"] == f"{NAME}:80"]
        assert entry["protocol"] == "tcp"
        assert {f"{b['ip']}:{b['port']}" for b in entry["backend"]} == set(backends)


@dataclass(slots=True)
class Load:
    """What clients of a service saw."""

    answers: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    kept_answers: int = 0
    kept_again: int = 0
    slowest_s: float = 0.0


@contextlib.contextmanager
def load(cluster: Cluster, host: str, name: str) -> Iterator[Load]:
    """New and lasting connections from a host while the block runs; the counts come after it."""
    seen = Load()
    argv = [sys.executable, str(FOLDER / "connecting.py"), name, "80"]
    with subprocess.Popen(
        hosts.enter(cluster.lab.pid(host), argv), stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        yield seen
        for key, value in json.loads(process.communicate(timeout=60)[0]).items():
            setattr(seen, key, value)


class Steady:
    """A service of several instances that end as good ones do."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.id = f"steady-{uuid.uuid4().hex[:6]}"
        self.name = f"{self.id}.marathon.l4lb.thisdcos.directory"

    def deploy(self, instances: int) -> None:
        definition = {
            "id": self.id,
            "cmd": 'exec /usr/bin/python3 -c "$SERVER" $PORT0',
            "env": {"SERVER": (FOLDER / "serving.py").read_text()},
            "user": "nobody",
            "cpus": 0.05,
            "mem": 48,
            "instances": instances,
            "portDefinitions": [{"port": 0, "labels": {"VIP_0": f"/{self.id}:80"}}],
            "healthChecks": [
                {"protocol": "HTTP", "path": "/", "intervalSeconds": 1, "timeoutSeconds": 2}
            ],
            "backoffSeconds": 1,
        }
        self.cluster.ask(MARATHON_PORT, "/v2/apps", "POST", definition)
        self.settle(instances)

    def scale(self, instances: int) -> None:
        self.cluster.ask(MARATHON_PORT, f"/v2/apps/{self.id}", "PUT", {"instances": instances})
        self.settle(instances)

    def restart(self) -> None:
        before = {task["id"] for task in self._app()["tasks"]}
        self.cluster.ask(MARATHON_PORT, f"/v2/apps/{self.id}/restart", "POST")
        eventually(
            lambda: (
                self._settled(len(before))
                and not before & {task["id"] for task in self._app()["tasks"]}
            ),
            f"{self.id} has other instances",
            timeout_s=90,
        )

    def settle(self, instances: int) -> None:
        """Wait until so many instances are healthy and every host has just these as backends."""
        eventually(lambda: self._settled(instances), f"{self.id} has {instances}", timeout_s=90)

    def delete(self) -> None:
        self.cluster.ask(MARATHON_PORT, f"/v2/apps/{self.id}", "DELETE")

    def _app(self) -> dict[str, Any]:
        found: dict[str, Any] = (self.cluster.ask(MARATHON_PORT, f"/v2/apps/{self.id}") or {}).get(
            "app", {"deployments": [{}], "tasks": []}
        )
        return found

    def _settled(self, instances: int) -> bool:
        app = self._app()
        wanted = {(task["host"], task["ports"][0]) for task in app["tasks"]}
        places = {(f"{self.cluster.lab.topology.host(host).ipv4}:{port}") for host, port in wanted}
        return (
            not app["deployments"]
            and len(places) == app["tasksHealthy"] == instances
            and all(places in map(set, vips(self.cluster, host).values()) for host in HOSTS)
        )


@pytest.fixture
def steady(cluster: Cluster) -> Iterator[Steady]:
    requires("iptables", "conntrack")
    service = Steady(cluster)
    try:
        yield service
    finally:
        service.delete()


def test_no_connection_fails_while_a_service_grows_shrinks_and_restarts(steady: Steady) -> None:
    steady.deploy(2)
    with load(steady.cluster, "agent1", steady.name) as seen:
        steady.scale(10)
        steady.restart()
        steady.scale(1)
    assert seen.failures == [], seen
    assert len(seen.answers) >= 10
    assert seen.kept_answers > 100


@pytest.mark.parametrize("unit", ["cairn-l4lb", "cairn-master", "cairn-dns-proxy"])
def test_no_connection_fails_when_a_daemon_is_killed(steady: Steady, unit: str) -> None:
    steady.deploy(3)
    host = "master1" if unit == "cairn-master" else "agent1"
    address = next(iter(curl_addresses(steady, "agent1")))
    with load(steady.cluster, "agent1", address) as seen:
        for _ in range(2):
            steady.cluster.kill(host, unit)
            steady.settle(3)
    assert seen.failures == [], seen


def curl_addresses(steady: Steady, host: str) -> set[str]:
    """Addresses of the service's name on a host."""
    return set(ask(steady.cluster, host, "dig", "+short", steady.name).stdout.split())


def test_connections_go_elsewhere_when_an_agent_is_cut_off(steady: Steady) -> None:
    steady.deploy(4)
    topology = steady.cluster.lab.topology
    switch = steady.cluster.lab.switch_pid()
    [address] = curl_addresses(steady, "agent1")
    lost = f"{topology.host('agent2').ipv4}:"

    def open_ones() -> set[str]:
        backends = vips(steady.cluster, "agent1")[f"{address}:80"]
        return {where for where, one in backends.items() if one["is_healthy"]}

    assert {where.startswith(lost) for where in open_ones()} == {True, False}
    with load(steady.cluster, "agent1", steady.name) as seen:
        hosts.cut(switch, "agent2")
        cut_at = time.time()
        eventually(
            lambda: not any(where.startswith(lost) for where in open_ones()),
            "the backends on the lost host are closed",
        )
        hosts.heal(switch, "agent2")
    for failure in seen.failures:
        # only who was connected to the lost host already
        assert failure["began"] < cut_at or str(failure["peer"]).startswith("agent2:"), failure
    assert seen.slowest_s < 4
