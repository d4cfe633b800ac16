r"""Frameworks: subscribing, failing over, being waited for, and ending.

    (none) --subscribe--> connected <--subscribe-- disconnected --failover timeout--> completed
                              |  \--stream closed-->/                                    ^
                              \------------------------ teardown ------------------------/

A framework that only agents know (`recovered`) is like a disconnected one. Source: Apache Mesos
`src/master/master.cpp` (`_subscribe`, `_failoverFramework`, `removeFramework`); unlike there, the
failover timeout runs for recovered frameworks too.
"""

from collections.abc import Mapping

import msgspec

from cairn_core.extensions import Constraint, FrameworkId
from cairn_core.master.state import offers, tasks, vips
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.constraints import ConstraintError, decode_constraints
from cairn_core.master.state.effects import Change, CloseStream, FrameworkChanged, ToStream
from cairn_core.master.state.framework_info import (
    FrameworkError,
    capabilities_of,
    check_info,
    check_suppressed,
    for_allocator,
)
from cairn_core.master.state.records import MAX_COMPLETED_FRAMEWORKS, FrameworkRecord
from cairn_core.mesos import agent_api, scheduler_api, types
from cairn_core.mesos.types import Reason, Source, TaskState
from cairn_core.resources import Resources
from cairn_core.roles import DEFAULT_ROLE


def subscribe(
    c: Cluster, stream_id: str, call: scheduler_api.Subscribe, principal: str | None
) -> None:
    """A framework opened a stream: it gets SUBSCRIBED, or one ERROR and the stream's end."""
    c.counts["master/messages_register_framework"] += 1
    try:
        framework = _subscribe(c, stream_id, call, principal)
    except FrameworkError as error:
        _refuse_stream(c, stream_id, str(error))
        return
    c.tell(
        framework,
        scheduler_api.Event(
            type="SUBSCRIBED",
            subscribed=scheduler_api.Subscribed(
                framework_id=types.FrameworkID(framework.framework_id),
                heartbeat_interval_seconds=scheduler_api.HEARTBEAT_INTERVAL_S,
                master_info=c.master.info,
            ),
        ),
    )
    c.allocate_soon()


def _subscribe(
    c: Cluster, stream_id: str, call: scheduler_api.Subscribe, principal: str | None
) -> FrameworkRecord:
    info = call.framework_info
    roles = check_info(info, principal, c.settings)
    suppressed = check_suppressed(call.suppressed_roles, roles)
    constraints = _constraints(call.offer_constraints, roles)
    if info.id is None or not info.id.value:
        framework_id = _new_id(c)
        known = None
    else:
        framework_id = FrameworkId(info.id.value)
        if framework_id in c.completed_frameworks:
            raise FrameworkError("Framework has been removed")
        known = c.frameworks.get(framework_id)
    info = msgspec.structs.replace(info, id=types.FrameworkID(framework_id))
    if known is None:
        framework = FrameworkRecord(
            framework_id, info, roles, capabilities_of(info), suppressed,
            registered_time=c.wall,
        )  # fmt: skip
        framework.offer_constraints = call.offer_constraints
        framework.constraints = constraints
        c.frameworks[framework_id] = framework
        c.allocator.add_framework(for_allocator(framework), {}, active=True)
    else:
        framework = known
        if known.info.principal != info.principal:
            raise FrameworkError("Changing framework's principal is not allowed.")
        if known.connected:
            _fail_over(c, known)
        offers.remove_all_of_framework(c, known, tell=False)
        known.reregistered_time = c.wall
        known.reconciling.clear()
        known.implicit = False
        _take_over(c, known, info, suppressed, call.offer_constraints, constraints)
        c.allocator.activate_framework(framework_id)
    framework.principal = principal
    framework.connected = framework.active = True
    framework.recovered = False
    framework.deadline = None
    framework.stream_id = stream_id
    c.streams[stream_id] = framework_id
    c.emit(FrameworkChanged(framework, Change.UPDATED if known else Change.ADDED))
    return framework


def _new_id(c: Cluster) -> FrameworkId:
    """An id that is free; a framework may have come with one that looks like ours."""
    while True:
        framework_id = FrameworkId(f"{c.master.master_id}-{c.number('framework'):04}")
        if framework_id not in c.frameworks and framework_id not in c.completed_frameworks:
            return framework_id


def _fail_over(c: Cluster, framework: FrameworkRecord) -> None:
    """The same framework came on another stream: end the old one."""
    old = framework.stream_id
    if old is not None:
        c.streams.pop(old, None)
        _refuse_stream(c, old, "Framework failed over")


def _refuse_stream(c: Cluster, stream_id: str, message: str) -> None:
    error = scheduler_api.Event(type="ERROR", error=scheduler_api.Error(message))
    c.emit(ToStream(stream_id, error))
    c.emit(CloseStream(stream_id))


def _constraints(
    constraints: scheduler_api.OfferConstraints | None, roles: frozenset[str]
) -> Mapping[str, Constraint]:
    try:
        return decode_constraints(constraints, roles)
    except ConstraintError as error:
        raise FrameworkError(f"'offer_constraints' are not valid: {error}") from None


def _take_over(
    c: Cluster,
    framework: FrameworkRecord,
    info: types.FrameworkInfo,
    suppressed: frozenset[str],
    offer_constraints: scheduler_api.OfferConstraints | None,
    constraints: Mapping[str, Constraint],
) -> None:
    """Replace the description; `user` and `checkpoint` stay what they were."""
    old = framework.info
    framework.info = msgspec.structs.replace(info, user=old.user, checkpoint=old.checkpoint)
    framework.capabilities = capabilities_of(info)
    framework.roles = frozenset(info.roles) if framework.multi_role else _single_role(info)
    framework.suppressed = suppressed
    framework.offer_constraints = offer_constraints
    framework.constraints = constraints
    c.allocator.update_framework(for_allocator(framework))
    if framework.info.name != old.name:
        vips.renamed(c, framework)
    if framework.info != old:
        for agent_id in agents_of(framework):
            agent = c.agents.get(agent_id)
            if agent is not None:
                c.command(agent, agent_api.UpdateFramework(c.epoch, framework.info))


def _single_role(info: types.FrameworkInfo) -> frozenset[str]:
    return frozenset({info.role or DEFAULT_ROLE})


def agents_of(framework: FrameworkRecord) -> list[str]:
    """The agents on which it has tasks or executors, each once, in a stable order."""
    seen = {task.agent_id: None for task in framework.tasks.values()}
    seen.update((executor.agent_id, None) for executor in framework.executors.values())
    return list(seen)


def update(c: Cluster, framework: FrameworkRecord, call: scheduler_api.UpdateFramework) -> None:
    """UPDATE_FRAMEWORK; raises FrameworkError, and then nothing has changed."""
    info = call.framework_info
    if info.id is None or info.id.value != framework.framework_id:
        raise FrameworkError("'FrameworkInfo.id' does not match the framework of the call")
    roles = check_info(info, framework.principal, c.settings)
    for name in ("principal", "user", "checkpoint"):
        if getattr(info, name) != getattr(framework.info, name):
            raise FrameworkError(f"Updating 'FrameworkInfo.{name}' is unsupported")
    suppressed = check_suppressed(call.suppressed_roles, roles)
    constraints = _constraints(call.offer_constraints, roles)
    for offer in [o for o in framework.offers.values() if o.role not in roles]:
        offers.rescind(c, offer)
    _take_over(c, framework, info, suppressed, call.offer_constraints, constraints)
    c.emit(FrameworkChanged(framework, Change.UPDATED))
    c.allocate_soon()


def stream_closed(c: Cluster, stream_id: str) -> None:
    """The connection of a framework is gone; it may come back within its failover timeout."""
    framework_id = c.streams.pop(stream_id, None)
    framework = c.frameworks.get(framework_id) if framework_id is not None else None
    if framework is None or framework.stream_id != stream_id:
        return
    framework.connected = framework.active = False
    framework.stream_id = None
    c.allocator.deactivate_framework(framework.framework_id)
    offers.remove_all_of_framework(c, framework, tell=False)
    wait_for(c, framework)
    c.emit(FrameworkChanged(framework, Change.UPDATED))


def wait_for(c: Cluster, framework: FrameworkRecord, at_least_s: float = 0.0) -> None:
    """Start the failover timeout of a framework that is not connected."""
    framework.deadline = c.now + max(framework.info.failover_timeout, at_least_s)
    c.wake_at(framework.deadline, "framework", framework.framework_id)


def failover_due(c: Cluster, framework_id: str) -> None:
    """The timer of a framework rang."""
    framework = c.frameworks.get(FrameworkId(framework_id))
    if framework and framework.deadline is not None and framework.deadline <= c.now:
        remove(c, framework)


def remove(c: Cluster, framework: FrameworkRecord) -> None:
    """End a framework and everything of it; its id can never subscribe again."""
    framework_id = framework.framework_id
    offers.remove_all_of_framework(c, framework, tell=False)
    for agent_id in agents_of(framework):
        agent = c.agents.get(agent_id)
        if agent is not None:
            c.command(
                agent, agent_api.ShutdownFramework(c.epoch, c.operation_id(), _id(framework_id))
            )
    for task in [*framework.tasks.values(), *framework.unreachable_tasks.values()]:
        if not task.state.is_terminal:
            status = tasks.made_up(
                c, task, TaskState.KILLED, Source.MASTER, Reason.FRAMEWORK_REMOVED,
                "Framework removed",
            )  # fmt: skip
            tasks.take_in(c, framework, task, status, TaskState.KILLED)
        tasks.remove(c, framework, task)
    for executor in list(framework.executors.values()):
        tasks.remove_executor(c, framework, executor)
    if framework.stream_id is not None:
        c.streams.pop(framework.stream_id, None)
        c.emit(CloseStream(framework.stream_id))
    framework.connected = framework.active = framework.recovered = False
    framework.stream_id = None
    framework.deadline = None
    framework.unregistered_time = c.wall
    c.allocator.remove_framework(framework_id)
    del c.frameworks[framework_id]
    c.completed_frameworks[framework_id] = framework
    while len(c.completed_frameworks) > MAX_COMPLETED_FRAMEWORKS:
        c.completed_frameworks.popitem(last=False)
    c.emit(FrameworkChanged(framework, Change.REMOVED))
    c.allocate_soon()


def _id(framework_id: str) -> types.FrameworkID:
    return types.FrameworkID(framework_id)


def recover(c: Cluster, info: types.FrameworkInfo) -> FrameworkRecord:
    """A framework that an agent knows and this master does not (yet)."""
    assert info.id is not None
    framework_id = FrameworkId(info.id.value)
    framework = FrameworkRecord(
        framework_id,
        info,
        frozenset(info.roles) or _single_role(info),
        capabilities_of(info),
        recovered=True,
        registered_time=c.wall,
    )
    c.frameworks[framework_id] = framework
    c.allocator.add_framework(for_allocator(framework), {}, active=False)
    # Its timeout is for its own absence, this one is ours: it gets as long as agents do to come
    # back, even with a timeout of 0. The original waits for it for ever.
    wait_for(c, framework, at_least_s=c.settings.agent_reregister_timeout_s)
    c.emit(FrameworkChanged(framework, Change.ADDED))
    return framework


def revive(c: Cluster, framework: FrameworkRecord, roles: tuple[str, ...]) -> None:
    """Offers again for these roles (none named: all); a foreign role drops the call."""
    chosen = frozenset(roles) or framework.roles
    if not chosen <= framework.roles:
        c.counts["master/dropped_messages"] += 1
        return
    framework.suppressed -= chosen
    c.allocator.revive(framework.framework_id, chosen, now=c.now)
    c.emit(FrameworkChanged(framework, Change.UPDATED))
    c.allocate_soon()


def suppress(c: Cluster, framework: FrameworkRecord, roles: tuple[str, ...]) -> None:
    """No offers for these roles (none named: all); a foreign role drops the call."""
    chosen = frozenset(roles) or framework.roles
    if not chosen <= framework.roles:
        c.counts["master/dropped_messages"] += 1
        return
    framework.suppressed |= chosen
    c.allocator.suppress(framework.framework_id, chosen)
    c.emit(FrameworkChanged(framework, Change.UPDATED))


def used_by(framework: FrameworkRecord) -> dict[str, dict[str, Resources]]:
    """What its tasks and executors hold, by agent and role."""
    used: dict[str, dict[str, Resources]] = {}
    held = [(t.agent_id, t.role, t.resources) for t in framework.tasks.values() if t.holds]
    held += [(e.agent_id, e.role, e.resources) for e in framework.executors.values()]
    for agent_id, role, resources in held:
        roles = used.setdefault(agent_id, {})
        roles[role] = roles[role] + resources if role in roles else resources
    return used
