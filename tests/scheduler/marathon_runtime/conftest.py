"""Marathon's rules against a model of a cluster, in virtual time, with crashes.

`World` keeps what would be on disk, what the master would know, and the rules between them. Every
launch and every kill is counted, so that tests can tell overshoot and needless restarts.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

import pytest

from cairn_core.mesos.scheduler_api import Offer
from cairn_core.mesos.types import (
    AgentID,
    AllocationInfo,
    FrameworkID,
    OfferID,
    Range,
    Ranges,
    Resource,
    Scalar,
    TaskID,
    TaskInfo,
    TaskState,
    TaskStatus,
)
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.conditions import Condition
from cairn_scheduler.marathon.core import CoreSettings, MarathonCore
from cairn_scheduler.marathon.effects import (
    AcceptOffer,
    AcknowledgeUpdate,
    DeclineOffers,
    Deployed,
    Effect,
    Outcome,
    Probe,
    Probed,
    Publish,
    ReconcileTasks,
    Reply,
    Result,
    ReviveOffers,
    SendKill,
    SuppressOffers,
)
from cairn_scheduler.marathon.errors import MarathonError
from cairn_scheduler.marathon.events import Event
from cairn_scheduler.marathon.groups import RootGroup, put_app, remove_app
from cairn_scheduler.marathon.instances import Instance
from cairn_scheduler.marathon.legacy_app import read_app
from cairn_scheduler.marathon.normalize import Defaults, complete

START = 1_700_000_000.0
OFFER_TICK_S = 1.0


def make_app(app_id: str = "/web", **keys: object) -> App:
    """A complete app; keys as in JSON."""
    raw = {"id": app_id, "cmd": "sleep 1000", "cpus": 0.1, "mem": 32, **keys}
    return complete(read_app(raw), app_id, Defaults())


@dataclass
class Node:
    """An agent of the model; amounts of what is free."""

    name: str
    cpus: float
    refused_until: float = 0.0
    offered: str | None = None
    tasks: dict[str, TaskInfo] = field(default_factory=dict)


@dataclass
class World:
    """See the module. log: what a crash leaves. running: tasks that the cluster runs, by id."""

    nodes: int = 3
    cpus: float = 100.0
    seed: int = 1
    settings: CoreSettings = field(default_factory=CoreSettings)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.now, self.wall = 1000.0, START
        self.log: dict[str, bytes] = {}
        self.agents = {f"S{i}": Node(f"node{i}", self.cpus) for i in range(self.nodes)}
        self.running: dict[str, TaskState] = {}
        self.where: dict[str, str] = {}
        self.launches: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.events: list[Event] = []
        self.calls: list[Effect] = []
        self.replies: dict[int, Result | MarathonError] = {}
        self.updates: deque[TaskStatus] = deque()
        self.unacknowledged: dict[bytes, TaskStatus] = {}
        self.pending: deque[Outcome] = deque()
        #: Tasks whose agent nobody can reach.
        self.lost: set[str] = set()
        self.suppressed = False
        self.connected = False
        self.numbers = 0
        #: How the app's process behaves: its state after the launch, per task.
        self.behaviour: Callable[[TaskInfo], TaskState] = lambda info: TaskState.RUNNING
        self.probe: Callable[[Probe], Probed] = lambda probe: Probed(probe.key, True, 200)
        self.most: Counter[str] = Counter()
        self.next_tick = 0.0
        self.start()

    # The process

    def start(self) -> None:
        """A Marathon starts on what the log has."""
        self.core = MarathonCore(self.settings, Random(self.rng.getrandbits(64)))
        self.take(self.core.recover(self.log.items(), now=self.now, wall=self.wall))
        self.connect()

    def crash(self) -> None:
        """The process is killed: what was not written is lost, and a new one starts."""
        self.pending.clear()
        self.disconnect()
        self.start()

    def connect(self) -> None:
        """Marathon subscribes."""
        self.connected = True
        self.suppressed = False
        for node in self.agents.values():
            node.refused_until, node.offered = 0.0, None
        self.updates.extend(self.unacknowledged.values())
        self.take(self.core.registered("F1", "master:5050", now=self.now, wall=self.wall))

    def disconnect(self) -> None:
        """The stream is gone."""
        self.connected = False
        self.updates.clear()
        for node in self.agents.values():
            node.offered = None

    def take(self, outcome: Outcome) -> None:
        if outcome.records or outcome.effects:
            self.pending.append(outcome)

    def commit(self) -> bool:
        """Write one outcome and carry it out."""
        if not self.pending:
            return False
        outcome = self.pending.popleft()
        self.write(outcome)
        for effect in outcome.effects:
            self.carry_out(effect)
        return True

    def write(self, outcome: Outcome) -> None:
        for record in outcome.records:
            if record.value is None:
                self.log.pop(record.key, None)
            else:
                self.log[record.key] = record.value

    # The master

    def carry_out(self, effect: Effect) -> None:
        """What the shell and the master would do."""
        self.calls.append(effect)
        match effect:
            case Publish(event):
                self.events.append(event)
            case Reply(request, result):
                self.replies[request] = result
            case Probe():
                found = self.probe(effect)
                self.take(self.core.probed(found, now=self.now, wall=self.wall))
            case _ if not self.connected:
                pass
            case AcceptOffer(offer_id, tasks, refuse_s):
                self.accept(offer_id, tasks, refuse_s)
            case DeclineOffers(offer_ids, refuse_s):
                for node in self.agents.values():
                    if node.offered in offer_ids:
                        node.offered, node.refused_until = None, self.now + refuse_s
            case SendKill(task_id, _):
                self.kill(task_id)
            case AcknowledgeUpdate(status):
                assert status.uuid is not None
                self.unacknowledged.pop(status.uuid, None)
            case ReviveOffers():
                self.suppressed = False
                for node in self.agents.values():
                    node.refused_until = 0.0
                self.next_tick = self.now
            case SuppressOffers():
                self.suppressed = True
            case ReconcileTasks(body):
                self.reconcile([t.task_id.value for t in body.tasks])

    def accept(self, offer_id: str, tasks: Iterable[TaskInfo], refuse_s: float) -> None:
        found = [(k, n) for k, n in self.agents.items() if n.offered == offer_id]
        for info in tasks:
            task_id = info.task_id.value
            assert f"instance/{task_id.rpartition('._app')[0]}" in self.log
            if not found:
                self.report(task_id, TaskState.DROPPED, "gone", reason="REASON_INVALID_OFFERS")
                continue
            agent_id, node = found[0]
            self.launches[task_id] += 1
            assert self.launches[task_id] == 1, f"{task_id} was launched twice"
            node.tasks[task_id] = info
            self.where[task_id] = agent_id
            self.running[task_id] = TaskState.STAGING
            state = self.behaviour(info)
            if state is not TaskState.RUNNING:
                self.end(task_id, state)
            else:
                self.running[task_id] = state
                self.report(task_id, state, agent_id)
        for _, node in found:
            node.offered, node.refused_until = None, self.now + refuse_s
        self.most |= Counter(t.rpartition(".instance-")[0] for t in self.running)

    def end(self, task_id: str, state: TaskState, message: str = "") -> None:
        """A task ends."""
        agent_id = self.where.pop(task_id)
        del self.running[task_id]
        del self.agents[agent_id].tasks[task_id]
        self.report(task_id, state, agent_id, message=message)

    def lose(self, task_id: str) -> None:
        """The agent of a task cannot be reached."""
        self.lost.add(task_id)
        self.report(task_id, TaskState.UNREACHABLE, self.where[task_id], uuid=False)

    def find(self, task_id: str) -> None:
        """The agent of a task is back."""
        self.lost.discard(task_id)
        self.report(task_id, TaskState.RUNNING, self.where[task_id], uuid=False)

    def kill(self, task_id: str) -> None:
        if task_id in self.lost:
            return
        if task_id in self.running:
            self.kills[task_id] += 1
            self.end(task_id, TaskState.KILLED)
        else:
            self.report(task_id, TaskState.GONE, "", uuid=False)

    def reconcile(self, task_ids: list[str]) -> None:
        for task_id in task_ids or list(self.running):
            state = self.running.get(task_id, TaskState.GONE)
            if task_id in self.lost:
                state = TaskState.UNREACHABLE
            self.report(
                task_id, state, self.where.get(task_id, ""), uuid=False,
                reason="REASON_RECONCILIATION",
            )  # fmt: skip

    def report(
        self,
        task_id: str,
        state: TaskState,
        agent_id: str,
        *,
        uuid: bool = True,
        reason: str | None = None,
        message: str = "",
        healthy: bool | None = None,
    ) -> None:
        """The master sends a status update."""
        self.numbers += 1
        status = TaskStatus(
            TaskID(task_id), state, agent_id=AgentID(agent_id), reason=reason, message=message,
            timestamp=self.wall, uuid=self.numbers.to_bytes(16, "big") if uuid else None,
            healthy=healthy,
        )  # fmt: skip
        if status.uuid is not None:
            self.unacknowledged[status.uuid] = status
        if self.connected:
            self.updates.append(status)

    def offer(self) -> None:
        """A round of offers."""
        if not self.connected or self.suppressed:
            return
        offers = []
        for agent_id, node in self.agents.items():
            free = node.cpus - 0.1 * len(node.tasks)
            if node.offered is None and node.refused_until <= self.now and free >= 0.1:
                self.numbers += 1
                node.offered = f"O{self.numbers}"
                offers.append(make_offer(node.offered, agent_id, node.name, free))
        if offers:
            self.take(self.core.offers(offers, now=self.now, wall=self.wall))

    # Time

    def deliver(self) -> bool:
        """One status update reaches Marathon."""
        if not self.updates or not self.connected:
            return False
        status = self.updates.popleft()
        self.take(self.core.status_update(status, now=self.now, wall=self.wall))
        return True

    def quiet(self) -> None:
        """Write and deliver until nothing is on its way."""
        while self.commit() or self.deliver():
            pass

    def pass_time(self, limit: float) -> None:
        """Go to the next moment at which something is due."""
        at = min(self.core.next_deadline(), self.next_tick, limit)
        self.wall += max(0.0, at - self.now)
        self.now = max(self.now, at)
        if self.now >= self.next_tick:
            self.next_tick = self.now + OFFER_TICK_S
            self.offer()
        if self.now >= self.core.next_deadline():
            self.take(self.core.expire(now=self.now, wall=self.wall))

    def run(self, seconds: float) -> None:
        """Let everything happen for a while."""
        limit = self.now + seconds
        self.quiet()
        still = 0
        while self.now < limit:
            before = self.now
            self.pass_time(limit)
            self.quiet()
            still = still + 1 if self.now == before else 0
            assert still < 100, "the same moment is due again and again"

    def until(self, condition: Callable[[], object], seconds: float = 3600.0) -> None:
        """Let everything happen until a condition holds."""
        limit = self.now + seconds
        self.quiet()
        while not condition():
            assert self.now < limit, "it never came true"
            self.pass_time(limit)
            self.quiet()

    # A client

    def change(
        self, make_root: Callable[[RootGroup], RootGroup], **keys: object
    ) -> Result | MarathonError:
        """Change the root, and have the answer."""
        self.numbers += 1
        request = self.numbers
        self.take(
            self.core.change_root(request, make_root, now=self.now, wall=self.wall, **keys)  # type: ignore[arg-type]
        )
        self.quiet()
        return self.replies[request]

    def put(self, *apps: App, **keys: object) -> Deployed:
        """Create or replace apps."""

        def make_root(root: RootGroup) -> RootGroup:
            for app in apps:
                root = put_app(root, app)
            return root

        result = self.change(make_root, **keys)
        assert isinstance(result, Deployed), result
        return result

    def remove(self, app_id: str, **keys: object) -> Deployed:
        """Remove an app."""
        result = self.change(lambda root: remove_app(root, app_id), **keys)
        assert isinstance(result, Deployed), result
        return result

    def deploy(self, *apps: App, **keys: object) -> None:
        """Create or replace apps, and wait until it is done."""
        self.put(*apps, **keys)
        self.until(self.settled)

    def settled(self) -> bool:
        """Whether nothing is being deployed."""
        return not self.core.tables.deployments

    def instances(self, app_id: str = "/web") -> list[Instance]:
        """Instances of an app."""
        return list(self.core.tables.instances_of(app_id))

    def tasks(self, app_id: str = "/web") -> set[str]:
        """Tasks of an app that the cluster runs."""
        prefix = app_id.strip("/").replace("/", "_") + ".instance-"
        return {task_id for task_id in self.running if task_id.startswith(prefix)}

    def serving(self, app_id: str = "/web") -> int:
        """How many instances run, as Marathon knows."""
        return sum(i.condition is Condition.RUNNING for i in self.instances(app_id))

    def told(self, kind: type[Event]) -> list[Event]:
        """Events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


def make_offer(offer_id: str, agent_id: str, hostname: str, cpus: float) -> Offer:
    """All that is free on an agent."""
    mine = AllocationInfo("*")
    return Offer(
        OfferID(offer_id), FrameworkID("F1"), AgentID(agent_id), hostname,
        resources=(
            Resource(name="cpus", type="SCALAR", scalar=Scalar(cpus), allocation_info=mine),
            Resource(name="mem", type="SCALAR", scalar=Scalar(65536), allocation_info=mine),
            Resource(
                name="ports", type="RANGES", ranges=Ranges((Range(31000, 32000),)),
                allocation_info=mine,
            ),
        ),
        allocation_info=mine,
    )  # fmt: skip


@pytest.fixture
def world() -> World:
    """A cluster of three agents and a Marathon without apps."""
    return World()


@pytest.fixture
def make_world() -> type[World]:
    """Clusters of other sizes."""
    return World


@pytest.fixture(name="make_app")
def make_app_fixture() -> Callable[..., App]:
    """Complete apps from some keys."""
    return make_app
