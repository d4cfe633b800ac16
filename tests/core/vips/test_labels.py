"""What labels declare: the rules of both eras, and that nothing in a label harms anything else."""

from collections.abc import Sequence
from ipaddress import ip_address

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairn_core.mesos.feed_rows import PortRow, TaskRow
from cairn_core.vips.labels import (
    MAX_DECLARED,
    MAX_PROBLEMS,
    NOTHING,
    Declarations,
    Declared,
    DiscoveryPort,
    ResourcePort,
    declared,
    may_declare,
)

Labels = Sequence[tuple[str, str]]


def task(ports: Sequence[PortRow] = (), labels: Labels = ()) -> TaskRow:
    return TaskRow(
        "web.1", "web", "F", "S0", "TASK_RUNNING",
        discovery_ports=tuple(ports), vip_labels=tuple(labels),
    )  # fmt: skip


def of_port(
    value: str, key: str = "VIP_0", protocol: str = "tcp", number: int = 80
) -> Declarations:
    return declared(task([PortRow(number, "http", protocol, ((key, value),))]))


def short(found: Declarations) -> list[tuple[str, str, int]]:
    """Protocol, address or label, and port of each VIP."""
    return [(vip.protocol, vip.host or vip.label, vip.port) for vip in found.vips]


@pytest.mark.parametrize(
    ("value", "host", "label", "port"),
    [
        ("web:80", "", "web", 80),
        ("/group/web:80", "", "/group/web", 80),
        ("1.2.3.4:5000", "1.2.3.4", "", 5000),
        ("[fd00::1]:80", "fd00::1", "", 80),
        ("fd00:0:0:0:0:0:0:1:80", "fd00::1", "", 80),
        ("FD00::A:65535", "fd00::a", "", 65535),
        ("::1:8080", "::1", "", 8080),
        (" web:80 ", "", "web", 80),
        ("web: 080", "", "web", 80),
        ("1.2.3:80", "", "1.2.3", 80),
        ("web.prod:1", "", "web.prod", 1),
    ],
)
def test_values(value: str, host: str, label: str, port: int) -> None:
    found = of_port(value)
    assert found.problems == ()
    assert [(vip.host, vip.label, vip.port) for vip in found.vips] == [(host, label, port)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "no port"),
        ("web", "no port"),
        (":80", "no name"),
        ("web:", "port is not"),
        ("web:http", "port is not"),
        ("web:0", "port is not"),
        ("web:65536", "port is not"),
        ("web:-1", "port is not"),
        ("web:+80", "port is not"),
        ("web:٨٠", "port is not"),
        ("web:999999999999999999999", "port is not"),
        ("1.2.3.400:80", "no address"),
        ("01.2.3.4:80", "no address"),
        ("[1.2.3.4]:80", "no address"),
        ("[fd00::1:80", "no address"),
        ("fd00:::1:80", "no address"),
        ("fe80::1%eth0:80", "no address"),
        ("a" * 600 + ":80", "longer than 512"),
    ],
)
def test_values_that_declare_nothing(value: str, reason: str) -> None:
    found = of_port(value)
    assert found.vips == ()
    (problem,) = found.problems
    assert problem.key == "VIP_0"
    assert reason in problem.reason
    assert len(problem.value) <= 120


@pytest.mark.parametrize("key", ["VIP_0", "vip_0", "Vip_17", "VIP", "vip0", "VIP_x"])
def test_keys_of_ports(key: str) -> None:
    assert short(of_port("web:80", key)) == [("tcp", "web", 80)]


@pytest.mark.parametrize("key", ["L4LB_0_POLICY", "MY_VIP_0", "", "VI", "network-scope"])
def test_other_keys_of_ports_declare_nothing(key: str) -> None:
    assert of_port("web:80", key) == NOTHING


@pytest.mark.parametrize(("key", "index"), [("VIP_0", "0"), ("vip_a", "A"), ("VIP7", "7")])
def test_options_find_the_vip_by_the_index_of_its_key(key: str, index: str) -> None:
    assert of_port("web:80", key).vips[0].index == index


@pytest.mark.parametrize(
    ("protocol", "found"),
    [
        ("", ["tcp"]),
        ("tcp", ["tcp"]),
        ("UDP", ["udp"]),
        ("tcp,udp", ["tcp", "udp"]),
        ("udp, tcp", ["udp", "tcp"]),
        ("tcp,tcp", ["tcp"]),
    ],
)
def test_protocols_of_ports(protocol: str, found: list[str]) -> None:
    assert [vip.protocol for vip in of_port("web:80", protocol=protocol).vips] == found


@pytest.mark.parametrize("protocol", ["sctp", "tcp/udp", "tcp,sctp", "x" * 9999])
def test_other_protocols_are_problems(protocol: str) -> None:
    found = of_port("web:80", protocol=protocol)
    assert found.vips == ()
    assert "protocol" in found.problems[0].reason


def test_where_a_backend_of_a_port_listens() -> None:
    plain = PortRow(31005, "http", "tcp", (("VIP_0", "web:80"), ("L4LB_0_POLICY", "maglev")))
    host = PortRow(31006, "", "tcp", (("VIP_0", "a:1"), ("network-scope", "host")))
    inside = PortRow(8080, "", "tcp", (("network-scope", "container"), ("VIP_1", "b:1")))
    first, second, third = declared(task([plain, host, inside])).vips
    assert first.source == DiscoveryPort(31005, "host", plain.labels, "http")
    assert isinstance(second.source, DiscoveryPort)
    assert isinstance(third.source, DiscoveryPort)
    assert (second.source.scope, third.source.scope) == ("host", "container")


@pytest.mark.parametrize("number", [0, -1, 65536])
def test_a_port_that_is_none_has_no_backend(number: int) -> None:
    assert "of the task" in of_port("web:80", number=number).problems[0].reason


def test_several_labels_of_a_port_are_several_vips() -> None:
    labels = (("VIP_0", "web:80"), ("VIP_1", "bad"), ("VIP_2", "1.2.3.4:80"))
    found = declared(task([PortRow(80, labels=labels)]))
    assert short(found) == [("tcp", "web", 80), ("tcp", "1.2.3.4", 80)]
    assert [problem.key for problem in found.problems] == ["VIP_1"]


@pytest.mark.parametrize(
    ("key", "value", "vip"),
    [
        ("vip_PORT0", "tcp://1.2.3.4:5000", ("tcp", "1.2.3.4", 5000)),
        ("VIP_PORT0", "udp://1.2.3.4:53", ("udp", "1.2.3.4", 53)),
        ("vip_port0", "TCP://[fd00::1]:80", ("tcp", "fd00::1", 80)),
        ("VIP_port0", "udp://dns:53", ("udp", "dns", 53)),
        ("VIP_PORT0", "web:80", ("tcp", "web", 80)),
    ],
)
def test_labels_of_tasks(key: str, value: str, vip: tuple[str, str, int]) -> None:
    found = declared(task(labels=[(key, value)]))
    assert short(found) == [vip]
    assert found.vips[0].source == ResourcePort(0)
    assert found.vips[0].index == "PORT0"


def test_labels_of_tasks_name_the_port_by_its_number() -> None:
    found = declared(task(labels=[("VIP_PORT12", "web:80")]))
    assert found.vips[0].source == ResourcePort(12)


@pytest.mark.parametrize(
    ("key", "value", "problems"),
    [
        ("VIP_0", "/web:80", 1),
        ("VIP_PORT0", "http://web:80", 1),
        ("VIP_PORT0", "tcp://web", 1),
        ("VIP_PORTAL", "www:80", 0),
        ("VIPASSANA", "yes", 0),
        ("vip_port", "web:80", 0),
        ("VIP_PORT99999999999", "web:80", 0),
    ],
)
def test_labels_of_tasks_that_declare_nothing(key: str, value: str, problems: int) -> None:
    found = declared(task(labels=[(key, value)]))
    assert found.vips == ()
    assert len(found.problems) == problems


def test_a_task_declares_so_many_at_most() -> None:
    many = tuple((f"VIP_{n}", f"web{n}:80") for n in range(1000))
    found = declared(task([PortRow(80, protocol="tcp,udp", labels=many)]))
    assert len(found.vips) == MAX_DECLARED
    assert [problem.reason for problem in found.problems] == ["more than 64 VIPs of one task"]
    bad = tuple((f"VIP_{n}", "web") for n in range(1000))
    assert len(declared(task([PortRow(80, labels=bad)])).problems) == MAX_PROBLEMS


TEXT = st.text(max_size=40) | st.text("[]:.%/0123456789abcdef", max_size=40)
KEYS = TEXT | st.builds("VIP_{}".format, TEXT) | st.just("vip_port0") | st.just("VIP_0")
PAIRS = st.lists(st.tuples(KEYS, TEXT | st.builds("{}:80".format, TEXT)), max_size=5)
PORTS = st.lists(
    st.builds(PortRow, st.integers(-5, 70000), TEXT, TEXT, PAIRS.map(tuple)), max_size=4
)


@given(PORTS, PAIRS)
@example([PortRow(80, labels=(("VIP_0", "\ud800:80"), ("VIP_\udfff", "\n\x00")))], [])
def test_whatever_is_in_labels_is_declared_or_told(ports: list[PortRow], labels: Labels) -> None:
    row = task(ports, labels)
    found = declared(row)
    assert declared(row) == found
    assert may_declare(row) or found == NOTHING
    for vip in found.vips:
        assert 1 <= vip.port <= 65535
        assert bool(vip.host) != bool(vip.label)
        if vip.host:
            assert str(ip_address(vip.host)) == vip.host
        if isinstance(vip.source, DiscoveryPort):
            assert 1 <= vip.source.number <= 65535
    for problem in found.problems:
        # fits a line and a page, whatever it quotes
        assert msgspec.json.encode(problem)
        assert len("".join(problem.reason.splitlines())) == len(problem.reason) <= 400
    # each label alone declares what it does among the others
    alone: list[Declared] = []
    for port in ports:
        for label in port.labels:
            scope = tuple(pair for pair in port.labels if pair[0] == "network-scope")
            part = declared(task([PortRow(port.number, port.name, port.protocol, (label, *scope))]))
            alone += part.vips
    for label in labels:
        alone += declared(task(labels=[label])).vips
    assert short(Declarations(tuple(alone))) == short(found)
