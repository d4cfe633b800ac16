"""The zone of a cluster: what Mesos-DNS makes of the same state, whatever came before."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.clusterview.state_json import read_state
from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    NetworkRow,
    PortRow,
    Row,
    TaskRow,
)
from cairn_dns.addresses import Address
from cairn_dns.cluster_zone import ClusterZone
from cairn_dns.givers import Giver
from cairn_dns.records import Rules
from cairn_dns.testing import NOW, addresses, apply, drop, everything, ip, put, services, zone_of
from cairn_dns.wire import AAAA, PTR, SRV, A

STATE = read_state((Path(__file__).parent / "state.json").read_bytes()).rows
RULES = Rules(
    ip_sources=("netinfo", "docker", "mesos", "host"), own_addresses=(ip("127.0.0.1"),)
)  # fmt: skip
MASTERS = ("127.0.0.1", "10.0.0.32")

# What the original made of this state: a name below `mesos`, then its values.
ADDRESSES = """
leader master0 ns1: 127.0.0.1
master: 127.0.0.1 10.0.0.32
master1: 10.0.0.32
slave: 10.0.0.11 2001:db8::12
marathon: 10.0.0.21
devtools.v2: 10.0.0.22
web-shop.marathon web.shop.marathon: 9.0.0.6 fd00::6
web-shop-e844k-s0.marathon web.shop-e844k-s0.marathon: 9.0.0.6 fd00::6
web-shop.marathon.slave web.shop.marathon.slave: 10.0.0.11
web-shop-e844k-s0.marathon.slave web.shop-e844k-s0.marathon.slave: 10.0.0.11
db-main.marathon db-main.marathon.slave: 10.0.0.11
db-main-f3ink-s0.marathon db-main-f3ink-s0.marathon.slave: 10.0.0.11
doc.devtools.v2 doc-za7fk-s0.devtools.v2: 172.17.0.7
doc.devtools.v2.slave doc-za7fk-s0.devtools.v2.slave: 10.0.0.11
six.marathon six.marathon.slave: 2001:db8::12
six-obkix-s1.marathon six-obkix-s1.marathon.slave: 2001:db8::12
"""
SERVICES = """
_leader._tcp _leader._udp: leader:15050
_slave._tcp: slave:5051
_framework._tcp.marathon: marathon:15101
_web-shop._tcp.marathon: web-shop-e844k-s0.marathon:80 web-shop-e844k-s0.marathon:99
_web.shop._tcp.marathon: web.shop-e844k-s0.marathon:80 web.shop-e844k-s0.marathon:99
_web-shop._udp.marathon: web-shop-e844k-s0.marathon:53 web-shop-e844k-s0.marathon:99
_web.shop._udp.marathon: web.shop-e844k-s0.marathon:53 web.shop-e844k-s0.marathon:99
_http._web-shop._tcp.marathon: web-shop-e844k-s0.marathon:80
_http._web.shop._tcp.marathon: web.shop-e844k-s0.marathon:80
_any._web-shop._tcp.marathon _any._web-shop._udp.marathon: web-shop-e844k-s0.marathon:99
_any._web.shop._tcp.marathon _any._web.shop._udp.marathon: web.shop-e844k-s0.marathon:99
_web-shop._tcp.marathon.slave _web-shop._udp.marathon.slave: \
web-shop-e844k-s0.marathon.slave:31000 web-shop-e844k-s0.marathon.slave:31001
_web.shop._tcp.marathon.slave _web.shop._udp.marathon.slave: \
web.shop-e844k-s0.marathon.slave:31000 web.shop-e844k-s0.marathon.slave:31001
_db-main._tcp.marathon _db-main._udp.marathon: \
db-main-f3ink-s0.marathon.slave:31500 db-main-f3ink-s0.marathon.slave:31502
_db-main._tcp.marathon.slave _db-main._udp.marathon.slave: \
db-main-f3ink-s0.marathon.slave:31500 db-main-f3ink-s0.marathon.slave:31502
"""


def expected(table: str) -> dict[str, set[str]]:
    return {
        f"{name}.mesos": set(values.split())
        for names, values in (line.rsplit(": ", 1) for line in table.strip().splitlines())
        for name in names.split()
    }


def test_the_zone_equals_that_of_the_original() -> None:
    records = zone_of(STATE, RULES, MASTERS).records
    assert addresses(records) == expected(ADDRESSES)
    found = {
        name: {value.replace(".mesos:", ":") for value in values}
        for name, values in services(records).items()
    }
    assert found == expected(SERVICES)
    names = Counter(kind for name in records.names() for kind in records.kinds(name))
    assert (names[A], names[AAAA], names[SRV]) == (24, 9, 22)
    assert (records.counts[A], records.counts[AAAA], records.counts[SRV]) == (25, 9, 34)


def test_what_a_task_gives_is_listed_in_the_order_of_the_original() -> None:
    zone = zone_of(STATE, RULES, MASTERS)
    listed = {row.name: zone.enumerate_task(row) for row in STATE if isinstance(row, TaskRow)}
    assert {name: len(records) for name, records in listed.items()} == {
        "web.shop": 34, "DB_main": 12, "six": 4, "doc": 4, "stage": 0, "kill": 0, "lost": 0
    }  # fmt: skip
    assert listed["six"][0] == ("six.marathon.mesos.", "2001:db8::12", "AAAA")
    assert listed["DB_main"][2] == ("db-main.marathon.slave.mesos.", "10.0.0.11", "A")
    assert [name for name, _, _ in listed["DB_main"][4:8]] == [
        "_db-main._tcp.marathon.slave.mesos.", "_db-main._udp.marathon.slave.mesos.",
        "_db-main._tcp.marathon.mesos.", "_db-main._udp.marathon.mesos.",
    ]  # fmt: skip
    assert listed["DB_main"][4][1:] == ("db-main-f3ink-s0.marathon.slave.mesos.:31500", "SRV")
    assert listed["web.shop"][0] == ("web.shop.marathon.mesos.", "9.0.0.6", "A")


# -- what depends on what --------------------------------------------------------------------------

AGENT = AgentRow("c-S0", "a0", "10.0.0.11")
FRAMEWORK = FrameworkRow("F", "marathon", "10.0.0.1")


def task(name: str = "web", agent: str = "c-S0", framework: str = "F", **more: object) -> TaskRow:
    return TaskRow(name, name, framework, agent, more.pop("state", "TASK_RUNNING"), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [AGENT, FRAMEWORK])
def test_a_task_waits_for_its_agent_and_its_framework(missing: Row) -> None:
    rows = {row.key: (None, row) for row in (AGENT, FRAMEWORK, task()) if row is not missing}
    zone = ClusterZone(Rules())
    apply(zone, rows)
    assert zone.records.kinds("web.marathon.mesos") == set()
    assert zone.skipped == {"task": 1}
    put(zone, missing)
    assert addresses(zone.records)["web.marathon.mesos"] == {"10.0.0.11"}
    assert not zone.skipped
    drop(zone, missing)
    assert zone.records.kinds("web.marathon.mesos") == set()
    drop(zone, task())
    assert not zone.skipped


def test_only_running_tasks_have_records_healthy_or_not() -> None:
    zone = zone_of([AGENT, FRAMEWORK, task()])
    for state in ("TASK_STAGING", "TASK_STARTING", "TASK_KILLING", "TASK_UNREACHABLE", "TASK_LOST"):
        put(zone, task(state=state))
        assert zone.records.kinds("web.marathon.mesos") == set()
        put(zone, task(healthy=False))
        assert zone.records.kinds("web.marathon.mesos") == {A}


def test_unhealthy_tasks_are_hidden_if_asked_for() -> None:
    zone = zone_of([AGENT, FRAMEWORK, task(healthy=False)], Rules(healthy_only=True))
    assert zone.records.kinds("web.marathon.mesos") == set()
    assert not zone.skipped
    for healthy in (True, None):
        put(zone, task(healthy=healthy))
        assert zone.records.kinds("web.marathon.mesos") == {A}


def test_a_task_follows_its_agent_and_its_framework() -> None:
    zone = zone_of([AGENT, FRAMEWORK, task()])
    put(zone, AgentRow("c-S0", "a0", "10.0.0.12"))
    assert addresses(zone.records)["web.marathon.slave.mesos"] == {"10.0.0.12"}
    put(zone, FrameworkRow("F", "other", "10.0.0.1"))
    assert "web.marathon.mesos" not in zone.records.names()
    assert addresses(zone.records)["web.other.mesos"] == {"10.0.0.12"}
    put(zone, AgentRow("c-S1", "a1", "10.0.0.13"), task(agent="c-S1"))
    assert addresses(zone.records)["web.other.mesos"] == {"10.0.0.13"}


def test_hosts_known_by_name_are_looked_up() -> None:
    rows: list[Row] = [AgentRow("c-S0", "agent0"), AgentRow("c-S1", "a", "10.0.0.2"), task(),
            FrameworkRow("F", "marathon", "x", "s@scheduler:80")]  # fmt: skip
    zone = zone_of(rows)
    assert zone.hosts_wanted() == {"agent0", "scheduler"}
    assert zone.skipped == {"agent": 1, "framework": 1}
    zone.set_hosts(
        {"agent0": [ip("10.0.0.1"), ip("10.0.0.9")], "scheduler": [ip("fd00::9")]}, now=NOW
    )
    assert addresses(zone.records) == {
        "slave.mesos": {"10.0.0.1", "10.0.0.9", "10.0.0.2"},
        "marathon.mesos": {"fd00::9"},
        "web.marathon.mesos": {"10.0.0.1", "10.0.0.9"},
        "web-3knpn-s0.marathon.mesos": {"10.0.0.1", "10.0.0.9"},
        "web.marathon.slave.mesos": {"10.0.0.1", "10.0.0.9"},
        "web-3knpn-s0.marathon.slave.mesos": {"10.0.0.1", "10.0.0.9"},
    }
    assert not zone.skipped
    put(zone, AgentRow("c-S0", "agent0", "10.0.0.1"))
    assert zone.hosts_wanted() == {"scheduler"}
    drop(zone, rows[-1])
    assert zone.hosts_wanted() == set()


def test_the_branch_for_dcos_takes_one_address_of_each_family() -> None:
    hosts = {"agent0": ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]}
    zone = zone_of([AgentRow("c-S0", "agent0")], Rules(dcos_branch=True), hosts=hosts)
    assert addresses(zone.records)["slave.mesos"] == {"10.0.0.1", "fd00::1"}


def test_masters_change_with_their_list_and_their_leader() -> None:
    leader = MasterRow("m", "h", "10.0.0.2", leads=True)
    zone = zone_of([leader], masters=["10.0.0.1"])
    assert addresses(zone.records)["master1.mesos"] == {"10.0.0.2"}
    zone.set_masters([ip("10.0.0.2"), ip("10.0.0.1")], now=NOW)
    assert addresses(zone.records)["master1.mesos"] == {"10.0.0.1"}
    drop(zone, leader)
    assert set(addresses(zone.records)) == {"master.mesos", "master0.mesos", "master1.mesos"}
    zone.set_masters([], now=NOW)
    assert len(zone.records) == 0


# -- cost ------------------------------------------------------------------------------------------


def cluster(tasks: int) -> list[Row]:
    agents = [AgentRow(f"c-S{n}", "", f"10.1.{n >> 8}.{n & 255}") for n in range(tasks // 20)]
    return [FRAMEWORK, FrameworkRow("G", "small", "10.0.0.2"), *agents,
            *(task(f"app{n // 4}.{n}", f"c-S{n % len(agents)}") for n in range(tasks)),
            task("one", framework="G")]  # fmt: skip


@pytest.mark.parametrize("tasks", [100, 2000])
def test_a_change_costs_what_it_touches(tasks: int) -> None:
    zone = zone_of(cluster(tasks))
    put(zone, AGENT)
    for row, records in (
        (task("app1.4", "c-S4", networks=(NetworkRow("", ("9.0.0.9",)),)), 8),
        (FrameworkRow("G", "tiny", "10.0.0.2"), 10),
        # an agent with 20 tasks, or with 21
        (AgentRow("c-S0", "", "10.9.9.9"), 2 * (4 * 21 + 2)),
        # nothing that a task depends on
        (AgentRow("c-S0", "other", "10.9.9.9", active=False), 4),
        (FrameworkRow("F", "marathon", "10.0.0.3"), 2),
    ):
        work = zone.work
        zone.records.take_changed()
        put(zone, row)
        assert zone.work - work == records
        assert len(zone.records.take_changed()) <= records


def test_the_event_loop_gets_its_turn() -> None:
    rows = cluster(2000)
    zone = ClusterZone(Rules())
    steps, last = 0, 0
    for _ in zone.apply({row.key: (None, row) for row in rows}, now=NOW, slice_rows=50):
        assert zone.work - last <= 50 * 32
        steps, last = steps + 1, zone.work
    assert steps >= 2000 // 50
    # all tasks of a framework that gets another name
    steps = sum(1 for _ in zone.apply({FRAMEWORK.key: (None, FrameworkRow("F", "new"))}, now=NOW))
    assert steps >= 2000 // 200
    # tasks with very many ports count for more than one
    wide = {f"task/F/w{n}": (None, task(f"w{n}", ports=((1, 1000),))) for n in range(4)}
    assert sum(1 for _ in zone.apply(wide, now=NOW)) >= 2


# -- whatever came before --------------------------------------------------------------------------

NAMES = ("a", "b.a", "A_b", "a-b", "slave", "é", "x" * 60)
ADDRESS = st.sampled_from(("10.0.0.1", "10.0.0.2", "fd00::1", "host1", "host2", ""))
AGENTS = st.builds(
    AgentRow, st.sampled_from(("c-S0", "c-S1")), ADDRESS, ADDRESS, st.sampled_from((5051, 70_000))
)
FRAMEWORKS = st.builds(
    FrameworkRow, st.sampled_from("FG"), st.sampled_from(NAMES), ADDRESS,
    st.sampled_from(("", "s@10.0.0.1:80", "s@host1:90")),
)  # fmt: skip
TASKS = st.builds(
    TaskRow, st.sampled_from(("t1", "t2", "t3")), st.sampled_from(NAMES), st.sampled_from("FG"),
    st.sampled_from(("c-S0", "c-S1")), st.sampled_from(("TASK_RUNNING", "TASK_STAGING")),
    st.lists(
        st.builds(NetworkRow, st.just(""), st.tuples(ADDRESS), st.just(((1, 2, "tcp"),))),
        max_size=2,
    ).map(tuple),
    st.just(()), st.sampled_from(((), ((80, 81),), ((80, 80), (70_000, 70_000)))),
    st.one_of(st.none(), st.sampled_from(NAMES)),
    st.lists(
        st.builds(PortRow, st.sampled_from((80, 81, -1)), st.sampled_from(("", "a", "p" * 63))),
        max_size=2,
    ).map(tuple),
    st.sampled_from((None, True, False)),
)  # fmt: skip
MASTER_ROWS = st.builds(
    MasterRow, st.sampled_from("mn"), st.just("h"), ADDRESS, st.just(5050), st.booleans()
)
LISTED = st.lists(st.sampled_from(("10.0.0.1", "10.0.0.2", "fd00::1")), max_size=3)
HOSTS = st.dictionaries(st.sampled_from(("host1", "host2")), LISTED)
ROWS = st.lists(
    st.one_of(AGENTS, FRAMEWORKS, TASKS, TASKS, TASKS, MASTER_ROWS,
              st.sampled_from(("agent/c-S0", "framework/F", "task/F/t1", "task/G/t2", "master/m"))),
    max_size=6,
)  # fmt: skip
STEPS = st.lists(
    st.one_of(
        ROWS.map(lambda rows: ("rows", rows)),
        LISTED.map(lambda masters: ("masters", masters)),
        HOSTS.map(lambda hosts: ("hosts", hosts)),
    ),
    max_size=10,
)
ALL_RULES = st.builds(
    Rules, dcos_branch=st.booleans(), slave_discovery_ports=st.booleans(),
    healthy_only=st.booleans(), dcos_zones=st.booleans(), reverse=st.booleans(),
    ip_sources=st.sampled_from((("netinfo", "host"), ("host", "netinfo"))),
    own_addresses=st.sampled_from(((), (ip("10.0.0.1"),))),
)  # fmt: skip


def packed(texts: Sequence[str]) -> list[Address]:
    return [ip(text) for text in texts]


def answers(zone: ClusterZone) -> dict[str, object]:
    """What each name answers, with the addresses that its services lead to."""
    found: dict[str, set[object]] = {}
    for name, kind, value in everything(zone.records):
        extra: tuple[object, ...] = ()
        if isinstance(value, tuple):
            extra = tuple(tuple(zone.records.values(value[0], one)) for one in (A, AAAA))
        found.setdefault(name, set()).add((kind, value, extra))
    return dict(found)


@given(ALL_RULES, STEPS, st.integers(1, 3))
def test_incremental_equals_rebuilt(
    rules: Rules, steps: list[tuple[str, object]], slice_rows: int
) -> None:
    zone = ClusterZone(rules)
    table: dict[str, Row] = {}
    masters: list[str] = []
    hosts: Mapping[str, list[str]] = {}
    before = answers(zone)
    zone.records.take_changed()
    for what, told in steps:
        match what, told:
            case "masters", list():
                masters = told
                zone.set_masters(packed(masters), now=NOW)
            case "hosts", dict():
                hosts = told
                zone.set_hosts({name: packed(some) for name, some in hosts.items()}, now=NOW)
            case "rows", list():
                changed: dict[str, Row | None] = {
                    row if isinstance(row, str) else row.key: None if isinstance(row, str) else row
                    for row in told
                }
                rows = {key: (table.get(key), row) for key, row in changed.items()}
                rows = {key: both for key, both in rows.items() if both != (None, None)}
                for key, (_, row) in rows.items():
                    table.pop(key, None)
                    if row is not None:
                        table[key] = row
                for _ in zone.apply(rows, now=NOW, slice_rows=slice_rows):
                    pass
        after = answers(zone)
        differ = {
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        }
        assert differ <= zone.records.take_changed()
        before = after
    rebuilt = zone_of(table.values(), rules, masters, hosts)
    assert everything(zone.records) == everything(rebuilt.records)
    assert +Counter(zone.records.counts) == +Counter(rebuilt.records.counts)
    assert zone.skipped == rebuilt.skipped
    assert all(count > 0 for count in zone.skipped.values())
    assert zone.hosts_wanted() == rebuilt.hosts_wanted()
    for name in zone.records.names():
        if zone.records.kinds(name):
            explained = zone.explain(name)
            assert all(one.givers for one in explained.records), name
    # nothing is left of what has gone
    apply(zone, {key: (row, None) for key, row in table.items()})
    zone.set_masters([], now=NOW)
    assert everything(zone.records) == everything(ClusterZone(rules).records)
    assert [*zone.tasks, *zone.agents, *zone.frameworks] == []
    assert (zone.skipped, zone.hosts_wanted()) == (Counter(), set())


def test_a_slice_may_be_interrupted_by_other_changes() -> None:
    """Each task knows what its records were made from, also while others wait for their turn."""
    hosts = {"agent0": ["10.0.0.1"]}
    rows: list[Row] = [AgentRow("c-S0", "agent0"), FRAMEWORK, *(task(f"t{n}") for n in range(9))]
    zone = zone_of(rows, hosts=hosts)
    steps = zone.apply(
        {FRAMEWORK.key: (None, FrameworkRow("F", "new", "10.0.0.1"))}, now=NOW, slice_rows=4
    )
    next(steps)
    zone.set_hosts({"agent0": [ip("10.0.0.2")]}, now=NOW)
    zone.set_masters([ip("10.0.0.3")], now=NOW)
    assert len(list(steps)) >= 1
    rows[1] = FrameworkRow("F", "new", "10.0.0.1")
    rebuilt = zone_of(rows, hosts={"agent0": ["10.0.0.2"]}, masters=["10.0.0.3"])
    assert everything(zone.records) == everything(rebuilt.records)


# -- who gives a record ----------------------------------------------------------------------------


def test_who_gives_a_record_is_told() -> None:
    leader = MasterRow("m1", "master1", "10.0.0.2", leads=True)
    web = task("web", networks=(NetworkRow("", ("9.0.0.1",)),), discovery_name="Web.shop",
               discovery_ports=(PortRow(80, "", "tcp"),))  # fmt: skip
    rules = Rules(own_addresses=(ip("10.0.0.5"),), dcos_zones=True)
    zone = zone_of([leader, AGENT, FRAMEWORK, web, task("db")], rules, ["10.0.0.3"])
    put(zone, task("db", framework="F", healthy=False), now=NOW + 5)

    def givers(name: str) -> dict[object, tuple[Giver, ...]]:
        explained = zone.explain(name)
        assert explained.name == name
        assert explained.changed == (0.0 if name == "ns1.mesos" else NOW)
        return {one.value: one.givers for one in explained.records}

    of_web = Giver("task", "web", "web", "marathon", "c-S0", "netinfo")
    on_agent = Giver("task", "web", "web", "marathon", "c-S0", "host")
    assert givers("web-shop.marathon.mesos") == {ip("9.0.0.1"): (of_web,)}
    assert givers("web-shop.marathon.slave.mesos") == {ip("10.0.0.11"): (on_agent,)}
    ((service,),) = givers("_web-shop._tcp.marathon.mesos").values()
    assert (service.id, service.source) == ("web", "")
    assert givers("slave.mesos") == {ip("10.0.0.11"): (Giver("agent", "c-S0", "a0"),)}
    assert givers("marathon.mesos") == {ip("10.0.0.1"): (Giver("framework", "F", "marathon"),)}
    assert givers("ns1.mesos") == {ip("10.0.0.5"): (Giver("own"),)}
    assert givers("master.mesos") == {
        ip("10.0.0.2"): (Giver("master", "m1", "master1"),),
        ip("10.0.0.3"): (Giver("master", "", "10.0.0.3"),),
    }
    assert givers("web-shop.marathon.agentip.dcos.thisdcos.directory") == {
        ip("10.0.0.11"): (on_agent,)
    }
    assert givers("web-shop.marathon.autoip.dcos.thisdcos.directory") == {ip("9.0.0.1"): (of_web,)}
    assert givers("1.0.0.9.in-addr.arpa").popitem()[1] == (of_web,)
    assert givers("2.0.0.10.in-addr.arpa") == {"master1.mesos": (Giver("master", "m1", "master1"),)}
    assert zone.explain("db.marathon.mesos").changed == NOW
    unknown = zone.explain("nobody.mesos")
    assert (unknown.changed, unknown.records) == (None, ())
    assert zone.explain("1.0.0.9.in-addr.arpa").records[0].type == PTR
