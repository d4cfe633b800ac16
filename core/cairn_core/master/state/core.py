"""The door of the master's rules: every fact is a method, which returns the effects it has.

    core = MasterCore(...)
    effects = core.lead(epoch, registry, ...)     once elected, and the registry was read
    effects = core.subscribe(stream_id, subscribe, principal, now=..., wall=...)
    ... carry out the effects in order; feed what they lead to back as facts ...

`now` is monotonic seconds, `wall` seconds since the epoch. Facts come one at a time. A fact about
something unknown is counted and dropped; none raises because of what a framework or agent sent.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from cairn_core.extensions import Allocation, Allocator, FrameworkId
from cairn_core.master.registry import RegistryImage
from cairn_core.master.state import (
    accept,
    admission,
    agents,
    frameworks,
    offers,
    operator,
    ports,
    reconcile,
    registration,
    tasks,
    vips,
)
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.effects import Effect, Reply
from cairn_core.master.state.framework_info import FrameworkError
from cairn_core.master.state.records import FrameworkRecord, MasterRecord, Quota
from cairn_core.master.state.settings import Settings
from cairn_core.mesos import agent_api, scheduler_api
from cairn_core.mesos.agent_api import AgentMessage

#: Calls that are answered here with 202 whatever comes of them.
CALLS = frozenset(
    {
        "TEARDOWN", "ACCEPT", "DECLINE", "REVIVE", "KILL", "SHUTDOWN", "ACKNOWLEDGE",
        "RECONCILE", "MESSAGE", "REQUEST", "SUPPRESS",
    }
)  # fmt: skip


class MasterCore:
    """See the module. `cluster` is what readers may look at between two facts."""

    def __init__(self, master: MasterRecord, allocator: Allocator, settings: Settings) -> None:
        self.cluster = Cluster(master, 0, allocator, settings)
        self._timers: Mapping[str, Callable[[Cluster, str], None]] = {
            "framework": frameworks.failover_due,
            "offer": offers.timeout_due,
            "joining": admission.joining_due,
            "reconcile": reconcile.answer_some,
            "ping": agents.ping_due,
            "agent": agents.reregistration_due,
            "recovered": agents.recovery_due,
            ports.NAME: ports.rest_due,
            vips.NAME: vips.release_due,
            "registry": lambda cluster, _: agents.forget_old(cluster),
        }

    def lead(
        self,
        epoch: int,
        registry: RegistryImage,
        *,
        default_weights: Mapping[str, float],
        now: float,
        wall: float,
    ) -> list[Effect]:
        """This master was elected and has read the registry; no other fact comes before.

        default_weights: taken only when the registry has no weights (`--weights`).
        """
        c = self._begin(now, wall)
        c.epoch = epoch
        c.master = replace(c.master, elected_time=wall)
        c.recovered_agents.update(registry.admitted)
        c.unreachable_agents.update(registry.unreachable)
        c.gone_agents.update(registry.gone)
        c.quotas.update(registry.quotas)
        c.weights.update(registry.weights or default_weights)
        vips.recover(c, registry.vips)
        for role, quota in c.quotas.items():
            c.allocator.set_quota(role, quota.guarantees, quota.limits)
        if c.weights:
            c.allocator.set_weights(c.weights)
        timeout_s = c.settings.agent_reregister_timeout_s
        if c.recovered_agents:
            c.wake_at(now + timeout_s, "recovered", "")
            if c.quotas:
                # Without most agents, what is left unoffered for guarantees would be wrong.
                back = -(-len(c.recovered_agents) * 8 // 10)
                c.allocator.hold(agents=back, timeout_s=timeout_s, now=now)
        c.wake_at(now + c.settings.registry_gc_interval_s, "registry", "")
        c.allocate_soon()
        return self._effects()

    def _begin(self, now: float, wall: float) -> Cluster:
        c = self.cluster
        c.now, c.wall = now, wall
        return c

    def _effects(self) -> list[Effect]:
        ports.settle(self.cluster)
        vips.settle(self.cluster)
        effects, self.cluster.out = self.cluster.out, []
        return effects

    # Frameworks

    def subscribe(
        self,
        stream_id: str,
        call: scheduler_api.Subscribe,
        principal: str | None,
        *,
        now: float,
        wall: float,
    ) -> list[Effect]:
        """A framework opened the stream `stream_id`, under a new id of the shell's."""
        frameworks.subscribe(self._begin(now, wall), stream_id, call, principal)
        return self._effects()

    def stream_closed(self, stream_id: str, *, now: float, wall: float) -> list[Effect]:
        """The stream is closed, by whomever; also one that was never accepted."""
        frameworks.stream_closed(self._begin(now, wall), stream_id)
        return self._effects()

    def call(
        self, framework_id: str, call: scheduler_api.Call, *, now: float, wall: float
    ) -> list[Effect]:
        """A call of a connected framework, its structure checked (`http_scheduler`)."""
        c = self._begin(now, wall)
        framework = c.frameworks.get(FrameworkId(framework_id))
        if framework is not None:
            _call(c, framework, call)
        return self._effects()

    def update_framework(
        self,
        request: int,
        framework_id: str,
        call: scheduler_api.UpdateFramework,
        *,
        now: float,
        wall: float,
    ) -> list[Effect]:
        """UPDATE_FRAMEWORK, which alone has an answer of its own."""
        c = self._begin(now, wall)
        framework = c.frameworks.get(FrameworkId(framework_id))
        if framework is None:
            c.emit(Reply(request, 409, "Framework was removed"))
        else:
            try:
                frameworks.update(c, framework, call)
                c.emit(Reply(request, 200))
            except FrameworkError as error:
                c.emit(Reply(request, 400, str(error)))
        return self._effects()

    def allocated(
        self, allocations: Iterable[Allocation], *, now: float, wall: float
    ) -> list[Effect]:
        """The allocator decided."""
        offers.make(self._begin(now, wall), allocations)
        return self._effects()

    # Agents

    def agent_message(
        self, link: int, message: AgentMessage, *, now: float, wall: float
    ) -> list[Effect]:
        """An agent sent something on a link; the first message of a link is Hello."""
        c = self._begin(now, wall)
        match message:
            case agent_api.Hello():
                admission.hello(c, link, message)
            case agent_api.Inventory():
                registration.inventory(c, link, message)
            case _:
                _agent_message(c, link, message)
        return self._effects()

    def link_closed(self, link: int, *, now: float, wall: float) -> list[Effect]:
        """A link is closed, by whomever."""
        agents.link_closed(self._begin(now, wall), link)
        return self._effects()

    # Operators

    def teardown(self, request: int, framework_id: str, *, now: float, wall: float) -> list[Effect]:
        """Remove a framework."""
        operator.teardown(self._begin(now, wall), request, framework_id)
        return self._effects()

    def set_quotas(
        self,
        request: int,
        quotas: Mapping[str, Quota | None],
        *,
        force: bool,
        now: float,
        wall: float,
    ) -> list[Effect]:
        """Set or remove (None) quota of roles."""
        operator.set_quotas(self._begin(now, wall), request, quotas, force=force)
        return self._effects()

    def set_weights(
        self, request: int, weights: Mapping[str, float], *, now: float, wall: float
    ) -> list[Effect]:
        """Set weights of roles."""
        operator.set_weights(self._begin(now, wall), request, weights)
        return self._effects()

    def mark_agent_gone(
        self, request: int, agent_id: str, *, now: float, wall: float
    ) -> list[Effect]:
        """An operator says that an agent never returns."""
        operator.mark_agent_gone(self._begin(now, wall), request, agent_id)
        return self._effects()

    # Registry and time

    def stored(self, operation: int, *, now: float, wall: float) -> list[Effect]:
        """A StoreRegistry is durable."""
        self._begin(now, wall).stored(operation)
        return self._effects()

    def next_deadline(self) -> float | None:
        """When `expire` has something to do."""
        return self.cluster.next_deadline()

    def expire(self, *, now: float, wall: float) -> list[Effect]:
        """Do what is due; at most some hundred things, so look at `next_deadline` again."""
        c = self._begin(now, wall)
        for _ in range(500):
            due = c.due()
            if due is None:
                break
            what, key = due
            self._timers[what](c, key)
            if what == "reconcile":
                break  # some milliseconds of work: let others have their turn
        return self._effects()


def _call(c: Cluster, framework: FrameworkRecord, call: scheduler_api.Call) -> None:
    match call:
        case scheduler_api.Call(type="TEARDOWN"):
            c.counts["master/messages_unregister_framework"] += 1
            frameworks.remove(c, framework)
        case scheduler_api.Call(type="ACCEPT", accept=scheduler_api.Accept() as body):
            accept.accept(c, framework, body)
        case scheduler_api.Call(type="DECLINE", decline=scheduler_api.Decline() as body):
            c.counts["master/messages_decline_offers"] += 1
            offers.decline(c, framework, body)
        case scheduler_api.Call(type="REVIVE", revive=body):
            c.counts["master/messages_revive_offers"] += 1
            frameworks.revive(c, framework, body.roles if body is not None else ())
        case scheduler_api.Call(type="SUPPRESS", suppress=body):
            c.counts["master/messages_suppress_offers"] += 1
            frameworks.suppress(c, framework, body.roles if body is not None else ())
        case scheduler_api.Call(type="KILL", kill=scheduler_api.Kill() as body):
            _kill(c, framework, body)
        case scheduler_api.Call(type="SHUTDOWN", shutdown=scheduler_api.Shutdown() as body):
            tasks.shut_down_executor(c, framework, body)
        case scheduler_api.Call(
            type="ACKNOWLEDGE", acknowledge=scheduler_api.Acknowledge() as body
        ):
            tasks.acknowledge(c, framework, body)
        case scheduler_api.Call(type="RECONCILE", reconcile=scheduler_api.Reconcile() as body):
            reconcile.reconcile(c, framework, body)
        case scheduler_api.Call(type="MESSAGE", message=scheduler_api.SchedulerMessage() as body):
            tasks.message_to_executor(c, framework, body)
        case scheduler_api.Call(type="REQUEST"):
            c.counts["master/messages_resource_request"] += 1
        case _:
            c.counts["master/dropped_messages"] += 1


def _kill(c: Cluster, framework: FrameworkRecord, call: scheduler_api.Kill) -> None:
    """An unknown task is answered like an explicit reconciliation."""
    c.counts["master/messages_kill_task"] += 1
    agent_id = call.agent_id.value if call.agent_id is not None else None
    task = framework.tasks.get(call.task_id.value)
    if task is None:
        reconcile.explicit(c, framework, call.task_id.value, agent_id)
    elif agent_id is None or agent_id == task.agent_id:
        tasks.kill(c, framework, task, call.kill_policy)
    else:
        c.counts["master/dropped_messages"] += 1


def _agent_message(c: Cluster, link: int, message: AgentMessage) -> None:
    agent_id = c.links.get(link)
    if agent_id is None:
        c.counts["master/dropped_messages"] += 1
        return
    agent = c.agents[agent_id]
    agent.pings = 0
    match message:
        case agent_api.Update():
            tasks.updated(c, agent, message)
        case agent_api.ExecutorExited():
            tasks.executor_exited(c, agent, message)
        case agent_api.FromExecutor():
            tasks.message_from_executor(c, agent, message)
        case agent_api.Changed():
            agents.changed(c, agent, message.info)
        case agent_api.Goodbye():
            agents.goodbye(c, agent)
        case _:
            return
