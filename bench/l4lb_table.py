"""What the table of VIPs costs on a node: the kernel's part, and the whole daemon.

kernel-V    V VIPs with one backend each, in the kernel's tables
    program_s       all of them
    change_ms, change_p99_ms    one VIP that gets another backend: added, then the old one gone
    new_ms          one VIP more, and gone again
    resync_ms       a look at what is there that finds nothing to do
daemon-VxB  `cairn-l4lb` with V VIPs and B backends each, fed by a master
    start_s         until all are served
    control_mb, steer_mb    memory of its two processes
    usable_p50_ms, usable_p99_ms    from a new VIP in the master's hands until a client has a
                    connection through it; the master collects changes for 30 ms of that
    control_cpu, steer_cpu    at 100 changed tasks a second, per cent of one processor, what
                    the kernel does for them included
    lost            connections that failed meanwhile, of 100 a second
"""

import random
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.dns_client import percentile
from bench.l4lb_cluster import agent_addresses, app_rows, cluster_rows, large, task_row, vip_address
from bench.l4lb_daemon import Daemon, daemon
from bench.l4lb_net import PORT, TRACKING, Site, host, result, site
from bench.l4lb_paths import cpu_s
from bench.report import CannotRun, Result, as_in_a_daemon, timed
from cairn_core.testing.feed_master import FeedMaster
from cairn_l4lb.io_kernel import Kernel
from cairn_l4lb.model import Backend, Service, Vip
from cairn_l4lb.rules import KernelSettings

BENCH = "l4lb_table"
BACKENDS = 10
#: Tasks that change a second.
CHANGES = 100
#: How often a client tries a VIP that is to appear, and for how long, seconds.
TRY_EVERY_S, TRY_S = 0.0005, 10.0


# -- the kernel alone --------------------------------------------------------------------------


def service(number: int, *slots: int) -> Service:
    """A VIP with a backend for each slot."""
    backends = (Backend(f"10.99.{slot}.1", 80, slot=slot) for slot in slots)
    return Service(Vip("tcp", vip_address(number), 80), "", tuple(backends))


def kernel(vips: int, changes: int) -> Iterator[Result]:
    """Program, change, look."""

    def found(metric: str, values: list[float], unit: str, share: float = 0.5) -> Result:
        value = percentile(sorted(values), share)
        value *= 1e3 if unit == "ms" else 1
        return Result(BENCH, f"kernel-{vips}", metric, value, unit, len(values))

    rng = random.Random(1)
    with host() as place, TemporaryDirectory() as directory, place.inside():
        ours = Kernel(KernelSettings(), Path(directory) / "host.json")
        try:
            ours.start()
            services = [service(number, 1) for number in range(vips)]
            with as_in_a_daemon():
                yield found(
                    "program_s", [timed(partial(_apply, ours, services, whole=True))[0]], "s"
                )
                changed, new = [], []
                for turn in range(changes):
                    one = service(rng.randrange(vips), 2 + turn % 2)
                    changed.append(timed(partial(_apply, ours, [one]))[0])
                    one = service(vips + turn, 1)
                    new.append(timed(partial(_apply, ours, [one]))[0])
                    _apply(ours, [], [one.vip])
                yield found("change_ms", changed, "ms")
                yield found("change_p99_ms", changed, "ms", 0.99)
                yield found("new_ms", new, "ms")
                yield found("resync_ms", [timed(ours.resync)[0] for _ in range(3)], "ms")
        finally:
            ours.close()


def _apply(
    ours: Kernel, services: list[Service], gone: list[Vip] | None = None, *, whole: bool = False
) -> None:
    ours.grow(services, gone or [], whole=whole)
    ours.shrink()


# -- the daemon --------------------------------------------------------------------------------


def usable(master: FeedMaster, place: Site, app: int) -> float:
    """Seconds until a new VIP can be connected to; it is gone again afterwards."""
    rows = list(app_rows(app, place.backends, PORT))
    start = time.perf_counter()
    master.put(*rows)
    try:
        until_connected(app)
        return time.perf_counter() - start
    finally:
        master.delete(*(row.key for row in rows))


def until_connected(app: int) -> None:
    """Try again and again; in the client's namespace."""
    address, deadline = vip_address(app), time.perf_counter() + TRY_S
    while True:
        try:
            with socket.create_connection((address, PORT), timeout=1.0):
                return
        except OSError as error:
            if time.perf_counter() > deadline:
                raise CannotRun(f"no connection to {address} in {TRY_S} s: {error}") from None
        time.sleep(TRY_EVERY_S)


def changing(master: FeedMaster, vips: int, seconds: float) -> None:
    """Tasks that go to other agents, one after the other, evenly."""
    rng, agents = random.Random(1), agent_addresses(vips * BACKENDS // 5)
    start = time.perf_counter()
    for number in range(int(seconds * CHANGES)):
        app = rng.randrange(1, vips)
        row = task_row(app, rng.randrange(BACKENDS), rng.choice(agents), 20000 + app % 5000)
        master.put(row)
        time.sleep(max(0.0, start + number / CHANGES - time.perf_counter()))


def whole(vips: int, seconds: float, news: int) -> Iterator[Result]:
    """The daemon with so many VIPs."""

    def found(metric: str, value: float, unit: str, n: int = 1) -> Result:
        return Result(BENCH, f"daemon-{vips}x{BACKENDS}", metric, value, unit, n)

    target = f"{vip_address(vips)}:{PORT}"
    with site(BACKENDS) as place, place.listening(), place.client("l4lb", [target]) as client:
        rows = [*large(vips, BACKENDS), *cluster_rows(place.backends)]
        rows += app_rows(vips, place.backends, PORT)
        start = time.perf_counter()
        with daemon(client, rows, vips + 1) as (balancer, master):
            with client.host.inside():
                until_connected(vips)
                yield found("start_s", time.perf_counter() - start, "s")
                usable(master, place, vips + 1)
                yield found("settled_s", time.perf_counter() - start, "s")
                took = sorted(usable(master, place, vips + 2 + n) for n in range(news))
            client.host.settings(TRACKING)
            yield found("usable_p50_ms", median(took) * 1e3, "ms", news)
            yield found("usable_p99_ms", percentile(took, 0.99) * 1e3, "ms", news)
            pids = {"control_cpu": balancer.control(), "steer_cpu": balancer.steer()}
            load = client.start("threads", 8, "rate", 100, "seconds", seconds)
            before = {metric: cpu_s(pid) for metric, pid in pids.items()}
            began = time.perf_counter()
            changing(master, vips, seconds)
            span = time.perf_counter() - began
            for metric, pid in pids.items():
                yield found(metric, (cpu_s(pid) - before[metric]) * 100 / span, "%")
            figures = result(load)
            made = figures["connections"] + figures["failures"]
            yield found("lost", figures["failures"], "connections", made)
            yield from memory(balancer, found)


def memory(balancer: Daemon, found: Callable[[str, float, str], Result]) -> Iterator[Result]:
    """Of both processes."""
    for metric, pid in (("control_mb", balancer.control()), ("steer_mb", balancer.steer())):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        pss = next(line for line in text.splitlines() if line.startswith("Pss:"))
        yield found(metric, int(pss.split()[1]) / 1000, "MB")


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    for vips in (100, 1000) if quick else (100, 1000, 5000, 10_000):
        yield from kernel(vips, 20 if quick else 200)
    for vips in (500,) if quick else (1000, 5000):
        yield from whole(vips, 2.0 if quick else 10.0, 10 if quick else 100)
