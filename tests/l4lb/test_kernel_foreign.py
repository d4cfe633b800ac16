"""What others made, with names like ours, in namespaces of their own: it stays."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cairn_core.errors import CairnError, Unavailable
from cairn_core.testing.requires import requires
from cairn_l4lb import io_host, io_uninstall
from cairn_l4lb.io_kernel import MEMORY, Kernel, uninstall
from cairn_l4lb.io_programs import run
from cairn_l4lb.io_uninstall import uninstall as by_hand
from cairn_l4lb.model import Backend, Service, Vip
from cairn_l4lb.packet_filter import COMMENT
from cairn_l4lb.rules import KernelSettings
from cairn_l4lb.testing import Namespace, site

pytestmark = pytest.mark.netns

SETTINGS = KernelSettings(named6=("fd01:c::", "fd01:c::ffff:ffff:ffff:ffff"), source="10.0.0.9")
WEB, WEB6 = Vip("tcp", "11.0.0.1", 80), Vip("tcp", "fd01:c::1", 80)


def service(vip: Vip, *numbers: int) -> Service:
    return Service(
        vip,
        backends=tuple(
            Backend(f"fd99::{n}" if vip.ipv6 else f"10.0.0.{n}", 8080, slot=n) for n in numbers
        ),
    )


ALL = [service(WEB, 1, 2), service(WEB6, 4, 5, 6)]


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host; the test is inside."""
    requires("root", "nft", "iptables", "ip6tables", "ipset", "ip")
    place = Namespace()
    try:
        with place.inside():
            place.ip("link set lo up\naddress add 10.0.0.9/24 dev lo")
            yield place
    finally:
        place.close()


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "run" / "host.json"


@pytest.fixture
def kernel(host: Namespace, memory: Path) -> Iterator[Kernel]:
    one = Kernel(SETTINGS, memory)
    yield one
    one.close()


# -- rules -----------------------------------------------------------------------------------------


def test_rules_that_speak_of_us_stay(host: Namespace, kernel: Kernel, memory: Path) -> None:
    kernel.start()
    kernel.grow(ALL, whole=True)
    host.run("iptables", "-N", "MYCHAIN")
    comments = [
        "cairn-l4lb exception for ssh",
        "see --comment cairn-l4lb in the wiki",
        "was --match-set minuteman dst,dst, now -j REJECT by me",
        "a\n-A OUTPUT -m comment --comment cairn-l4lb -j DROP",
        '"cairn-l4lb"',
        "it's --comment 'cairn-l4lb' -j REJECT",
    ]
    for chain in ("INPUT", "OUTPUT", "MYCHAIN"):
        for one in comments:
            host.run("iptables", "-A", chain, "-m", "comment", "--comment", one, "-j", "ACCEPT")
    named = ("-m", "set", "--match-set", "minuteman")
    host.run("iptables", "-A", "MYCHAIN", *named, "src,dst", "-j", "REJECT")
    host.run("iptables", "-A", "MYCHAIN", *named, "dst,dst", "-j", "REJECT")
    host.run("iptables", "-A", "OUTPUT", "-s", "10.1.0.0/16", *named, "dst,dst", "-j", "REJECT")
    host.run("iptables", "-A", "MYCHAIN", "-m", "comment", "--comment", "cairn-l4lb", "-j", "DROP")
    before = host.run("iptables", "-S")
    assert kernel.resync() == []
    assert host.run("iptables", "-S") == before
    uninstall(memory)
    left = host.run("iptables", "-S")
    assert [line for line in before.split("\n-A") if line not in left] == [
        line for line in before.split("\n-A") if "tcp-reset" in line or "-p udp" in line
    ]


words = st.sampled_from(
    ["--comment", COMMENT, "-m set --match-set minuteman dst,dst", "-j", "REJECT", "NFQUEUE", '"',
     "'", "\\", "\n", "\n-A OUTPUT", "\u2028", " "]
)  # fmt: skip
hostile = (
    st.lists(words | st.text(st.characters(min_codepoint=32, codec="utf-8"), max_size=3))
    .map(" ".join)
    .filter(lambda text: text != COMMENT and len(text.encode()) < 250)
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(comment=hostile, target=st.sampled_from(["ACCEPT", "REJECT"]))
def test_whatever_a_comment_says_its_rule_stays(
    host: Namespace, kernel: Kernel, memory: Path, comment: str, target: str
) -> None:
    host.run("iptables", "-F", "OUTPUT")
    host.run("iptables", "-A", "OUTPUT", "-m", "comment", "--comment", comment, "-j", target)
    before = host.run("iptables", "-S", "OUTPUT")
    one = Kernel(SETTINGS, memory)
    one.start()
    one.grow(ALL, whole=True)
    one.shrink()
    assert one.resync() == []
    assert host.run("iptables", "-S", "OUTPUT").endswith(before.partition("\n")[2])
    one.close()
    assert not uninstall(memory)[1]
    assert host.run("iptables", "-S", "OUTPUT") == before


# -- sets ------------------------------------------------------------------------------------------


def rules(host: Namespace) -> str:
    return host.run("iptables-save") + host.run("ip6tables-save")


def entries(host: Namespace, name: str) -> list[str]:
    saved = host.run("ipset", "save", name).splitlines()
    return sorted(line.removeprefix(f"add {name} ") for line in saved if line.startswith("add "))


@pytest.mark.parametrize("kind", ["hash:ip", "hash:ip,port family inet6", "list:set"])
def test_a_set_of_another_type_is_not_ours(
    host: Namespace, kernel: Kernel, memory: Path, kind: str
) -> None:
    host.run("ipset", "create", "minuteman", *kind.split())
    before = host.run("ipset", "save", "minuteman")
    assert any("is not ours" in line for line in kernel.preview(ALL))
    kernel.start()
    kernel.grow(ALL, whole=True)
    kernel.shrink()
    assert kernel.resync() == []
    (problem,) = kernel.problems
    assert problem.startswith(f"set minuteman is not ours, its type is {kind.split()[0]}")
    assert "destroy or rename it" in problem
    # the other family is as always, and of this one the kernel chooses
    assert entries(host, "minuteman6") == ["fd01:c::1,tcp:80"]
    assert "--match-set minuteman6 " in rules(host)
    assert "--match-set minuteman " not in rules(host)
    assert set(kernel.read_slots()) == {WEB, WEB6}
    kernel.grow([service(Vip("tcp", "11.0.0.2", 80), 1)])
    assert host.run("ipset", "save", "minuteman") == before
    uninstall(memory)
    assert host.run("ipset", "save", "minuteman") == before
    host.run("ipset", "destroy", "minuteman")
    assert "set minuteman" in kernel.resync()
    assert kernel.problems == []
    assert entries(host, "minuteman") == ["11.0.0.1,tcp:80", "11.0.0.2,tcp:80"]
    assert "--match-set minuteman " in rules(host)
    assert kernel.resync() == []


@pytest.mark.parametrize("flaw", ["maxelem 1", "timeout 3"])
@pytest.mark.parametrize("used", [False, True])
def test_a_set_that_cannot_serve_is_replaced(
    host: Namespace, kernel: Kernel, flaw: str, used: bool
) -> None:
    host.run("ipset", "create", "minuteman", "hash:ip,port", *flaw.split())
    if used:
        # by rules that are ours, of an earlier version
        host.run("iptables", "-I", "OUTPUT", "-m", "set", "--match-set", "minuteman", "dst,dst",
                 "-j", "REJECT")  # fmt: skip
    assert "ipset swap minuteman-cairn minuteman" in kernel.preview(ALL)
    # as another process left it that was killed
    host.run("ipset", "create", "minuteman-cairn", "hash:ip,port", "maxelem", "1048576")
    kernel.start()
    kernel.grow(ALL, whole=True)
    kernel.shrink()
    assert kernel.problems == []
    assert kernel.resync() == []
    assert kernel.preview(ALL) == []
    shown = host.run("ipset", "list", "minuteman")
    assert "maxelem 1048576" in shown
    assert "timeout" not in shown
    assert entries(host, "minuteman") == ["11.0.0.1,tcp:80"]
    assert "minuteman-cairn" not in host.run("ipset", "list", "-n").split()


def test_a_set_that_cannot_serve_and_is_used_by_others_is_a_problem(
    host: Namespace, kernel: Kernel
) -> None:
    host.run("ipset", "create", "minuteman", "hash:ip,port", "maxelem", "1")
    theirs = ("-m", "set", "--match-set", "minuteman", "dst,dst", "-j", "ACCEPT")
    host.run("iptables", "-A", "INPUT", *theirs)
    kernel.start()
    kernel.grow(ALL, whole=True)
    (problem,) = kernel.problems
    assert problem.startswith("set minuteman has maxelem 1, and others use it")
    assert kernel.resync() == []
    host.run("iptables", "-D", "INPUT", *theirs)
    assert "set minuteman" in kernel.resync()
    assert kernel.problems == []


def test_the_original_s_set_is_ours(host: Namespace, kernel: Kernel) -> None:
    host.run("ipset", "create", "minuteman", "hash:ip,port")
    host.run("ipset", "add", "minuteman", "1.2.3.4,tcp:5")
    host.run("iptables", "-A", "INPUT", "-m", "set", "--match-set", "minuteman", "dst,dst")
    kernel.start()
    assert entries(host, "minuteman") == ["1.2.3.4,tcp:5"]
    kernel.grow(ALL, whole=True)
    kernel.shrink()
    assert entries(host, "minuteman") == ["11.0.0.1,tcp:80"]
    assert kernel.problems == []


def test_trouble_with_one_set_stops_no_other(
    host: Namespace, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.start()
    kernel.grow([], whole=True)
    # made while nobody looks
    monkeypatch.setattr(kernel._ipset, "ensure", lambda _: [])
    host.run("iptables", "-F")
    host.run("iptables", "-t", "raw", "-F")
    host.run("ipset", "destroy", "minuteman")
    host.run("ipset", "create", "minuteman", "hash:ip,port", "maxelem", "1", "hashsize", "64")
    host.run("ipset", "add", "minuteman", "11.0.0.9,tcp:1")
    many = [service(Vip("tcp", f"11.0.1.{n}", 80), 1) for n in range(40)]
    kernel.grow([*many, ALL[1]])
    assert kernel.problems == ["changing set minuteman: it is full, see its maxelem"]
    assert entries(host, "minuteman6") == ["fd01:c::1,tcp:80"]
    monkeypatch.undo()
    assert kernel.resync()
    assert kernel.problems == []
    assert len(entries(host, "minuteman")) == 40


def test_uninstalling_tries_every_set(host: Namespace, kernel: Kernel, memory: Path) -> None:
    kernel.start()
    for name in ("minuteman", "minuteman6"):
        program = "ip6tables" if name.endswith("6") else "iptables"
        host.run(program, "-A", "INPUT", "-m", "set", "--match-set", name, "dst,dst")
    removed, problems = uninstall(memory)
    assert [one.split(":")[0] for one in problems] == [
        "ipset destroy minuteman", "ipset destroy minuteman6",
    ]  # fmt: skip
    assert {"set minuteman-udp", "set minuteman6-udp"} <= set(removed)


# -- our table -------------------------------------------------------------------------------------

INTRUDERS = {
    "a rule": "nft add rule inet cairn_l4lb output counter drop",
    "a chain": "nft 'add chain inet cairn_l4lb mine { type filter hook output priority 0; };"
    "add rule inet cairn_l4lb mine counter drop'",
    "a chain that a map of theirs goes to": "nft 'add chain inet cairn_l4lb mine;"
    "add map inet cairn_l4lb m { type mark : verdict; elements = { 1 : goto mine } };"
    "add rule inet cairn_l4lb output meta mark vmap @m'",
    "a chain of ours at another place": "nft 'delete chain inet cairn_l4lb nat-input;"
    "add chain inet cairn_l4lb nat-input { type filter hook input priority 5; policy drop; }'",
    "a policy": "nft 'add chain inet cairn_l4lb unknown-output "
    "{ type filter hook output priority 1; policy drop; }'",
}


@pytest.mark.parametrize("what", INTRUDERS)
@pytest.mark.parametrize("restarted", [False, True])
def test_what_others_put_into_our_table_goes(
    host: Namespace, kernel: Kernel, memory: Path, what: str, restarted: bool
) -> None:
    kernel.start()
    kernel.grow(ALL, whole=True)
    kernel.shrink()
    before = host.run("nft", "list", "table", "inet", "cairn_l4lb")
    elements = kernel._nft.read()
    host.run("bash", "-c", INTRUDERS[what])
    assert host.run("nft", "list", "table", "inet", "cairn_l4lb") != before
    if restarted:
        other = Kernel(SETTINGS, memory)
        other.start()
        # before anybody tells it of VIPs
        assert other._nft.read() == elements
        other.close()
    else:
        # nothing but the table, so no element was missing
        assert kernel.resync() == ["table inet cairn_l4lb"]
    after = host.run("nft", "list", "table", "inet", "cairn_l4lb")
    assert sorted(after.split()) == sorted(before.split())


# -- routes ----------------------------------------------------------------------------------------


def routes(host: Namespace) -> list[str]:
    shown = host.run("ip", "-4", "route") + host.run("ip", "-6", "route", "show", "proto", "161")
    return [" ".join(line.split()) for line in shown.splitlines()]


LITERAL = service(Vip("tcp", "9.9.9.9", 80), 1)
LITERALS = [LITERAL, service(Vip("tcp", "9.9.9.9", 81), 1), service(Vip("tcp", "fd05::1", 80), 4)]
TO_LITERAL = "9.9.9.9 dev lo proto 161 scope link src 10.0.0.9"


def reachable(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        try:
            one.connect((address, 80))
        except OSError:
            return False
        return True


def test_a_literal_vip_without_a_route_gets_one(
    host: Namespace, kernel: Kernel, memory: Path
) -> None:
    before = routes(host)
    assert "ip -4 route add 9.9.9.9/32 dev lo src 10.0.0.9 proto 161" in kernel.preview(LITERALS)
    kernel.start()
    assert not reachable("9.9.9.9")
    kernel.grow([*ALL, *LITERALS], whole=True)
    kernel.shrink()
    assert reachable("9.9.9.9")
    assert reachable("fd05::1")
    assert TO_LITERAL in routes(host)
    assert kernel.preview([*ALL, *LITERALS]) == []
    assert kernel.resync() == []
    # others take it away
    host.run("ip", "route", "del", "9.9.9.9")
    assert kernel.resync() == ["ip -4 route add 9.9.9.9/32 dev lo src 10.0.0.9 proto 161"]
    # it goes with the last VIP of this address, when the steering process knows
    kernel.grow([], [LITERAL.vip])
    kernel.shrink()
    kernel.grow([], [LITERALS[1].vip])
    assert reachable("9.9.9.9")
    kernel.shrink()
    assert not reachable("9.9.9.9")
    assert reachable("fd05::1")
    removed, problems = uninstall(memory)
    assert not problems
    assert "route fd05::1/128" in removed
    assert routes(host) == before


def test_where_there_is_a_route_a_literal_vip_gets_none(host: Namespace, kernel: Kernel) -> None:
    host.ip("route add default via 10.0.0.9")
    kernel.start()
    before = routes(host)
    kernel.grow([LITERAL], whole=True)
    kernel.shrink()
    assert routes(host) == before
    # until it goes
    host.ip("route del default")
    assert "ip -4 route add 9.9.9.9/32 dev lo src 10.0.0.9 proto 161" in kernel.resync()


def test_the_next_process_knows_which_routes_are_ours(
    host: Namespace, kernel: Kernel, memory: Path
) -> None:
    kernel.start()
    kernel.grow(LITERALS, whole=True)
    kernel.shrink()
    other = Kernel(SETTINGS, memory)
    other.start()
    other.grow(LITERALS[2:], whole=True)
    assert TO_LITERAL in routes(host)
    other.shrink()
    assert TO_LITERAL not in routes(host)
    assert reachable("fd05::1")
    other.close()


def test_routes_of_others_stay(host: Namespace, kernel: Kernel, memory: Path) -> None:
    host.ip("""
        route add 10.5.0.0/16 via 10.0.0.7 dev lo proto 161
        route add 10.6.0.0/16 dev lo proto 161
        route add 8.8.8.8 dev lo proto 161
        route add 11.0.0.0/8 via 10.0.0.7 dev lo proto 161
        route add fd77::/64 dev lo proto 161
    """)
    before = routes(host)
    kernel.start()
    kernel.grow([*ALL, *LITERALS, service(Vip("tcp", "8.8.8.8", 80), 1)], whole=True)
    kernel.shrink()
    kernel.grow([], [Vip("tcp", "8.8.8.8", 80)])
    kernel.shrink()
    assert not uninstall(memory)[1]
    assert routes(host) == before
    assert not memory.exists()


def test_a_route_that_cannot_be_removed_stops_nothing(
    host: Namespace, kernel: Kernel, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.start()
    kernel.grow(LITERALS, whole=True)

    def refusing(argv: tuple[str, ...], given: str | None = None) -> str:
        if argv[:4] == ("ip", "-4", "route", "del"):
            raise Unavailable("not permitted")
        return run(argv, given)

    monkeypatch.setattr(io_host, "run", refusing)
    removed, problems = uninstall(memory)
    assert problems == ["not permitted"] * 2
    assert "route fd05::1/128" in removed
    assert "net.netfilter.nf_conntrack_tcp_be_liberal=0" in removed
    monkeypatch.undo()
    # what is left can still be removed
    assert uninstall(memory)[0] == ["route 11.0.0.0/8", "route 9.9.9.9/32"]


def test_without_a_daemon_the_memory_is_where_its_settings_say(
    host: Namespace, tmp_path: Path
) -> None:
    config = tmp_path / "l4lb.json"
    config.write_text(json.dumps({"run_dir": str(tmp_path), "proxy_socket": ""}))
    memory = tmp_path / MEMORY.name
    before = routes(host)
    one = Kernel(SETTINGS, memory)
    one.start()
    one.grow([*ALL, *LITERALS], whole=True)
    one.close()
    removed = by_hand(config)
    assert "route 9.9.9.9/32" in removed
    assert "net.netfilter.nf_conntrack_tcp_be_liberal=0" in removed
    assert routes(host) == before
    assert not memory.exists()
    config.write_text(
        json.dumps({"run_dir": str(tmp_path), "proxy_socket": "", "zk": "10.0.0.1:1"})
    )
    assert by_hand(config) == []


def test_a_configuration_that_cannot_be_read_is_told_and_the_rest_goes(
    host: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_uninstall, "uninstall_kernel", lambda *_: (["all"], []))
    monkeypatch.setattr(io_uninstall, "is_there", lambda _: False)
    config = tmp_path / "l4lb.json"
    config.write_text("nonsense")
    with pytest.raises(CairnError, match=r"went by the defaults \(removed: all\)"):
        by_hand(config)


# -- connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize("set_of_others", [False, True])
def test_literal_vips_connect_without_a_default_route(tmp_path: Path, set_of_others: bool) -> None:
    requires("root", "nft", "iptables", "ip6tables", "ipset", "ip")
    with site(backends=3) as place, place.host.inside():
        place.serve()
        place.host.ip("route del default\nroute del ::/0")
        if set_of_others:
            place.host.run("ipset", "create", "minuteman", "hash:ip")
            place.host.run("ipset", "add", "minuteman", "9.9.9.9")
        one = Kernel(replace(SETTINGS, source="10.99.0.1", source6="fd99::1"), tmp_path / "memory")
        one.start()
        vips = [Vip("tcp", "9.9.9.9", 80), Vip("tcp", "fd05::1", 80), WEB]
        one.grow(
            [
                Service(
                    vip,
                    backends=tuple(
                        Backend(address, place.port, slot=n)
                        for n, address in enumerate(
                            place.backends6 if vip.ipv6 else place.backends, 1
                        )
                    ),
                )
                for vip in vips
            ],
            whole=True,
        )
        one.shrink()
        for vip in vips:
            for where in ("host", "client"):
                load = place.connect(vip.address, vip.port, count=60, where=where)
                assert not load.failures
                assert len(load.backends) == 3
        assert bool(one.problems) == set_of_others
        one.close()
