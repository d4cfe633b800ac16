"""The kernel itself, in namespaces of their own: what is programmed, repaired, taken away."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cairn_core.errors import Unavailable
from cairn_core.testing.requires import requires
from cairn_l4lb import io_host
from cairn_l4lb.io_kernel import Kernel, uninstall
from cairn_l4lb.model import Backend, BackendKey, Protocol, Service, Vip
from cairn_l4lb.rules import SETS, KernelSettings
from cairn_l4lb.testing import Namespace

pytestmark = pytest.mark.netns

SETTINGS = KernelSettings(named6=("fd01:c::", "fd01:c::ffff:ffff:ffff:ffff"))
WEB, DNS, WEB6 = (
    Vip("tcp", "11.0.0.1", 80),
    Vip("udp", "11.0.0.2", 53),
    Vip("tcp", "fd01:c::1", 80),
)
STRANGERS = """
table inet theirs {
    map be { type ipv4_addr : ipv4_addr; elements = { 11.0.0.1 : 10.0.0.1 } }
    chain input { type filter hook input priority 0; tcp dport 22 accept; }
}
"""


def service(vip: Vip, *numbers: int) -> Service:
    return Service(
        vip,
        backends=tuple(
            Backend(f"fd99::{n}" if vip.ipv6 else f"10.0.0.{n}", 8080, slot=n) for n in numbers
        ),
    )


ALL = [service(WEB, 1, 2), service(DNS, 3), service(WEB6, 4, 5, 6)]


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host with a default route and rules of somebody else; the test is inside."""
    requires("root", "nft", "iptables", "ip6tables", "ipset", "ip")
    place = Namespace()
    try:
        with place.inside():
            place.ip("""
                link set lo up
                address add 10.0.0.9/24 dev lo
                route add default via 10.0.0.9
                route add ::/0 dev lo
            """)
            place.run("nft", "-f", "-", given=STRANGERS)
            place.run("ipset", "create", "minuteman-mine", "hash:ip,port")
            place.run("iptables", "-t", "raw", "-A", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
            place.run("iptables", "-A", "FORWARD", "-m", "set", "--match-set", "minuteman-mine",
                      "dst,dst", "-j", "REJECT")  # fmt: skip
            yield place
    finally:
        place.close()


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "run" / "host.json"


@pytest.fixture
def kernel(host: Namespace, memory: Path) -> Iterator[Kernel]:
    one = Kernel(SETTINGS, memory)
    one.start()
    yield one
    one.close()


def state(host: Namespace) -> str:
    """All that packets meet: an empty table is as good as none."""
    lines = host.run("iptables-save") + host.run("ip6tables-save")
    rules = [line for line in lines.splitlines() if line.startswith("-")]
    routes = host.run("ip", "route") + host.run("ip", "-6", "route")
    liberal = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal").read_text()
    theirs = host.run("nft", "list", "table", "inet", "theirs")
    sets = host.run("ipset", "save", "minuteman-mine").split("initval")[0]
    return "\n".join(rules) + routes + liberal + theirs + sets


def members(host: Namespace) -> set[str]:
    """Entries of our sets, as `minuteman 11.0.0.1,tcp:80`."""
    saved = "".join(host.run("ipset", "save", name) for name in SETS.values())
    return {line[4:] for line in saved.splitlines() if line.startswith("add ")}


def assert_programmed(kernel: Kernel, services: list[Service]) -> None:
    """Nothing would be changed, as read by one that has no memory of what was done."""
    assert kernel.preview(services) == []
    assert kernel.resync() == []


# -- programming -----------------------------------------------------------------------------------


def test_vips_are_programmed_and_can_be_read_back(host: Namespace, kernel: Kernel) -> None:
    kernel.grow(ALL, whole=True)
    kernel.shrink()
    assert kernel.read_slots() == {
        WEB: {1: ("10.0.0.1", 8080), 2: ("10.0.0.2", 8080)},
        DNS: {3: ("10.0.0.3", 8080)},
        WEB6: {n: (f"fd99::{n}", 8080) for n in (4, 5, 6)},
    }
    assert members(host) == {
        "minuteman 11.0.0.1,tcp:80", "minuteman-udp 11.0.0.2,udp:53", "minuteman6 fd01:c::1,tcp:80",
    }  # fmt: skip
    assert_programmed(kernel, ALL)
    picks = host.run("nft", "list", "map", "inet", "cairn_l4lb", "vips")
    assert "11.0.0.1 . tcp . 80 : goto pick-2" in picks


def test_chains_that_draw_are_made_when_they_are_needed(host: Namespace, kernel: Kernel) -> None:
    def picks() -> list[str]:
        shown = host.run("nft", "list", "table", "inet", "cairn_l4lb")
        return sorted(re.findall(r"chain (pick\S+)", shown))

    kernel.grow([], whole=True)
    assert picks() == ["pick-1", "pick6-1"]
    kernel.grow(ALL)
    assert picks() == ["pick-1", "pick-2", "pick6-1", "pick6-3"]
    # that was us: nobody else's change is taken for ours, and ours for nobody's
    assert kernel.resync() == []
    host.run("nft", "flush", "chain", "inet", "cairn_l4lb", "pick-2")
    kernel.grow([service(WEB, 1, 2, 3)])
    assert kernel.resync() == ["table inet cairn_l4lb"]
    assert kernel.resync() == []
    assert picks() == ["pick-1", "pick-2", "pick-3", "pick6-1", "pick6-3"]


def test_the_first_services_are_all_of_them(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match="whole is False"):
        kernel.grow(ALL)


def test_a_backend_that_leaves_stays_until_the_steering_process_knows(
    host: Namespace, kernel: Kernel
) -> None:
    kernel.grow(ALL, whole=True)
    kernel.grow([service(WEB, 1, 3)], [DNS])
    assert set(kernel.read_slots()[WEB]) == {1, 2, 3}
    assert "minuteman-udp 11.0.0.2,udp:53" in members(host)
    kernel.shrink()
    assert set(kernel.read_slots()[WEB]) == {1, 3}
    assert DNS not in kernel.read_slots()
    assert "minuteman-udp 11.0.0.2,udp:53" not in members(host)
    assert_programmed(kernel, [service(WEB, 1, 3), ALL[2]])


def test_closed_and_hot(host: Namespace, kernel: Kernel) -> None:
    kernel.grow(ALL, whole=True)
    kernel.weigh({("tcp", "10.0.0.1", 8080), ("tcp", "10.0.0.2", 8080)}, {WEB6: (4, 4, 5, 6)})
    assert "11.0.0.1" not in host.run("nft", "list", "map", "inet", "cairn_l4lb", "vips")
    assert "fd01:c::1" in host.run("nft", "list", "set", "inet", "cairn_l4lb", "hot6")
    assert "minuteman6 fd01:c::1,tcp:80" not in members(host)
    assert "minuteman 11.0.0.1,tcp:80" in members(host)
    assert kernel.resync() == []
    kernel.weigh((), {WEB6: (4, 4, 5, 6)}, {WEB6})
    assert "fd01:c::1" not in host.run("nft", "list", "set", "inet", "cairn_l4lb", "hot6")
    assert "fd01:c::1" in host.run("nft", "list", "set", "inet", "cairn_l4lb", "busy6")
    assert kernel.resync() == []
    kernel.weigh((), {})
    assert_programmed(kernel, ALL)


def test_while_queues_drain_the_sets_are_empty(host: Namespace, kernel: Kernel) -> None:
    kernel.grow(ALL[:1], whole=True)
    kernel.open_for_drain()
    kernel.grow(ALL[1:])
    assert kernel.resync() == []
    assert members(host) == set()
    kernel.close_after_drain()
    assert_programmed(kernel, ALL)


def test_a_preview_changes_nothing_and_tells_all(host: Namespace, memory: Path) -> None:
    before = state(host)
    one = Kernel(SETTINGS, memory)
    lines = one.preview(ALL)
    one.close()
    assert state(host) == before
    assert "nft add element inet cairn_l4lb picks { 11.0.0.1 . tcp . 80 . 1 : 0x20000 }" in lines
    assert "ipset add minuteman 11.0.0.1,tcp:80" in lines
    assert any(line.startswith("iptables -t raw -I PREROUTING 1 -p tcp") for line in lines)
    assert "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1" in lines


# -- what others do --------------------------------------------------------------------------------


DAMAGE = {
    "all rules": "nft flush ruleset",
    "our table": "nft delete table inet cairn_l4lb",
    "rules of a chain": "nft flush chain inet cairn_l4lb assign",
    "an element": "nft delete element inet cairn_l4lb be { 11.0.0.1 . tcp . 80 . 0x10000 }",
    "a choice": "nft flush map inet cairn_l4lb picks",
    "entries": "ipset flush minuteman",
    "a stranger's entry": "ipset add minuteman 9.9.9.9,tcp:9",
    "rules of the packet filter": "iptables -t raw -F",
    "a rule twice": "iptables -t raw -S OUTPUT | grep 'A.*set minuteman ' | xargs iptables -t raw",
    "the setting": "sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=0",
    "rules and sets": "iptables -F; iptables -t raw -F; ip6tables -F; ip6tables -t raw -F; "
    "iptables -t mangle -F; ip6tables -t mangle -F; ipset destroy",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_others_change_is_put_right(host: Namespace, kernel: Kernel, what: str) -> None:
    kernel.grow(ALL, whole=True)
    assert kernel.resync() == []
    before = host.run("nft", "list", "table", "inet", "cairn_l4lb")
    subprocess.run(DAMAGE[what], shell=True, check=True, capture_output=True)
    assert kernel.resync()
    assert_programmed(kernel, ALL)
    after = host.run("nft", "list", "table", "inet", "cairn_l4lb")
    assert sorted(after.split()) == sorted(before.split())


def test_a_change_meets_a_table_that_others_flushed(host: Namespace, kernel: Kernel) -> None:
    kernel.grow(ALL, whole=True)
    subprocess.run("nft flush ruleset; iptables -F; ipset flush", shell=True, check=True)
    kernel.grow([service(WEB, 1, 3)])
    kernel.shrink()
    assert_programmed(kernel, [service(WEB, 1, 3), *ALL[1:]])


def test_rules_of_others_may_change_all_the_time(host: Namespace, kernel: Kernel) -> None:
    kernel.grow(ALL, whole=True)
    for n in range(3):
        host.run("iptables", "-A", "INPUT", "-s", f"10.0.1.{n}", "-j", "DROP")
        kernel.grow([service(WEB, 1, 2 + n)])
        kernel.shrink()
    assert kernel.resync() == []
    assert_programmed(kernel, [service(WEB, 1, 4), *ALL[1:]])


def test_another_process_goes_on_where_the_last_one_ended(
    host: Namespace, kernel: Kernel, memory: Path
) -> None:
    kernel.grow(ALL, whole=True)
    kernel.shrink()
    other = Kernel(SETTINGS, memory)
    assert set(other.read_slots()[WEB]) == {1, 2}
    other.start()
    # nobody has told it of any VIP, so nothing is taken away
    assert other.resync() == []
    assert set(other.read_slots()) == {WEB, DNS, WEB6}
    other.grow([service(WEB, 2, 3)], whole=True)
    assert set(other.read_slots()[WEB]) == {1, 2, 3}
    other.shrink()
    assert_programmed(other, [service(WEB, 2, 3)])
    other.close()


@pytest.mark.parametrize("phase", ["sets", "elements", "removal"])
def test_killed_half_way_the_next_process_converges(
    host: Namespace, kernel: Kernel, memory: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.grow(ALL[:2], whole=True)
    kernel.shrink()

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    parts: dict[str, tuple[Any, str]] = {
        "sets": (kernel._ipset, "add"),
        "elements": (kernel._nft, "change"),
        "removal": (kernel._ipset, "delete"),
    }
    monkeypatch.setattr(*parts[phase], die)
    with contextlib.suppress(KeyboardInterrupt):
        kernel.grow([service(WEB, 2, 3), ALL[2]], [DNS])
        kernel.shrink()
        pytest.fail("was not killed")
    other = Kernel(SETTINGS, memory)
    other.start()
    wanted = [service(WEB, 2, 3), ALL[2]]
    other.grow(wanted, whole=True)
    other.shrink()
    assert_programmed(other, wanted)
    other.close()


PROGRAMMER = """
import random, sys
from pathlib import Path
from cairn_l4lb.io_kernel import Kernel
from cairn_l4lb.model import Backend, Service, Vip
from cairn_l4lb.rules import KernelSettings
kernel, rng, whole = Kernel(KernelSettings(), Path(sys.argv[1])), random.Random(int(sys.argv[2])), True
kernel.start()
while True:
    slots = sorted(rng.sample(range(1, 40), 20))
    vips = [Vip("tcp", f"11.0.0.{n}", 80) for n in rng.sample(range(200), 50)]
    backends = tuple(Backend(f"10.0.0.{n}", 80, slot=n) for n in slots)
    kernel.grow([Service(vip, backends=backends) for vip in vips], whole=whole)
    kernel.shrink()
    whole = not rng.randrange(5)
    print("programmed", flush=True)
"""  # noqa: E501


def test_killed_at_any_time_the_next_process_converges(host: Namespace, memory: Path) -> None:
    for seed in range(6):
        with subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAMMER, str(memory), str(seed)],
            stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for _ in range(1 + seed):
                assert process.stdout.readline() == "programmed\n"
            process.kill()
        other = Kernel(SETTINGS, memory)
        other.start()
        other.grow(ALL, whole=True)
        other.shrink()
        assert_programmed(other, ALL)
        other.close()


def test_more_backends_than_there_are_chains_for(host: Namespace, kernel: Kernel) -> None:
    many = service(WEB, *range(1, 201))
    kernel.grow([many], whole=True)
    assert "goto pick-840" in host.run("nft", "list", "map", "inet", "cairn_l4lb", "vips")
    assert_programmed(kernel, [many])


def test_what_failed_is_done_with_the_next_call(
    host: Namespace, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.grow(ALL, whole=True)

    def fail(*_: Any) -> None:
        raise Unavailable("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(kernel._nft, "change", fail)
        with pytest.raises(Unavailable, match="no memory"):
            kernel.grow([service(WEB, 5)])
    kernel.weigh((), {})
    kernel.shrink()
    assert_programmed(kernel, [service(WEB, 5), *ALL[1:]])


@pytest.mark.parametrize(
    "left",
    [
        "nft add table inet cairn_l4lb",
        "nft 'add table inet cairn_l4lb;"
        "add map inet cairn_l4lb be { type ipv4_addr : ipv4_addr; };"
        "add chain inet cairn_l4lb pick { type filter hook prerouting priority -290; };"
        "add rule inet cairn_l4lb pick drop'",
        "ipset create minuteman hash:ip,port; ipset add minuteman 1.2.3.4,tcp:5; iptables -I "
        "FORWARD -p tcp -m set --match-set minuteman dst,dst -m tcp --tcp-flags "
        "FIN,SYN,RST,ACK SYN -j REJECT",
    ],
)
def test_leftovers_of_another_version_are_replaced(
    host: Namespace, memory: Path, left: str
) -> None:
    subprocess.run(["bash", "-c", left], check=True)
    one = Kernel(SETTINGS, memory)
    one.start()
    one.grow(ALL, whole=True)
    one.shrink()
    assert_programmed(one, ALL)
    assert "drop" not in host.run("nft", "list", "table", "inet", "cairn_l4lb")
    assert len(host.run("iptables", "-S", "FORWARD").split("-set minuteman ")) == 2
    assert "minuteman 1.2.3.4,tcp:5" not in members(host)
    one.close()


def test_other_settings_replace_what_is_there(
    host: Namespace, kernel: Kernel, memory: Path
) -> None:
    kernel.grow(ALL, whole=True)
    strict = KernelSettings(
        mark_mask=0xFF, queue_bypass=False, reject="icmp-port-unreachable", refuse_unknown=False,
        retry_refused=False,
    )  # fmt: skip
    other = Kernel(strict, memory)
    other.start()
    other.grow(ALL, whole=True)
    assert_programmed(other, ALL)
    assert host.run("iptables", "-t", "raw", "-S", "OUTPUT").splitlines()[1:] == [
        "-A OUTPUT -p tcp -m set --match-set minuteman dst,dst -m tcp --tcp-flags "
        "FIN,SYN,RST,ACK SYN -j NFQUEUE --queue-balance 50:58",
        "-A OUTPUT -p tcp -j ACCEPT",
    ]
    assert "chain unknown" not in host.run("nft", "list", "table", "inet", "cairn_l4lb")
    other.close()


def test_a_new_version_of_the_rules_costs_no_vip(
    host: Namespace, kernel: Kernel, memory: Path
) -> None:
    kernel.grow(ALL, whole=True)
    kernel.weigh((), {WEB: (1, 2, 2, 2)})
    before = kernel._nft.read()
    other = Kernel(replace(SETTINGS, refuse_unknown=False), memory)
    assert "nft add table inet cairn_l4lb" in other.preview(ALL)
    other.start()
    assert other._nft.read() == before
    assert set(other.read_slots()) == {WEB, DNS, WEB6}
    other.close()
    # with other marks the slots of connections and of elements mean something else
    other = Kernel(replace(SETTINGS, mark_mask=0xFFF), memory)
    assert other.read_slots() == {}
    other.start()
    assert other._nft.read() == {}
    other.close()


def test_without_ipv6_nothing_of_it_is_left(host: Namespace, kernel: Kernel, memory: Path) -> None:
    kernel.grow(ALL, whole=True)
    other = Kernel(replace(SETTINGS, ipv6=False), memory)
    other.start()
    other.grow(ALL[:2], whole=True)
    other.shrink()
    assert_programmed(other, ALL[:2])
    assert "NFQUEUE" not in host.run("ip6tables-save")
    other.close()


# -- taking away -----------------------------------------------------------------------------------


def test_uninstalling_leaves_what_is_not_ours_and_nothing_else(
    host: Namespace, memory: Path
) -> None:
    before = state(host)
    one = Kernel(SETTINGS, memory)
    one.start()
    one.grow(ALL, whole=True)
    one.close()
    assert state(host) != before
    removed, problems = uninstall(memory)
    assert not problems
    assert {"table inet cairn_l4lb", *(f"set {name}" for name in SETS.values())} <= set(removed)
    assert state(host) == before
    assert "cairn" not in host.run("nft", "list", "ruleset")
    assert host.run("ipset", "list", "-n").split() == ["minuteman-mine"]
    assert uninstall(memory) == ([], [])


def test_a_setting_that_was_ours_already_stays(host: Namespace, memory: Path) -> None:
    host.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", 1)
    one = Kernel(SETTINGS, memory)
    one.start()
    one.close()
    assert not uninstall(memory)[1]
    assert Path("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal").read_text() == "1\n"


def test_a_set_that_others_use_is_a_problem_and_the_rest_goes(
    host: Namespace, kernel: Kernel, memory: Path
) -> None:
    host.run("iptables", "-A", "INPUT", "-m", "set", "--match-set", "minuteman", "dst,dst",
             "-j", "ACCEPT")  # fmt: skip
    removed, problems = uninstall(memory)
    assert len(problems) == 1
    assert "ipset destroy minuteman" in problems[0]
    assert "table inet cairn_l4lb" in removed


# -- the host --------------------------------------------------------------------------------------


def test_a_host_without_a_route_gets_one_and_loses_it(host: Namespace, memory: Path) -> None:
    host.ip("route del default\nroute del ::/0 dev lo")
    settings = KernelSettings(
        named6=SETTINGS.named6, source="10.0.0.9", named=("11.0.0.0", "11.255.255.254")
    )
    before = state(host)
    one = Kernel(settings, memory)
    assert "ip -4 route add 11.0.0.0/8 dev lo src 10.0.0.9 proto 161" in one.preview([])
    one.start()
    one.start()
    assert "src 10.0.0.9" in host.run("ip", "route", "get", "11.2.3.4")
    host.run("ip", "-6", "route", "get", "fd01:c::5")
    one.close()
    removed, problems = uninstall(memory)
    assert not problems
    assert {"route 11.0.0.0/8", "route fd01:c::/64"} <= set(removed)
    assert state(host) == before


def test_the_host_says_what_it_lost(host: Namespace, kernel: Kernel) -> None:
    reading = io_host.read((50, 58))
    assert reading.most > 0
    assert reading.counters == {
        "conntrack_insert_failed": 0, "conntrack_drop": 0, "conntrack_early_drop": 0,
        "queue_waiting": 0, "queue_dropped": 0, "queue_user_dropped": 0,
    }  # fmt: skip
    host.sysctl("net.ipv4.ip_forward", 0)
    assert any("net.ipv4.ip_forward is 0" in one for one in io_host.complaints(SETTINGS))


# -- everything together ---------------------------------------------------------------------------

numbers = st.lists(st.integers(1, 9), unique=True, max_size=5)
changes: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("grow"), st.builds(service, st.sampled_from([WEB, DNS, WEB6])), numbers),
    st.tuples(st.just("gone"), st.sampled_from([WEB, DNS, WEB6]), st.just([])),
    st.tuples(st.just("weigh"), st.sampled_from([WEB, WEB6]), numbers),
    st.tuples(st.just("shrink"), st.just(WEB), st.just([])),
    st.tuples(st.just("resync"), st.just(WEB), st.just([])),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(series=st.lists(changes, max_size=10))
def test_after_any_series_of_changes_the_kernel_is_as_it_should_be(
    kernel: Kernel, series: list[Any]
) -> None:
    kernel.grow([], whole=True)
    kernel.weigh((), {})
    kernel.shrink()
    wanted: dict[Vip, Service] = {}
    closed: set[BackendKey] = set()
    hot: dict[Vip, tuple[int, ...]] = {}
    for kind, what, some in series:
        if kind == "grow":
            wanted[what.vip] = service(what.vip, *sorted(some))
            kernel.grow([wanted[what.vip]])
        elif kind == "gone":
            wanted.pop(what, None)
            kernel.grow([], [what])
        elif kind == "weigh":
            protocol: Protocol = what.protocol
            closed = {(protocol, f"10.0.0.{n}", 8080) for n in some[:2]}
            hot = {what: tuple(some)}
            kernel.weigh(closed, hot)
        elif kind == "shrink":
            kernel.shrink()
        else:
            assert kernel.resync() == []
    kernel.shrink()
    assert kernel.resync() == []
    kernel.weigh((), {})
    assert_programmed(kernel, list(wanted.values()))


@pytest.mark.slow
def test_ten_thousand_vips(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    """What it takes is told, not asserted: others use the machine too."""
    many = [
        service(Vip("tcp", f"11.{n >> 16}.{n >> 8 & 255}.{n & 255}", 80), 1, 2, 3, 4)
        for n in range(10_000)
    ]
    began = time.perf_counter()
    kernel.grow(many, whole=True)
    whole = time.perf_counter() - began
    began = time.perf_counter()
    kernel.grow([service(many[77].vip, 1, 2, 3, 5)])
    kernel.shrink()
    one = time.perf_counter() - began
    assert kernel.resync() == []
    with capsys.disabled():
        print(f"\n10,000 VIPs of 4 backends: {whole:.2f} s; a change of one: {one * 1e3:.2f} ms")
