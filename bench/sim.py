"""The master's rules with thousands of simulated agents: registration, launching, failover.

A virtual clock drives the real rules and the real allocator; agents and frameworks are simulated
(`cairn_core.testing.sim`). Times are CPU seconds spent in the rules, without the simulation around
them and without encoding for the network. Cases `agents x frameworks`:

    register_us   per agent: Hello, admission, registry, inventory
    launch_us     per task: offer, ACCEPT, updates and acknowledgements
    return_us     per agent that comes back with its tasks after a change of masters
    return_s      virtual seconds until the last agent is back
    longest_ms    longest single fact, that is how long any other had to wait
    task_bytes    memory per running task, in the master's tables and the simulation's
"""

import gc
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from time import process_time

from bench.report import Result, as_in_a_daemon
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.core import MasterCore
from cairn_core.master.state.effects import Effect
from cairn_core.master.state.invariants import check
from cairn_core.resources import Resources
from cairn_core.testing.sim.agent import SimAgent
from cairn_core.testing.sim.framework import SimFramework
from cairn_core.testing.sim.master import SimMaster
from cairn_core.testing.sim.world import World
from cairn_scheduler.allocator import HierarchicalDrf

TOTAL = Resources.parse("cpus:24;mem:65536;disk:100000;ports:[31000-32000]")
SIZE = Resources.parse("cpus:0.5;mem:256")
TASKS_PER_AGENT = 10


class Stopwatch(MasterCore):
    """The rules with a clock around each fact."""

    spent_s = 0.0
    longest_s = 0.0
    _began = 0.0

    def _begin(self, now: float, wall: float) -> Cluster:
        Stopwatch._began = process_time()
        return super()._begin(now, wall)

    def _effects(self) -> list[Effect]:
        effects = super()._effects()
        took = process_time() - Stopwatch._began
        Stopwatch.spent_s += took
        Stopwatch.longest_s = max(Stopwatch.longest_s, took)
        return effects

    @classmethod
    def lap(cls) -> tuple[float, float]:
        """Seconds spent and longest fact since the last lap."""
        lap = (Stopwatch.spent_s, Stopwatch.longest_s)
        Stopwatch.spent_s = Stopwatch.longest_s = 0.0
        return lap


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    for agents, frameworks in [(500, 20)] if quick else [(500, 20), (5000, 100), (20000, 200)]:
        with as_in_a_daemon():
            yield from _case(agents, frameworks)


def _case(agents: int, frameworks: int) -> Iterator[Result]:
    case = f"{agents}x{frameworks}"

    def result(metric: str, value: float, unit: str, n: int = 1) -> Result:
        return Result("sim", case, metric, value, unit, n)

    world = World(1)
    master = SimMaster(world, lambda rng: HierarchicalDrf(rng), rules=Stopwatch)
    launches: Counter[tuple[str, str]] = Counter()
    hosts = [SimAgent(world, master, n, TOTAL, launches) for n in range(agents)]
    master.start()
    Stopwatch.lap()
    for host in hosts:
        host.start()
    _until(world, lambda: all(host.registered for host in hosts))
    spent, longest = Stopwatch.lap()
    yield result("register_us", spent / agents * 1e6, "us", agents)

    gc.collect()
    before = _rss()
    goal = agents * TASKS_PER_AGENT // frameworks
    schedulers = [
        SimFramework(world, master, n, goal, SIZE, refuse_s=60.0) for n in range(frameworks)
    ]
    for scheduler in schedulers:
        scheduler.start()
    _until(world, lambda: len(launches) >= goal * frameworks)
    world.run(5.0)
    spent, slow = Stopwatch.lap()
    longest = max(longest, slow)
    yield result("launch_us", spent / len(launches) * 1e6, "us", len(launches))
    gc.collect()
    yield result("task_bytes", (_rss() - before) / len(launches), "B", len(launches))

    master.crash()
    world.run(1.0)
    began = world.now
    master.start()
    _until(world, lambda: all(host.registered for host in hosts))
    spent, slow = Stopwatch.lap()
    yield result("return_us", spent / agents * 1e6, "us", agents)
    yield result("return_s", world.now - began, "s")
    yield result("longest_ms", max(longest, slow) * 1e3, "ms")
    assert master.core is not None
    check(master.core.cluster)


def _until(world: World, done: Callable[[], bool]) -> None:
    for _ in range(600):
        if done():
            return
        world.run(1.0)
    raise AssertionError("the simulation does not get there within 600 virtual seconds")


def _rss() -> int:
    """Bytes of memory now."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
