"""How an agent gets in: from its Hello to the id under which it lists what runs.

    Hello -> refused (Admission with a problem, Shutdown when gone)
          -> later   (Admission with a delay: too many are joining)
          -> Welcome (new agents after the registry has them)

A change of masters brings all agents at once. At most `max_joining` send their inventory at a
time; the others are given places in a queue of time, `joins_per_s` of them.
"""

import hmac

import msgspec

from cairn_core.extensions import AgentId
from cairn_core.master.registry import AgentStanding, agent_record, agent_removal
from cairn_core.master.state import agents
from cairn_core.master.state.cluster import Cluster, Joining
from cairn_core.master.state.effects import CloseLink, ToLink
from cairn_core.master.state.ids import fault_of_id
from cairn_core.master.state.records import KnownAgent
from cairn_core.mesos import agent_api, types
from cairn_core.mesos.agent_api import Admission, Hello, MasterMessage
from cairn_core.mesos.types import Reason, TaskState
from cairn_core.resources import ResourceError, Resources

#: When a refused agent may ask again: somebody has to change a setting first.
REFUSED_RETRY_S = 30.0
MAX_INFO_BYTES = 128 * 1024
MAX_HOSTNAME = 255


def hello(c: Cluster, link: int, message: Hello) -> None:
    """An agent opened a link."""
    c.joining.pop(link, None)  # after an Admission, or it starts over
    if link in c.links:
        agents.disconnect(c, c.agents[c.links[link]], close=False)
    kind = "register" if message.agent_id is None else "reregister"
    c.counts[f"master/messages_{kind}_slave"] += 1
    fault = _fault(c, message)
    if fault is not None:
        _turn_away(c, link, Admission(REFUSED_RETRY_S, fault))
        return
    agent_id = _claimed_id(c, message)
    if agent_id is not None and agent_id in c.gone_agents:
        _turn_away(c, link, agent_api.Shutdown(c.epoch, "Agent has been marked gone"))
        return
    if agent_id is not None and agent_id in c.transitions:
        _turn_away(c, link, Admission(1.0))
        return
    _supersede(c, message, agent_id)
    if len(c.joining) >= c.settings.max_joining:
        _turn_away(c, link, Admission(_place_in_queue(c)))
        return
    if agent_id is None:
        _admit(c, link, message)
        return
    _welcome(c, _join(c, link, message, agent_id))


def _turn_away(c: Cluster, link: int, message: MasterMessage) -> None:
    c.emit(ToLink(link, message))


def _place_in_queue(c: Cluster) -> float:
    """Seconds until this agent's turn; each who asks gets a later one."""
    c.queue_end = max(c.now, c.queue_end) + 1 / c.settings.joins_per_s
    return max(0.5, c.queue_end - c.now)


def _fault(c: Cluster, message: Hello) -> str | None:
    """Why the agent cannot get in as it is."""
    if not message.protocol_min <= agent_api.PROTOCOL <= message.protocol_max:
        return (
            f"agent speaks protocol {message.protocol_min} to {message.protocol_max}, "
            f"this master speaks {agent_api.PROTOCOL}"
        )
    if message.epoch > c.epoch:
        return (
            f"agent has seen a master of epoch {message.epoch}, this one has epoch {c.epoch}: "
            "it is not the leader any more, or its registry was lost"
        )
    secrets = c.settings.agent_secrets
    if secrets is not None:
        known = secrets.get(message.principal or "")
        given = message.secret or ""
        if known is None or not hmac.compare_digest(known.encode(), given.encode()):
            return "agent is not authenticated: principal or secret is wrong"
    if message.agent_id is not None and (fault := fault_of_id(message.agent_id.value)):
        return f"agent id {fault}"
    return _fault_of_info(message)


def _fault_of_info(message: Hello) -> str | None:
    info = message.info
    if not 0 < len(info.hostname) <= MAX_HOSTNAME:
        return f"hostname has {len(info.hostname)} characters, need 1 to {MAX_HOSTNAME}"
    if agents.address_of(message.pid) is None:
        return f"pid {message.pid[:100]!r} is not of the form slave(1)@ip:port"
    size = len(msgspec.json.encode(info))
    if size > MAX_INFO_BYTES:
        return f"agent info has {size} bytes, limit {MAX_INFO_BYTES}"
    try:
        Resources.from_wire(info.resources)
    except ResourceError as error:
        return f"agent resources are invalid: {error}"
    return None


def _claimed_id(c: Cluster, message: Hello) -> AgentId | None:
    """The id it names, or the one that it was given and did not hear of."""
    if message.agent_id is not None:
        return AgentId(message.agent_id.value)
    return c.unheard.get(message.session)


def _supersede(c: Cluster, message: Hello, agent_id: AgentId | None) -> None:
    """End what an older connection of the same agent was doing."""
    for joining in list(c.joining.values()):
        same = joining.agent_id == agent_id if agent_id is not None else False
        if same or joining.hello.session == message.session:
            del c.joining[joining.link]
            c.emit(CloseLink(joining.link))
    agent = c.agents.get(agent_id) if agent_id is not None else None
    if agent is not None and agent.connected:
        agents.disconnect(c, agent)


def _admit(c: Cluster, link: int, message: Hello) -> None:
    """A new agent: it gets its id once the registry has it."""
    old_id = c.pids.get(message.pid)
    if old_id is not None and old_id not in c.transitions:
        # Somebody at the same address that does not know the id: the old agent is no more.
        old = c.agents[old_id]
        if old.connected:
            agents.disconnect(c, old)
        agents.leave(
            c, old, agent_removal(old_id), TaskState.GONE, Reason.AGENT_REMOVED,
            "a new agent registered at the same address", "registered",
        )  # fmt: skip
    agent_id = _new_id(c)
    joining = _join(c, link, message, agent_id)
    info = agents.info_bytes(message.info, agent_id)

    def admitted() -> None:
        # Should it be gone before its inventory: it is waited for, like after a failover.
        c.recovered_agents[agent_id] = KnownAgent(agent_id, info, message.info.hostname)
        c.wake_at(c.now + c.settings.agent_reregister_timeout_s, "recovered", agent_id)
        c.unheard[message.session] = agent_id
        while len(c.unheard) > 4 * c.settings.max_joining:
            del c.unheard[next(iter(c.unheard))]
        if c.joining.get(link) is joining:
            _welcome(c, joining)

    c.store([agent_record(agent_id, AgentStanding.ADMITTED, info)], admitted)


def _new_id(c: Cluster) -> AgentId:
    """An id that is free; an agent may have come with one that looks like ours."""
    tables = (c.agents, c.recovered_agents, c.unreachable_agents, c.gone_agents)
    while True:
        agent_id = AgentId(f"{c.master.master_id}-S{c.number('agent')}")
        if not any(agent_id in table for table in tables):
            return agent_id


def _join(c: Cluster, link: int, message: Hello, agent_id: AgentId) -> Joining:
    """Take one of the places of those that join, for a while."""
    deadline = c.now + c.settings.joining_timeout_s
    c.wake_at(deadline, "joining", str(link))
    joining = c.joining[link] = Joining(link, message, agent_id, deadline)
    return joining


def joining_due(c: Cluster, link: str) -> None:
    """An agent took too long over its inventory: its place goes to another."""
    joining = c.joining.get(int(link))
    if joining is not None and joining.deadline <= c.now:
        del c.joining[joining.link]
        c.emit(CloseLink(joining.link))


def _welcome(c: Cluster, joining: Joining) -> None:
    welcome = agent_api.Welcome(
        types.AgentID(joining.agent_id), c.epoch, c.settings.ping_timeout_s, c.master.info
    )
    c.emit(ToLink(joining.link, welcome))
