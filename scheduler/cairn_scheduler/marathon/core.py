"""Marathon's rules together: facts in, outcomes out. Start reading here.

A fact is a method: a command of a client, offers, a status update, a probe's result, time. Each
gives an `Outcome`: records for the log, and effects for when the records are there. The parts:
`tracking` (instances), `launching` (offers), `deploying` (what shall run), `health`, `readiness`;
all change the tables through the `Ledger`. After a crash `recover` takes up what the log has.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from cairn_core.mesos.scheduler_api import Offer, SchedulerMessage
from cairn_core.mesos.types import TaskStatus
from cairn_scheduler.marathon import events
from cairn_scheduler.marathon.change import ChangeRules, Wish
from cairn_scheduler.marathon.deploying import Deployer, MakeRoot
from cairn_scheduler.marathon.effects import Done, Outcome, Probed, Reply, Result
from cairn_scheduler.marathon.errors import MarathonError, not_queued
from cairn_scheduler.marathon.health import HEALTH, HealthRules
from cairn_scheduler.marathon.launching import Launcher, LaunchSettings
from cairn_scheduler.marathon.matcher import MatchRules
from cairn_scheduler.marathon.planner import Plan
from cairn_scheduler.marathon.readiness import ReadinessRules
from cairn_scheduler.marathon.store import Ledger
from cairn_scheduler.marathon.tables import MAX_VERSIONS, Tables
from cairn_scheduler.marathon.task_builder import BuildRules
from cairn_scheduler.marathon.timestamps import timestamp
from cairn_scheduler.marathon.tracking import Tracker, TrackerSettings

#: Status updates that come within this time are looked at together, seconds.
SETTLE_S = 0.025
#: Seconds from a call whose fate is unknown to the question how things are.
ASK_AFTER_S = 1.0
#: Seconds between two looks at what took too long.
SWEEP_S = 5.0


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What the configuration says. Times in seconds."""

    tracking: TrackerSettings = field(default_factory=TrackerSettings)
    launching: LaunchSettings = field(default_factory=LaunchSettings)
    matching: MatchRules = field(default_factory=MatchRules)
    building: BuildRules = field(default_factory=BuildRules)
    max_versions: int = MAX_VERSIONS
    changing: ChangeRules = field(default_factory=ChangeRules)
    scale_check_s: float = 300.0


class MarathonCore:
    """See the module. `now` is monotonic, `wall` seconds since the epoch."""

    def __init__(self, settings: CoreSettings, rng: Random) -> None:
        self.settings = settings
        self.ledger = Ledger(settings.max_versions)
        self.health = HealthRules(rng)
        self.readiness = ReadinessRules()
        self.tracker = Tracker(self.ledger, self.health, self.readiness, settings.tracking, rng)
        self.launcher = Launcher(
            self.tracker, settings.launching, settings.matching, settings.building, rng
        )
        self.deployer = Deployer(
            self.tracker,
            self.launcher,
            rng,
            settings.changing,
        )
        self._settle_at: float | None = None
        self._ask_at: float | None = None
        self._sweep_at = 0.0
        self._scale_at = 0.0

    @property
    def tables(self) -> Tables:
        """What is, to read."""
        return self.ledger.tables

    # The beginning

    def recover(self, items: Iterable[tuple[str, bytes]], *, now: float, wall: float) -> Outcome:
        """Take up what the log has; the first fact. Raises Damaged."""
        self._begin(now, wall)
        self.ledger.read(items)
        self.tracker.recover()
        self.launcher.started(self.launcher.roles_in_use())
        self._sweep_at = now + SWEEP_S
        self._look_at_all(now)
        return self._end()

    def _look_at_all(self, now: float) -> None:
        tables = self.tables
        self.ledger.dirty |= tables.root.apps.keys() | tables.by_app.keys() | tables.held.keys()
        self._scale_at = now + self.settings.scale_check_s
        self.deployer.settle()

    # The master

    def registered(self, framework_id: str, master: str, *, now: float, wall: float) -> Outcome:
        """A subscription began."""
        self._begin(now, wall)
        stamp = timestamp(wall)
        if self.tables.framework_id != framework_id:
            self.ledger.set_framework_id(framework_id)
            event: events.Event = events.SchedulerRegistered(
                timestamp=stamp, framework_id=framework_id, master=master
            )
        else:
            event = events.SchedulerReregistered(timestamp=stamp, master=master)
        self.ledger.publish(event)
        self.launcher.registered()
        self.tracker.registered()
        self.tracker.demand |= self.tables.waiting.keys()
        self.deployer.settle()
        return self._end()

    def disconnected(self, *, now: float, wall: float) -> Outcome:
        """The subscription is over; offers are void."""
        self._begin(now, wall)
        if self.tracker.connected:
            self.ledger.publish(events.SchedulerDisconnected(timestamp=timestamp(wall)))
        self.tracker.disconnected()
        self.launcher.disconnected()
        return self._end()

    def calls_lost(self, *, now: float, wall: float) -> Outcome:
        """A call to the master failed, and nobody knows whether it arrived: ask how things are."""
        self._begin(now, wall)
        if self._ask_at is None:
            # Calls fail together; the question is asked once.
            self._ask_at = now + ASK_AFTER_S
        return self._end()

    def offers(self, offers: Sequence[Offer], *, now: float, wall: float) -> Outcome:
        """The master offers resources."""
        self._begin(now, wall)
        if self.ledger.dirty:
            self.deployer.settle()
        self.launcher.use(offers)
        return self._end()

    def status_update(self, status: TaskStatus, *, now: float, wall: float) -> Outcome:
        """The master reports a task's state."""
        self._begin(now, wall)
        self.tracker.update(status)
        return self._end()

    def framework_message(self, message: SchedulerMessage, *, now: float, wall: float) -> Outcome:
        """An executor says something."""
        self._begin(now, wall)
        self.ledger.publish(
            events.FrameworkMessage(
                timestamp=timestamp(wall),
                executor_id=message.executor_id.value,
                slave_id=message.agent_id.value,
                message=events.signed_bytes(message.data),
            )
        )
        return self._end()

    # Probes and time

    def probed(self, result: Probed, *, now: float, wall: float) -> Outcome:
        """A check of our own has found something."""
        self._begin(now, wall)
        if result.key[0] == HEALTH:
            self.tracker.judge(self.health.result(result, now=now, wall=wall))
        else:
            found = self.readiness.result(result, now=now)
            if found is not None:
                instance_id, shown = found
                instance = self.tables.instances.get(instance_id)
                if instance is not None:
                    self.tables.readiness[instance_id] = shown
                    self.ledger.dirty.add(instance.app_id)
        return self._end()

    def next_deadline(self) -> float:
        """When to call `expire`."""
        found = (
            self._settle_at,
            self._ask_at,
            self.tracker.deadline(),
            self.launcher.deadline(),
            self.health.deadline(),
            self.readiness.deadline(),
        )
        return min(self._sweep_at, self._scale_at, *(at for at in found if at is not None))

    def expire(self, *, now: float, wall: float) -> Outcome:
        """Time has passed."""
        self._begin(now, wall)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            self.tracker.sweep()
        if now >= self._scale_at:
            self._look_at_all(now)
        if self._ask_at is not None and now >= self._ask_at:
            self._ask_at = None
            if self.tracker.connected:
                self.launcher.unsure()
                self.tracker.registered()
                self.tracker.demand |= self.tables.waiting.keys()
        self.launcher.due()
        if not self.launcher.is_placing:
            # The master would deny tasks that are placed and not accepted yet.
            self.tracker.reconcile()
        for probe in (*self.health.due(now=now), *self.readiness.due(now=now)):
            self.ledger.emit(probe)
        self._settle_at = None
        self.deployer.settle()
        self.launcher.go_on()
        return self._end()

    # Commands

    def change_root(
        self,
        request: int,
        make_root: MakeRoot,
        *,
        force: bool = False,
        restarts: Collection[str] = (),
        kill: Mapping[str, Sequence[str]] | None = None,
        group_id: str = "/",
        now: float,
        wall: float,
    ) -> Outcome:
        """Change what shall run. Answered by Deployed."""
        return self._command(
            request,
            lambda: self.deployer.change_root(
                make_root, force=force, restarts=restarts, kill=kill, group_id=group_id
            ),
            now,
            wall,
        )

    def dry_run(self, make_root: MakeRoot, *, now: float, wall: float) -> Plan:
        """The plan that a change would make. Raises MarathonError; changes nothing."""
        self._begin(now, wall)
        return self.deployer.prepare(make_root, Wish()).plan

    def kill_instances(
        self,
        request: int,
        instance_ids: Sequence[str],
        *,
        scale: bool = False,
        wipe: bool = False,
        force: bool = False,
        now: float,
        wall: float,
    ) -> Outcome:
        """Kill tasks. Answered by Killed, or Deployed with `scale`."""
        return self._command(
            request,
            lambda: self.deployer.kill(instance_ids, scale=scale, wipe=wipe, force=force),
            now,
            wall,
        )

    def rollback(self, request: int, plan_id: str, *, now: float, wall: float) -> Outcome:
        """Undo a running deployment. Answered by Deployed."""
        return self._command(request, lambda: self.deployer.rollback(plan_id), now, wall)

    def cancel(self, request: int, plan_id: str, *, now: float, wall: float) -> Outcome:
        """End a running deployment as it is. Answered by Done."""

        def cancel() -> Result:
            self.deployer.cancel(plan_id)
            return Done()

        return self._command(request, cancel, now, wall)

    def reset_delay(self, request: int, app_id: str, *, now: float, wall: float) -> Outcome:
        """Launch an app without its delay. Answered by Done."""

        def reset() -> Result:
            if not self.tables.pending(app_id):
                raise not_queued(app_id)
            self.tables.backoff.reset(app_id)
            self.launcher.demand(app_id)
            self.launcher.settle()
            return Done()

        return self._command(request, reset, now, wall)

    def _command(
        self, request: int, work: Callable[[], Result], now: float, wall: float
    ) -> Outcome:
        self._begin(now, wall)
        try:
            self.ledger.emit(Reply(request, work()))
        except MarathonError as error:
            self.ledger.emit(Reply(request, error))
        return self._end()

    # A fact

    def _begin(self, now: float, wall: float) -> None:
        self.ledger.now, self.ledger.wall = now, wall

    def _end(self) -> Outcome:
        if (self.ledger.dirty or self.tracker.demand) and self._settle_at is None:
            self._settle_at = self.ledger.now + SETTLE_S
        return self.ledger.take()
