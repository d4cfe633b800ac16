"""The shell around the rules: clocks in, effects out, and the answers that clients wait for.

Everything happens in one event loop: a fact is handled at once, its effects are carried out when
the log has its records. HTTP resources reach the rules through the methods here (`context`).
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from random import SystemRandom
from typing import assert_never

from cairn_core.errors import Unavailable, shorten
from cairn_core.framework.io_client import Disconnected, Notice
from cairn_core.replog.io_writer import QueuedWriter
from cairn_core.replog.state import KeyedStore
from cairn_scheduler.marathon.change import ChangeRules
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.context import MakeRoot
from cairn_scheduler.marathon.core import CoreSettings, MarathonCore
from cairn_scheduler.marathon.effects import (
    AcceptOffer,
    AcknowledgeUpdate,
    DeclineOffers,
    Deployed,
    Done,
    Effect,
    Killed,
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
    UseRoles,
)
from cairn_scheduler.marathon.errors import Busy, MarathonError
from cairn_scheduler.marathon.events import (
    DeploymentFailed,
    DeploymentInfo,
    DeploymentSucceeded,
    Event,
    StatusUpdate,
    UnhealthyInstanceKilled,
)
from cairn_scheduler.marathon.io_health import Prober
from cairn_scheduler.marathon.io_mesos import MesosLine, framework_info
from cairn_scheduler.marathon.launching import LaunchSettings
from cairn_scheduler.marathon.planner import Plan
from cairn_scheduler.marathon.tables import Tables
from cairn_scheduler.marathon.tracking import TrackerSettings

log = logging.getLogger(__name__)

#: Between the answer to an abdication and the end of the process.
ABDICATE_S = 0.5


def core_settings(config: MarathonConfig) -> CoreSettings:
    """What the rules need of the configuration."""
    return CoreSettings(
        tracking=TrackerSettings(
            confirm_timeout_s=config.task_launch_confirm_timeout / 1000,
            launch_timeout_s=config.task_launch_timeout / 1000,
            kill_retry_s=config.kill_retry_timeout / 1000,
            kill_chunk=config.kill_chunk_size,
            reconciliation_s=config.reconciliation_interval / 1000,
        ),
        launching=LaunchSettings(
            default_role=config.mesos_role,
            max_per_offer=config.max_instances_per_offer,
            decline_s=config.decline_offer_duration / 1000,
            revive_s=config.min_revive_offers_interval / 1000,
            tokens=config.launch_tokens or None,
            token_refresh_s=config.launch_token_refresh_interval / 1000,
        ),
        matching=config.match_rules(),
        building=config.build_rules(),
        max_versions=config.zk_max_versions,
        changing=ChangeRules(
            features=frozenset(config.enable_features),
            default_role=config.mesos_role,
            first_port=config.local_port_min,
            last_port=config.local_port_max,
            max_apps=config.max_apps or None,
            max_deployments=config.max_running_deployments,
        ),
        scale_check_s=config.scale_apps_interval / 1000,
    )


class Marathon:
    """The running Marathon; see `context.MarathonContext`.

    Made inside the loop. address: `host:port` that others are told. user: of tasks that name none.
    """

    def __init__(self, config: MarathonConfig, *, address: str, user: str) -> None:
        self.core = MarathonCore(core_settings(config), SystemRandom())
        self.writer: QueuedWriter[Outcome] = QueuedWriter(lambda made: made.records, self._durable)
        self.prober = Prober(self._probed, config.max_concurrent_marathon_health_checks)
        self._config = config
        self._address = address
        self._user = user
        self._loop = asyncio.get_running_loop()
        self._line: MesosLine | None = None
        self._elected = False
        self._stopped = False
        self._started = time.monotonic()
        self._listeners: list[Callable[[Event], None]] = []
        self._requests = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Result]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._ending = asyncio.Event()

    # What readers see

    @property
    def tables(self) -> Tables:
        """What is."""
        return self.core.tables

    @property
    def config(self) -> MarathonConfig:
        """The settings."""
        return self._config

    def elected(self) -> bool:
        """Whether the log was read."""
        return self._elected

    def leader(self) -> str | None:
        """This process, which has the log to itself."""
        return self._address if self._elected else None

    def master_url(self) -> str | None:
        """The master that we are subscribed at."""
        return self._line.client.leader if self._line is not None else None

    def counters(self) -> Mapping[str, float]:
        """What was counted."""
        tracker, launcher = self.core.tracker, self.core.launcher
        return {
            "marathon.tasks.launched.counter": float(launcher.tasks_launched),
            "marathon.mesos.calls.revive.counter": float(launcher.revives),
            "marathon.mesos.calls.suppress.counter": float(launcher.suppresses),
            "marathon.mesos.offers.incoming.counter": float(launcher.offers_seen),
            "marathon.mesos.offers.used.counter": float(launcher.offers_used),
            "marathon.mesos.offers.declined.counter": float(launcher.offers_declined),
            "marathon.mesos.offer-operations.launch.counter": float(launcher.tasks_launched),
            "marathon.mesos.task-updates.counter": float(tracker.updates),
            "marathon.instances.inflight-kills.gauge": float(tracker.kills_in_flight),
            "marathon.health-checks.active.gauge": float(len(self.core.health)),
            "marathon.log.records.counter": float(self.writer.records),
            "marathon.log.append.gauge.seconds": self.writer.append_s,
            "marathon.uptime.gauge.seconds": time.monotonic() - self._started,
        }

    def now(self) -> float:
        """The monotonic clock."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def listen_events(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event."""
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        """Tell all listeners."""
        for listener in self._listeners:
            listener(event)

    # Leading

    async def lead(self, store: KeyedStore, stop: asyncio.Event) -> None:
        """Read the log, then keep the cluster as it says until `stop` or an abdication.

        Raises FrameworkEnded, Fenced, and whatever makes it impossible to go on.
        """
        items = [(key, held.value) for key, held in store.items()]
        now, wall = time.monotonic(), time.time()
        outcome = self.core.recover(items, now=now, wall=wall)
        roles = self.core.launcher.roles_in_use()
        url = f"http://{self._address}"
        info = framework_info(self._config, self.tables.framework_id, roles, self._user, url)
        self._line = MesosLine(self._config, info, self._notice, self._calls_lost)
        log.info(
            "leading apps=%d instances=%d deployments=%d framework=%s",
            len(self.tables.root.apps), len(self.tables.instances),
            len(self.tables.deployments), self.tables.framework_id,
        )  # fmt: skip
        async with self.prober:
            tasks = [
                asyncio.create_task(self.writer.run(store), name="log-writer"),
                asyncio.create_task(self._line.run(stop), name="mesos-line"),
                asyncio.create_task(stop.wait(), name="stop"),
                asyncio.create_task(self._ending.wait(), name="abdicated"),
            ]
            try:
                self._elected = True
                self._take(outcome)
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if self._ending.is_set():
                    raise Unavailable("leadership was given up: ending, to start anew")
            finally:
                self._stop()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self) -> None:
        """Handle no fact any more; whoever waits for an answer is refused."""
        self._stopped = True
        self._elected = False
        if self._timer is not None:
            self._timer.cancel()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Busy("marathon is stopping"))

    def abdicate(self) -> None:
        """End the process soon."""
        self._loop.call_later(ABDICATE_S, self._ending.set)

    # Facts

    async def _notice(self, notice: Notice) -> None:
        """Something came from the master."""
        if self._stopped or self._line is None:
            return
        core, now, wall = self.core, time.monotonic(), time.time()
        if isinstance(notice, Disconnected):
            self._take(core.disconnected(now=now, wall=wall))
        elif notice.subscribed is not None:
            subscribed = notice.subscribed
            info = subscribed.master_info
            master = f"{info.hostname}:{info.port}" if info is not None else ""
            self._take(core.registered(subscribed.framework_id.value, master, now=now, wall=wall))
        elif notice.offers is not None:
            self._take(core.offers(notice.offers.offers, now=now, wall=wall))
        elif notice.update is not None:
            self._take(core.status_update(notice.update.status, now=now, wall=wall))
        elif notice.message is not None:
            self._take(core.framework_message(notice.message, now=now, wall=wall))
        await self.writer.room()
        await self._line.room()

    def _calls_lost(self) -> None:
        if not self._stopped:
            self._take(self.core.calls_lost(now=time.monotonic(), wall=time.time()))

    def _probed(self, result: Probed) -> None:
        if not self._stopped:
            self._take(self.core.probed(result, now=time.monotonic(), wall=time.time()))

    def _take(self, outcome: Outcome) -> None:
        self.writer.add(outcome)
        self._arm()

    def _arm(self) -> None:
        """Have `expire` called when the rules want it."""
        if self._stopped:
            return
        deadline = self.core.next_deadline()
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._expire)

    def _expire(self) -> None:
        self._timer = None
        if not self._stopped:
            self._take(self.core.expire(now=time.monotonic(), wall=time.time()))

    # Effects

    def _durable(self, outcome: Outcome) -> None:
        """The records of an outcome are in the log."""
        for effect in outcome.effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Publish(event):
                _log_event(event)
                self.publish(event)
            case Reply(request, result):
                answer = self._answers.get(request)
                if answer is None or answer.done():
                    return
                if isinstance(result, MarathonError):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)
            case Probe():
                self.prober.start(effect)
            case (
                AcceptOffer()
                | DeclineOffers()
                | SendKill()
                | AcknowledgeUpdate()
                | ReviveOffers()
                | SuppressOffers()
                | ReconcileTasks()
                | UseRoles()
            ):
                if self._line is not None:
                    self._line.add(effect)
            case _:
                assert_never(effect)

    # Requests that have an answer

    def dry_run(self, make_root: MakeRoot) -> Plan:
        """The plan that a change would make."""
        return self.core.dry_run(make_root, now=time.monotonic(), wall=time.time())

    async def change_root(
        self,
        make_root: MakeRoot,
        *,
        force: bool = False,
        restarts: Collection[str] = (),
        kill: Mapping[str, Sequence[str]] | None = None,
        group_id: str = "/",
    ) -> Deployed:
        """Change what shall run."""
        result = await self._ask(
            lambda request: self.core.change_root(
                request,
                make_root,
                force=force,
                restarts=restarts,
                kill=kill,
                group_id=group_id,
                now=time.monotonic(),
                wall=time.time(),
            )
        )
        assert isinstance(result, Deployed)
        return result

    async def kill_instances(
        self,
        instance_ids: Sequence[str],
        *,
        scale: bool = False,
        wipe: bool = False,
        force: bool = False,
    ) -> Killed | Deployed:
        """Kill tasks."""
        result = await self._ask(
            lambda request: self.core.kill_instances(
                request,
                instance_ids,
                scale=scale,
                wipe=wipe,
                force=force,
                now=time.monotonic(),
                wall=time.time(),
            )
        )
        assert not isinstance(result, Done)
        return result

    async def rollback(self, plan_id: str) -> Deployed:
        """Undo a deployment."""
        result = await self._ask(
            lambda request: self.core.rollback(
                request, plan_id, now=time.monotonic(), wall=time.time()
            )
        )
        assert isinstance(result, Deployed)
        return result

    async def cancel(self, plan_id: str) -> None:
        """End a deployment as it is."""
        await self._ask(
            lambda request: self.core.cancel(
                request, plan_id, now=time.monotonic(), wall=time.time()
            )
        )

    async def reset_delay(self, app_id: str) -> None:
        """Launch an app without its delay."""
        await self._ask(
            lambda request: self.core.reset_delay(
                request, app_id, now=time.monotonic(), wall=time.time()
            )
        )

    async def _ask(self, fact: Callable[[int], Outcome]) -> Result:
        if not self._elected:
            raise Busy("marathon has not read its log yet, or is stopping")
        request = next(self._requests)
        answer: asyncio.Future[Result] = self._loop.create_future()
        self._answers[request] = answer
        try:
            self._take(fact(request))
            return await answer
        finally:
            del self._answers[request]


#: States of tasks that nobody asked for.
_FAILURES = frozenset({"TASK_FAILED", "TASK_ERROR", "TASK_LOST", "TASK_DROPPED", "TASK_GONE"})


def _log_event(event: Event) -> None:
    """What an operator looks for, one line each."""
    match event:
        case DeploymentInfo():
            actions = [f"{a['action']} {a['app']}" for a in event.current_step["actions"][:5]]
            log.info("deployment step id=%s actions=%s", event.plan["id"], ", ".join(actions))
        case DeploymentSucceeded():
            log.info("deployment done id=%s", event.id)
        case DeploymentFailed():
            log.info("deployment given up id=%s reason=%s", event.id, event.reason)
        case UnhealthyInstanceKilled():
            log.warning(
                "unhealthy, killed app=%s task=%s host=%s reason=%s",
                event.app_id, event.task_id, event.host, shorten(event.reason),
            )  # fmt: skip
        case StatusUpdate() if event.task_status in _FAILURES:
            log.warning(
                "task ended app=%s task=%s state=%s host=%s message=%s",
                event.app_id, event.task_id, event.task_status, event.host,
                shorten(event.message),
            )  # fmt: skip
        case _:
            pass
