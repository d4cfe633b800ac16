"""Marathon in the simulated data centre: real master, agents, executors, and every trouble."""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from cairn_core.mesos import scheduler_api, types
from cairn_core.mesos.scheduler_api import Event
from cairn_core.mesos.types import TaskState
from cairn_core.testing.sim.chaos import SIZE, DataCentre
from cairn_core.testing.sim.framework import SimFramework
from cairn_scheduler.allocator import HierarchicalDrf
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.core import CoreSettings, MarathonCore
from cairn_scheduler.marathon.effects import (
    AcceptOffer,
    AcknowledgeUpdate,
    DeclineOffers,
    Deployed,
    Effect,
    Outcome,
    ReconcileTasks,
    Reply,
    ReviveOffers,
    SendKill,
    SuppressOffers,
)
from cairn_scheduler.marathon.errors import MarathonError
from cairn_scheduler.marathon.groups import put_app
from cairn_scheduler.marathon.tracking import TrackerSettings

MakeApp = Callable[..., App]
WRITE_S = 0.05
SETTINGS = CoreSettings(
    tracking=TrackerSettings(confirm_timeout_s=30.0, kill_retry_s=5.0, reconciliation_s=20.0)
)


class SimMarathon(SimFramework):
    """A Marathon with one app; its goal is the app's instances. log: what outlives its crashes."""

    def __init__(self, centre: DataCentre, make_app: MakeApp, number: int) -> None:
        self.make_app = make_app
        self.log: dict[str, bytes] = {}
        self.core: MarathonCore | None = None
        self.waiting: deque[Outcome] = deque()
        self.replies: list[Any] = []
        self.command = 0
        super().__init__(centre.world, centre.leader, number, 0, SIZE, ledger=centre.ledger)

    # Life

    def start(self) -> None:
        world = self.world
        self.core = MarathonCore(SETTINGS, Random(world.rng.getrandbits(32)))
        outcome = self.core.recover(self.log.items(), now=world.now, wall=world.wall)
        name = self.core.tables.framework_id
        self.framework_id = types.FrameworkID(name) if name is not None else None
        super().start()
        self.take(outcome)
        self._tick(self._life)

    def crash(self) -> None:
        # Of what waits for the log some may be there, and some of its effects done.
        for _ in range(self.world.rng.randrange(len(self.waiting) + 1)):
            self._write(self.waiting.popleft(), self.world.rng.random() < 0.5)
        self.waiting.clear()
        self.core = None
        super().crash()

    def _tick(self, life: int) -> None:
        def due() -> None:
            if life == self._life and self.core is not None:
                if self.core.next_deadline() <= self.world.now:
                    self.take(self.core.expire(now=self.world.now, wall=self.world.wall))
                self._tick(life)

        assert self.core is not None
        self.world.at(max(self.core.next_deadline(), self.world.now + 0.005), due)

    # Facts

    @property
    def tasks(self) -> dict[str, TaskState]:  # told from the tables
        """The tasks that it thinks there are."""
        if self.core is None:
            return {}
        return {
            i.task.id: i.condition.task_state
            for i in self.core.tables.instances.values()
            if i.task is not None and i.condition.is_active
        }

    @tasks.setter
    def tasks(self, value: object) -> None:
        """Set by the base, once."""

    def set_goal(self, goal: int) -> None:
        """Scale the app, or change its command as well: a rolling restart."""
        if self.core is None:
            return
        self.goal = goal
        self.command += self.world.rng.random() < 0.5
        app = self.make_app(
            instances=goal, cmd=f"sleep {self.command}", cpus=1, backoffFactor=1,
            upgradeStrategy={"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0.5},
        )  # fmt: skip
        self.take(
            self.core.change_root(
                1, lambda root: put_app(root, app), force=True,
                now=self.world.now, wall=self.world.wall,
            )
        )  # fmt: skip

    def _take(self, event: Event) -> None:
        core, now, wall = self.core, self.world.now, self.world.wall
        if core is None:
            return
        if event.subscribed is not None:
            self.framework_id = event.subscribed.framework_id
            self.take(core.registered(self.framework_id.value, "m", now=now, wall=wall))
        if event.error is not None:
            self.errors.append(event.error.message)
        if event.offers is not None:
            self.take(core.offers(event.offers.offers, now=now, wall=wall))
        if event.update is not None:
            status = event.update.status
            if self._ledger is not None and self.framework_id is not None:
                self._ledger.hear(self.framework_id.value, status)
            self.take(core.status_update(status, now=now, wall=wall))

    def _reconcile(self) -> None:
        """The rules do that themselves."""

    # The log and what follows

    def take(self, outcome: Outcome) -> None:
        """Write an outcome after a while."""
        self.waiting.append(outcome)
        life = self._life

        def written() -> None:
            if life == self._life and self.waiting:
                self._write(self.waiting.popleft(), True)

        self.world.after(self.world.rng.random() * WRITE_S, written)

    def _write(self, outcome: Outcome, carry_out: bool) -> None:
        for record in outcome.records:
            if record.value is None:
                self.log.pop(record.key, None)
            else:
                self.log[record.key] = record.value
        for effect in outcome.effects if carry_out else ():
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case AcceptOffer(offer_id, tasks, refuse_s):
                launch = scheduler_api.Operation("LAUNCH", launch=scheduler_api.Launch(tasks))
                body = scheduler_api.Accept(
                    (types.OfferID(offer_id),), (launch,), types.Filters(refuse_s)
                )
                self.call("ACCEPT", accept=body)
            case DeclineOffers(offer_ids, refuse_s):
                ids = tuple(types.OfferID(name) for name in offer_ids)
                self.call("DECLINE", decline=scheduler_api.Decline(ids, types.Filters(refuse_s)))
            case SendKill(task_id, agent_id):
                agent = types.AgentID(agent_id) if agent_id else None
                self.call("KILL", kill=scheduler_api.Kill(types.TaskID(task_id), agent))
            case AcknowledgeUpdate(status):
                assert status.agent_id is not None
                assert status.uuid is not None
                self.call(
                    "ACKNOWLEDGE",
                    acknowledge=scheduler_api.Acknowledge(
                        status.agent_id, status.task_id, status.uuid
                    ),
                )
            case ReviveOffers(roles):
                self.call("REVIVE", revive=scheduler_api.Revive(roles))
            case SuppressOffers(roles):
                self.call("SUPPRESS", suppress=scheduler_api.Suppress(roles))
            case ReconcileTasks(body):
                self.call("RECONCILE", reconcile=body)
            case Reply(_, result):
                assert isinstance(result, Deployed | MarathonError)
                self.replies.append(result)
            case _:
                pass


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_app_is_as_wanted_after_every_trouble(seed: int, make_app: MakeApp) -> None:
    centre = DataCentre(seed, lambda rng: HierarchicalDrf(rng))
    for other in centre.frameworks:
        other.set_goal(1)
    marathon = SimMarathon(centre, make_app, 7)
    centre.frameworks.append(marathon)
    marathon.start()
    centre.world.run(10.0, each=centre.check)
    marathon.set_goal(4)
    for _ in range(14):
        centre.trouble()
        if centre.world.rng.random() < 0.4:
            marathon.set_goal(centre.world.rng.randrange(6))
        centre.world.run(centre.world.rng.random() * 25, each=centre.check)
    centre.calm()
    for host in centre.hosts:
        host._task_s = lambda: None
    for other in centre.frameworks[:-1]:
        other.set_goal(1)
    centre.world.run(120.0, each=centre.check)
    marathon.set_goal(5)
    centre.world.run(180.0, each=centre.check)
    centre.check_calm()
    core = marathon.core
    assert core is not None
    assert not core.tables.deployments
    assert marathon.framework_id is not None
    running = centre.running()[marathon.framework_id.value]
    assert running == marathon.tasks.keys()
    assert len(running) == 5
    app = core.tables.root.apps["/web"]
    assert {i.config_version for i in core.tables.instances.values()} == {app.config_version}
    before = set(running)
    centre.world.run(120.0, each=centre.check)
    assert centre.running()[marathon.framework_id.value] == before, "nothing healthy is restarted"
