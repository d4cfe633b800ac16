"""The shell around the rules: clocks in, effects out, and the loop that drives the allocator.

Everything happens in one event loop: a fact is handled and its effects are carried out before the
next one. HTTP handlers and links reach the rules through the methods here.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

from cairn_core.errors import Unavailable, shorten
from cairn_core.extensions import Allocator
from cairn_core.kit.loop_lag import LoopLag
from cairn_core.master.http_scheduler import SchedulerApi
from cairn_core.master.io_agents import AgentLinks
from cairn_core.master.registry import RegistryImage
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.core import MasterCore
from cairn_core.master.state.effects import (
    AgentChanged,
    AgentForgotten,
    AllocationNeeded,
    Change,
    Changed,
    CloseLink,
    CloseStream,
    Effect,
    FrameworkChanged,
    OfferChanged,
    Reply,
    RoleChanged,
    StoreRegistry,
    TaskChanged,
    ToLink,
    ToStream,
    VipChanged,
    VipsRefused,
)
from cairn_core.master.state.records import Quota
from cairn_core.mesos import scheduler_api
from cairn_core.mesos.agent_api import AgentMessage
from cairn_core.mesos.scheduler_api import Call
from cairn_core.mesos.types import MasterInfo
from cairn_core.replog.io_writer import QueuedWriter

log = logging.getLogger(__name__)

#: Shortest time between two rounds outside the interval: the first change after a quiet time is
#: decided at once, what comes within this time after it together.
COALESCE_S = 0.01
#: How long the allocator may hold the loop.
SLICE_S = 0.005
SLICE_AGENTS = 50


class Master:
    """The running master: see `http_context.MasterContext` and `http_scheduler.SchedulerFacts`.

    Made inside the loop. `stopped` holds back everything once the daemon is ending.
    """

    def __init__(
        self,
        core: MasterCore,
        flags: Mapping[str, str],
        *,
        allocation_interval_s: float,
        secrets: Mapping[str, str] | None,
        link_idle_s: float,
    ) -> None:
        self.core = core
        self.flags = flags
        self.stopped = False
        self.rounds = 0
        self.round_s = 0.0
        self.lag = LoopLag()
        self._interval_s = allocation_interval_s
        self._loop = asyncio.get_running_loop()
        self._leader: MasterInfo | None = None
        self._recovered = False
        self._listeners: list[Callable[[Changed], None]] = []
        self._requests = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Reply]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._allocatable = asyncio.Event()
        self._worked_at = 0.0
        self.schedulers = SchedulerApi(self, secrets)
        self.agents = AgentLinks(self, idle_s=link_idle_s)
        self.registry: QueuedWriter[StoreRegistry] = QueuedWriter(
            lambda effect: effect.records, self._stored
        )

    # What readers see

    @property
    def cluster(self) -> Cluster:
        """The tables."""
        return self.core.cluster

    @property
    def allocator(self) -> Allocator:
        """Who decides on offers."""
        return self.core.cluster.allocator

    def leader(self) -> MasterInfo | None:
        """The elected master."""
        return self._leader

    def leads(self) -> bool:
        """Whether this master is elected."""
        return self._leader is not None and self._leader.id == self.cluster.master.master_id

    def recovered(self) -> bool:
        """Whether the registry was read."""
        return self._recovered

    def counters(self) -> Mapping[str, float]:
        """What only the shell measures, under the original's names."""
        return {
            "registrar/queued_operations": float(len(self.registry)),
            "registrar/state_store_ms": self.registry.append_s * 1000,
            "allocator/mesos/allocation_run_ms": self.round_s * 1000,
            "allocator/mesos/allocation_runs": float(self.rounds),
            "master/event_queue_http_requests": float(len(self._answers)),
            **{f"master/loop_lag_ms/{name}": ms for name, ms in self.lag.quantiles().items()},
        }

    def listen_changes(self, listener: Callable[[Changed], None]) -> None:
        """Call `listener` with every change."""
        self._listeners.append(listener)

    # Leading

    def followed(self, leader: MasterInfo | None) -> None:
        """Who leads now, as the election says."""
        self._leader = leader

    def lead(
        self, epoch: int, registry: RegistryImage, default_weights: Mapping[str, float]
    ) -> None:
        """This master was elected and has read the registry."""
        self._run(
            self.core.lead(
                epoch,
                registry,
                default_weights=default_weights,
                now=time.monotonic(),
                wall=time.time(),
            )
        )
        self._recovered = True

    # Facts

    def subscribe(
        self, stream_id: str, call: scheduler_api.Subscribe, principal: str | None
    ) -> None:
        """A framework opened a stream."""
        self._run(
            self.core.subscribe(stream_id, call, principal, now=time.monotonic(), wall=time.time())
        )

    def stream_closed(self, stream_id: str) -> None:
        """A framework's stream is closed."""
        if not self.stopped:
            self._run(self.core.stream_closed(stream_id, now=time.monotonic(), wall=time.time()))

    def framework_call(self, framework_id: str, call: Call) -> None:
        """A call of a framework."""
        self._run(self.core.call(framework_id, call, now=time.monotonic(), wall=time.time()))

    def agent_message(self, link: int, message: AgentMessage) -> None:
        """An agent sent something."""
        self._run(self.core.agent_message(link, message, now=time.monotonic(), wall=time.time()))

    def link_closed(self, link: int) -> None:
        """An agent's link is closed."""
        if not self.stopped:
            self._run(self.core.link_closed(link, now=time.monotonic(), wall=time.time()))

    def _stored(self, effect: StoreRegistry) -> None:
        self._run(self.core.stored(effect.operation, now=time.monotonic(), wall=time.time()))

    # Requests that have an answer

    async def update_framework(
        self, framework_id: str, call: scheduler_api.UpdateFramework
    ) -> Reply:
        """UPDATE_FRAMEWORK."""
        return await self._ask(
            lambda request: self.core.update_framework(
                request, framework_id, call, now=time.monotonic(), wall=time.time()
            )
        )

    async def teardown(self, framework_id: str) -> Reply:
        """Remove a framework."""
        return await self._ask(
            lambda request: self.core.teardown(
                request, framework_id, now=time.monotonic(), wall=time.time()
            )
        )

    async def set_quotas(self, quotas: Mapping[str, Quota | None], *, force: bool) -> Reply:
        """Set or remove quota of roles."""
        return await self._ask(
            lambda request: self.core.set_quotas(
                request, quotas, force=force, now=time.monotonic(), wall=time.time()
            )
        )

    async def set_weights(self, weights: Mapping[str, float]) -> Reply:
        """Set weights of roles."""
        return await self._ask(
            lambda request: self.core.set_weights(
                request, weights, now=time.monotonic(), wall=time.time()
            )
        )

    async def mark_agent_gone(self, agent_id: str) -> Reply:
        """An agent never returns."""
        return await self._ask(
            lambda request: self.core.mark_agent_gone(
                request, agent_id, now=time.monotonic(), wall=time.time()
            )
        )

    async def _ask(self, fact: Callable[[int], list[Effect]]) -> Reply:
        if self.stopped:
            raise Unavailable("the master is stopping")
        request = next(self._requests)
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._answers[request] = answer
        try:
            self._run(fact(request))
            return await answer
        finally:
            del self._answers[request]

    # Effects

    def _run(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            try:
                self._carry_out(effect)
            except Exception:
                # The others must be carried out all the same: they are in the tables already.
                log.exception("effect failed kind=%s", type(effect).__name__)
        self._arm()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case ToStream(stream_id, event):
                self.schedulers.send(stream_id, event)
            case ToLink(link, message):
                self.agents.send(link, message)
            case (
                TaskChanged()
                | OfferChanged()
                | AgentChanged()
                | AgentForgotten()
                | FrameworkChanged()
                | RoleChanged()
                | VipChanged()
                | VipsRefused()
            ):
                _log_change(effect)
                for listener in self._listeners:
                    listener(effect)
            case AllocationNeeded():
                self._allocatable.set()
            case StoreRegistry():
                self.registry.add(effect)
            case Reply(request):
                answer = self._answers.get(request)
                if answer is not None and not answer.done():
                    answer.set_result(effect)
            case CloseStream(stream_id):
                self.schedulers.close(stream_id)
            case CloseLink(link):
                self.agents.close(link)
            case _:
                assert_never(effect)

    def _arm(self) -> None:
        """Have `expire` called when the rules want it."""
        deadline = self.core.next_deadline()
        if deadline is None or self.stopped:
            return
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self.stopped:
            return
        try:
            self._run(self.core.expire(now=time.monotonic(), wall=time.time()))
        finally:
            self._arm()  # also when one of them failed: the others are still to come

    # The allocator

    async def allocate(self, stop: asyncio.Event) -> None:
        """A service: rounds every interval, and soon after something changed."""
        stopping: asyncio.Task[Any] = asyncio.ensure_future(stop.wait())
        next_tick = time.monotonic()
        try:
            while not stop.is_set():
                await self._wait_for_work(stopping, next_tick)
                began = time.monotonic()
                if began >= next_tick:
                    self.allocator.tick(now=began)
                await self._work(stop)
                ended = self._worked_at = time.monotonic()
                if began >= next_tick:
                    self.rounds += 1
                    self.round_s = ended - began
                    next_tick = ended + self._interval_s
        finally:
            stopping.cancel()

    async def _wait_for_work(self, stopping: "asyncio.Task[Any]", next_tick: float) -> None:
        due = self.allocator.next_deadline()
        until = next_tick if due is None else min(next_tick, due)
        delay = until - time.monotonic()
        if delay > 0 and not self._allocatable.is_set():
            woken: asyncio.Task[Any] = asyncio.ensure_future(self._allocatable.wait())
            await asyncio.wait(
                {woken, stopping}, timeout=delay, return_when=asyncio.FIRST_COMPLETED
            )
            woken.cancel()
        if self._allocatable.is_set():
            rest = self._worked_at + COALESCE_S - time.monotonic()
            await asyncio.wait({stopping}, timeout=max(rest, 0.0))
        self._allocatable.clear()

    async def _work(self, stop: asyncio.Event) -> None:
        """Step until nothing is left, letting others run every few milliseconds."""
        slice_ends = time.monotonic() + SLICE_S
        more = True
        while more and not stop.is_set():
            now = time.monotonic()
            result = self.allocator.step(now=now, max_agents=SLICE_AGENTS)
            more = result.more
            if result.allocations:
                self._run(
                    self.core.allocated(result.allocations, now=time.monotonic(), wall=time.time())
                )
            if time.monotonic() >= slice_ends:
                await asyncio.sleep(0)
                slice_ends = time.monotonic() + SLICE_S

    def stop(self) -> None:
        """Handle no fact any more; whoever waits for an answer is refused."""
        self.stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Unavailable("the master is stopping"))
        self.agents.stop()


def _log_change(effect: Changed) -> None:
    """One line for what an operator wants to find later; tasks are too many for that."""
    match effect:
        case AgentChanged(agent, Change.REMOVED, why):
            log.warning("agent removed agent=%s reason=%s", agent.agent_id, why)
        case AgentChanged(agent, change):
            log.info(
                "agent %s agent=%s host=%s connected=%s",
                change.value, agent.agent_id, agent.hostname, agent.connected,
            )  # fmt: skip
        case AgentForgotten(agent_id):
            log.info("agent not waited for any more agent=%s", agent_id)
        case FrameworkChanged(framework, change) if change is not Change.UPDATED:
            log.info(
                "framework %s framework=%s name=%r",
                change.value, framework.framework_id, shorten(framework.info.name, 80),
            )  # fmt: skip
        case RoleChanged(role):
            log.info("quota or weight changed role=%s", role)
        case VipChanged(name, (ipv4, ipv6), change):
            log.info("vip %s name=%s ipv4=%s ipv6=%s", change.value, name, ipv4, ipv6)
        case VipsRefused(count, name, reason):
            log.warning(
                "vips refused count=%d first=%s reason=%s", count, name, shorten(reason, 160)
            )
        case _:
            return
