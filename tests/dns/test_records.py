"""What one row gives, against what Mesos-DNS makes of the same."""

from itertools import chain

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
from cairn_dns import records as limits
from cairn_dns.addresses import (
    address_text,
    framework_host,
    parse_address,
    reverse_name,
    reversed_address,
)
from cairn_dns.records import (
    MAX_NAME,
    MAX_PORT,
    MAX_PORTS,
    Made,
    Rules,
    agent_records,
    domains_of,
    framework_records,
    is_name,
    master_records,
    task_addresses,
    task_names,
    task_records,
)
from cairn_dns.testing import ip
from cairn_dns.wire import AAAA, SRV, A, wire_name

AGENT = (ip("10.0.0.1"),)
MARATHON = FrameworkRow("F", "marathon")
RULES = Rules(domain="d")


def made_of(task: TaskRow, rules: Rules = RULES, framework: str = "marathon") -> Made:
    addresses = task_addresses(task, AGENT, rules)
    return task_records(
        task, AGENT, addresses, domains_of(FrameworkRow("F", framework), rules), rules
    )


def texts(made: Made) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, _, value in made.records:
        text = (
            address_text(value) if isinstance(value, bytes) else ":".join(str(one) for one in value)
        )
        found.setdefault(name, set()).add(text)
    return found


def task(name: str = "web", **more: object) -> TaskRow:
    return TaskRow("web.1", name, "F", "c1-S0", "TASK_RUNNING", **more)  # type: ignore[arg-type]


# -- masters, agents, frameworks -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("masters", "expected"),
    [
        (["0.0.0.8", "0.0.0.6", "0.0.0.7"], ["0.0.0.8", "0.0.0.6", "0.0.0.7"]),
        (["0.0.0.8"], ["0.0.0.8", "0.0.0.6"]),
        (["0.0.0.8", "0.0.0.6", "0.0.0.6"], ["0.0.0.8", "0.0.0.6"]),
        ([], ["0.0.0.6"]),
    ],
)
def test_masters_have_numbers_in_the_order_given(masters: list[str], expected: list[str]) -> None:
    leader = MasterRow("5", "", "0.0.0.6", 7, leads=True)
    got = texts(master_records([ip(one) for one in masters], leader, Rules(domain="foo.com")))
    assert got.pop("leader.foo.com") == {"0.0.0.6"}
    assert got.pop("master.foo.com") == set(expected)
    for protocol in ("tcp", "udp"):
        assert got.pop(f"_leader._{protocol}.foo.com") == {"leader.foo.com:7"}
    assert got == {f"master{number}.foo.com": {one} for number, one in enumerate(expected)}


@pytest.mark.parametrize("address", ["", "1", "nonsense", "1.2.3"])
def test_a_leader_without_an_address_has_no_records(address: str) -> None:
    leader = MasterRow("m", "h", address, leads=True)
    assert master_records([], leader, RULES).records == []
    assert texts(master_records([ip("0.0.0.8")], leader, RULES)) == {
        "master.d": {"0.0.0.8"},
        "master0.d": {"0.0.0.8"},
    }


def test_agents_share_a_name() -> None:
    both = (ip("10.0.0.1"), ip("fd00::1"))
    made = agent_records(AgentRow("S", "h", "10.0.0.1", 5052), both, RULES)
    assert texts(made) == {
        "slave.d": {"10.0.0.1", "fd00::1"},
        "_slave._tcp.d": {"slave.d:5052"},
    }
    assert agent_records(AgentRow("S", "h"), (), RULES) == Made([], {"agent": 1})
    assert agent_records(AgentRow("S", "h", "", 70_000), AGENT, RULES).skipped == {"port": 1}


def test_frameworks_have_a_service_if_they_listen() -> None:
    old = FrameworkRow("F", "prod/marathon.Team_A-1", "h", "s@10.0.0.9:15101")
    made = framework_records(old, (ip("10.0.0.9"),), domains_of(old, RULES))
    name = "prodmarathon.team-a-1.d"
    assert texts(made) == {name: {"10.0.0.9"}, f"_framework._tcp.{name}": {f"{name}:15101"}}
    new = FrameworkRow("F", "marathon", "10.0.0.9")
    made = framework_records(new, (ip("10.0.0.9"),), domains_of(new, RULES))
    assert texts(made) == {"marathon.d": {"10.0.0.9"}}
    nobody = FrameworkRow("F", "...", "10.0.0.9")
    assert framework_records(nobody, AGENT, domains_of(nobody, RULES)).skipped == {"framework": 1}
    far = FrameworkRow("F", "f", "h", "s@10.0.0.9:99999")
    assert framework_records(far, AGENT, domains_of(far, RULES)).skipped == {"port": 1}


@pytest.mark.parametrize(
    ("pid", "expected"),
    [
        ("", ("h", None)),
        ("s@10.0.0.1:80", ("10.0.0.1", 80)),
        ("s@[::1]:80", ("::1", 80)),
        ("s@host:port", ("host", None)),
        ("s@host:" + "9" * 5000, ("host", None)),
        ("s", ("", None)),
    ],
)
def test_where_frameworks_are(pid: str, expected: tuple[str, int | None]) -> None:
    assert framework_host(FrameworkRow("F", "f", "h", pid)) == expected


# -- addresses -------------------------------------------------------------------------------------


def test_addresses_come_from_the_first_source_that_has_one() -> None:
    row = task(
        networks=(NetworkRow("", ("nonsense",)), NetworkRow("dcos", ("9.0.0.1", "fd00::1"))),
        label_addresses=(("docker", "172.17.0.2"), ("mesos", "bad"), ("docker", "172.17.0.3")),
    )

    def of(*sources: str, dcos: bool = False) -> list[str]:
        rules = Rules(ip_sources=sources, dcos_branch=dcos)
        return [address_text(one) for one in task_addresses(row, AGENT, rules)]

    assert of("netinfo", "host") == ["9.0.0.1", "fd00::1"]
    assert of("mesos", "docker") == ["172.17.0.2", "172.17.0.3"]
    assert of("host", "netinfo") == ["10.0.0.1"]
    assert of("mesos") == []
    # one of each family, of all sources together
    assert of("docker", "host", "netinfo", dcos=True) == ["172.17.0.2", "fd00::1"]
    assert of("mesos", "host", dcos=True) == ["10.0.0.1"]
    assert of("netinfo", dcos=True) == ["9.0.0.1", "fd00::1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("FD00:0::1", "fd00::1"),
        ("0.0.0.0", "0.0.0.0"),
        ("010.0.0.1", None),
        ("1.2.3", None),
        ("1.2.3.256", None),
        ("1.2.3.4 ", None),
        ("1.2.3.4\n", None),
        ("１.2.3.4", None),  # digits, but of another script
        ("fe80::1%eth0", None),
        ("master.mesos", None),
        ("", None),
        (":" * 10_000, None),
    ],
)
def test_texts_of_addresses(text: str, expected: str | None) -> None:
    address = parse_address(text)
    assert (address_text(address) if address is not None else None) == expected


@given(st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)))
def test_reverse_names_lead_back(address: bytes) -> None:
    assert reversed_address(reverse_name(address)) == address
    wire_name(reverse_name(address))


@pytest.mark.parametrize(
    "name", ["", "arpa", "1.in-addr.arpa", "x.1.2.3.in-addr.arpa", "1.2.ip6.arpa", "marathon.mesos"]
)
def test_other_names_are_no_addresses(name: str) -> None:
    assert reversed_address(name) is None


# -- tasks -----------------------------------------------------------------------------------------


def test_a_task_without_a_discovery_name_has_its_ports_twice() -> None:
    # discovery information without a name is none
    for discovery_name in (None, ""):
        row = task("DB_main", ports=((31500, 31501),), discovery_name=discovery_name,
                   discovery_ports=(PortRow(80, "http", "tcp"),))  # fmt: skip
        host = "db-main-e844k-s0.marathon"
        found = {f"{host}.slave.d:31500", f"{host}.slave.d:31501"}
        assert texts(made_of(row)) == {
            "db-main.marathon.d": {"10.0.0.1"},
            f"{host}.d": {"10.0.0.1"},
            "db-main.marathon.slave.d": {"10.0.0.1"},
            f"{host}.slave.d": {"10.0.0.1"},
            "_db-main._tcp.marathon.d": found,
            "_db-main._udp.marathon.d": found,
            "_db-main._tcp.marathon.slave.d": found,
            "_db-main._udp.marathon.slave.d": found,
        }


@pytest.mark.parametrize(
    ("protocol", "name", "expected"),
    [
        ("tcp", "", {"_web._tcp"}),
        ("TCP", "Web_UI", {"_web._tcp", "_web-ui._web._tcp"}),
        ("udp,tcp", "", {"_web._udptcp"}),
        ("", "x", {"_web._tcp", "_web._udp", "_x._web._tcp", "_x._web._udp"}),
        ("//", "!", {"_web._tcp", "_web._udp"}),
    ],
)
def test_protocols_and_names_of_ports(protocol: str, name: str, expected: set[str]) -> None:
    row = task(discovery_name="web", discovery_ports=(PortRow(0, name, protocol),))
    services = {name for name, kind, _ in made_of(row).records if kind == SRV}
    assert services == {f"{one}.marathon.d" for one in expected}


def test_newer_forks_have_discovery_ports_below_slave() -> None:
    row = task(discovery_name="web", discovery_ports=(PortRow(80, "http", "tcp"),))
    plain = texts(made_of(row))
    more = texts(made_of(row, Rules(domain="d", slave_discovery_ports=True)))
    host = "web-e844k-s0.marathon.slave.d:80"
    assert {name: values for name, values in more.items() if name not in plain} == {
        "_web._tcp.marathon.slave.d": {host},
        "_http._web._tcp.marathon.slave.d": {host},
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web", ("web",)),
        ("web.shop", ("web.shop", "web-shop")),
        ("Web.shop", ("web-shop",)),
        ("a b", ("ab",)),
        ("a\\b", ("ab",)),
        ("a;b", ("ab",)),
        ("*", ("",)),
        # only its host name is one
        ("web.", ("web.", "web")),
        ("wéb", ("wb",)),
        ("_x", ("_x", "x")),
        ("x" * 64, ("x" * 64, "x" * 63)),
    ],
)
def test_discovery_names_count_as_they_are_if_anybody_can_ask(
    name: str, expected: tuple[str, ...]
) -> None:
    assert task_names(task("other", discovery_name=name), RULES) == expected


def test_rfc952_cuts_labels() -> None:
    rules = Rules(domain="d", rfc952=True)
    row = task("9lives" + "x" * 30)
    names = set(texts(made_of(row, rules, "chronos with a space AND MIXED CASE-2.0.1")))
    label, framework = "lives" + "x" * 19, "chronoswithaspaceandmixe"
    assert f"{label}.{framework}.d" in names
    assert f"{label}-e844k-s0.{framework}.slave.d" in names


def test_names_that_are_too_long_are_left_out_and_counted() -> None:
    # 63 characters: the host name and the service would have a label of more
    row = task("x" * 63, ports=((31000, 31000),))
    made = made_of(row)
    assert set(texts(made)) == {f"{'x' * 63}.marathon.d", f"{'x' * 63}.marathon.slave.d"}
    assert (made.skipped, made.host) == ({"name": 6}, "")
    # a name that mangles to nothing
    assert set(texts(made_of(task("___")))) == {
        "-e844k-s0.marathon.d",
        "-e844k-s0.marathon.slave.d",
    }
    # names of ports
    port = PortRow(80, "p" * 63, "tcp")
    made = made_of(task(discovery_name="web", discovery_ports=(port,)))
    assert (len(made.records), made.skipped) == (5, {"name": 1})
    # a domain that leaves no room for `slave`
    framework = ".".join(["f" * 60] * 4)
    made = made_of(task(), framework=framework)
    assert (set(texts(made)), made.skipped) == ({f"web.{framework}.d"}, {"name": 3})
    # an agent's id that is no part of a name
    odd = TaskRow("web.1", "web", "F", "c1-S 0", "TASK_RUNNING")
    assert made_of(odd).skipped == {"name": 2}


def test_names_without_end_cost_no_more_than_others() -> None:
    ports = tuple(PortRow(number, "p") for number in range(MAX_PORTS))
    endless = task(discovery_name="x" * 10**6, discovery_ports=ports)
    assert len(made_of(endless).records) == 2
    assert made_of(task(), framework="f." * 10**6) == Made([], {"task": 1})
    assert made_of(task(), framework="...") == Made([], {"task": 1})


def test_ports_that_are_none_are_left_out_and_counted() -> None:
    row = task(ports=((-5, 1), (65530, 99_999), (5, 4), (1, 10**12)))
    made = made_of(row)
    numbers = {value[1] for _, kind, value in made.records if kind == SRV}
    assert numbers <= set(range(MAX_PORT + 1))
    assert len([one for one in made.records if one[1] == SRV]) == 4 * MAX_PORTS
    assert made.skipped == {"port": 4}
    ports = [PortRow(-1), PortRow(65536), *(PortRow(n, "", "tcp") for n in range(2 * MAX_PORTS))]
    made = made_of(task(discovery_name="web", discovery_ports=tuple(ports)))
    assert len([one for one in made.records if one[1] == SRV]) == MAX_PORTS - 2
    assert made.skipped == {"port": MAX_PORTS + 4}


ODD = st.one_of(
    st.text(max_size=70),
    st.text("abA-._ *\\é9", max_size=70),
    st.integers(35, 80).map(lambda size: "a" * size),
)


@given(
    ODD, ODD, ODD, ODD, ODD, st.one_of(st.none(), ODD),
    st.lists(st.tuples(st.integers(), st.integers()), max_size=2), st.integers(),
    st.lists(ODD, max_size=2), st.booleans(), st.booleans(),
)  # fmt: skip
def test_whatever_a_row_says_its_records_are_names(
    task_id: str, name: str, framework: str, port: str, agent_id: str, discovery: str | None,
    ranges: list[tuple[int, int]], number: int, networks: list[str], rfc952: bool, more: bool,
) -> None:  # fmt: skip
    row = TaskRow(
        task_id, name, "F", agent_id, "TASK_RUNNING", (NetworkRow("", tuple(networks)),), (),
        tuple(ranges), discovery, (PortRow(number, port, port), PortRow(80, port)),
    )  # fmt: skip
    made = made_of(row, Rules(domain="d", rfc952=rfc952, slave_discovery_ports=more), framework)
    assert len(made.records) <= 16 * MAX_PORTS
    for owner, kind, value in made.records:
        assert owner == owner.lower()
        assert is_name(owner)
        assert len(wire_name(owner)) <= MAX_NAME + 2
        if kind == SRV:
            assert isinstance(value, tuple)
            wire_name(value[0])
            assert 0 <= value[1] <= MAX_PORT
        else:
            assert kind in (A, AAAA)
            assert isinstance(value, bytes)
    assert made.host == "" or any(made.host == one[0] for one in made.records)


def test_short_names_need_no_check() -> None:
    """The longest parts that are not checked fit together."""
    framework = ".".join(["f" * 50, "g" * 55])
    assert len(f"{framework}.slave.d") <= limits._SHORT_DOMAINS
    row = TaskRow(
        "t", "n", "F", "c-" + "s" * (limits._SHORT_ENDING - 7), "TASK_RUNNING", (), (),
        ((1, 1),), "x" * limits._SHORT_TASK,
        (PortRow(1, "p" * limits._SHORT_PORT, "q" * limits._SHORT_PROTOCOL),),
    )  # fmt: skip
    made = made_of(row, Rules(domain="d", slave_discovery_ports=True), framework)
    assert not made.skipped
    names = chain.from_iterable((owner, *value[:1]) if isinstance(value, tuple) else (owner,)
                                for owner, _, value in made.records)  # fmt: skip
    assert all(map(is_name, names))
