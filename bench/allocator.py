"""Rounds of the allocator, up to 20,000 agents and 2,000 frameworks.

Agents have 24 cpus, 4 GB of memory and of disk, and a thousand ports. A round is what a tick sets
off, run in slices as a master does; `slice_max_ms` is the longest of them, which is how long
another call may have to wait. Cases:

    NxM          all agents free, M frameworks of one role; each agent is allocated
    declined     every framework has refused every agent
    suppressed   nine of ten frameworks are suppressed
    quota        1,000 (3,000) roles with a guarantee each, all agents in use: nothing to give
    quota-free   1,000 roles with guarantee and limit, all agents free
    declined-below-limit
                 every role has refused what its quota limit leaves of every agent
    one-agent    20,000 agents of which one had a change
"""

from collections.abc import Callable, Iterator
from random import Random
from statistics import median
from time import perf_counter

from bench.report import Result, as_in_a_daemon
from cairn_core.extensions import AgentId, AllocAgent, Allocation, AllocFramework, FrameworkId
from cairn_core.resources import Resources
from cairn_scheduler.allocator import HierarchicalDrf

TOTAL = Resources.parse("cpus:24;mem:4096;disk:4096;ports:[31000-32000]")
SLICE_AGENTS = 32


class Cluster:
    """An allocator with agents and frameworks, and a clock that only we move."""

    def __init__(
        self, agents: int, frameworks: int, role: Callable[[int], str] = lambda _: "*"
    ) -> None:
        self.allocator = HierarchicalDrf(Random(1))
        self.now = 0.0
        for n in range(frameworks):
            info = AllocFramework(FrameworkId(f"f{n:05}"), frozenset({role(n)}))
            self.allocator.add_framework(info, {}, active=True)
        for n in range(agents):
            self.allocator.add_agent(AllocAgent(AgentId(f"s{n:05}"), f"host{n}", TOTAL), {})

    def round(self, *, tick: bool = True) -> tuple[float, float, list[Allocation]]:
        """Seconds of a round, of its longest slice, and what was allocated."""
        made: list[Allocation] = []
        self.now += 1.0
        longest, start = 0.0, perf_counter()
        if tick:
            self.allocator.tick(now=self.now)
        while True:
            before = perf_counter()
            result = self.allocator.step(now=self.now, max_agents=SLICE_AGENTS)
            longest = max(longest, perf_counter() - before)
            made.extend(result.allocations)
            if not result.more:
                return perf_counter() - start, longest, made

    def give_back(self, made: list[Allocation], refuse_s: float | None) -> float:
        """Decline (or end) all of it; microseconds each."""
        start = perf_counter()
        for one in made:
            self.allocator.recover(
                one.framework_id,
                one.agent_id,
                one.role,
                one.resources,
                refuse_s=refuse_s,
                now=self.now,
            )
        return (perf_counter() - start) / max(1, len(made)) * 1e6


def _report(
    case: str, times: list[tuple[float, float]], unit_metric: str = "round_s"
) -> list[Result]:
    rounds, slices = [t[0] for t in times], [t[1] for t in times]
    return [
        Result("allocator", case, unit_metric, median(rounds), "s", len(rounds)),
        Result("allocator", case, "slice_max_ms", max(slices) * 1000, "ms", len(rounds)),
    ]


def full_rounds(agents: int, frameworks: int, n: int) -> Iterator[Result]:
    """Every agent free in every round."""
    start = perf_counter()
    cluster = Cluster(agents, frameworks)
    case = f"{agents}x{frameworks}"
    yield Result("allocator", case, "set_up_s", perf_counter() - start, "s")
    times, back = [], []
    with as_in_a_daemon():
        for _ in range(n):
            took, longest, made = cluster.round()
            assert len(made) == agents
            times.append((took, longest))
            back.append(cluster.give_back(made, None))
    yield from _report(case, times)
    yield Result("allocator", case, "recover_us", median(back), "us", n)


def declined(agents: int, frameworks: int, n: int) -> Iterator[Result]:
    """Every framework declines every agent for a long time; then a round finds nobody."""
    cluster = Cluster(agents, frameworks)
    case = f"declined {agents}x{frameworks}"
    allocator = cluster.allocator
    for f in range(frameworks):
        for a in range(agents):
            allocator.recover(
                FrameworkId(f"f{f:05}"), AgentId(f"s{a:05}"), "*", TOTAL, refuse_s=1e7, now=0.0
            )
    with as_in_a_daemon():
        times = []
        for _ in range(n):
            took, longest, made = cluster.round()
            assert not made
            times.append((took, longest))
        yield from _report(case, times)
        framework = FrameworkId("f00001")
        start = perf_counter()
        allocator.revive(framework, frozenset(), now=cluster.now)
        yield Result("allocator", case, "revive_ms", (perf_counter() - start) * 1000, "ms")
        took, longest, made = cluster.round(tick=False)
        assert len(made) == agents
        yield from _report(case, [(took, longest)], "round_after_revive_s")


def suppressed(agents: int, frameworks: int, n: int) -> Iterator[Result]:
    """Nine of ten frameworks want nothing."""
    cluster = Cluster(agents, frameworks)
    for f in range(frameworks):
        if f % 10:
            cluster.allocator.suppress(FrameworkId(f"f{f:05}"), frozenset())
    times = []
    with as_in_a_daemon():
        for _ in range(n):
            took, longest, made = cluster.round()
            assert len(made) == agents
            times.append((took, longest))
            cluster.give_back(made, None)
    yield from _report(f"suppressed {agents}x{frameworks}", times)


def quota(agents: int, roles: int, n: int) -> Iterator[Result]:
    """All is in use, and no guarantee is met: the round has nothing to give."""
    cluster = Cluster(agents, roles, lambda f: f"role{f:05}")
    for r in range(roles):
        cluster.allocator.set_quota(f"role{r:05}", {"cpus": 10**9, "mem": 10**12}, {})
    made = cluster.round()[2]
    assert len(made) == agents
    times = []
    with as_in_a_daemon():
        for _ in range(n):
            took, longest, made = cluster.round()
            assert not made
            times.append((took, longest))
    yield from _report(f"quota {agents}x{roles}", times)


def quota_free(agents: int, roles: int, n: int) -> Iterator[Result]:
    """All is free, and every role has a guarantee and a limit."""
    cluster = Cluster(agents, roles, lambda f: f"role{f:05}")
    for r in range(roles):
        cluster.allocator.set_quota(
            f"role{r:05}", {"cpus": 48_000}, {"cpus": 96_000, "mem": 64_000_000}
        )
    times = []
    with as_in_a_daemon():
        for _ in range(n):
            took, longest, made = cluster.round()
            assert made
            times.append((took, longest))
            cluster.give_back(made, None)
        yield from _report(f"quota-free {agents}x{roles}", times)
        times = []
        for _ in range(n):
            took, longest, made = cluster.round()
            cluster.give_back(made, 1e6)
            times.append((took, longest))
        yield from _report(f"quota-free-declined {agents}x{roles}", times)


def declined_below_limit(agents: int, roles: int, n: int) -> Iterator[Result]:
    """Every role has refused, on every agent, the part of it that its limit leaves; the first
    round has to ask all of them, the next must not.
    """
    cluster = Cluster(agents, roles, lambda f: f"role{f:05}")
    part = Resources.parse("cpus:12;mem:4096;disk:4096;ports:[31000-32000]")
    for r in range(roles):
        cluster.allocator.set_quota(f"role{r:05}", {}, {"cpus": 12_000})
        for a in range(agents):
            cluster.allocator.recover(
                FrameworkId(f"f{r:05}"),
                AgentId(f"s{a:05}"),
                f"role{r:05}",
                part,
                refuse_s=1e7,
                now=0.0,
            )
    times = []
    with as_in_a_daemon():
        for _ in range(n + 1):
            took, longest, made = cluster.round()
            assert not made
            times.append((took, longest))
    case = f"declined-below-limit {agents}x{roles}"
    yield Result("allocator", case, "first_round_s", times[0][0], "s")
    yield from _report(case, times[1:])


def one_agent(agents: int, frameworks: int, n: int) -> Iterator[Result]:
    """A task ends on one agent of a full cluster."""
    cluster = Cluster(agents, frameworks)
    made = cluster.round()[2]
    times = []
    with as_in_a_daemon():
        for at in range(n):
            start = perf_counter()
            cluster.give_back([made[at]], None)
            result = cluster.allocator.step(now=cluster.now, max_agents=SLICE_AGENTS)
            times.append(perf_counter() - start)
            assert [a.agent_id for a in result.allocations] == [made[at].agent_id]
            assert not result.more
    case = f"one-agent {agents}x{frameworks}"
    yield Result("allocator", case, "round_ms", median(times) * 1000, "ms", n)
    yield Result("allocator", case, "round_max_ms", max(times) * 1000, "ms", n)


def run(quick: bool) -> Iterator[Result]:
    """All cases; quick: up to 5,000 agents."""
    n = 3 if quick else 5
    sizes = [(1000, 100), (5000, 500)]
    if not quick:
        sizes += [(10_000, 1000), (20_000, 2000)]
    for agents, frameworks in sizes:
        yield from full_rounds(agents, frameworks, n)
    agents, frameworks = sizes[-1]
    yield from declined(agents, frameworks if quick else 200, n)
    yield from suppressed(agents, frameworks, n)
    yield from quota(3000, 500 if quick else 3000, n)
    yield from quota_free(agents, 200 if quick else 1000, n)
    yield from declined_below_limit(200 if quick else 1000, 200 if quick else 500, n)
    yield from one_agent(agents, frameworks, 50)
