"""Where names go: the table of the original, row by row."""

import pytest

from cairn_dns.proxy.routes import Kind, Places, Routes, reverse_zones
from cairn_dns.wire import text_name, wire_name

MASTERS = (("10.0.0.1", 61053),)
PUBLIC = (("203.0.113.53", 53),)
ROUTES = Routes(
    Places(
        masters=MASTERS,
        upstreams=PUBLIC,
        zones={"a.example": [("203.0.113.1", 53)], "b.a.example": [("203.0.113.2", 53)]},
        local=["spartan", "localhost", "zk", "l4lb.thisdcos.directory"],
        cluster_id="yj5",
        reverse=["10.0.0.0/8", "172.16.0.0/12", "fd00::/8"],
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind", "zone", "asked_as"),
    [
        ("web.marathon.mesos", Kind.MASTERS, "mesos.", "web.marathon.mesos"),
        ("mesos", Kind.MASTERS, "mesos.", "mesos"),
        ("MESOS", Kind.MASTERS, "mesos.", "mesos"),
        ("mesos.example", Kind.UPSTREAM, ".", "mesos.example"),
        ("amesos", Kind.UPSTREAM, ".", "amesos"),
        ("zk-1.zk", Kind.LOCAL, "zk.", "zk-1.zk"),
        ("ready.spartan", Kind.LOCAL, "spartan.", "ready.spartan"),
        ("localhost", Kind.LOCAL, "localhost.", "localhost"),
        ("w.dcos.thisdcos.directory", Kind.MASTERS, "dcos.thisdcos.directory.",
         "w.dcos.thisdcos.directory"),
        ("w.mesos.thisdcos.directory", Kind.MASTERS, "mesos.", "w.mesos"),
        ("w.mesos.thisdcos.global", Kind.MASTERS, "mesos.", "w.mesos"),
        ("w.mesos.yj5.dcos.directory", Kind.MASTERS, "mesos.", "w.mesos"),
        ("w.mesos.other.dcos.directory", Kind.UPSTREAM, ".", "w.mesos.other.dcos.directory"),
        ("v.dclb.thisdcos.directory", Kind.LOCAL, "l4lb.thisdcos.directory.",
         "v.l4lb.thisdcos.directory"),
        ("v.dclb.thisdcos.global", Kind.LOCAL, "l4lb.thisdcos.directory.",
         "v.l4lb.thisdcos.directory"),
        ("v.l4lb.thisdcos.global", Kind.LOCAL, "l4lb.thisdcos.directory.",
         "v.l4lb.thisdcos.directory"),
        ("v.dclb.yj5.dcos.directory", Kind.LOCAL, "l4lb.thisdcos.directory.",
         "v.l4lb.thisdcos.directory"),
        ("thisdcos.directory", Kind.LOCAL, "thisdcos.directory.", "thisdcos.directory"),
        ("nobody.thisdcos.directory", Kind.LOCAL, "thisdcos.directory.",
         "nobody.thisdcos.directory"),
        ("x.a.example", Kind.ZONE, "a.example.", "x.a.example"),
        ("x.b.a.example", Kind.ZONE, "b.a.example.", "x.b.a.example"),
        ("www.example", Kind.UPSTREAM, ".", "www.example"),
        ("1.0.0.10.in-addr.arpa", Kind.MASTERS, "10.in-addr.arpa.", "1.0.0.10.in-addr.arpa"),
        ("1.0.31.172.in-addr.arpa", Kind.MASTERS, "31.172.in-addr.arpa.",
         "1.0.31.172.in-addr.arpa"),
        ("1.0.32.172.in-addr.arpa", Kind.UPSTREAM, ".", "1.0.32.172.in-addr.arpa"),
        ("0.d.f.ip6.arpa", Kind.MASTERS, "d.f.ip6.arpa.", "0.d.f.ip6.arpa"),
    ],
)  # fmt: skip
def test_the_longest_suffix_wins(name: str, kind: Kind, zone: str, asked_as: str) -> None:
    plan = ROUTES.plan(wire_name(name))
    asked = wire_name(name)
    for rename in plan.renames:
        asked = asked[: len(asked) - len(rename.shown)] + rename.real
    assert (plan.route.kind, plan.route.zone, text_name(asked)) == (kind, zone, asked_as)


def test_the_root_goes_to_the_upstreams() -> None:
    assert ROUTES.plan(b"\0").route.servers == PUBLIC


def test_only_names_of_mesos_shown_elsewhere_have_their_ttl_cut() -> None:
    assert ROUTES.plan(wire_name("w.mesos.thisdcos.directory")).max_ttl == 5
    assert ROUTES.plan(wire_name("w.mesos")).max_ttl is None


def test_a_pushed_zone_takes_its_names_from_the_upstreams() -> None:
    routes = Routes(Places(upstreams=PUBLIC, zones={}, local=["corp.example"]))
    assert routes.plan(wire_name("a.corp.example")).route.kind is Kind.LOCAL


@pytest.mark.parametrize(
    ("network", "zones"),
    [
        ("192.168.0.0/16", ["168.192.in-addr.arpa"]),
        ("100.64.0.0/31", ["0.0.64.100.in-addr.arpa", "1.0.64.100.in-addr.arpa"]),
        ("fd00::/8", ["d.f.ip6.arpa"]),
        ("b.in-addr.arpa", ["b.in-addr.arpa"]),
    ],
)
def test_zones_of_a_network(network: str, zones: list[str]) -> None:
    assert reverse_zones(network) == zones


@pytest.mark.parametrize("network", ["fc00::/7", "nonsense", "10.0.0.1/8"])
def test_a_network_without_zones_is_told(network: str) -> None:
    with pytest.raises(ValueError):
        reverse_zones(network)
