"""What must hold between two facts; tests and the simulator call `check`."""

from collections import Counter

from cairn_core.extensions import FrameworkId
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.records import AgentRecord
from cairn_core.resources import EMPTY, Resources


def check(c: Cluster) -> None:
    """Raise AssertionError unless the tables agree with each other.

    - An offer is in three tables, or in none; its framework and its agent are active.
    - A live task is in its framework's and in its agent's table.
    - What an agent has `used` is the sum of what its tasks and executors hold.
    - All resources of an agent are in one place: what is used, in offers, and resting ports are
      apart from each other and within its total.
    - An ended task holds nothing.
    - A name that a live task asks for has an address or a reason for having none; one that has an
      address is asked for, idle, or about to be forgotten.
    """
    assert not c.out, f"effects left over: {c.out[:3]}"
    assert not c.port_changes
    _check_offers(c)
    for framework_id, framework in c.frameworks.items():
        assert framework.framework_id == framework_id
        assert framework_id not in c.completed_frameworks
        assert framework.connected == (framework.stream_id is not None)
        assert framework.connected or not framework.active
        assert framework.connected or framework.deadline is not None
        if framework.stream_id is not None:
            assert c.streams[framework.stream_id] == framework_id
        for task_id, task in framework.tasks.items():
            assert c.agents[task.agent_id].tasks[framework_id][task_id] is task
            assert not (task.state.is_terminal and task.holds), (task_id, task.state)
        for (agent_id, executor_id), executor in framework.executors.items():
            assert c.agents[executor.agent_id].executors[framework_id][executor_id] is executor
            assert agent_id == executor.agent_id
    for framework_id in c.streams.values():
        assert framework_id in c.frameworks
    for agent_id, agent in c.agents.items():
        assert agent.agent_id == agent_id
        assert agent_id not in c.recovered_agents
        assert agent_id not in c.unreachable_agents
        assert agent.connected == (agent.link is not None)
        assert agent.connected or not agent.active
        if agent.link is not None:
            assert c.links[agent.link] == agent_id
        _check_agent(c, agent)
    for link, linked_id in c.links.items():
        assert c.agents[linked_id].link == link
    _check_vips(c)


def _check_offers(c: Cluster) -> None:
    for offer_id, offer in c.offers.items():
        framework, agent = c.frameworks[offer.framework_id], c.agents[offer.agent_id]
        assert framework.offers[offer_id] is offer
        assert agent.offers[offer_id] is offer
        assert framework.active, f"offer {offer_id} to an inactive framework"
        assert agent.active, f"offer {offer_id} of an inactive agent"
    assert len(c.offers) == sum(len(f.offers) for f in c.frameworks.values())
    assert len(c.offers) == sum(len(a.offers) for a in c.agents.values())


def _check_vips(c: Cluster) -> None:
    vips = c.vips
    assert not vips.wanted
    uses: Counter[str] = Counter()
    for (framework_id, task_id), names in vips.names_of.items():
        assert task_id in c.frameworks[FrameworkId(framework_id)].tasks
        uses.update(names)
    assert vips.uses == uses
    assert vips.askers.keys() == uses.keys()
    named = set(vips.addresses)
    assert set(vips.shares) == named
    assert uses.keys() <= named | vips.refused.keys()
    assert vips.refused.keys() <= uses.keys() - named
    assert named == (uses.keys() & named) | vips.idle.keys() | vips.leaving
    assert not vips.idle.keys() & (uses.keys() | vips.leaving)
    assert vips.storing <= named
    assert not vips.idle or vips.timer is not None


def _check_agent(c: Cluster, agent: AgentRecord) -> None:
    held: dict[tuple[str, str], Resources] = {}
    for of_framework in agent.tasks.values():
        for task in of_framework.values():
            assert c.frameworks[task.framework_id].tasks[task.task_id] is task
            if task.holds:
                key = (task.framework_id, task.role)
                held[key] = held.get(key, EMPTY) + task.resources
    for of_executors in agent.executors.values():
        for executor in of_executors.values():
            key = (executor.framework_id, executor.role)
            held[key] = held.get(key, EMPTY) + executor.resources
    used = {
        (framework_id, role): resources
        for framework_id, roles in agent.used.items()
        for role, resources in roles.items()
    }
    assert used == {key: resources for key, resources in held.items() if resources}
    left = agent.total
    assert agent.resting == Resources.sum(ports for _, ports in agent.rests)
    assert not agent.rests or agent.rest_deadline is not None
    offered = (offer.resources for offer in agent.offers.values())
    for part in (*used.values(), *offered, agent.resting):
        assert left.contains(part), f"agent {agent.agent_id}: {part} is not in {left}"
        left = left - part
