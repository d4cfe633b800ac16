"""Which names addresses lead back to."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, NetworkRow, Row, TaskRow
from cairn_dns.addresses import reverse_name
from cairn_dns.cluster_zone import ClusterZone
from cairn_dns.records import Rules
from cairn_dns.reverse import Reverse
from cairn_dns.testing import drop, everything, ip, put, zone_of
from cairn_dns.wire import PTR
from cairn_dns.zone import Record

ROWS: list[Row] = [
    AgentRow("c-S0", "a0", "10.0.0.11"),
    AgentRow("c-S1", "a1", "10.0.0.12"),
    FrameworkRow("F", "marathon", "10.0.0.1"),
    MasterRow("m", "h", "10.0.0.2", leads=True),
]


def task(name: str, *addresses: str, agent: str = "c-S0") -> TaskRow:
    return TaskRow(name, name, "F", agent, "TASK_RUNNING", (NetworkRow("n", addresses),))


def names(zone: ClusterZone) -> dict[str, str]:
    return {name: str(value) for name, kind, value in everything(zone.records) if kind == PTR}


def reverse(address: str) -> str:
    return reverse_name(ip(address))


MASTERS = {reverse("10.0.0.3"): "master0.mesos", reverse("10.0.0.2"): "master1.mesos"}


def test_an_address_leads_to_the_task_that_has_it_alone() -> None:
    web = task("web", "9.0.0.1", "fd00::1")
    zone = zone_of([*ROWS, web], masters=["10.0.0.3"])
    own = [reverse("9.0.0.1"), reverse("fd00::1")]
    (host,) = {value for name, value in names(zone).items() if name not in MASTERS}
    assert names(zone) == MASTERS | dict.fromkeys(own, host)
    assert host.startswith("web-")
    assert host.endswith("-s0.marathon.mesos")
    assert zone.records.values(host, 1) == [ip("9.0.0.1")]
    # shared by two, then no longer
    other = task("db", "9.0.0.1", agent="c-S1")
    put(zone, other)
    assert names(zone) == MASTERS | {reverse("fd00::1"): host}
    drop(zone, web)
    assert names(zone)[reverse("9.0.0.1")].startswith("db-")
    drop(zone, other)
    assert names(zone) == MASTERS


def test_addresses_of_agents_lead_nowhere() -> None:
    zone = zone_of([*ROWS, task("web"), task("odd", "10.0.0.12"), task("new", "10.0.0.13")])
    assert set(names(zone)) == {reverse("10.0.0.2"), reverse("10.0.0.13")}
    agent = AgentRow("c-S2", "a2", "10.0.0.13")
    put(zone, agent)
    assert set(names(zone)) == {reverse("10.0.0.2")}
    drop(zone, agent)
    assert set(names(zone)) == {reverse("10.0.0.2"), reverse("10.0.0.13")}


def test_masters_come_before_tasks() -> None:
    zone = zone_of([*ROWS, task("web", "10.0.0.2")])
    assert names(zone)[reverse("10.0.0.2")] == "master0.mesos"


def test_an_address_that_a_task_has_twice_is_its_own() -> None:
    zone = zone_of([*ROWS, task("web", "9.0.0.1", "9.0.0.1")])
    assert reverse("9.0.0.1") in names(zone)


def test_it_can_be_switched_off() -> None:
    assert names(zone_of([*ROWS, task("web", "9.0.0.1")], Rules(reverse=False))) == {}


STEP = st.tuples(
    st.sampled_from(("claim", "release", "agent", "no agent", "master")),
    st.integers(1, 3),
    st.sampled_from("ab"),
)


@given(st.lists(STEP, max_size=40))
def test_records_follow_the_claims(steps: list[tuple[str, int, str]]) -> None:
    made, shown = Reverse(), set[Record]()
    claims, agents, masters = Counter[tuple[bytes, str]](), Counter[bytes](), dict[bytes, str]()
    for what, number, host in steps:
        address = bytes([10, 0, 0, number])
        if what == "claim":
            made.claim(address, host)
            claims[address, host] += 1
        elif what == "release" and claims[address, host]:
            made.release(address, host)
            claims[address, host] -= 1
        elif what == "agent":
            made.add_agent(address)
            agents[address] += 1
        elif what == "no agent" and agents[address]:
            made.remove_agent(address)
            agents[address] -= 1
        elif what == "master":
            masters = {address: f"master.{host}"}
            made.set_masters(masters)
        remove, add = made.take()
        assert shown >= set(remove)
        shown = (shown - set(remove)) | set(add)
        expected = dict(masters)
        for (one, host), count in claims.items():
            total = sum(n for (other, _), n in claims.items() if other == one)
            if count == total == 1 and not agents[one] and one not in masters:
                expected[one] = host
        assert shown == {(reverse_name(one), PTR, name) for one, name in expected.items()}
        assert made.take() == ([], [])
