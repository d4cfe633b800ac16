"""What is in local zones, and what is refused with the field's name."""

import msgspec
import pytest

from cairn_dns.proxy.zones import (
    BadZone,
    RecordSpec,
    ZoneSpec,
    built_in,
    configured,
    read_records,
    zone_name,
)
from cairn_dns.wire import AAAA, CNAME, SRV, A

ZONE = "l4lb.thisdcos.directory"


def read(*records: tuple[str, str, str]) -> set[object]:
    return set(read_records(ZONE, [RecordSpec(*record) for record in records]))


def test_records_of_every_type() -> None:
    assert read(
        ("web.marathon", "A", "11.0.0.1"),
        ("WEB.marathon", "aaaa", "fd01:c::1"),
        ("alias", "cname", "Master.mesos.thisdcos.directory."),
        ("_web._tcp", "SRV", "web.marathon.l4lb.thisdcos.directory:80"),
        ("@", "A", "11.0.0.2"),
        ("", "A", "11.0.0.3"),
        ("abs.l4lb.thisdcos.directory.", "A", "11.0.0.4"),
    ) == {
        (f"web.marathon.{ZONE}", A, bytes([11, 0, 0, 1])),
        (f"web.marathon.{ZONE}", AAAA, bytes.fromhex("fd01000c000000000000000000000001")),
        (f"alias.{ZONE}", CNAME, "master.mesos.thisdcos.directory"),
        (f"_web._tcp.{ZONE}", SRV, (f"web.marathon.{ZONE}", 80)),
        (ZONE, A, bytes([11, 0, 0, 2])),
        (ZONE, A, bytes([11, 0, 0, 3])),
        (f"abs.{ZONE}", A, bytes([11, 0, 0, 4])),
    }


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (("web", "A", "fd01::1"), "records[0].value: not an IPv4 address: 'fd01::1'"),
        (("web", "AAAA", "fe80::1%eth0"), "records[0].value: not an IPv6 address: 'fe80::1%eth0'"),
        (("web", "MX", "10 a"), "records[0].type: not A, AAAA, CNAME or SRV: 'MX'"),
        (("web", "SRV", "a.b"), "records[0].value: not target:port: 'a.b'"),
        (("web", "SRV", "a.b:0"), "records[0].value: not target:port: 'a.b:0'"),
        (("web", "SRV", "a.b:99999"), "records[0].value: not target:port: 'a.b:99999'"),
        (("a..b", "A", "11.0.0.1"), "records[0].name: name has a label of 0"),
        (("a b", "A", "11.0.0.1"), "records[0].name: has a blank or a control character"),
        (("*", "A", "11.0.0.1"), "records[0].name: wildcards are not served"),
        (("web.mesos.", "A", "11.0.0.1"), "records[0].name: not below"),
        (("@", "CNAME", "web.mesos"), "records[0].name: the zone itself cannot be a CNAME"),
        (("a" * 64, "A", "11.0.0.1"), "records[0].name: name has a label of 0 or more than 63"),
        (("ä", "A", "11.0.0.1"), "records[0].name: name is not ascii"),
    ],
)
def test_a_record_that_makes_no_sense_is_told(record: tuple[str, str, str], problem: str) -> None:
    with pytest.raises(BadZone) as told:
        read(record)
    assert str(told.value).startswith(problem)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_cname_stands_alone(order: tuple[int, int]) -> None:
    records = (("a", "CNAME", "b.mesos"), ("a", "A", "11.0.0.1"))
    with pytest.raises(BadZone, match=r"records\[1\].name: has other records beside CNAME"):
        read(*(records[index] for index in order))
    with pytest.raises(BadZone, match="beside CNAME"):
        read(("a", "CNAME", "b.mesos"), ("a", "CNAME", "c.mesos"))
    assert len(read(("a", "CNAME", "b.mesos"), ("a", "CNAME", "b.mesos"))) == 1


@pytest.mark.parametrize(
    "name",
    [
        "mesos", "a.mesos", "spartan", "zk", "a.zk", "localhost", "thisdcos.directory",
        "thisdcos.global", "a.thisdcos.global", "mesos.thisdcos.directory",
        "dcos.thisdcos.directory", "a.dcos.thisdcos.directory", "thisnode.thisdcos.directory",
        "", "a..b", "../etc", "a/b", "x" * 64, ".".join(["abcdefghij"] * 20),
    ],
)  # fmt: skip
def test_names_that_belong_to_others_are_refused(name: str) -> None:
    with pytest.raises(BadZone, match="zone: "):
        zone_name(name, pushed=True, taken=["mesos"])


@pytest.mark.parametrize("name", ["com", "corp", "arpa", "in-addr.arpa", "10.in-addr.arpa",
                                  "corp.example", "a.corp.example"])  # fmt: skip
def test_domains_of_others_cannot_be_pushed(name: str) -> None:
    with pytest.raises(BadZone, match=f"zone: .*'{name}'"):
        zone_name(name, pushed=True, taken=["mesos", "corp.example"])


def test_the_vip_zone_may_be_pushed_but_not_configured() -> None:
    assert zone_name("L4LB.thisdcos.directory.", pushed=True) == ZONE
    with pytest.raises(BadZone, match="reserved"):
        zone_name(ZONE, pushed=False)
    assert zone_name("component.thisdcos.directory", pushed=False)


def test_zookeepers_are_the_masters_in_turn() -> None:
    zones = {zone.name: zone for zone in built_in(["10.0.0.1", "10.0.0.2", "10.0.0.3"], [], [])}
    assert sorted((name, value[-1]) for name, _, value in zones["zk"].records) == [
        ("zk-1.zk", 1), ("zk-2.zk", 2), ("zk-3.zk", 3), ("zk-4.zk", 1), ("zk-5.zk", 2),
    ]  # fmt: skip


def test_this_node_has_its_addresses() -> None:
    zones = {z.name: z for z in built_in([], ["10.0.0.9"], ["203.0.113.9", "2001:db8::9"])}
    assert sorted((n, k) for n, k, _ in zones["thisnode.thisdcos.directory"].records) == [
        ("public.thisnode.thisdcos.directory", A),
        ("public.thisnode.thisdcos.directory", AAAA),
        ("thisnode.thisdcos.directory", A),
    ]
    assert zones["spartan"].records == {
        ("ready.spartan", A, bytes([127, 0, 0, 1])),
        ("ns.spartan", A, bytes([198, 51, 100, 1])),
    }
    assert not zones["zk"].records


def test_a_zone_of_the_configuration_is_told_with_its_name() -> None:
    with pytest.raises(BadZone, match=r"zones\['c.thisdcos.directory'\].records\[0\].type: "):
        configured({"c.thisdcos.directory": [RecordSpec("a", "mx", "b")]})
    [zone] = configured({"c.thisdcos.directory": [RecordSpec("a", "cname", "b.mesos")]})
    assert zone.leads_away


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"generation": -1, "records": []}', b'{"generation": 1, "records": [], "x": 1}',
     b'{"generation": 1, "records": [{"name": "a"}]}', b'{"generation": 1.5, "records": []}'],
)  # fmt: skip
def test_a_pushed_zone_of_another_form_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=ZoneSpec)
