"""A master that takes back a whole cluster after a change of masters, in one process, no sockets.

The real rules, the real allocator, the node feed and the read model take in what each agent says:
Hello and an inventory of ten tasks, as msgpack that is decoded as the link does it. Cases
`agents x tasks`; times are CPU seconds without making the messages:

    return_s      until every agent is registered and its tasks are in all tables
    slowest_ms    99.9th percentile of what one message holds the loop for
    memory_bytes  private memory afterwards, of the tables, the feed and the allocator
    task_bytes    the same per task
    render_s      the first read of `/state` after a pause: everything is rendered
    slice_ms      longest step of it; other work waits a little longer than that
    refresh_ms    a read after 1,000 tasks changed
    state_bytes   size of `/state`
    piece_ms      longest piece of `/state`
    snapshot_s    the snapshot that an operator's SUBSCRIBE begins with
    snapshot_ms   longest piece of it
    metrics_s     numbers of `/metrics/snapshot`
    metrics_ms    longest step of it
    roles_s       `/roles`
    roles_ms      longest step of it

The original took 9 s of time for 20,000 agents with 200,000 tasks (Mesos 1.5, on its authors'
machine, messages in process): a published figure, not measured in this run.
"""

import gc
from collections.abc import Callable, Iterator
from random import Random
from time import perf_counter, process_time

import msgspec

from bench.report import Result, as_in_a_daemon, timed
from cairn_core.extensions import AgentId
from cairn_core.kit.feed import FeedPublisher
from cairn_core.master import metrics_snapshot, role_summary
from cairn_core.master.feed import FeedRows
from cairn_core.master.http_legacy import STEP
from cairn_core.master.operator_snapshot import Snapshot
from cairn_core.master.read_model import ReadModel
from cairn_core.master.registry import RegistryImage
from cairn_core.master.state import agents as agent_rules
from cairn_core.master.state.core import MasterCore
from cairn_core.master.state.effects import (
    AgentChanged,
    AgentForgotten,
    Change,
    Effect,
    FrameworkChanged,
    TaskChanged,
)
from cairn_core.master.state.records import KnownAgent, MasterRecord
from cairn_core.master.state.settings import Settings
from cairn_core.mesos import types
from cairn_core.mesos.agent_api import AgentMessage
from cairn_core.testing.sim_agents import agent_hello, framework_info, inventory, typical_task
from cairn_scheduler.allocator import HierarchicalDrf

TASKS_PER_AGENT = 10
AT_ONCE = 100
_END = object()
OLD_MASTER = "00000000-0000-4000-8000-000000000000"
NEW_MASTER = "11111111-1111-4111-8111-111111111111"
BATCH = msgspec.msgpack.Decoder(list[AgentMessage])


class _Publisher:
    """The feed's table without its server."""

    def __init__(self) -> None:
        self.publisher = FeedPublisher(epoch=1)

    def put(self, key: str, value: bytes) -> None:
        self.publisher.put(key, value)

    def delete(self, key: str) -> None:
        self.publisher.delete(key)


class _Cluster:
    """A master after its failover, and the agents that come back to it."""

    def __init__(self, agents: int, frameworks: int) -> None:
        self.agents = agents
        self.frameworks = [framework_info(n, OLD_MASTER) for n in range(frameworks)]
        info = types.MasterInfo(NEW_MASTER, 0, pid="master@127.0.0.1:5050", hostname="master")
        self.core = MasterCore(MasterRecord(info, 0.0, 0.0), HierarchicalDrf(Random(1)), Settings())
        self.feed = FeedRows(_Publisher())
        self.model = ReadModel(self.core.cluster)
        self.spent_s = 0.0
        self.held_s: list[float] = []
        admitted = {
            (agent_id := self.agent_id(n)): KnownAgent(
                AgentId(agent_id),
                agent_rules.info_bytes(agent_hello(n, agent_id).info, AgentId(agent_id)),
                f"host{n}",
            )
            for n in range(agents)
        }
        self._effects(
            self.core.lead(
                2, RegistryImage(admitted=admitted), default_weights={}, now=1.0, wall=1.0
            )
        )
        self.feed.begin(self.core.cluster, info)

    @staticmethod
    def agent_id(number: int) -> str:
        return f"{OLD_MASTER}-S{number}"

    def come_back(self, numbers: range) -> None:
        """Some agents register, as `AgentLinks` would be told."""
        said = [(number, data) for number in numbers for data in self._messages(number)]
        # the clock of CPU time is a slow call itself: one for many messages
        began = process_time()
        for link, data in said:
            start = perf_counter()
            for message in BATCH.decode(data):
                self._effects(self.core.agent_message(link, message, now=2.0, wall=2.0))
            self.held_s.append(perf_counter() - start)
        self.spent_s += process_time() - began

    def _messages(self, number: int) -> Iterator[bytes]:
        agent_id = self.agent_id(number)
        tasks = []
        for index in range(TASKS_PER_AGENT):
            framework = self.frameworks[(number + index * 7) % len(self.frameworks)]
            assert framework.id is not None
            tasks.append(typical_task(f"app.{number}-{index}", agent_id, framework.id, index))
        owners = {task.framework_id for task in tasks}
        known = [framework for framework in self.frameworks if framework.id in owners]
        for message in (agent_hello(number, agent_id), *inventory(known, tasks)):
            yield msgspec.msgpack.encode([message])

    def _effects(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case AgentChanged() | AgentForgotten() | FrameworkChanged() | TaskChanged():
                    self.model.changed(effect)
                    self.feed.changed(effect)
                case _:
                    continue

    def render(self, change: int = 0) -> tuple[float, float]:
        """Refresh the read model; seconds in all and of the longest slice."""
        every = [task for f in self.core.cluster.frameworks.values() for task in f.tasks.values()]
        for task in every[:change]:
            self.model.changed(TaskChanged(task, Change.UPDATED))
        spans = [_seconds(lambda: self.model.begin(now=3.0))]
        more = True
        while more:
            began = perf_counter()
            more = self.model.work(STEP)
            spans.append(perf_counter() - began)
        return sum(spans), max(spans)


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    for agents, frameworks in [(1000, 20)] if quick else [(1000, 20), (20000, 200)]:
        gc.collect()
        with as_in_a_daemon():
            yield from _case(agents, frameworks)


def _case(agents: int, frameworks: int) -> Iterator[Result]:
    tasks = agents * TASKS_PER_AGENT
    case = f"{agents}x{tasks}"

    def result(metric: str, value: float, unit: str, n: int = 1) -> Result:
        return Result("failover", case, metric, value, unit, n)

    before = private_bytes()
    cluster = _Cluster(agents, frameworks)
    for start in range(0, agents, AT_ONCE):
        cluster.come_back(range(start, start + AT_ONCE))
    tables = cluster.core.cluster
    assert len(tables.agents) == agents
    assert sum(len(f.tasks) for f in tables.frameworks.values()) == tasks
    yield result("return_s", cluster.spent_s, "s", agents)
    held = sorted(cluster.held_s)
    yield result("slowest_ms", held[len(held) * 999 // 1000] * 1e3, "ms", len(held))
    gc.collect()
    memory = private_bytes() - before
    yield result("memory_bytes", memory, "B")
    yield result("task_bytes", memory / tasks, "B", tasks)
    spent, longest = cluster.render()
    yield result("render_s", spent, "s", agents + tasks)
    yield result("slice_ms", longest * 1e3, "ms")
    model = cluster.model
    size = sum(map(len, model.agents())) + sum(map(len, model.frameworks()))
    yield result("state_bytes", size, "B")
    yield result("rendered_bytes", private_bytes() - before - memory, "B")
    spent, longest = cluster.render(change=1000)
    join = max(_spans(model.frameworks()))
    yield result("refresh_ms", spent * 1e3, "ms", 1000)
    yield result("piece_ms", join * 1e3, "ms")
    numbers, roles = metrics_snapshot.Tally(), role_summary.Tally()
    for metric, steps, rest in (
        ("snapshot", Snapshot(tables).steps(), lambda: None),
        (
            "metrics",
            numbers.steps(tables),
            lambda: numbers.numbers(tables, leads=True, wall=1.0),
        ),
        ("roles", roles.steps(tables), lambda: role_summary.summarise(tables, roles)),
    ):
        spans = [*_spans(steps), _seconds(rest)]
        yield result(f"{metric}_s", sum(spans), "s")
        yield result(f"{metric}_ms", max(spans) * 1e3, "ms")


def _seconds(work: Callable[[], object]) -> float:
    return timed(work)[0]


def _spans(pieces: Iterator[object]) -> list[float]:
    """Seconds that each piece took to make."""
    spans = []
    while True:
        began = perf_counter()
        piece = next(pieces, _END)
        spans.append(perf_counter() - began)
        if piece is _END:
            return spans


def private_bytes(pid: int | str = "self") -> int:
    """Private memory of a process (USS), bytes."""
    private = 0
    with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith((b"Private_Clean", b"Private_Dirty")):
                private += int(line.split()[1]) * 1024
    return private
