"""The zone of a small cluster is the one that Mesos-DNS makes of the same state."""

import ipaddress
from pathlib import Path

import pytest

from cairn_core.clusterview.state_json import BadState, parse_ranges, read_state, split_pid
from cairn_core.clusterview.view import ClusterView, Snapshot
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, NetworkRow, Row, TaskRow
from cairn_dns.records import Rules, Zone, generate, hosts_wanted, task_addresses


def ip_address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


STATE = (Path(__file__).parent / "state.json").read_bytes()
RULES = Rules(
    ip_sources=("netinfo", "docker", "mesos", "host"),
    masters=(ip_address("127.0.0.1"), ip_address("10.0.0.32")),
    own_addresses=(ip_address("127.0.0.1"),),
)

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


def snapshot(*rows: Row) -> Snapshot:
    view = ClusterView()
    view.replace(rows)
    return view.snapshot


def addresses(zone: Zone) -> dict[str, set[str]]:
    return {
        name: {
            str(ipaddress.ip_address(a)) for a in (*zone.a.get(name, {}), *zone.aaaa.get(name, {}))
        }
        for name in zone.a.keys() | zone.aaaa.keys()
    }


def test_the_zone_equals_that_of_the_original() -> None:
    master_id, rows = read_state(STATE)
    assert master_id == "m1"
    zone = generate(snapshot(*rows), RULES, {})
    assert addresses(zone) == expected(ADDRESSES)
    services = {
        name: {f"{target.removesuffix('.mesos')}:{port}" for target, port in found}
        for name, found in zone.srv.items()
    }
    assert services == expected(SERVICES)
    assert (len(zone.a), sum(map(len, zone.a.values()))) == (24, 25)
    assert (len(zone.aaaa), len(zone.srv)) == (9, 22)
    assert sum(map(len, zone.srv.values())) == 34


@pytest.mark.parametrize(
    ("masters", "leader", "numbered"),
    [
        (["0.0.0.8", "0.0.0.6", "0.0.0.7"], "0.0.0.6", ["0.0.0.8", "0.0.0.6", "0.0.0.7"]),
        (["0.0.0.8"], "0.0.0.6", ["0.0.0.8", "0.0.0.6"]),
        (["0.0.0.8", "0.0.0.6", "0.0.0.6"], "0.0.0.6", ["0.0.0.8", "0.0.0.6"]),
        ([], "0.0.0.6", ["0.0.0.6"]),
    ],
)
def test_masters_are_numbered_as_configured(
    masters: list[str], leader: str, numbered: list[str]
) -> None:
    rules = Rules(domain="foo.com", masters=tuple(map(ip_address, masters)))
    zone = generate(snapshot(MasterRow("m", "h", leader, 7, leads=True)), rules, {})
    got = addresses(zone)
    assert got.pop("leader.foo.com") == {leader}
    assert got.pop("master.foo.com") == set(numbered)
    assert got == {f"master{i}.foo.com": {one} for i, one in enumerate(numbered)}


def test_addresses_come_from_the_first_source_that_has_one() -> None:
    task = TaskRow(
        "t", "t", "F", "S0", "TASK_RUNNING",
        (NetworkRow("", ("nonsense",)), NetworkRow("dcos", ("9.0.0.1", "fd00::1"))),
        (("docker", "172.17.0.2"), ("mesos", "bad")),
    )  # fmt: skip
    agent = (ip_address("10.0.0.1"),)

    def of(*sources: str) -> list[str]:
        return [str(ipaddress.ip_address(a)) for a in task_addresses(task, agent, sources)]

    assert of("netinfo", "host") == ["9.0.0.1", "fd00::1"]
    assert of("mesos", "docker") == ["172.17.0.2"]
    assert of("host", "netinfo") == ["10.0.0.1"]
    assert of("mesos") == []


def test_hosts_known_by_name_are_looked_up() -> None:
    rows: list[Row] = [FrameworkRow("F", "marathon", "master1"), AgentRow("S0", "agent1"),
            AgentRow("S1", "agent2", "10.0.0.2")]  # fmt: skip
    made = snapshot(*rows)
    assert hosts_wanted(made) == {"master1", "agent1"}
    hosts = {"master1": (ip_address("10.0.0.9"),), "agent1": (ip_address("10.0.0.1"),)}
    got = addresses(generate(made, Rules(own_addresses=()), hosts))
    assert got == {
        "marathon.mesos": {"10.0.0.9"},
        "slave.mesos": {"10.0.0.1", "10.0.0.2"},
    }


def test_odd_states_are_read_or_refused() -> None:
    assert parse_ranges("[31000-31001, 31005]") == ((31000, 31001), (31005, 31005))
    assert parse_ranges("[]") == parse_ranges("nonsense") == ()
    assert split_pid("slave(1)@[::1]:5051") == ("::1", 5051)
    for pid in ("", "@", "1@", "@2", "3@4", "x@y:99999"):
        assert split_pid(pid)[1] == 0
    _, rows = read_state(b'{"id":"m","slaves":[{"id":"S","pid":null}],"frameworks":[]}')
    assert rows == [AgentRow("S", "")]
    for body in (b"", b"[]", b"<html>", b'{"id":"m","frameworks":[{"id":1}]}', b"\xff"):
        with pytest.raises(BadState):
            read_state(body)
