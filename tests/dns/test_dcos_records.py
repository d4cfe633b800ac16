"""Names of the DC/OS zone: networks and containers as in the data of dcos-net, in rows of ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    NetworkRow,
    PortRow,
    TaskRow,
)
from cairn_dns.addresses import address_text
from cairn_dns.cluster_zone import ClusterZone
from cairn_dns.dcos_records import dcos_task_records, has_host_port
from cairn_dns.labels import dcos_label
from cairn_dns.records import Rules, is_name
from cairn_dns.testing import addresses, drop, ip, put, zone_of

AGENTS = (AgentRow("c-S0", "a0", "172.17.0.4"), AgentRow("c-S1", "a1", "172.17.0.3"))
MARATHON = FrameworkRow("F", "marathon", "172.17.0.2")
ON_HOST = (("network-scope", "host"),)
IN_CONTAINER = (("network-scope", "container"), ("network-name", "dcos"))


def task(
    name: str, agent: str, network: NetworkRow, port: PortRow | None, task_id: str = "", **more: str
) -> TaskRow:
    return TaskRow(
        task_id or f"{name}.0ef76549", name, "F", agent, more.get("state", "TASK_RUNNING"),
        (network,), (), (), more.get("discovery", name), (port,) if port is not None else (),
    )  # fmt: skip


def zone(*rows: TaskRow) -> ClusterZone:
    rules = Rules(ip_sources=("host", "netinfo"), dcos_zones=True)
    return zone_of([*AGENTS, MARATHON, *rows], rules)


def kinds(made: ClusterZone, name: str) -> list[set[str]]:
    found = addresses(made.records, "thisdcos.directory")
    zone = f"{name}.marathon.{{}}.dcos.thisdcos.directory"
    return [
        found.get(zone.format(kind), set()) for kind in ("agentip", "autoip", "containerip")
    ]  # fmt: skip


S0, S1 = "172.17.0.4", "172.17.0.3"
CASES = [
    ("none-on-host", "c-S0", NetworkRow("", (S0,)), PortRow(13977, "http", "tcp"), [S0, S0, S0]),
    ("none-on-dcos", "c-S0", NetworkRow("dcos", ("9.0.2.5",)),
     PortRow(0, "default", "tcp", IN_CONTAINER), [S0, "9.0.2.5", "9.0.2.5"]),
    ("ucr-on-host", "c-S1", NetworkRow("", (S1,)), PortRow(10323, "http", "tcp"), [S1, S1, S1]),
    ("ucr-on-bridge", "c-S1",
     NetworkRow("mesos-bridge", ("172.31.254.3",), ((15263, 8080, "tcp"),)),
     PortRow(15263, "http", "tcp", ON_HOST), [S1, S1, "172.31.254.3"]),
    ("ucr-on-dcos", "c-S1", NetworkRow("dcos", ("9.0.1.6",)),
     PortRow(0, "default", "tcp", IN_CONTAINER), [S1, "9.0.1.6", "9.0.1.6"]),
    ("docker-on-host", "c-S0", NetworkRow("", (S0,)), PortRow(31168, "http", "tcp"), [S0, S0, S0]),
    # its port mapping is one of docker's, which only the scope of the port tells
    ("docker-on-bridge", "c-S0", NetworkRow("", ("172.18.0.2",)),
     PortRow(20560, "http", "tcp", ON_HOST), [S0, S0, "172.18.0.2"]),
    ("docker-on-dcos", "c-S0", NetworkRow("dcos", ("9.0.2.130",)),
     PortRow(8080, "http", "tcp", IN_CONTAINER), [S0, "9.0.2.130", "9.0.2.130"]),
    ("docker-on-ipv6", "c-S0", NetworkRow("dcos6", ("172.19.0.2", "fd01:b::2:8000:0:2")),
     PortRow(8080, "http", "tcp", IN_CONTAINER),
     [S0, "172.19.0.2 fd01:b::2:8000:0:2", "172.19.0.2 fd01:b::2:8000:0:2"]),
    ("pod-on-host", "c-S0", NetworkRow("", (S0,)), PortRow(28064, "http", "tcp"), [S0, S0, S0]),
    ("pod-on-bridge", "c-S1",
     NetworkRow("mesos-bridge", ("172.31.254.4",), ((2254, 8080, "tcp"),)),
     PortRow(2254, "http", "tcp", ON_HOST), [S1, S1, "172.31.254.4"]),
    ("pod-on-dcos", "c-S1", NetworkRow("dcos", ("9.0.1.3",)),
     PortRow(8080, "http", "tcp", IN_CONTAINER), [S1, "9.0.1.3", "9.0.1.3"]),
]  # fmt: skip


def test_every_network_and_container() -> None:
    made = zone(*(task(name, agent, network, port) for name, agent, network, port, _ in CASES))
    for name, *_, expected in CASES:
        assert kinds(made, name) == [set(texts.split()) for texts in expected], name


def test_a_pod_stays_until_its_last_container_has_gone() -> None:
    network = NetworkRow("dcos", ("9.0.0.2",))
    foo, bar = (task(name, "c-S0", network, None, name, discovery="app") for name in ("foo", "bar"))
    made = zone(foo, bar)
    assert kinds(made, "app") == [{S0}, {"9.0.0.2"}, {"9.0.0.2"}]
    drop(made, foo)
    assert kinds(made, "app") == [{S0}, {"9.0.0.2"}, {"9.0.0.2"}]
    drop(made, bar)
    assert kinds(made, "app") == [set(), set(), set()]


def test_a_task_waits_for_its_agent() -> None:
    web = task("web", "c-S0", NetworkRow("mesos-bridge", ("172.31.254.10",)),
               PortRow(16424, "", "tcp", (("VIP_0", "/web:10080"), *ON_HOST)))  # fmt: skip
    made = zone_of([MARATHON, web], Rules(dcos_zones=True))
    assert kinds(made, "web") == [set(), set(), set()]
    put(made, AGENTS[0])
    assert kinds(made, "web") == [{S0}, {S0}, {"172.31.254.10"}]
    killing = task("web", "c-S0", NetworkRow(), None, state="TASK_KILLING")
    put(made, killing)
    assert kinds(made, "web") == [set(), set(), set()]


def test_the_agent_stands_in_for_a_container_that_nobody_knows() -> None:
    made = zone(task("web", "c-S0", NetworkRow(), None))
    assert kinds(made, "web") == [{S0}, {S0}, set()]


def test_masters() -> None:
    leader = MasterRow("m", "h", "10.0.0.1", leads=True)
    made = zone_of([leader], Rules(dcos_zones=True), ["10.0.0.2", "10.0.0.1"])
    assert addresses(made.records, "thisdcos.directory") == {
        "leader.dcos.thisdcos.directory": {"10.0.0.1"},
        "master.dcos.thisdcos.directory": {"10.0.0.1", "10.0.0.2"},
    }
    assert addresses(zone_of([leader]).records, "thisdcos.directory") == {}


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (PortRow(80, "", "TCP", ON_HOST), True),
        (PortRow(80, "", "udp", ON_HOST), True),
        (PortRow(80, "", "sctp", ON_HOST), False),
        (PortRow(80, "", "", ON_HOST), False),
        (PortRow(80, "", "tcp", IN_CONTAINER), False),
        (PortRow(80, "", "tcp"), False),
    ],
)
def test_ports_of_the_agent(port: PortRow, expected: bool) -> None:
    assert has_host_port(task("web", "c-S0", NetworkRow(), port)) is expected


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("fd%gsf---gs7-f$gs--d7fddg-123", "fdgsf---gs7-fgs--d7fddg-123"),
        ("4abc123", "4abc123"),
        ("-4abc123", "4abc123"),
        ("89fdgsf---gs7-fgs--d7fddg-", "89fdgsf---gs7-fgs--d7fddg"),
        ("0-0", "0-0"),
        ("dev/Tools.v2", "devtools-v2"),
        ("a" * 62 + "--b-c", "a" * 62 + "b"),
        ("a" * 61 + "--b-cd", "a" * 61 + "bc"),
        ("a" * 63 + "b", "a" * 63),
        ("---", ""),
    ],
)
def test_labels_of_the_zone(name: str, label: str) -> None:
    assert dcos_label(name) == label


@given(st.text(max_size=80), st.text(max_size=80))
def test_every_name_is_one(name: str, framework: str) -> None:
    row = task("x", "c-S0", NetworkRow("", ("9.0.0.1",)), None, discovery=name)
    for owner, _, value in dcos_task_records(row, (ip("10.0.0.1"),), framework).records:
        assert is_name(owner)
        assert isinstance(value, bytes)
        assert address_text(value) in ("9.0.0.1", "10.0.0.1")
