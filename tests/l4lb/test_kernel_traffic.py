"""Connections through what the kernel was programmed with, without a steering process."""

import contextlib
import random
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from cairn_core.testing.requires import requires
from cairn_l4lb import conntrack
from cairn_l4lb.io_conntrack import Events
from cairn_l4lb.io_kernel import Kernel
from cairn_l4lb.model import Backend, BackendKey, Service, Vip
from cairn_l4lb.rules import KernelSettings
from cairn_l4lb.testing import Site, site

pytestmark = pytest.mark.netns

SETTINGS = KernelSettings(named6=("fd01:c::", "fd01:c::ffff:ffff:ffff:ffff"))
WEB, WEB6, DNS = Vip("tcp", "11.0.0.1", 80), Vip("tcp", "fd01:c::1", 80), Vip("udp", "11.0.0.1", 53)
UNKNOWN = "11.7.7.7"


@pytest.fixture
def place() -> Iterator[Site]:
    requires("root", "nft", "iptables", "ip6tables", "ipset", "ip")
    with site(backends=4) as one:
        one.serve()
        yield one


@pytest.fixture
def kernel(place: Site, tmp_path: Path) -> Iterator[Kernel]:
    with place.host.inside():
        one = Kernel(SETTINGS, tmp_path / "memory.json")
        one.start()
        one.grow([of(WEB, place), of(WEB6, place), of(DNS, place)], whole=True)
        yield one
        one.close()


def of(vip: Vip, place: Site) -> Service:
    addresses = place.backends6 if vip.ipv6 else place.backends
    return Service(
        vip, backends=tuple(Backend(one, place.port, slot=n) for n, one in enumerate(addresses, 1))
    )


def counted(place: Site, chain: str) -> list[int]:
    """Packets that the counters of a stranger's chain saw."""
    listed = place.host.run("nft", "list", "chain", "inet", "theirs", chain)
    return [int(one) for one in re.findall(r"packets (\d+)", listed)]


def strangers(place: Site, *rules: str) -> None:
    """Rules of somebody else, in chains `before` (after the queues) and `after` (translation)."""
    lines = ["table inet theirs {"]
    for hook in ("prerouting", "output"):
        lines.append(f"chain before-{hook} {{ type filter hook {hook} priority -250; }}")
    lines += ["chain after { type filter hook postrouting priority 0; }", "}"]
    lines += [f"add rule inet theirs {rule}" for rule in rules]
    place.host.run("nft", "-f", "-", given="\n".join(lines) + "\n")


@pytest.mark.parametrize("where", ["host", "client"])
@pytest.mark.parametrize("vip", [WEB, WEB6])
def test_the_kernel_alone_reaches_all_backends(
    place: Site, kernel: Kernel, vip: Vip, where: str
) -> None:
    load = place.connect(vip.address, vip.port, count=400, where=where)
    assert not load.failures
    assert len(load.backends) == 4
    assert min(load.backends.values()) > 50


@pytest.mark.parametrize("where", ["host", "client"])
def test_datagrams_reach_all_backends(place: Site, kernel: Kernel, where: str) -> None:
    place.serve(udp=True)
    names = set()
    with getattr(place, where).inside():
        for _ in range(40):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(5.0)
                client.connect((DNS.address, DNS.port))
                client.send(b"hello")
                names.add(client.recv(100))
    assert len(names) == 4


@pytest.mark.parametrize("where", ["host", "client"])
@pytest.mark.parametrize("vip", [WEB, WEB6])
def test_who_is_closed_gets_nothing_and_all_closed_refuses(
    place: Site, kernel: Kernel, vip: Vip, where: str
) -> None:
    addresses = place.backends6 if vip.ipv6 else place.backends
    closed: list[BackendKey] = [("tcp", one, place.port) for one in addresses]
    kernel.weigh(closed[:3], {})
    load = place.connect(vip.address, vip.port, count=20, where=where)
    assert load.backends == {addresses[3]: 20}
    kernel.weigh(closed, {})
    load = place.connect(vip.address, vip.port, count=3, where=where)
    assert load.failures == {"ECONNREFUSED": 3}


@pytest.mark.parametrize("where", ["host", "client"])
def test_datagrams_to_nobody_are_refused(place: Site, kernel: Kernel, where: str) -> None:
    kernel.weigh([("udp", one, place.port) for one in place.backends], {})
    with getattr(place, where).inside(), socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(5.0)
        client.connect((DNS.address, DNS.port))
        # a local sender is told twice, and the first time in other words
        with contextlib.suppress(PermissionError):
            client.send(b"hello")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


@pytest.mark.parametrize("where", ["host", "client"])
@pytest.mark.parametrize("address", [UNKNOWN, "fd01:c::77"])
def test_an_unknown_address_of_the_named_range_is_refused_at_once(
    place: Site, kernel: Kernel, where: str, address: str
) -> None:
    assert place.connect(address, 80, count=3, where=where).failures == {"ECONNREFUSED": 3}


def test_the_slot_in_the_mark_decides_and_marks_of_others_are_kept(
    place: Site, kernel: Kernel
) -> None:
    strangers(
        place,
        # as the steering process would: slot 2, in a mark that somebody else uses too
        "before-output ip daddr 11.0.0.1 meta mark set 0x80020001",
        "after tcp dport 8080 tcp flags syn / syn,ack meta mark 0x80000001 counter",
        "after tcp dport 8080 tcp flags syn / syn,ack meta mark and 0x0fff0000 != 0 counter",
    )
    load = place.connect(WEB.address, WEB.port, count=20)
    assert load.backends == {place.backends[1]: 20}
    assert counted(place, "after") == [20, 0]


def test_a_connection_that_others_marked_keeps_that_too(place: Site, kernel: Kernel) -> None:
    strangers(
        place,
        "before-output ip daddr 11.0.0.1 tcp sport < 30000 meta mark set 0x00030000",
        "after tcp dport 8080 ct mark and 0xf000ffff != 0x40000002 counter",
        "after tcp dport 8080 ct mark and 0x0fff0000 == 0 counter",
    )
    # a connection has a mark only after conntrack, which is at -200
    place.host.run(
        "nft", "-f", "-",
        given="add chain inet theirs marks { type filter hook output priority -199; }\n"
        "add rule inet theirs marks ip daddr 11.0.0.1 ct state new ct mark set 0x40000002\n",
    )  # fmt: skip
    load = place.connect(WEB.address, WEB.port, count=40, source_ports=range(20000, 20040))
    assert load.backends == {place.backends[2]: 40}
    load = place.connect(WEB.address, WEB.port, count=100, source_ports=range(40000, 40100))
    assert len(load.backends) == 4
    assert counted(place, "after") == [0, 0]


def test_a_slot_without_a_backend_is_the_kernel_s_choice(place: Site, kernel: Kernel) -> None:
    strangers(place, "before-output ip daddr 11.0.0.1 meta mark set 0x00990000")
    load = place.connect(WEB.address, WEB.port, count=100)
    assert not load.failures
    assert len(load.backends) == 4


def test_a_hot_vip_has_the_shares_it_was_given(place: Site, kernel: Kernel) -> None:
    kernel.weigh((), {WEB: (1, 2, 2, 2) * 32})
    load = place.connect(WEB.address, WEB.port, count=400)
    assert set(load.backends) == set(place.backends[:2])
    assert load.backends[place.backends[1]] > 2 * load.backends[place.backends[0]]


def test_a_share_that_has_just_gone_costs_no_connection(place: Site, kernel: Kernel) -> None:
    # as a packet finds it that was between counting and looking
    place.host.run(
        "nft", "delete element inet cairn_l4lb picks "
        "{ 11.0.0.1 . tcp . 80 . 1, 11.0.0.1 . tcp . 80 . 2, 11.0.0.1 . tcp . 80 . 3 }",
    )  # fmt: skip
    load = place.connect(WEB.address, WEB.port, count=20)
    assert load.backends == {place.backends[0]: 20}


@pytest.mark.parametrize(("hot", "busy"), [(False, False), (True, False), (True, True)])
def test_events_are_few(place: Site, kernel: Kernel, hot: bool, busy: bool) -> None:
    kernel.weigh((), {WEB: (1, 2, 3, 4)} if hot else {}, {WEB} if busy else ())
    events = Events(SETTINGS.mark_mask)
    place.connect(WEB.address, WEB.port, count=640)
    kinds = Counter(
        event.kind
        for event in map(conntrack.parse_event, events.receive(10_000))
        if event is not None
    )
    events.close()
    if hot and not busy:
        # user space sees nothing else of them
        assert kinds[conntrack.NEW] == kinds[conntrack.UPDATE] == 640
    elif hot:
        # one of 16 is reported, and that with its beginning
        assert 10 < kinds[conntrack.NEW] < 100
        assert kinds[conntrack.UPDATE] == kinds[conntrack.NEW]
    else:
        assert kinds[conntrack.NEW] == 0
        assert kinds[conntrack.UPDATE] == 640


def test_connections_go_on_while_their_backend_leaves(place: Site, kernel: Kernel) -> None:
    with place.host.inside(), socket.create_connection((WEB.address, WEB.port), 5.0) as client:
        name = client.recv(100).decode().strip()
        staying = tuple(one for one in of(WEB, place).backends if one.address != name)
        kernel.grow([Service(WEB, backends=staying)])
        kernel.shrink()
        client.sendall(b"still there?\n")
        assert client.recv(100)
    assert name not in place.connect(WEB.address, WEB.port, count=40).backends


@pytest.mark.parametrize("where", ["host", "client"])
def test_a_refusal_is_offered_to_the_queues_and_nothing_else_is(
    place: Site, kernel: Kernel, where: str
) -> None:
    def queued() -> int:
        chain = "INPUT" if where == "host" else "FORWARD"
        listed = place.host.run("iptables", "-t", "mangle", "-nvxL", chain)
        return sum(int(line.split()[0]) for line in listed.splitlines() if "cairn-l4lb" in line)

    place.connect(WEB.address, WEB.port, count=10, where=where, reset=True)
    assert queued() == 0
    nobody = Service(WEB, backends=(Backend(place.backends[0], 9, slot=1),))
    kernel.grow([nobody])
    load = place.connect(WEB.address, WEB.port, count=3, where=where)
    assert load.failures == {"ECONNREFUSED": 3}
    assert queued() == 3


def test_a_host_without_any_route_reaches_vips(place: Site, tmp_path: Path) -> None:
    place.host.ip("route del default")
    settings = KernelSettings(source="10.99.0.1", ipv6=False)
    with place.host.inside():
        one = Kernel(settings, tmp_path / "memory.json")
        one.start()
        one.grow([of(WEB, place)], whole=True)
        load = place.connect(WEB.address, WEB.port, count=40)
        assert len(load.backends) == 4
        assert place.connect(UNKNOWN, 80, count=1).failures == {"ECONNREFUSED": 1}
        load = place.connect(WEB.address, WEB.port, count=40, where="client")
        assert len(load.backends) == 4
        one.close()


@pytest.mark.parametrize("where", ["host", "client"])
def test_no_connection_fails_while_everything_changes(
    place: Site, kernel: Kernel, where: str
) -> None:
    rng = random.Random(7)
    everybody = of(WEB, place).backends
    load = place.start_connecting(WEB.address, WEB.port, where=where, rate=1500.0)
    for n in range(300):
        # the first one always takes connections
        some = everybody[:1] + tuple(sorted(rng.sample(everybody[1:], rng.randint(0, 3))))
        drained = tuple(
            replace(one, weight=0 if k and not rng.randrange(3) else rng.randint(1, 3))
            for k, one in enumerate(some)
        )
        kernel.grow([Service(WEB, backends=drained)])
        kernel.shrink()
        if not n % 3:
            kernel.weigh((), {WEB: rng.choices([one.slot for one in everybody], k=128)})
        elif not n % 5:
            kernel.weigh([("tcp", one.address, one.port) for one in some[1:]], {})
        if n == 100:
            assert kernel.resync() == []
        elif n == 150:
            # our own rules are filled in again under way
            place.host.run("nft", "add", "chain", "inet", "cairn_l4lb", "foreign")
            assert kernel.resync() == ["table inet cairn_l4lb"]
        elif n == 200:
            kernel.open_for_drain()
        elif n == 250:
            kernel.close_after_drain()
    done = load.stop()
    assert done.failures == {}
    assert done.connections > 100
