"""The table of services is what the rows say, however they came."""

from collections.abc import Callable, Iterable, Mapping, Sized
from functools import partial
from itertools import permutations
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cairn_core.clusterview.view import Changes, ClusterView, Snapshot
from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    NetworkRow,
    PortRow,
    Row,
    TaskRow,
    VipRow,
)
from cairn_l4lb import table
from cairn_l4lb.literals import Guard
from cairn_l4lb.model import Backend, Options, Service, Vip
from cairn_l4lb.table import Table, TableChange, TableProblem
from cairn_l4lb.vips import TaskVips, task_backends

LINGER_S = 60.0
WEB = Vip("tcp", "11.0.0.1", 80)


def task(one: str, *vips: str, agent: str = "a1", number: int = 31000, **fields: Any) -> TaskRow:
    labels = tuple((f"VIP_{n}", value) for n, value in enumerate(vips))
    labels += tuple((key, value) for key, value in fields.pop("labels", {}).items())
    if scope := fields.pop("scope", ""):
        labels += (("network-scope", scope),)
    port = PortRow(number, "http", fields.pop("protocol", "tcp"), labels)
    told = {"state": "TASK_RUNNING", "discovery_ports": (port,)} | fields
    return TaskRow(one, "web", "f", agent, **told)


def at(address: str) -> NetworkRow:
    """What a container reports."""
    return NetworkRow("dcos", (address,))


FRAMEWORK = FrameworkRow("f", "marathon")
A1, A2 = AgentRow("a1", "h1", "10.0.0.1"), AgentRow("a2", "h2", "10.0.0.2")
VIP_ROW = VipRow("web.marathon", "11.0.0.1", "fd01:c::1")
BASE: list[Row] = [FRAMEWORK, A1, A2, VIP_ROW]


class Cluster:
    """A view, the table of it, and what the table said so far taken together."""

    def __init__(self, *rows: Row, **settings: Any) -> None:
        self.view = ClusterView()
        self.table = Table(**{"linger_s": LINGER_S} | settings)
        self.services: dict[Vip, Service] = {}
        self.names: dict[str, tuple[str, str]] = {}
        self.now = 0.0
        if rows:
            self.put(*rows)

    def put(self, *rows: Row) -> TableChange:
        return self.apply({row.key: row for row in rows})

    def drop(self, *rows: Row) -> TableChange:
        return self.apply({row.key: None for row in rows})

    def apply(self, rows: Mapping[str, Row | None]) -> TableChange:
        changes = self.view.apply(rows)
        return self.took(self.table.apply(changes, self.now) if changes else TableChange())

    def took(self, change: TableChange) -> TableChange:
        """What is told is exactly what changed."""
        assert not change.changed.keys() & change.gone
        assert change.gone <= self.services.keys()
        for vip, service in change.changed.items():
            assert service.vip == vip
            assert self.services.get(vip) != service
        self.services = {v: s for v, s in self.services.items() if v not in change.gone}
        self.services |= change.changed
        assert self.services == self.table.services
        assert change.names == (self.table.names() != self.names)
        self.names = self.table.names()
        return change


def shown(services: Mapping[Vip, Service]) -> dict[str, list[str]]:
    return {
        str(vip): [
            one.text + ("" if one.weight == 1 else f" weight {one.weight}")
            for one in service.backends
        ]
        for vip, service in sorted(services.items())
    }


# -- what is served --------------------------------------------------------------------------------


def test_a_named_vip_has_the_address_of_the_master_and_the_backends_of_the_tasks() -> None:
    cluster = Cluster()
    change = cluster.put(*BASE, task("t2", "/web:80", agent="a2"), task("t1", "web:80"))
    backends = (
        Backend("10.0.0.1", 31000, 1, "t1", "a1", "10.0.0.1"),
        Backend("10.0.0.2", 31000, 1, "t2", "a2", "10.0.0.2"),
    )
    assert change.changed == {WEB: Service(WEB, "web.marathon", backends)}
    assert change.names
    assert cluster.names == {"web.marathon": ("11.0.0.1", "")}
    assert cluster.table.problems() == []


def test_a_name_may_have_several_ports_protocols_and_families() -> None:
    both = task("t2", "web:53", protocol="tcp,udp")
    inside = PortRow(80, labels=(("VIP_0", "web:80"), ("network-scope", "container")))
    six = task("t3", networks=(NetworkRow("n", ("fd01:b::3",)),), discovery_ports=(inside,))
    cluster = Cluster(*BASE, task("t1", "web:80", "web:443"), both, six)
    assert shown(cluster.services) == {
        "tcp/11.0.0.1:53": ["10.0.0.1:31000"],
        "tcp/11.0.0.1:80": ["10.0.0.1:31000"],
        "tcp/11.0.0.1:443": ["10.0.0.1:31000"],
        "tcp/[fd01:c::1]:80": ["[fd01:b::3]:80"],
        "udp/11.0.0.1:53": ["10.0.0.1:31000"],
    }
    assert cluster.names == {"web.marathon": ("11.0.0.1", "fd01:c::1")}


def test_one_address_and_port_of_several_tasks_is_one_backend() -> None:
    killed = task("t0", "web:80", state="TASK_KILLING")
    tasks = [killed, task("t1", "web:80"), task("t2", "web:80")]
    for order in permutations(tasks):
        cluster = Cluster(*BASE)
        for one in order:
            cluster.put(one)
        [backend] = cluster.services[WEB].backends
        assert (backend.task_id, backend.weight) == ("t1", 1)
        cluster.drop(*tasks[1:])
        [backend] = cluster.services[WEB].backends
        assert (backend.task_id, backend.weight) == ("t0", 0)


def test_backends_of_agents_that_are_not_there_are_not_reachable() -> None:
    cluster = Cluster(*BASE, task("t1", "web:80"))
    cluster.put(replace(A1, active=False))
    assert [one.reachable for one in cluster.services[WEB].backends] == [False]
    cluster.put(A1)
    assert [one.reachable for one in cluster.services[WEB].backends] == [True]
    cluster.put(replace(A1, recovering=True))
    assert [one.reachable for one in cluster.services[WEB].backends] == [False]


def test_a_task_whose_agent_or_framework_comes_later_is_served_then() -> None:
    cluster = Cluster(VIP_ROW, task("t1", "web:80"))
    assert cluster.table.problems() == [
        TableProblem("label 'VIP_0': agent 'a1' is not known", task="t1")
    ]
    cluster.put(A1)
    assert [one.task for one in cluster.table.problems()] == ["t1"]
    change = cluster.put(FRAMEWORK)
    assert shown(change.changed) == {"tcp/11.0.0.1:80": ["10.0.0.1:31000"]}
    assert cluster.table.problems() == []
    assert not cluster.put(replace(FRAMEWORK, active=False, hostname="elsewhere"))


def test_another_name_of_the_framework_is_another_name_of_the_vip() -> None:
    cluster = Cluster(*BASE, VipRow("web.other", "11.0.0.9"), task("t1", "web:80"))
    cluster.put(replace(FRAMEWORK, name="other"))
    assert shown(cluster.services) == {
        "tcp/11.0.0.1:80": [],
        "tcp/11.0.0.9:80": ["10.0.0.1:31000"],
    }


def test_options_are_merged_and_a_conflict_is_told() -> None:
    cluster = Cluster(
        *BASE,
        task("t1", "web:80", labels={"L4LB_0_POLICY": "maglev"}),
        task("t2", "web:80", agent="a2", labels={"L4LB_0_POLICY": "random", "L4LB_0_WEIGHT": "3"}),
    )
    assert cluster.services[WEB].options == Options(policy="maglev")
    assert [one.weight for one in cluster.services[WEB].backends] == [1, 3]
    [problem] = cluster.table.problems()
    assert problem.vip == "tcp/web.marathon:80"
    assert problem.reason.startswith("tasks differ in policy")
    cluster.put(task("t1", "web:80", labels={"L4LB_0_POLICY": "random"}))
    assert cluster.table.problems() == []


# -- addresses -------------------------------------------------------------------------------------


def test_a_name_without_an_address_waits_and_says_so() -> None:
    cluster = Cluster(FRAMEWORK, A1, task("t1", "web:80", "1.2.3.4:80"))
    assert shown(cluster.services) == {"tcp/1.2.3.4:80": ["10.0.0.1:31000"]}
    assert cluster.table.problems() == [
        TableProblem("no IPv4 address yet", vip="tcp/web.marathon:80")
    ]
    assert cluster.table.unnamed() == ["web.marathon"]
    change = cluster.put(VIP_ROW)
    assert list(change.changed) == [WEB]
    assert cluster.table.unnamed() == []
    assert cluster.table.problems() == []
    change = cluster.put(replace(VIP_ROW, ipv4="11.0.0.8"))
    assert change.gone == {WEB}
    assert cluster.names == {"web.marathon": ("11.0.0.8", "")}
    assert cluster.drop(VIP_ROW).gone == {Vip("tcp", "11.0.0.8", 80)}


def test_addresses_of_the_node_serve_where_no_master_gives_any() -> None:
    cluster = Cluster(FRAMEWORK, A1, task("t1", "web:80"))
    chosen = {"web.marathon": ("11.7.7.7", ""), "other.marathon": ("11.0.0.1", "")}
    change = cluster.took(cluster.table.choose(chosen, 0.0))
    assert list(change.changed) == [Vip("tcp", "11.7.7.7", 80)]
    assert not cluster.took(cluster.table.choose(chosen, 0.0))
    change = cluster.took(cluster.table.choose({}, 0.0))
    assert change.gone == {Vip("tcp", "11.7.7.7", 80)}
    cluster.took(cluster.table.choose(chosen, 0.0))
    # what the master recorded comes first, but not before nobody else has it
    cluster.put(VIP_ROW)
    assert "other.marathon" in cluster.table.problems()[0].reason
    cluster.took(cluster.table.choose({}, 0.0))
    assert list(cluster.services) == [WEB]


def test_an_address_that_was_chosen_and_is_not_used_is_free() -> None:
    cluster = Cluster(*BASE, task("t1", "web:80", "11.7.7.7:80"))
    cluster.took(cluster.table.choose({"web.marathon": ("11.7.7.7", "")}, 0.0))
    cluster.put(task("t2", "11.7.7.7:81"))
    assert list(shown(cluster.services)) == [
        "tcp/11.0.0.1:80",
        "tcp/11.7.7.7:80",
        "tcp/11.7.7.7:81",
    ]
    cluster.drop(VIP_ROW)
    # lost its literal VIPs, which linger no longer either
    assert shown(cluster.services) == {"tcp/11.7.7.7:80": ["10.0.0.1:31000"]}
    assert cluster.services[Vip("tcp", "11.7.7.7", 80)].name == "web.marathon"


def test_an_address_of_the_wrong_family_is_none() -> None:
    cluster = Cluster(FRAMEWORK, A1, task("t1", "web:80"))
    for row in (VipRow("web.marathon", "fd01:c::1", "11.0.0.1"), VipRow("web.marathon", "x", "y")):
        cluster.put(row)
        assert cluster.services == {}
        assert [one.reason for one in cluster.table.problems()] == ["no IPv4 address yet"]
    cluster.put(VIP_ROW)
    assert list(cluster.services) == [WEB]


def test_two_names_may_change_their_addresses() -> None:
    db = VipRow("db.marathon", "11.0.0.2")
    tasks = [task("t1", "web:80"), task("t2", "db:80", number=31002)]
    cluster = Cluster(*BASE, db, *tasks)
    change = cluster.put(replace(VIP_ROW, ipv4="11.0.0.2"), replace(db, ipv4="11.0.0.1"))
    assert not change.gone
    assert shown(cluster.services) == {
        "tcp/11.0.0.1:80": ["10.0.0.1:31002"],
        "tcp/11.0.0.2:80": ["10.0.0.1:31000"],
    }


def test_an_address_is_that_of_one_name() -> None:
    db = VipRow("db.marathon", "11.0.0.1")
    cluster = Cluster(*BASE, db, task("t1", "web:80"), task("t2", "db:80", number=31002))
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": ["10.0.0.1:31002"]}
    [problem] = cluster.table.problems()
    assert problem == TableProblem(
        "address 11.0.0.1 is that of the name db.marathon", vip="tcp/web.marathon:80"
    )
    cluster.drop(db)
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": ["10.0.0.1:31000"]}


def test_a_literal_vip_is_neither_that_of_a_name_nor_that_of_a_host() -> None:
    values = ["11.0.0.1:99", "10.0.0.2:80", "10.0.0.9:80", "127.0.0.1:80", "1.2.3.4:80"]
    cluster = Cluster(*BASE, task("t1", *values))
    assert list(shown(cluster.services)) == ["tcp/1.2.3.4:80", "tcp/10.0.0.9:80"]
    assert sorted(one.reason for one in cluster.table.problems()) == [
        "address 10.0.0.2 is that of a host of the cluster",
        "address 11.0.0.1 is that of the name web.marathon",
        "address 127.0.0.1 is loopback (127.0.0.0/8)",
    ]
    # what was free may be taken later, and the other way round
    change = cluster.put(MasterRow("m", "m", "10.0.0.9"))
    assert change.gone == {Vip("tcp", "10.0.0.9", 80)}
    cluster.drop(A2, VIP_ROW)
    assert list(shown(cluster.services)) == [
        "tcp/1.2.3.4:80",
        "tcp/10.0.0.2:80",
        "tcp/11.0.0.1:99",
    ]


def test_what_is_protected_on_this_host_is_refused() -> None:
    guard = Guard(["198.51.100.9"], ["203.0.113.0/24"])
    cluster = Cluster(*BASE, task("t", "203.0.113.80:80", "198.51.100.9:80"), guard=guard)
    assert not cluster.services
    assert len(cluster.table.problems()) == 2
    assert len(cluster.table.problems(limit=1)) == 1


def test_a_link_of_this_host_takes_its_addresses_from_vips_while_it_is_there() -> None:
    named = VipRow("db.marathon", "11.5.0.1", "")
    cluster = Cluster(
        *BASE, named, task("t", "10.77.0.1:80", "10.77.0.9:80", "1.2.3.4:80", "db:80")
    )
    everything = cluster.services
    assert len(everything) == 4
    links = ["10.77.0.1/24", "11.5.0.0/16"]
    change = cluster.took(cluster.table.set_own(["10.77.0.1"], links, 0.0))
    assert not change.changed
    assert list(shown(cluster.services)) == ["tcp/1.2.3.4:80"]
    assert sorted(one.reason for one in cluster.table.problems()) == [
        "address 10.77.0.1 is that of this host",
        "address 10.77.0.9 is in a network of this host (10.77.0.0/24)",
        "address 11.5.0.1 is in a network of this host (11.5.0.0/16)",
    ]
    assert not cluster.took(cluster.table.set_own(["10.77.0.1"], links, 0.0))
    cluster.took(cluster.table.set_own([], [], 0.0))
    assert cluster.services == everything
    assert not cluster.table.problems()


def test_containers_of_this_host_are_reached_directly_once_its_address_is_known() -> None:
    mapped = NetworkRow("dcos", ("9.0.0.7",), ((31000, 80, "tcp"),))
    row = task("t", "web:80", scope="host", networks=(mapped,))
    cluster = Cluster(*BASE, row)
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": ["10.0.0.1:31000"]}
    cluster.took(cluster.table.set_own([A1.ip], [], 0.0))
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": ["9.0.0.7:80"]}


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.0.0.2", "address 10.0.0.2 is that of a host of the cluster"),
        ("10.0.0.9", "address 10.0.0.9 is that of a host of the cluster"),
        ("10.7.0.1", "address 10.7.0.1 is that of this host"),
        ("11.0.0.1", "address 11.0.0.1 is that of the name web.marathon"),
        ("12.0.0.7", "address 12.0.0.7 is one of named VIPs"),
    ],
)
def test_a_container_that_says_it_has_the_address_of_another_is_no_backend(
    address: str, reason: str
) -> None:
    guard = Guard(["10.7.0.1"], named=[("12.0.0.0", "12.0.0.255")])
    bad = task("bad", "web:80", number=5051, scope="container", networks=(at(address),))
    good = task("good", "web:80", number=80, scope="container", networks=(at("9.0.0.2"),))
    cluster = Cluster(*BASE, MasterRow("m", "m", "10.0.0.9"), bad, good, guard=guard)
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": ["9.0.0.2:80"]}
    assert [one.reason for one in cluster.table.problems()] == [f"task 'bad': {reason}"]
    cluster.drop(good)
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": []}


def test_an_address_of_a_container_may_be_that_of_a_host_later() -> None:
    row = task("t", "web:80", number=80, scope="container", networks=(at("10.0.0.2"),))
    cluster = Cluster(FRAMEWORK, A1, VIP_ROW, row)
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": ["10.0.0.2:80"]}
    cluster.put(A2)
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": []}
    cluster.drop(A2)
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": ["10.0.0.2:80"]}
    cluster.put(VipRow("db.other", "10.0.0.2", ""))
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": []}


def test_one_framework_does_not_take_all_vips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_VIPS", 40)
    monkeypatch.setattr(table, "MAX_VIPS_OF_FRAMEWORK", 8)
    greedy = [task(f"t{n}", *(f"1.2.{n}.{m}:80" for m in range(6))) for n in range(3)]
    other = replace(task("t9", "1.2.9.9:80"), framework_id="g")
    cluster = Cluster(*BASE, FrameworkRow("g", "other"), *greedy, other)
    assert len(cluster.services) == 9
    assert Vip("tcp", "1.2.9.9", 80) in cluster.services
    problems = cluster.table.problems()
    assert [one.task for one in problems] == ["t1", "t2"]
    assert problems[0].reason == "framework 'f' has 6 VIPs already: 4 of this task are left out"
    assert problems[1].reason == "framework 'f' has 8 VIPs already: 6 of this task are left out"
    # another backend of what is there needs no room, and what goes makes some
    cluster.put(task("t3", "1.2.9.9:80", number=31001))
    assert len(cluster.services[Vip("tcp", "1.2.9.9", 80)].backends) == 2
    cluster.drop(greedy[0])
    cluster.now += LINGER_S + 1
    cluster.took(cluster.table.expire(cluster.now))
    cluster.took(cluster.table.expire(cluster.now))
    assert len(cluster.services) == 9
    cluster.drop(greedy[1])
    for _ in range(2):
        cluster.now += LINGER_S + 1
        cluster.took(cluster.table.expire(cluster.now))
        cluster.took(cluster.table.expire(cluster.now))
    assert len(cluster.services) == 7
    assert not cluster.table.problems()


def test_problems_are_told_in_words_while_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_PROBLEMS", 2)
    cluster = Cluster(*BASE, *(task(f"t{n}", "web:http") for n in range(4)))
    assert cluster.table.problem_count == 4
    reasons = [one.reason for one in cluster.table.problems(limit=10)]
    assert sum("not told" in one for one in reasons) == 2
    cluster.put(*(task(f"t{n}", "web:other") for n in range(4)))
    assert sum("not told" in one.reason for one in cluster.table.problems(limit=10)) == 2
    cluster.put(*(task(f"t{n}", "web:80") for n in range(4)))
    assert not cluster.table.problems()


# -- the end of a VIP ------------------------------------------------------------------------------


def test_a_vip_without_backends_refuses_for_a_while() -> None:
    row = task("t1", "web:80", labels={"L4LB_0_POLICY": "maglev"})
    cluster = Cluster(*BASE, row)
    cluster.now = 100.0
    change = cluster.drop(row)
    assert change.changed == {WEB: Service(WEB, "web.marathon", (), Options(policy="maglev"))}
    assert not cluster.took(cluster.table.expire(100.0 + LINGER_S - 1))
    change = cluster.took(cluster.table.expire(100.0 + LINGER_S))
    assert change.gone == {WEB}
    assert change.names
    assert not cluster.took(cluster.table.expire(1000.0))


def test_a_vip_that_comes_back_stays() -> None:
    row = task("t1", "web:80")
    cluster = Cluster(*BASE, row)
    cluster.drop(row)
    cluster.now = 50.0
    assert not cluster.put(row).names
    assert not cluster.took(cluster.table.expire(500.0))
    cluster.now = 500.0
    cluster.drop(row)
    assert not cluster.took(cluster.table.expire(500.0 + LINGER_S - 1))
    assert cluster.took(cluster.table.expire(500.0 + LINGER_S)).gone == {WEB}


def test_a_vip_goes_at_once_when_it_may_not_linger() -> None:
    row = task("t1", "web:80", "1.2.3.4:80")
    cluster = Cluster(*BASE, row, linger_s=0.0)
    assert cluster.drop(row).gone == {WEB, Vip("tcp", "1.2.3.4", 80)}
    cluster = Cluster(*BASE, row)
    cluster.drop(row)
    assert cluster.drop(VIP_ROW).gone == {WEB}
    assert cluster.put(MasterRow("m", "m", "1.2.3.4")).gone == {Vip("tcp", "1.2.3.4", 80)}


def test_tasks_of_an_agent_that_a_new_master_awaits_stay() -> None:
    cluster = Cluster(*BASE, task("t1", "web:80"), task("t2", "web:80", agent="a2"))
    after: dict[str, Row | None] = dict.fromkeys(key for key, _ in cluster.view.snapshot.rows())
    after |= {FRAMEWORK.key: FRAMEWORK, VIP_ROW.key: VIP_ROW, A2.key: A2}
    after |= {A1.key: replace(A1, recovering=True)}
    changes = cluster.view.apply(after, new_epoch=True)
    assert changes is not None
    cluster.took(cluster.table.apply(changes, 0.0))
    assert [(one.task_id, one.reachable) for one in cluster.services[WEB].backends] == [
        ("t1", False)
    ]


# -- overrides and drains --------------------------------------------------------------------------


def test_an_agent_speaks_for_itself() -> None:
    cluster = Cluster(
        *BASE,
        task("t1", "web:80"),
        task("t2", "web:80", number=2),
        task("t3", "web:80", agent="a2"),
    )
    cluster.put(replace(A1, active=False))
    rows: list[Row] = [task("t2", "web:80", number=2), task("t4", "web:80", number=4)]
    cluster.took(cluster.table.override("a1", rows, 0.0))
    assert [(one.task_id, one.reachable) for one in cluster.services[WEB].backends] == [
        ("t2", True),
        ("t4", True),
        ("t3", True),
    ]
    assert cluster.table.overridden == ["a1"]
    # the view goes on, and counts again when the agent is silent
    cluster.drop(task("t2"))
    assert [one.task_id for one in cluster.services[WEB].backends] == ["t2", "t4", "t3"]
    cluster.took(cluster.table.override("a1", None, 0.0))
    assert [(one.task_id, one.reachable) for one in cluster.services[WEB].backends] == [
        ("t1", False),
        ("t3", True),
    ]
    assert not cluster.took(cluster.table.override("a1", None, 0.0))


def test_an_agent_brings_what_the_view_does_not_know() -> None:
    cluster = Cluster(VIP_ROW)
    rows: list[Row] = [A1, FRAMEWORK, task("t1", "web:80"), task("t2", "web:80", agent="a2")]
    cluster.took(cluster.table.override("a1", rows, 0.0))
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": ["10.0.0.1:31000"]}
    cluster.took(cluster.table.override("a1", [], 0.0))
    assert shown(cluster.services) == {"tcp/11.0.0.1:80": []}


def test_what_an_agent_says_follows_its_framework_and_its_own_row() -> None:
    cluster = Cluster(*BASE, VipRow("web.other", "11.0.0.9"))
    cluster.took(cluster.table.override("a1", [task("t1", "web:80")], 0.0))
    cluster.put(replace(FRAMEWORK, name="other"))
    cluster.took(cluster.table.expire(LINGER_S))
    assert shown(cluster.services) == {"tcp/11.0.0.9:80": ["10.0.0.1:31000"]}
    cluster.put(replace(A1, ip="10.0.0.5"))
    assert shown(cluster.services) == {"tcp/11.0.0.9:80": ["10.0.0.5:31000"]}


@pytest.mark.parametrize("target", ["10.0.0.1:31000", "10.0.0.1", "t1", "a1"])
def test_what_is_drained_takes_no_new_connections(target: str) -> None:
    cluster = Cluster(*BASE, task("t1", "web:80"), task("t2", "web:80", agent="a2"))
    change = cluster.took(cluster.table.drain([target], 0.0))
    expected = {"tcp/11.0.0.1:80": ["10.0.0.1:31000 weight 0", "10.0.0.2:31000"]}
    assert shown(change.changed) == expected
    assert not cluster.took(cluster.table.drain([target, "none"], 0.0))
    # what comes later is drained too
    cluster.drop(task("t1"))
    cluster.put(task("t1", "web:80"))
    assert shown(cluster.services) == expected
    cluster.took(cluster.table.drain([], 0.0))
    assert [one.weight for one in cluster.services[WEB].backends] == [1, 1]


# -- changes ---------------------------------------------------------------------------------------


def test_a_whole_snapshot_and_changes_that_were_missed_are_compared() -> None:
    view, fresh = ClusterView(), Table()
    first = view.apply({row.key: row for row in [*BASE, task("t1", "web:80")]})
    second = view.apply({task("t2").key: task("t2", "web:80", agent="a2")})
    third = view.apply({task("t1").key: None})
    assert first is not None
    assert second is not None
    assert third is not None
    fresh.apply(first.after, 0.0)
    change = fresh.apply(third, 0.0)
    assert shown(change.changed) == {"tcp/11.0.0.1:80": ["10.0.0.2:31000"]}
    assert not fresh.apply(third.after, 0.0)
    assert fresh.apply(Snapshot(), 0.0).gone == {WEB}


def test_a_change_that_says_nothing_new_changes_nothing() -> None:
    cluster = Cluster(*BASE, task("t1", "web:80"))
    row = cluster.view.snapshot.tasks[task("t1").key]
    assert not cluster.put(replace(row, name="other"))
    assert not cluster.put(task("t9"), AgentRow("a9", "h9", "10.0.0.99"))
    snapshot = cluster.view.snapshot
    assert not cluster.table.apply(Changes(snapshot, snapshot, {}), 0.0)


def test_nothing_is_left_of_a_cluster_that_is_gone() -> None:
    cluster = Cluster(*BASE, task("t1", "web:80", "1.2.3.4:80", "9.0.0.1:80", "odd"))
    rows: list[Row] = [task("t2", "web:80", number=2)]
    cluster.took(cluster.table.override("a1", rows, 0.0))
    cluster.took(cluster.table.override("a1", None, 0.0))
    cluster.took(cluster.table.choose({"db.marathon": ("11.0.0.5", "")}, 0.0))
    cluster.took(cluster.table.choose({}, 0.0))
    cluster.took(cluster.table.apply(Snapshot(), 0.0))
    cluster.took(cluster.table.expire(LINGER_S))
    left = {name: what for name, what in vars(cluster.table).items() if isinstance(what, Sized)}
    assert {name: what for name, what in left.items() if len(what)} == {}


def test_a_change_costs_what_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counting(row: TaskRow, *others: Any) -> TaskVips:
        made.append(row.id)
        return task_backends(row, *others)

    monkeypatch.setattr(table, "task_backends", counting)
    vips = [VipRow(f"v{n}.marathon", f"11.0.1.{n}") for n in range(100)]
    tasks = [
        task(f"t{n}", f"v{n % 100}:80", agent=f"a{n % 2 + 1}", number=n + 1) for n in range(200)
    ]
    cluster = Cluster(*BASE, *vips, *tasks)
    assert len(made) == 200
    assert len(cluster.services) == 100
    for change, vips_changed in [
        (cluster.put(replace(tasks[7], healthy=False, health_checked=True)), 1),
        (cluster.put(replace(FRAMEWORK, active=False)), 0),
        (cluster.put(VipRow("v7.marathon", "11.0.2.7")), 1),
        (cluster.drop(tasks[107]), 1),
        (cluster.put(task("plain")), 0),
    ]:
        assert len(change.changed) == vips_changed
    assert made[200:] == ["t7"]
    cluster.put(replace(A1, zone="z"))
    assert len(made) == 201 + 100


services = st.builds(Service, st.sampled_from([WEB, Vip("udp", "1.2.3.4", 1)]), st.text(max_size=1))
changes = st.builds(
    lambda some, gone, names: TableChange(
        {one.vip: one for one in some}, {WEB} & gone - {one.vip for one in some}, names
    ),
    st.lists(services, max_size=2), st.sets(st.just(WEB)), st.booleans(),
)  # fmt: skip


@given(changes, changes)
def test_two_changes_are_one_after_the_other(first: TableChange, second: TableChange) -> None:
    def after(table: dict[Vip, Service], change: TableChange) -> dict[Vip, Service]:
        return {k: v for k, v in table.items() if k not in change.gone} | change.changed

    start = {WEB: Service(WEB, "old")}
    both = first.then(second)
    assert after(start, both) == after(after(start, first), second)
    assert not both.changed.keys() & both.gone
    assert bool(both) == bool(first) | bool(second) | bool(both.gone)


# -- any series is as good as a rebuild ------------------------------------------------------------

vip_values = st.sampled_from(
    ["web:80", "web:443", "/db:80", "11.0.0.2:80", "1.2.3.4:80", "10.0.0.2:80", "fd00::1:80", "x"]
)
task_rows = st.builds(
    lambda one, agent, framework, vips, number, protocol, state, options, own: TaskRow(
        f"t{one}", "app", framework, agent, state,
        networks=(NetworkRow("n", own),),
        discovery_ports=(
            PortRow(number, "p", protocol, (
                *((f"VIP_{n}", value) for n, value in enumerate(vips)), *options
            )),
        ),
    ),
    st.integers(1, 6), st.sampled_from(["a1", "a2"]), st.sampled_from(["f", "g"]),
    st.lists(vip_values, max_size=3), st.sampled_from([80, 81]),
    st.sampled_from(["tcp", "tcp,udp"]),
    st.sampled_from(["TASK_RUNNING", "TASK_KILLING", "TASK_STAGING"]),
    st.sampled_from([
        (), (("L4LB_POLICY", "maglev"),), (("network-scope", "container"),),
        (("L4LB_0_WEIGHT", "0"),),
    ]),
    st.sampled_from([("9.0.0.1", "fd01:b::1"), ("9.0.0.2",), ("10.0.0.2",), ("11.0.0.1",), ()]),
)  # fmt: skip
rows = st.one_of(
    task_rows,
    task_rows,
    st.builds(
        lambda one, ip, active: AgentRow(one, "h", ip, active=active),
        st.sampled_from(["a1", "a2"]),
        st.sampled_from(["10.0.0.1", "10.0.0.2", "1.2.3.4", "bad"]),
        st.booleans(),
    ),
    st.builds(FrameworkRow, st.sampled_from(["f", "g"]), st.sampled_from(["marathon", "other"])),
    st.builds(MasterRow, st.just("m"), st.just("m"), st.sampled_from(["10.0.0.9", "11.0.0.2"])),
    st.builds(
        VipRow,
        st.sampled_from(["web.marathon", "db.marathon", "web.other"]),
        st.sampled_from(["11.0.0.1", "11.0.0.2", "bad"]),
        st.sampled_from(["", "fd01:c::1"]),
    ),
)
addresses = st.dictionaries(
    st.sampled_from(["web.marathon", "db.other"]),
    st.sampled_from([("11.0.0.1", ""), ("11.0.0.3", "fd01:c::3")]),
)
steps = st.one_of(
    st.tuples(st.just("put"), st.lists(rows, min_size=1, max_size=4)),
    st.tuples(st.just("put"), st.lists(rows, min_size=1, max_size=4)),
    st.tuples(st.just("drop"), st.lists(rows, min_size=1, max_size=3)),
    st.tuples(
        st.just("override"),
        st.tuples(st.sampled_from(["a1", "a2"]), st.none() | st.lists(rows, max_size=3)),
    ),
    st.tuples(st.just("choose"), addresses),
    st.tuples(st.just("drain"), st.sets(st.sampled_from(["t1", "10.0.0.2", "9.0.0.1:80", "a1"]))),
    st.tuples(st.just("expire"), st.sampled_from([1.0, 40.0, 100.0])),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=25), st.randoms(use_true_random=False))
def test_any_series_ends_as_a_table_made_from_nothing(
    series: Iterable[tuple[str, Any]], rng: Random
) -> None:
    cluster = Cluster(*(BASE if rng.random() < 0.7 else []))
    overrides: dict[str, list[Row]] = {}
    chosen: dict[str, tuple[str, str]] = {}
    drained: set[str] = set()
    for kind, value in series:
        match kind:
            case "put":
                cluster.put(*value)
            case "drop":
                cluster.drop(*value)
            case "override":
                agent, told = value
                cluster.took(cluster.table.override(agent, told, cluster.now))
                overrides.pop(agent, None)
                if told is not None:
                    overrides[agent] = told
            case "choose":
                chosen = value
                cluster.took(cluster.table.choose(value, cluster.now))
            case "drain":
                drained = value
                cluster.took(cluster.table.drain(value, cluster.now))
            case _:
                cluster.now += value
                cluster.took(cluster.table.expire(cluster.now))

    fresh = Table()
    parts: list[Callable[[], TableChange]] = [
        partial(fresh.apply, cluster.view.snapshot, 0.0),
        partial(fresh.choose, chosen, 0.0),
        partial(fresh.drain, drained, 0.0),
        *(partial(fresh.override, agent, told, 0.0) for agent, told in overrides.items()),
    ]
    if len(overrides) < 2:  # two agents may contradict each other, and the order decides
        rng.shuffle(parts)
    for part in parts:
        part()
    fresh.expire(1e9)
    cluster.took(cluster.table.expire(1e9))
    assert cluster.services == fresh.services
    assert cluster.table.names() == fresh.names()
    assert sorted(cluster.table.problems()) == sorted(fresh.problems())
    assert cluster.table.unnamed() == fresh.unnamed()
