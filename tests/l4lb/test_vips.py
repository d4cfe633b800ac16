"""Which VIPs tasks are backends of, and how they are reached.

Cases of the original have the addresses of its `testdata/`.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, NetworkRow, PortRow, TaskRow
from cairn_l4lb.model import Options
from cairn_l4lb.vips import MAX_PROBLEMS, TaskVips, VipKey, VipRules, task_backends

HOST = "10.0.0.243"
MARATHON = FrameworkRow("f", "marathon")
ANY = VipRules()


def task(*ports: PortRow, **fields: Any) -> TaskRow:
    """A running task with discovery ports."""
    told = {"id": "t", "name": "web", "framework_id": "f", "agent_id": "a", "state": "TASK_RUNNING"}
    return TaskRow(**told | {"discovery_ports": ports} | fields)


def port(number: int, *vips: str, scope: str = "", protocol: str = "tcp", **labels: str) -> PortRow:
    """A discovery port with VIP_0, VIP_1, ... and other labels."""
    told = {f"VIP_{n}": value for n, value in enumerate(vips)} | labels
    if scope:
        told["network-scope"] = scope
    return PortRow(number, "http", protocol, tuple(told.items()))


def made(row: TaskRow, rules: VipRules = ANY, **agent: Any) -> TaskVips:
    told = {"id": "a", "hostname": "h", "ip": HOST} | agent
    return task_backends(row, AgentRow(**told), MARATHON, rules)


def table(found: TaskVips) -> list[str]:
    """`VIP -> backend`, and the weight where it is not 1."""
    return [
        f"{key.protocol} {key.name or key.address}:{key.port} -> {one.text}"
        + (f" weight {one.weight}" if one.weight != 1 else "")
        for key, one, _ in found.members
    ]


@pytest.mark.parametrize(
    ("row", "host", "expected"),
    [
        pytest.param(
            task(vip_labels=(("vip_PORT0", "tcp://1.2.3.4:5000"),), ports=((8014, 8014),)),
            "10.10.0.109", ["tcp 1.2.3.4:5000 -> 10.10.0.109:8014"], id="state2",
        ),
        pytest.param(
            task(vip_labels=(("VIP_PORT0", "tcp://1.2.3.4:5000"),), ports=((26645, 26645),)),
            HOST, ["tcp 1.2.3.4:5000 -> 10.0.0.243:26645"], id="state3 and state4",
        ),
        pytest.param(
            task(port(19426, "1.2.3.4:8080")), "10.0.2.234",
            ["tcp 1.2.3.4:8080 -> 10.0.2.234:19426"], id="state_di",
        ),
        pytest.param(
            task(port(80, "1.2.3.4:5000", scope="container"),
                 networks=(NetworkRow("dcos", ("9.0.1.130",)),)),
            "10.0.0.1", ["tcp 1.2.3.4:5000 -> 9.0.1.130:80"], id="overlay",
        ),
        pytest.param(
            task(port(12049, "merp:5000", scope="host")), HOST,
            ["tcp merp.marathon:5000 -> 10.0.0.243:12049"], id="named-base-vips",
        ),
        pytest.param(
            task(vip_labels=(("vip_PORT1", "4.3.2.2:1234"), ("vip_PORT0", "tcp://4.3.2.1:1234")),
                 ports=((31362, 31362), (31215, 31215))),
            "33.33.33.1",
            ["tcp 4.3.2.2:1234 -> 33.33.33.1:31362", "tcp 4.3.2.1:1234 -> 33.33.33.1:31215"],
            id="two-healthcheck-free-vips: ports in order",
        ),
        pytest.param(task(port(31000)), HOST, [], id="docker: no VIPs"),
        pytest.param(task(), HOST, [], id="empty"),
    ],
)  # fmt: skip
def test_what_the_original_makes_of_its_samples(
    row: TaskRow, host: str, expected: list[str]
) -> None:
    found = made(row, ip=host)
    assert table(found) == expected
    assert found.problems == ()


@pytest.mark.parametrize("value", ["merp", "merp:", "merp:http", "merp:0", "merp:65536", ":80", ""])
def test_a_wrong_label_takes_nothing_else_with_it(value: str) -> None:
    found = made(task(port(31000, value, "other:80"), port(31001, "third:80")))
    assert table(found) == [
        "tcp other.marathon:80 -> 10.0.0.243:31000",
        "tcp third.marathon:80 -> 10.0.0.243:31001",
    ]
    [problem] = found.problems
    assert problem.startswith(f"label 'VIP_0': value {value!r}: ")


@pytest.mark.parametrize(
    ("state", "healthy", "checked", "minuteman", "dcos_net"),
    [
        ("TASK_RUNNING", None, False, 1, 1),
        ("TASK_RUNNING", True, True, 1, 1),
        ("TASK_RUNNING", None, True, 1, 0),
        ("TASK_RUNNING", False, True, None, 0),
        ("TASK_RUNNING", False, False, None, 0),
        ("TASK_KILLING", True, True, None, 0),
        ("TASK_STAGING", None, False, None, None),
        ("TASK_STARTING", None, True, None, None),
        ("TASK_FINISHED", True, True, None, None),
        ("TASK_UNREACHABLE", True, True, None, None),
        ("TASK_SOMETHING_NEW", None, False, None, None),
    ],
)
def test_which_tasks_count(
    state: str, healthy: bool | None, checked: bool, minuteman: int | None, dcos_net: int | None
) -> None:
    row = task(port(31000, "web:80"), state=state, healthy=healthy, health_checked=checked)
    for rules, expected in [(VipRules(era="minuteman"), minuteman), (ANY, dcos_net)]:
        weights = [one.backend.weight for one in made(row, rules).members]
        assert weights == ([] if expected is None else [expected])


def test_a_port_has_several_vips_and_both_protocols() -> None:
    found = made(
        task(port(53, "/group/dns:53", "[fd00::1]:5353", "1.2.3.4:53", protocol="udp,tcp"))
    )
    assert table(found) == [
        "udp groupdns.marathon:53 -> 10.0.0.243:53",
        "tcp groupdns.marathon:53 -> 10.0.0.243:53",
        "udp 1.2.3.4:53 -> 10.0.0.243:53",
        "tcp 1.2.3.4:53 -> 10.0.0.243:53",
    ]
    assert found.problems == (
        "label 'VIP_1': fd00::1 and the task's address 10.0.0.243 are of different families",
    )


def test_a_container_with_addresses_of_both_families_is_a_backend_of_both() -> None:
    networks = (
        NetworkRow("dcos", ("9.0.1.2", "fd01:b::2", "9.0.1.3")),
        NetworkRow("other", ("9.1.0.2",)),
    )
    row = task(port(80, "web:80", "1.2.3.4:80", "fd00::1:80", scope="container"), networks=networks)
    assert table(made(row)) == [
        "tcp web.marathon:80 -> 9.0.1.2:80",
        "tcp web.marathon:80 -> [fd01:b::2]:80",
        "tcp 1.2.3.4:80 -> 9.0.1.2:80",
        "tcp fd00::1:80 -> [fd01:b::2]:80",
    ]
    keys = [one.key for one in made(row).members]
    assert keys[1] == VipKey("web.marathon", "", 80, "tcp", True)
    found = made(row, VipRules(ipv6=False))
    assert [one.key.ipv6 for one in found.members] == [False, False]
    [problem] = found.problems
    assert "different families" in problem or "IPv6 is off" in problem


def test_the_first_network_with_an_address_counts() -> None:
    networks = (NetworkRow("none"), NetworkRow("odd", ("x",)), NetworkRow("dcos", ("9.0.1.2",)))
    row = task(port(80, "web:80", scope="container"), networks=networks)
    assert table(made(row)) == ["tcp web.marathon:80 -> 9.0.1.2:80"]


def test_a_mapped_port_of_a_container_is_reached_at_its_host() -> None:
    mappings = ((31005, 80, "tcp"), (31006, 80, "udp"), (31007, 443, ""))
    by_network = {"networks": (NetworkRow("bridge", ("172.17.0.2",), mappings),)}
    by_docker = {"docker_ports": mappings, "networks": (NetworkRow("", ("172.17.0.2",)),)}
    for mapped in (by_network, by_docker):
        ports = [
            port(80, "web:80", scope="container"),
            port(80, "web:80", scope="container", protocol="udp"),
            port(443, "web:443", scope="container"),
            port(31007, "host:443", scope="host"),
            port(9000, "own:9000", scope="container"),
        ]
        assert table(made(task(*ports, **mapped))) == [
            "tcp web.marathon:80 -> 10.0.0.243:31005",
            "udp web.marathon:80 -> 10.0.0.243:31006",
            "tcp web.marathon:443 -> 10.0.0.243:31007",
            "tcp host.marathon:443 -> 10.0.0.243:31007",
            "tcp own.marathon:9000 -> 172.17.0.2:9000",
        ]


def test_a_local_container_behind_a_mapping_is_reached_directly() -> None:
    local = VipRules(own_addresses=frozenset([HOST]))
    networks = (NetworkRow("bridge", ("fd00::2", "172.31.0.2"), ((31005, 80, "tcp"),)),)
    ports = [port(80, "web:80", scope="container"), port(31005, "host:80", scope="host")]
    row = task(*ports, networks=networks)
    assert table(made(row, local)) == [
        "tcp web.marathon:80 -> 172.31.0.2:80",
        "tcp host.marathon:80 -> 172.31.0.2:80",
    ]
    for rules in (ANY, VipRules(own_addresses=frozenset([HOST]), direct=False)):
        assert table(made(row, rules)) == [
            "tcp web.marathon:80 -> 10.0.0.243:31005",
            "tcp host.marathon:80 -> 10.0.0.243:31005",
        ]
    # Docker does not say which address it maps to.
    docker = task(*ports, docker_ports=((31005, 80, "tcp"),), networks=(NetworkRow("", (HOST,)),))
    assert {one.backend.text for one in made(docker, local).members} == {f"{HOST}:31005"}


def test_a_backend_tells_where_it_runs() -> None:
    row = task(port(31000, "web:80"))
    [member] = made(row, zone="z1").members
    one = member.backend
    assert (one.task_id, one.agent_id, one.agent_address, one.zone) == ("t", "a", HOST, "z1")
    assert one.reachable
    assert not made(row, active=False).members[0].backend.reachable
    assert not made(row, recovering=True).members[0].backend.reachable


def test_options_and_weight_are_those_of_the_port() -> None:
    row = task(
        port(31000, "web:80", "1.2.3.4:80", L4LB_0_WEIGHT="5", L4LB_1_POLICY="maglev", L4LB_9_X="1")
    )
    found = made(row)
    assert [(one.backend.weight, one.options) for one in found.members] == [
        (5, Options()),
        (1, Options(policy="maglev")),
    ]
    assert len(found.problems) == 1
    killing = task(port(31000, "web:80", L4LB_0_WEIGHT="5"), state="TASK_KILLING")
    assert [one.backend.weight for one in made(killing).members] == [0]


def test_ranges_of_ports_are_counted_through() -> None:
    labels = tuple((f"VIP_PORT{n}", f"n{n}:80") for n in range(6))
    row = task(vip_labels=labels, ports=((40, 41), (10, 11), (11, 12), (0, 0)))
    found = made(row)
    assert [one.backend.port for one in found.members] == [10, 11, 12, 40, 41]
    assert found.problems == (
        "label 'VIP_PORT0': the task's address or port is of no use: 10.0.0.243, 0",
    )
    assert made(task(vip_labels=(("VIP_PORT2", "n:80"),), ports=((1, 2),))).problems == (
        "label 'VIP_PORT2': the task has no port number 2 among its resources",
    )


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "of no use: 127.0.0.1"),
        ("169.254.169.254", "of no use: 169.254.169.254"),
        ("::ffff:127.0.0.1", "of no use: 127.0.0.1"),
        ("224.0.0.1", "of no use: 224.0.0.1"),
        ("0.0.0.0", "of no use: 0.0.0.0"),
        ("::1", "of no use: ::1"),
        ("fe80::1%eth0", "the container has no address"),
        ("localhost", "the container has no address"),
    ],
)
def test_a_container_does_not_lead_clients_to_themselves(address: str, reason: str) -> None:
    row = task(port(80, "web:80", scope="container"), networks=(NetworkRow("", (address,)),))
    [problem] = made(row).problems
    assert reason in problem


@pytest.mark.parametrize("address", ["0.1.2.3", "240.0.0.1", "198.51.100.1", "::7f00:1", "::7"])
def test_a_container_has_no_address_that_nobody_has(address: str) -> None:
    row = task(port(80, "web:80", scope="container"), networks=(NetworkRow("", (address,)),))
    assert made(row).members == ()
    assert "of no use" in made(row).problems[0]


MAPPED = NetworkRow("dcos", ("9.0.0.7",), ((5051, 80, "tcp"), (31000, 81, "tcp")))


@pytest.mark.parametrize(
    ("row", "backend"),
    [
        # told by the framework
        (task(port(5051, "web:80")), ""),
        (task(port(5051, "web:80", scope="host")), ""),
        (task(port(31001, "web:80", scope="host")), f"{HOST}:31001"),
        # by the container
        (task(port(80, "web:80", scope="container"), networks=(MAPPED,)), ""),
        (task(port(81, "web:80", scope="container"), networks=(MAPPED,)), f"{HOST}:31000"),
        (task(port(80, "web:80", scope="container"), docker_ports=((5051, 80, "tcp"),)), ""),
        (
            task(port(5051, "web:80", scope="container"), networks=(NetworkRow("", (HOST,)),)),
            "",
        ),
        (
            task(port(31000, "web:80", scope="container"), networks=(NetworkRow("", (HOST,)),)),
            f"{HOST}:31000",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("local", [False, True])
def test_a_port_of_the_host_is_one_that_the_task_has(
    row: TaskRow, backend: str, local: bool
) -> None:
    rules = VipRules(own_addresses=frozenset([HOST] if local else []))
    found = made(replace(row, ports=((31000, 31001),)), rules)
    if local and backend and MAPPED in row.networks:
        backend = "9.0.0.7:81"
    assert [member.backend.text for member in found.members] == ([backend] if backend else [])
    assert any("none of the task's resources" in one for one in found.problems) == (not backend)
    # one that has none listens where it likes, as in the original
    assert made(row, rules).members


def test_a_host_may_be_loopback() -> None:
    assert table(made(task(port(31000, "web:80")), ip="127.0.0.1")) == [
        "tcp web.marathon:80 -> 127.0.0.1:31000"
    ]


def test_who_is_not_known_is_named() -> None:
    row = task(port(31000, "web:80", "1.2.3.4:80"))
    agent = AgentRow("a", "h", HOST)
    assert task_backends(row, None, MARATHON, ANY).problems == (
        "label 'VIP_0': agent 'a' is not known",
        "label 'VIP_1': agent 'a' is not known",
    )
    found = task_backends(row, agent, None, ANY)
    assert table(found) == ["tcp 1.2.3.4:80 -> 10.0.0.243:31000"]
    assert found.problems == ("label 'VIP_0': framework 'f' is not known",)
    assert "no address" in made(row, ip="host.example.org").problems[0]


def test_a_name_that_is_none_is_refused() -> None:
    found = made(task(port(31000, "/:80")))
    assert found.members == ()
    assert len(found.problems) == 1


def test_of_many_problems_of_a_task_some_are_told() -> None:
    found = made(task(port(31000, *(f"web{n}:" for n in range(20)))))
    assert len(found.problems) == MAX_PROBLEMS + 1
    assert found.problems[-1] == f"{20 - MAX_PROBLEMS} more problems"


texts = st.text(max_size=12)
numbers = st.integers(-1, 70_000)
labels = st.lists(
    st.tuples(
        st.sampled_from(["VIP_0", "VIP_1", "vip_PORT0", "network-scope", "L4LB_0_WEIGHT"]) | texts,
        st.sampled_from(["web:80", "1.2.3.4:80", "[fd00::1]:80", "container", "host", "5"]) | texts,
    ),
    max_size=4,
).map(tuple)
mappings = st.lists(
    st.tuples(numbers, numbers, st.sampled_from(["tcp", "udp", ""]) | texts), max_size=2
).map(tuple)
networks = st.builds(
    NetworkRow,
    texts,
    st.lists(st.sampled_from(["9.0.0.1", "fd01:b::1", "::1"]) | texts, max_size=3).map(tuple),
    mappings,
)
tasks = st.builds(
    TaskRow,
    texts, texts, texts, texts,
    st.sampled_from(["TASK_RUNNING", "TASK_KILLING", "TASK_LOST"]),
    networks=st.lists(networks, max_size=2).map(tuple),
    ports=st.lists(st.tuples(numbers, numbers), max_size=2).map(tuple),
    discovery_ports=st.lists(
        st.builds(PortRow, numbers, texts, st.sampled_from(["tcp", "udp", ""]) | texts, labels),
        max_size=3,
    ).map(tuple),
    healthy=st.none() | st.booleans(),
    vip_labels=labels,
    docker_ports=mappings,
    health_checked=st.booleans(),
)  # fmt: skip


@given(tasks, st.sampled_from([HOST, "fd00::5", "", "host"]), st.booleans())
def test_whatever_a_task_says_makes_sound_backends_or_none(
    row: TaskRow, host: str, local: bool
) -> None:
    rules = VipRules(own_addresses=frozenset([host] if local else []))
    found = made(row, rules, ip=host)
    for key, one, _ in found.members:
        assert bool(key.name) != bool(key.address)
        assert key.ipv6 == (":" in one.address)
        assert not key.address or key.ipv6 == (":" in key.address)
        assert 1 <= one.port <= 65535
        assert 0 <= one.weight <= 100
    assert all("\n" not in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"state": "TASK_KILLING", "healthy": False}, "killing"),
        ({"healthy": False}, "unhealthy"),
        ({"health_checked": True}, "unchecked"),
        ({"weight": "0"}, "weight 0"),
        ({"weight": "0", "healthy": False}, "unhealthy"),
    ],
)
def test_a_backend_says_why_it_gets_no_connections(fields: dict[str, Any], why: str) -> None:
    labels = {"L4LB_0_WEIGHT": fields.pop("weight")} if "weight" in fields else {}
    (member,) = made(task(port(31000, "web:80", **labels), **fields)).members
    assert (member.backend.why, member.backend.weight) == (why, 0 if why else 1)
