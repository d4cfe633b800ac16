r"""Agents after they are registered: seen, lost, given up, gone.

    registered --link closed--> disconnected --reregister timeout--> unreachable (registry)
         |  \--no pong in time----------------------------------------->/
         \--Goodbye, mark gone, replaced--> removed (registry)

Every leaving is written to the registry first; until then the agent is in `transitions` and must
wait if it comes back. Unlike in the original a broken link alone ends no task, also not of
frameworks without checkpointing: the agent says what still runs when it is back. Source: Apache
Mesos `src/master/master.cpp` (`exited`, `markUnreachable`, `removeSlave`, `markGone`).
"""

import re
from collections.abc import Callable

import msgspec

from cairn_core.extensions import AgentId
from cairn_core.master.registry import AgentStanding, agent_record, agent_removal
from cairn_core.master.state import offers, ports, tasks
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.effects import AgentChanged, AgentForgotten, Change, CloseLink
from cairn_core.master.state.records import AgentRecord, KnownAgent
from cairn_core.master.state.validation import interned
from cairn_core.mesos import agent_api, scheduler_api, types
from cairn_core.mesos.types import Reason, Source, TaskState
from cairn_core.replog.interface import Record
from cairn_core.resources import ResourceError

_PID = re.compile(r"[\w().-]{1,100}@(?:\[([0-9a-fA-F:.]{2,45})\]|([0-9.]{7,15})):([0-9]{1,5})")


def address_of(pid: str) -> tuple[str, int] | None:
    """IP address and port of a pid such as `slave(1)@10.0.0.1:5051`."""
    match = _PID.fullmatch(pid)
    if match is None or not 0 < int(match[3]) < 65536:
        return None
    return match[1] or match[2], int(match[3])


def info_bytes(info: types.AgentInfo, agent_id: AgentId) -> bytes:
    """The JSON that is kept of an agent's description."""
    return msgspec.json.encode(msgspec.structs.replace(info, id=types.AgentID(agent_id)))


def new_record(c: Cluster, hello: agent_api.Hello, agent_id: AgentId) -> AgentRecord:
    """A record in the tables for an agent that is registering; its Hello was checked."""
    address = address_of(hello.pid)
    assert address is not None
    info = hello.info
    agent = AgentRecord(
        agent_id=agent_id,
        info=info_bytes(info, agent_id),
        hostname=info.hostname,
        pid=hello.pid,
        ip=address[0],
        port=address[1],
        version=hello.version,
        boot_id=hello.boot_id,
        total=interned(info.resources),
        attributes=info.attributes,
        domain=info.domain,
        capabilities=frozenset(hello.capabilities),
        registered_time=c.wall,
    )
    c.agents[agent_id] = agent
    c.pids[agent.pid] = agent_id
    return agent


def refresh_record(c: Cluster, agent: AgentRecord, hello: agent_api.Hello) -> None:
    """Take over what a returning agent says of itself."""
    if c.pids.get(agent.pid) == agent.agent_id:
        del c.pids[agent.pid]
    fresh = new_record(c, hello, agent.agent_id)
    c.agents[agent.agent_id] = agent
    for name in (
        "info", "hostname", "pid", "ip", "port", "version", "boot_id", "total", "attributes",
        "domain", "capabilities",
    ):  # fmt: skip
        setattr(agent, name, getattr(fresh, name))


# Liveness


def start_pings(c: Cluster, agent: AgentRecord) -> None:
    """Ping this connection of the agent from now on."""
    c.wake_at(c.now + c.settings.agent_ping_timeout_s, "ping", f"{agent.link} {agent.agent_id}")


def ping_due(c: Cluster, key: str) -> None:
    """Ping, or give up: `agent_ping_timeout` passed since the last one."""
    link, _, agent_id = key.partition(" ")
    agent = c.agents.get(AgentId(agent_id))
    if agent is None or str(agent.link) != link:
        return
    if agent.pings >= c.settings.max_agent_ping_timeouts:
        c.counts["master/slave_unreachable_scheduled"] += 1
        disconnect(c, agent)
        mark_unreachable(c, agent, "health check timed out")
        return
    agent.pings += 1
    c.command(agent, agent_api.Ping())
    start_pings(c, agent)


def link_closed(c: Cluster, link: int) -> None:
    """The connection of an agent is gone."""
    c.joining.pop(link, None)
    agent_id = c.links.get(link)
    if agent_id is not None:
        disconnect(c, c.agents[agent_id])


def disconnect(c: Cluster, agent: AgentRecord, *, close: bool = True) -> None:
    """Stop using the agent's connection and offering its resources; it may come back.

    It has as long as one that does not answer pings: a machine that died and one that was reset
    look different to us, and mean the same to the frameworks. close: also end the connection.
    """
    if agent.link is not None:
        del c.links[agent.link]
        if close:
            c.emit(CloseLink(agent.link))
    agent.link = None
    agent.connected = agent.active = False
    settings = c.settings
    agent.deadline = c.now + min(settings.ping_timeout_s, settings.agent_reregister_timeout_s)
    c.wake_at(agent.deadline, "agent", agent.agent_id)
    c.allocator.deactivate_agent(agent.agent_id)
    offers.rescind_all_of_agent(c, agent)
    c.emit(AgentChanged(agent, Change.UPDATED))


def reregistration_due(c: Cluster, agent_id: str) -> None:
    """A disconnected agent did not come back in time."""
    agent = c.agents.get(AgentId(agent_id))
    if agent is None or agent.deadline is None or agent.deadline > c.now:
        return
    if agent_id not in c.transitions:
        c.counts["master/slave_unreachable_scheduled"] += 1
        mark_unreachable(c, agent, "agent did not re-register in time")


def recovery_due(c: Cluster, agent_id: str) -> None:
    """Agents of the registry (one, or all) did not come back in time."""
    late = [agent_id] if agent_id else list(c.recovered_agents)
    records, gone = [], []
    for late_id in late:
        known = c.recovered_agents.get(AgentId(late_id))
        if known is None or known.agent_id in c.transitions:
            continue
        c.transitions.add(known.agent_id)
        c.counts["master/recovery_slave_removals"] += 1
        gone.append(KnownAgent(known.agent_id, known.info, known.hostname, c.wall))
        records.append(agent_record(known.agent_id, AgentStanding.UNREACHABLE, known.info, c.wall))

    def stored() -> None:
        for known in gone:
            c.transitions.discard(known.agent_id)
            c.recovered_agents.pop(known.agent_id, None)
            c.unreachable_agents[known.agent_id] = known
            c.emit(AgentForgotten(known.agent_id))
            _failure(c, known.agent_id)

    if records:
        c.store(records, stored)


# Leaving


def mark_unreachable(c: Cluster, agent: AgentRecord, why: str) -> None:
    """Give up waiting for an agent: its tasks are UNREACHABLE once the registry says so."""
    record = agent_record(agent.agent_id, AgentStanding.UNREACHABLE, agent.info, c.wall)
    c.counts["master/slave_unreachable_completed"] += 1
    leave(
        c, agent, record, TaskState.UNREACHABLE, Reason.AGENT_REMOVED,
        f"Agent {agent.hostname} is unreachable: {why}", "unhealthy",
        table=c.unreachable_agents,
    )  # fmt: skip


def mark_gone(c: Cluster, agent: AgentRecord, then: Callable[[], None]) -> None:
    """An operator said that the agent will never return; it is told to stop if it hears."""
    c.command(agent, agent_api.Shutdown(c.epoch, "Agent has been marked gone"))
    if agent.connected:
        disconnect(c, agent)
    record = agent_record(agent.agent_id, AgentStanding.GONE, agent.info, c.wall)
    leave(
        c, agent, record, TaskState.GONE_BY_OPERATOR, Reason.AGENT_REMOVED_BY_OPERATOR,
        "Agent has been marked gone", "unregistered", table=c.gone_agents, then=then,
    )  # fmt: skip


def leave(
    c: Cluster,
    agent: AgentRecord,
    record: Record,
    state: TaskState,
    reason: Reason,
    message: str,
    counted_as: str,
    *,
    table: dict[str, KnownAgent] | None = None,
    then: Callable[[], None] | None = None,
) -> None:
    """Write to the registry that a disconnected agent is no more, then end what ran on it.

    table: where it is remembered. then: called at the end.
    """
    agent_id = agent.agent_id
    known = KnownAgent(agent_id, agent.info, agent.hostname, c.wall)
    c.transitions.add(agent_id)
    agent.deadline = None

    def stored() -> None:
        c.transitions.discard(agent_id)
        if table is not None:
            table[agent_id] = known
        _lose(c, agent, state, reason, message)
        c.counts["master/slave_removals"] += 1
        c.counts[f"master/slave_removals/reason_{counted_as}"] += 1
        if then is not None:
            then()

    c.store([record], stored)


def _lose(c: Cluster, agent: AgentRecord, state: TaskState, reason: Reason, message: str) -> None:
    unreachable = state is TaskState.UNREACHABLE
    for framework_id, of_framework in list(agent.tasks.items()):
        framework = c.frameworks[next(iter(of_framework.values())).framework_id]
        told = state.for_framework(partition_aware=framework.partition_aware)
        for task in list(of_framework.values()):
            ended = task.state.is_terminal
            if not ended:
                status = tasks.made_up(c, task, told, Source.MASTER, reason, message)
                if unreachable:
                    since = types.TimeInfo(int(c.wall * 1e9))
                    status = msgspec.structs.replace(status, unreachable_time=since)
                tasks.take_in(c, framework, task, status, told)
                tasks.send(c, framework, status)
            tasks.remove(c, framework, task, unreachable=unreachable and not ended)
        for executor in list(agent.executors.get(framework_id, {}).values()):
            tasks.remove_executor(c, framework, executor)
    for of_executors in list(agent.executors.values()):
        for executor in list(of_executors.values()):
            tasks.remove_executor(c, c.frameworks[executor.framework_id], executor)
    offers.rescind_all_of_agent(c, agent)
    del c.agents[agent.agent_id]
    if c.pids.get(agent.pid) == agent.agent_id:
        del c.pids[agent.pid]
    c.allocator.remove_agent(agent.agent_id)
    c.emit(AgentChanged(agent, Change.REMOVED, message))
    _failure(c, agent.agent_id)


def _failure(c: Cluster, agent_id: str) -> None:
    """Every framework hears that an agent is lost, whether it had tasks there or not."""
    failure = scheduler_api.Failure(agent_id=types.AgentID(agent_id))
    event = scheduler_api.Event(type="FAILURE", failure=failure)
    for framework in c.frameworks.values():
        c.tell(framework, event)


def goodbye(c: Cluster, agent: AgentRecord) -> None:
    """The agent leaves for good."""
    c.counts["master/messages_unregister_slave"] += 1
    disconnect(c, agent)
    leave(
        c, agent, agent_removal(agent.agent_id), TaskState.GONE,
        Reason.AGENT_REMOVED, "agent unregistered", "unregistered",
    )  # fmt: skip


def changed(c: Cluster, agent: AgentRecord, info: types.AgentInfo) -> None:
    """The agent has other resources or attributes than before."""
    c.counts["master/messages_update_slave"] += 1
    try:
        total = interned(info.resources)
    except ResourceError:
        c.counts["master/dropped_messages"] += 1
        return
    offers.rescind_all_of_agent(c, agent)
    agent.total = total
    agent.attributes = info.attributes
    agent.domain = info.domain
    agent.info = info_bytes(info, agent.agent_id)
    ports.fit(agent)
    c.allocator.update_agent(ports.for_allocator(agent))
    c.emit(AgentChanged(agent, Change.UPDATED))
    c.allocate_soon()


def forget_old(c: Cluster) -> None:
    """Drop unreachable and gone agents from the registry that are too old or too many."""
    c.wake_at(c.now + c.settings.registry_gc_interval_s, "registry", "")
    for table in (c.unreachable_agents, c.gone_agents):
        oldest = sorted(table.values(), key=lambda known: known.time)
        too_many = len(oldest) - c.settings.registry_max_agent_count
        horizon = c.wall - c.settings.registry_max_agent_age_s
        old = [
            known.agent_id
            for index, known in enumerate(oldest)
            if index < too_many or known.time < horizon
        ]
        if old:
            _forget(c, table, [agent_id for agent_id in old if agent_id not in c.transitions])


def _forget(c: Cluster, table: dict[str, KnownAgent], agent_ids: list[AgentId]) -> None:
    c.transitions.update(agent_ids)

    def stored() -> None:
        for agent_id in agent_ids:
            c.transitions.discard(agent_id)
            table.pop(agent_id, None)

    if agent_ids:
        c.store([agent_removal(agent_id) for agent_id in agent_ids], stored)
