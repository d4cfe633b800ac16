"""Names on every host of the lab, by its own proxy, whatever dies meanwhile."""

import contextlib
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cairn_lab import hosts
from cairn_lab.roles import MARATHON_PORT
from cairn_lab.testing import Cluster, eventually
from cairn_lab.topology import resolv_conf

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WEB = "web.marathon.mesos"
MASTER = "203.0.113.11"
V4, V6 = "198.51.100.1", "fd01:d::c633:6401"
TRANSPORTS = [(f"@{server}", way) for server in (V4, V6) for way in ("+notcp", "+tcp")]
ASKING = Path(__file__).with_name("asking.py")


@pytest.fixture
def names(cluster: Cluster) -> Cluster:
    """The web example, known by name on every host, which asks its own proxy."""
    addresses = {str(instance.host.ipv4) for instance in cluster.healthy()}
    for host in cluster.lab.topology.hosts:
        cluster.web.wait_for_proxy(host)
        cluster.web.wait_for_name(host, addresses)
    return cluster


def dig(cluster: Cluster, host: str, *words: str) -> str:
    """What `dig` says on a host, also when it fails."""
    argv = hosts.enter(cluster.lab.pid(host), ["dig", "+tries=1", "+time=15", *words])
    return subprocess.run(argv, capture_output=True, text=True).stdout


def status(cluster: Cluster, host: str, name: str) -> str:
    """The response code for a name on a host."""
    found = re.search(r"status: (\w+)", dig(cluster, host, f"@{V4}", name))
    return found[1] if found else "no answer"


def until(cluster: Cluster, host: str, name: str, code: str) -> None:
    """Wait until a host gets a response code for a name."""
    eventually(lambda: status(cluster, host, name) == code, f"{host} gets {code} for {name}")


def records(cluster: Cluster, host: str, *words: str) -> dict[str, set[str]]:
    """Values by `owner type` from the answers to one or more questions."""
    found: dict[str, set[str]] = {}
    for line in dig(cluster, host, "+noall", "+answer", *words).splitlines():
        owner, _ttl, _class, kind, value = line.split(maxsplit=4)
        found.setdefault(f"{owner.rstrip('.')} {kind}", set()).add(value)
    return found


@pytest.mark.parametrize("host", ["master1", "agent1", "public1"])
def test_a_host_resolves_all_kinds_of_names(names: Cluster, host: str) -> None:
    instances = names.healthy()
    web = {str(instance.host.ipv4) for instance in instances}
    own = {str(names.lab.topology.host(host).ipv4)}
    expected = {
        f"{WEB} A": web,
        "web.marathon.mesos.thisdcos.directory A": web,
        "web.marathon.autoip.dcos.thisdcos.directory A": web,
        "web.marathon.agentip.dcos.thisdcos.directory A": web,
        "leader.mesos A": {MASTER},
        "leader.mesos.thisdcos.directory A": {MASTER},
        "master.dcos.thisdcos.directory A": {MASTER},
        "thisnode.thisdcos.directory A": own,
        "ready.spartan A": {"127.0.0.1"},
        "zk-1.zk A": {MASTER},
    }
    questions = [word for question in expected for word in question.split()]
    for transport in TRANSPORTS:
        assert records(names, host, *transport, *questions) == expected, transport
    assert {line.split()[0] for line in getent(names, host, WEB)} == web


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_services_lead_to_the_ports_of_their_instances(
    names: Cluster, transport: tuple[str, str]
) -> None:
    expected = {(str(i.host.ipv4), str(i.port)) for i in names.healthy()}
    for service in ("_web._tcp.marathon.mesos", "_http._web._tcp.marathon.mesos"):
        found = records(names, "agent1", *transport, service, "SRV")[f"{service} SRV"]
        places = set()
        for value in found:
            _priority, _weight, port, target = value.split()
            [address] = records(names, "agent1", *transport, target)[f"{target.rstrip('.')} A"]
            places.add((address, port))
        assert places == expected


def getent(cluster: Cluster, host: str, name: str) -> list[str]:
    """What a program on a host finds by way of the C library."""
    return cluster.run(host, "getent", "hosts", name).splitlines()


@dataclass(slots=True)
class Asking:
    """A program that asks for a name all the time."""

    answers: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0


@contextlib.contextmanager
def asking(cluster: Cluster, host: str, name: str) -> Iterator[Asking]:
    """Ask for a name on a host while the block runs; the answers are there afterwards."""
    asked = Asking()
    argv = hosts.enter(cluster.lab.pid(host), [sys.executable, str(ASKING), name])
    with subprocess.Popen(argv, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        yield asked
        result = json.loads(process.communicate(timeout=30)[0])
        asked.answers, asked.slowest_s = result["answers"], result["slowest_s"]


def web_addresses(cluster: Cluster) -> str:
    return " ".join(sorted(str(instance.host.ipv4) for instance in cluster.healthy()))


@pytest.mark.parametrize(
    ("host", "unit"),
    [
        ("master1", "cairn-dns"),
        ("master1", "cairn-master"),
        ("master1", "cairn-dns-proxy"),
        ("agent1", "cairn-dns-proxy"),
    ],
)
def test_no_answer_is_lost_when_a_daemon_is_killed(names: Cluster, host: str, unit: str) -> None:
    expected = web_addresses(names)
    asker = host if unit == "cairn-dns-proxy" else "agent1"
    with asking(names, asker, WEB) as asked:
        names.kill(host, unit)
        until(names, asker, "leader.mesos", "NOERROR")
    assert set(asked.answers) == {expected}, asked


def test_no_answer_is_lost_when_a_serving_process_is_killed(names: Cluster) -> None:
    main = names.supervisor("master1").status()["cairn-dns"].pid

    def serving() -> list[str]:
        return names.run("master1", "pgrep", "-P", str(main)).split()

    before = serving()
    expected = web_addresses(names)
    with asking(names, "agent1", WEB) as asked:
        names.run("master1", "kill", "-9", before[0])
        eventually(
            lambda: len(serving()) == len(before) and before[0] not in serving(),
            "another process serves",
        )
        until(names, "agent1", "leader.mesos", "NOERROR")
    assert set(asked.answers) == {expected}, asked
    assert names.supervisor("master1").status()["cairn-dns"].pid == main


def test_a_host_without_masters_goes_on_with_the_names_it_knows(names: Cluster) -> None:
    unknown = f"x{uuid.uuid4().hex[:8]}.marathon.mesos"
    assert status(names, "public1", unknown) == "NXDOMAIN"
    assert status(names, "public1", "leader.mesos") == "NOERROR"
    expected = web_addresses(names)
    with asking(names, "public1", WEB) as asked:
        hosts.cut(names.lab.switch_pid(), "public1")
        # nobody may say now that a name does not exist, unless it was known not to
        assert status(names, "public1", f"y{unknown}") == "SERVFAIL"
        found = records(names, "public1", f"@{V4}", "leader.mesos", "ready.spartan")
        assert found == {"leader.mesos A": {MASTER}, "ready.spartan A": {"127.0.0.1"}}
        hosts.heal(names.lab.switch_pid(), "public1")
        until(names, "public1", f"z{unknown}", "NXDOMAIN")
    assert set(asked.answers) == {expected}, asked


def test_names_come_and_go_with_an_application(names: Cluster) -> None:
    application = f"dns-{uuid.uuid4().hex[:8]}"
    name = f"{application}.marathon.mesos"
    definition = {"id": application, "cmd": "sleep 1000", "user": "nobody", "cpus": 0.1, "mem": 32}
    for host in names.lab.topology.hosts:
        assert status(names, host.name, name) == "NXDOMAIN"
    names.ask(MARATHON_PORT, "/v2/apps", "POST", definition)
    for host in names.lab.topology.hosts:
        until(names, host.name, name, "NOERROR")
    names.ask(MARATHON_PORT, f"/v2/apps/{application}", "DELETE")
    for host in names.lab.topology.hosts:
        until(names, host.name, name, "NXDOMAIN")


def test_a_stopped_proxy_leaves_its_host_as_it_was(names: Cluster) -> None:
    host = names.lab.topology.host("agent2")
    original = resolv_conf(names.lab.topology)
    web = set(web_addresses(names).split())
    assert names.web.servers(host) == {"198.51.100.1", "198.51.100.2", "198.51.100.3"}
    names.supervisor("agent2").stop("cairn-dns-proxy")
    try:
        assert names.run("agent2", "cat", "/etc/resolv.conf") == original
        shown = names.run("agent2", "ip", "address", "show")
        assert "198.51.100." not in shown
        assert "fd01:d:" not in shown
        assert {line.split()[0] for line in getent(names, "agent2", WEB)} == web
    finally:
        names.supervisor("agent2").restart("cairn-dns-proxy")
    names.web.wait_for_proxy(host)
    names.web.wait_for_name(host, web)
