"""The steering process with a real kernel, in throw-away namespaces."""

import asyncio
import os
import random
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from msgspec.structs import replace

from cairn_core.testing.requires import requires
from cairn_l4lb.channel import Report, SteerSettings, Update
from cairn_l4lb.io_kernel import Kernel
from cairn_l4lb.io_steer import SteerProcess
from cairn_l4lb.model import Backend, BackendKey, Mode, Options, Service, Vip
from cairn_l4lb.rules import KernelSettings
from cairn_l4lb.stats import Stats
from cairn_l4lb.testing import Load, Namespace, Servers, Site, site

pytestmark = pytest.mark.netns

VIP = Vip("tcp", "11.0.0.1", 80)
VIP6 = Vip("tcp", "fd01:c::1", 80)
DATAGRAMS = Vip("udp", "11.0.0.1", 53)
PATIENCE_S = 20.0
SETTINGS = SteerSettings(seed=1)
PLAIN = Options()
#: Nobody has it, but what is sent there comes to the queues, whatever it is.
GARBAGE = "11.0.0.9"
QUEUE = ["-j", "NFQUEUE", "--queue-balance", "50:58", "--queue-bypass"]


class Balanced:
    """A site with our rules and a steering process, and what it told."""

    def __init__(
        self, place: Site, kernel: Kernel, options: Options, settings: SteerSettings
    ) -> None:
        self.place, self.kernel = place, kernel
        self.reports: list[Report] = []
        self.services = [
            Service(vip, backends=self.backends(addresses), options=options)
            for vip, addresses in (
                (VIP, place.backends), (VIP6, place.backends6), (DATAGRAMS, place.backends),
            )
        ]  # fmt: skip
        kernel.start()
        kernel.grow(self.services, whole=True)
        self.steer = SteerProcess(
            settings, self.reports.append, lambda: Update(self.services, whole=True)
        )

    def backends(self, addresses: tuple[str, ...]) -> tuple[Backend, ...]:
        return tuple(Backend(one, self.place.port, slot=n) for n, one in enumerate(addresses, 1))

    def counter(self, name: str) -> int:
        return self.reports[-1].counters.get(name, 0) if self.reports else 0

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what a report makes true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def replaced(self, deaths: int) -> bool:
        return self.steer.deaths == deaths and self.steer.ready

    async def connect(self, vip: Vip = VIP, **options: object) -> Load:
        return await asyncio.to_thread(self.place.connect, vip.address, vip.port, **options)


@pytest.fixture
def place() -> Iterator[Site]:
    requires("root", "ip", "nft", "ipset", "iptables", "ip6tables")
    with site(backends=4) as made:
        yield made


@pytest.fixture
def servers(place: Site) -> Servers:
    return place.serve()


@asynccontextmanager
async def balanced(
    place: Site, options: Options = PLAIN, settings: SteerSettings = SETTINGS
) -> AsyncIterator[Balanced]:
    """A steering process that has its table; the test is in the host's namespace meanwhile."""
    with place.host.inside(), TemporaryDirectory() as folder:
        kernel = Kernel(KernelSettings(), Path(folder) / "memory.json")
        made = Balanced(place, kernel, options, settings)
        running = asyncio.create_task(made.steer.run())
        try:
            assert await made.steer.wait_ready(PATIENCE_S)
            assert await made.steer.settle(PATIENCE_S)
            yield made
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            kernel.close()


@pytest.mark.parametrize("where", ["host", "client"])
@pytest.mark.parametrize("vip", [VIP, VIP6], ids=str)
async def test_connections_reach_all_backends(
    place: Site, servers: Servers, where: str, vip: Vip
) -> None:
    async with balanced(place) as made:
        load = await made.connect(vip, where=where, count=400)
        assert (load.connections, load.failures) == (400, {})
        assert set(load.backends) == set(place.backends if vip is VIP else place.backends6)
        assert max(load.backends.values()) - min(load.backends.values()) <= 20
        await made.until(lambda: made.counter("successes") == 400)
        assert made.counter("observed_conns") == 400
        assert made.counter("timeouts") == made.counter("malformed") == 0


@pytest.mark.parametrize("mode", ["mark", "ctnetlink"])
@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
async def test_a_reused_port_is_never_refused(
    place: Site, servers: Servers, mode: Mode, reset: bool
) -> None:
    async with balanced(place, Options(mode=mode)) as made:
        load = await made.connect(
            count=300, source_ports=range(20000, 20008), reset=reset, passive=not reset, threads=2
        )
        assert (load.connections, load.failures) == (300, {})
        assert len(load.backends) == 4


@pytest.mark.parametrize("where", ["host", "client"])
async def test_a_client_does_not_wait_for_a_dead_backend(
    place: Site, servers: Servers, where: str
) -> None:
    place.blackhole(place.backends[0])
    settings = replace(SETTINGS, failure_limit=1000)
    async with balanced(place, settings=settings) as made:
        load = await made.connect(where=where, count=60, threads=20)
        assert (load.connections, load.failures) == (60, {})
        assert place.backends[0] not in load.backends
        assert load.max_s < 2.5  # the client repeats its SYN after 1 s, and then after 3
        await made.until(lambda: made.counter("failovers") > 0)


@pytest.mark.parametrize("vip", [VIP, VIP6], ids=str)
async def test_a_hedged_connection_does_not_even_wait_for_the_client(
    place: Site, servers: Servers, vip: Vip
) -> None:
    place.blackhole(place.backends[0])
    place.blackhole(place.backends6[0])
    settings = replace(SETTINGS, failure_limit=1000)
    async with balanced(place, Options(hedge_ms=60.0), settings) as made:
        load = await made.connect(vip, count=40, threads=10)
        assert (load.connections, load.failures) == (40, {})
        assert load.max_s < 0.9
        await made.until(lambda: made.counter("resent") > 0)


@pytest.mark.parametrize("vip", [VIP, VIP6], ids=str)
async def test_a_refusal_goes_to_another_backend(place: Site, servers: Servers, vip: Vip) -> None:
    addresses = place.backends if vip is VIP else place.backends6
    servers.close(addresses[0])
    settings = replace(SETTINGS, failure_limit=10**6)
    async with balanced(place, settings=settings) as made:
        load = await made.connect(vip, count=400)
        assert (load.connections, load.failures) == (400, {})
        assert set(load.backends) == set(addresses[1:])
        assert load.max_s < 0.9  # none waited for a SYN to be repeated
        await made.until(lambda: made.counter("retried_refusals") > 50)


@pytest.mark.parametrize("vip", [VIP, VIP6], ids=str)
async def test_who_comes_from_elsewhere_hears_of_no_refusal_but_asks_again(
    place: Site, servers: Servers, vip: Vip, capfd: pytest.CaptureFixture[str]
) -> None:
    addresses = place.backends if vip is VIP else place.backends6
    servers.close(addresses[0])
    settings = replace(SETTINGS, failure_limit=10**6)
    async with balanced(place, settings=settings) as made:
        load = await made.connect(vip, where="client", count=60, threads=30)
        assert (load.connections, load.failures) == (60, {})
        assert set(load.backends) == set(addresses[1:])
        assert 0.9 < load.max_s < 2.5  # the client repeats its SYN after 1 s
        await made.until(lambda: made.counter("retried_refusals") > 0)
        assert made.counter("resent") == 0
        assert made.counter("timeouts") == 0
    assert "cannot be sent" not in capfd.readouterr().err


@pytest.mark.parametrize("hedge_ms", [0.0, 50.0])
async def test_nobody_gets_where_the_host_does_not_let_him(
    place: Site, servers: Servers, hedge_ms: float
) -> None:
    barred, refusing, *others = place.backends
    place.host.run("iptables", "-I", "FORWARD", "-i", "br0", "-d", barred, "-j", "DROP")
    servers.close(refusing)
    settings = replace(SETTINGS, failure_limit=10**6)
    async with balanced(place, Options(hedge_ms=hedge_ms), settings) as made:
        load = await made.connect(where="client", count=60, threads=30)
        assert (load.connections, load.failures) == (60, {})
        assert set(load.backends) == set(others)
        await made.until(lambda: made.counter("unblamed") > 0)
        assert made.counter("hedges") == 0


@pytest.mark.parametrize("where", ["host", "client"])
async def test_what_the_host_refuses_is_no_refusal_of_a_backend(
    place: Site, servers: Servers, where: str
) -> None:
    chain = "OUTPUT" if where == "host" else "FORWARD"
    rule = "-p tcp --syn -d 10.99.0.0/16 -j REJECT --reject-with tcp-reset"
    place.host.run("iptables", "-I", chain, *rule.split())
    async with balanced(place) as made:
        load = await made.connect(where=where, count=60, threads=30, timeout_s=0.7)
        assert load.connections == 0
        if where == "host":
            assert load.failures == {"ECONNREFUSED": 60}
        other = "client" if where == "host" else "host"
        load = await made.connect(where=other, count=100)
        assert (load.connections, load.failures) == (100, {})
        assert len(load.backends) == 4
        await made.until(lambda: made.counter("successes") == 100)
        assert made.counter("refusals") == made.counter("timeouts") == 0


@pytest.mark.parametrize("where", ["host", "client"])
@pytest.mark.parametrize(("vip", "own"), [(VIP, "10.99.0.1"), (VIP6, "fd99::1")], ids=str)
async def test_a_refusal_of_the_own_host_goes_to_another_backend(
    place: Site, servers: Servers, vip: Vip, own: str, where: str
) -> None:
    settings = replace(SETTINGS, failure_limit=10**6)
    async with balanced(place, settings=settings) as made:
        [service] = [one for one in made.services if one.vip == vip]
        # nobody listens there
        more = (*service.backends, Backend(own, place.port, slot=len(service.backends) + 1))
        changed = Service(vip, backends=more)
        made.kernel.grow([changed])
        made.steer.send(Update([changed]))
        assert await made.steer.settle(PATIENCE_S)
        load = await made.connect(vip, where=where, count=60, threads=30)
        assert (load.connections, load.failures) == (60, {})
        await made.until(lambda: made.counter("retried_refusals") > 0)


async def test_backends_that_restart_one_after_another_serve_again(
    place: Site, servers: Servers
) -> None:
    async with balanced(place) as made:
        loading = await asyncio.to_thread(
            place.start_connecting, VIP.address, VIP.port, seconds=60.0, rate=200.0
        )

        def open_ones() -> int:
            last = {one.backend: one.open for each in made.reports for one in each.backends}
            return sum(opened for key, opened in last.items() if key[1] in place.backends)

        await made.until(lambda: open_ones() == 4)
        for address in place.backends:
            servers.close(address)
            await made.until(lambda: open_ones() < 4)
            servers.open(address)
        await made.until(lambda: open_ones() == 4)  # and not half a minute later
        load = await asyncio.to_thread(loading.stop)
        assert load.failures == {}


async def test_a_client_hears_of_it_when_all_backends_refuse(place: Site, servers: Servers) -> None:
    for address in place.backends:
        servers.close(address)
    settings = replace(SETTINGS, failure_limit=10**6)
    async with balanced(place, settings=settings) as made:
        load = await made.connect(count=20)
        assert (load.connections, load.failures) == (0, {"ECONNREFUSED": 20})
        assert load.seconds < 5.0


@pytest.mark.parametrize("where", ["host", "client"])
async def test_nobody_hangs_at_backends_that_are_closed(place: Site, where: str) -> None:
    place.blackhole(place.backends[0])
    settings = replace(SETTINGS, failure_limit=1, probe_s=0.2)
    async with balanced(place, settings=settings) as made:
        only = Service(VIP, backends=made.services[0].backends[:1])
        made.services[0] = only
        made.kernel.grow([only])
        made.steer.send(Update([only]))
        assert await made.steer.settle()
        made.kernel.shrink()

        def closed() -> bool:
            made.kernel.weigh(
                [one.backend for each in made.reports for one in each.backends if not one.open], {}
            )
            return made.counter("timeouts") > 0

        # it is refused too, when it asks again
        first = asyncio.create_task(made.connect(where=where, count=1))
        await made.until(closed)
        load = await made.connect(where=where, count=30, threads=3)
        assert (load.connections, load.failures) == (0, {"ECONNREFUSED": 30})
        assert load.seconds < 15.0
        assert (await first).failures == {"ECONNREFUSED": 1}
        await made.until(lambda: made.counter("probes") > 0)


async def test_a_dead_backend_of_the_kernels_is_closed_and_comes_back(
    place: Site, servers: Servers
) -> None:
    dead = place.backends[0]
    settings = replace(SETTINGS, backoff_s=3.0, kernel_slots=8)
    async with balanced(place, Options(mode="kernel"), settings) as made:
        stats = Stats()

        def shares() -> set[int]:
            """As the daemon does."""
            reports, made.reports[:] = made.reports[:-1], made.reports[-1:]
            for report in reports:
                stats.absorb(report, 0.0)
            made.kernel.weigh(stats.closed, stats.promoted, stats.sampled)
            return set(stats.promoted.get(VIP, ()))

        await made.until(lambda: len(shares()) == 4)
        place.blackhole(dead)
        # few of them, and a kernel that was not asked to move them
        load = await made.connect(count=60, threads=60, timeout_s=0.3)
        assert 0 < sum(load.failures.values()) < 60
        await made.until(lambda: shares() == {2, 3, 4})
        load = await made.connect(count=60)
        assert (load.connections, load.failures) == (60, {})
        assert dead not in load.backends
        # user space has it probed: the client's next SYN goes elsewhere
        await made.until(lambda: not shares())
        load = await made.connect(count=60, threads=20)
        assert (load.connections, load.failures) == (60, {})
        assert 0.9 < load.max_s < 2.5
        assert dead not in load.backends
        place.heal(dead)
        async with asyncio.timeout(PATIENCE_S):
            while len(shares()) < 4:
                load = await made.connect(count=20)
                assert load.failures == {}
        assert not stats.sampled


async def test_each_refusal_of_what_the_kernel_gave_away_counts_once(
    place: Site, servers: Servers
) -> None:
    servers.close(place.backends[0])
    settings = replace(SETTINGS, failure_limit=10**6, kernel_slots=8)
    async with balanced(place, Options(mode="kernel"), settings) as made:
        stats = Stats()

        def absorbed() -> Stats:
            for report in made.reports:
                stats.absorb(report, 0.0)
            made.reports.clear()
            return stats

        await made.until(lambda: VIP in absorbed().promoted)
        made.kernel.weigh(stats.closed, stats.promoted, stats.sampled)
        load = await made.connect(count=80)
        refused = load.failures["ECONNREFUSED"]
        key: BackendKey = ("tcp", place.backends[0], place.port)
        await made.until(lambda: absorbed().counters().get("successes") == 80 - refused)
        await made.until(lambda: stats.backends[key].failures >= refused)
        assert stats.backends[key].failures == refused == sum(load.failures.values())
        assert stats.counters()["timeouts"] == 0


async def test_no_connection_fails_when_the_process_is_killed(
    place: Site, servers: Servers
) -> None:
    async with balanced(place) as made:
        loading = await asyncio.to_thread(
            place.start_connecting, VIP.address, VIP.port, seconds=60.0, rate=1000.0
        )
        first = made.steer.pid
        for deaths in (1, 2):
            await made.until(lambda: made.counter("successes") > 100)
            made.reports.clear()
            pid = made.steer.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await made.until(partial(made.replaced, deaths))
        await made.until(lambda: made.counter("successes") > 100)
        load = await asyncio.to_thread(loading.stop)
        assert load.failures == {}
        assert load.connections > 200
        assert made.steer.deaths == 2
        assert made.steer.pid != first


async def test_what_waits_is_decided_before_the_end(place: Site, servers: Servers) -> None:
    async with balanced(place) as made:
        loading = await asyncio.to_thread(
            place.start_connecting, VIP.address, VIP.port, seconds=60.0, rate=500.0
        )
        pid = made.steer.pid
        assert pid is not None
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(pid, number)  # to all of a service, say; only we end it
        await made.until(lambda: made.counter("successes") > 50)
        # as on a stop: the kernel chooses for what comes from now on
        made.kernel.open_for_drain()
        await made.steer.drain()
        made.kernel.close_after_drain()
        load = await asyncio.to_thread(loading.stop)
        assert load.failures == {}
        assert load.max_s < 0.9
        assert (made.steer.deaths, made.steer.ready) == (0, False)


async def test_garbage_does_not_end_it(place: Site, servers: Servers) -> None:
    place.host.run("iptables", "-t", "raw", "-I", "OUTPUT", "-d", GARBAGE, *QUEUE)
    async with balanced(place) as made:
        pid, rng = made.steer.pid, random.Random(3)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for number in range(300):
                protocol = rng.choice((6, 17, 1, 132, 255))
                words = rng.choice((5, 6, 15))
                body = rng.randbytes(rng.choice((0, 3, 8, 19, 60)) + (words - 5) * 4)
                head = struct.pack(
                    "!BBHHHBBH4s4s", 0x40 | words, 0, 20 + len(body), number, 0, 64, protocol, 0,
                    socket.inet_aton("10.99.0.1"), socket.inet_aton(GARBAGE),
                )  # fmt: skip
                with suppress(OSError):
                    raw.sendto(head + body, (GARBAGE, 0))
        load = await made.connect(count=50)
        assert (load.connections, load.failures) == (50, {})
        await made.until(lambda: made.counter("unparsable") > 100)
        assert made.steer.pid == pid


async def test_the_original_way(place: Site, servers: Servers) -> None:
    async with balanced(place, Options(mode="ctnetlink")) as made:
        load = await made.connect(count=200)
        assert (load.connections, load.failures) == (200, {})
        assert set(load.backends) == set(place.backends)
        load = await made.connect(count=200, where="client")
        assert (load.connections, load.failures) == (200, {})
        await made.until(lambda: made.counter("successes") == 400)
        assert made.counter("entries") == 400
        assert made.counter("entries_failed") == 0


@pytest.mark.parametrize("mode", ["mark", "ctnetlink"])
@pytest.mark.parametrize("where", ["host", "client"])
async def test_a_backend_on_this_host(place: Site, mode: Mode, where: str) -> None:
    address = "10.99.0.1"
    place.serve(address, where="host")
    async with balanced(place, Options(mode=mode)) as made:
        backend = Backend(address, place.port, slot=5)
        made.services[0] = Service(VIP, backends=(backend,), options=Options(mode=mode))
        made.kernel.grow(made.services[:1])
        made.steer.send(Update(made.services[:1]))
        assert await made.steer.settle()
        made.kernel.shrink()
        load = await made.connect(where=where, count=50)
        assert (load.connections, load.failures) == (50, {})
        assert set(load.backends) == {address}


@pytest.mark.parametrize("where", ["host", "client"])
async def test_datagrams(place: Site, where: str) -> None:
    place.serve(*place.backends, udp=True)
    names: set[bytes] = set()
    client: Namespace = getattr(place, where)
    async with balanced(place) as made:
        for _ in range(40):
            with client.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(PATIENCE_S)
                sock.connect((DATAGRAMS.address, DATAGRAMS.port))
                replies = set()
                for _ in range(3):
                    sock.send(b"?")
                    replies.add(sock.recv(100))
                assert len(replies) == 1
                names |= replies
        assert len(names) == 4
        await made.until(lambda: made.counter("successes") == 40)
        assert made.counter("observed_conns") == 40


@pytest.mark.parametrize("where", ["host", "client"])
async def test_whom_the_host_lets_not_through_closes_nothing(
    place: Site, servers: Servers, where: str
) -> None:
    rule = "OUTPUT -d 10.99.0.0/16" if where == "host" else "FORWARD -d 10.99.0.0/16"
    place.host.run("iptables", "-I", *rule.split(), "-j", "DROP")
    async with balanced(place) as made:
        load = await made.connect(where=where, count=60, threads=30, timeout_s=1.3)
        assert load.failures == {"TimeoutError": 60}
        await made.until(lambda: made.counter("unblamed") >= 60)
        other = "client" if where == "host" else "host"
        load = await made.connect(where=other, count=100)
        assert (load.connections, load.failures) == (100, {})
        assert len(load.backends) == 4
        assert made.counter("timeouts") == 0


def syn(client: str, port: int, *, good: bool = True) -> bytes:
    """A SYN to the VIP, with a good checksum or a bad one."""
    ends = socket.inet_aton(client) + socket.inet_aton(VIP.address)
    tcp = struct.pack("!HHIIBBHHH", port, VIP.port, 12345, 0, 5 << 4, 2, 1000, 0, 0)
    words = struct.unpack("!16H", ends + struct.pack("!HH", 6, len(tcp)) + tcp)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    checksum ^= 0 if good else 0x5555
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0)
    return head + ends + tcp[:16] + struct.pack("!HH", checksum, 0)


@pytest.mark.parametrize("kind", ["checksum", "established"])
async def test_a_syn_that_nobody_can_answer_closes_nothing(
    place: Site, servers: Servers, kind: str
) -> None:
    ports = range(20000, 20060)
    async with balanced(place) as made:
        with ExitStack() as stack:
            with place.client.inside():
                raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
                stack.enter_context(raw)
                for port in ports if kind == "established" else ():
                    one = stack.enter_context(socket.socket())
                    one.settimeout(PATIENCE_S)
                    one.bind(("", port))
                    one.connect((VIP.address, VIP.port))
            if kind == "established":
                await made.until(lambda: made.counter("successes") == len(ports))
            for port in ports:
                packet = syn("10.98.0.2", port, good=kind == "established")
                raw.sendto(packet, (VIP.address, 0))
            await made.until(lambda: made.counter("unblamed") == len(ports))
        load = await made.connect(count=100)
        assert (load.connections, load.failures) == (100, {})
        assert len(load.backends) == 4
        assert made.counter("timeouts") == 0


async def test_a_queue_has_one_reader(
    place: Site, servers: Servers, capfd: pytest.CaptureFixture[str]
) -> None:
    async with balanced(place) as made:
        second = SteerProcess(SETTINGS, lambda _: None, lambda: Update(whole=True))
        running = asyncio.create_task(second.run())
        await made.until(lambda: second.deaths > 0)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert not second.ready
        assert "queue 50 is taken by another process" in capfd.readouterr().err
        load = await made.connect(count=20)
        assert load.failures == {}
