"""Freed host ports rest: for how long, what ends a rest, and that nothing comes back twice."""

from random import Random

import pytest

from cairn_core.master.legacy_json import agent_used, framework_used
from cairn_core.master.state.settings import Settings
from cairn_core.mesos import agent_api, scheduler_api, types
from cairn_core.mesos.types import TaskState
from cairn_core.resources import EMPTY, Resources
from cairn_core.testing.master_rig import MasterRig, task
from cairn_scheduler.allocator import HierarchicalDrf

TOTAL = Resources.parse("cpus:4;mem:4096;ports:[31000-32000]")


class PortRig(MasterRig):
    """A rig whose allocator's accounting is compared with the master's."""

    def __init__(self, **settings: float) -> None:
        self.drf = HierarchicalDrf(Random(1))
        super().__init__(self.drf, Settings(**settings))  # type: ignore[arg-type]  # by name

    def free(self, agent_id: str) -> Resources:
        """What the allocator would offer of an agent, and that it agrees with the master."""
        self.drf.check()
        agent = self.cluster.agents[agent_id]
        offered = Resources.sum(offer.resources for offer in agent.offers.values())
        expected = agent.total - agent_used(agent) - offered - agent.resting
        assert self.drf._agents[agent.agent_id].free == expected
        return expected

    def ended(self, framework_id: str, agent_id: str, task_id: str, ports: str) -> None:
        """A task with these ports has run on the first agent."""
        self.allocate()
        self.accept(framework_id, task(task_id, agent_id, f"cpus:1;mem:128;ports:{ports}"))
        self.update(1, framework_id, task_id, TaskState.FINISHED)


@pytest.fixture
def rig() -> PortRig:
    return PortRig()


def test_everything_but_ports_comes_back_at_once(rig: PortRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework()
    rig.ended(framework_id, agent_id, "t1", "[31005-31006]")
    resting = Resources.parse("ports:[31005-31006]")
    assert rig.free(agent_id) == TOTAL - resting
    agent, framework = rig.cluster.agents[agent_id], rig.cluster.frameworks[framework_id]
    assert agent.total == TOTAL, "what others see does not shrink"
    assert agent_used(agent) == framework_used(framework) == EMPTY

    rig.pass_time(10.0)
    rig.allocate()
    (offer,) = rig.cluster.offers.values()
    assert offer.resources == TOTAL - resting
    rig.call(framework_id, "DECLINE", decline=_decline(offer.offer_id, 1000.0))
    rig.pass_time(48.0)
    assert rig.free(agent_id) == TOTAL - resting
    rig.pass_time(3.0)
    assert rig.free(agent_id) == TOTAL
    assert not agent.rests


def _decline(offer_id: str, refuse_s: float) -> scheduler_api.Decline:
    return scheduler_api.Decline((types.OfferID(offer_id),), types.Filters(refuse_s))


def test_ports_return_one_by_one_in_their_time(rig: PortRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework()
    rig.ended(framework_id, agent_id, "t1", "[31000-31000]")
    rig.pass_time(20.0)
    rig.ended(framework_id, agent_id, "t2", "[31001-31001]")
    rig.pass_time(42.0)
    assert rig.cluster.agents[agent_id].resting == Resources.parse("ports:[31001-31001]")
    rig.pass_time(20.0)
    assert rig.free(agent_id) == TOTAL


def test_no_rest_when_switched_off() -> None:
    rig = PortRig(port_rest_s=0.0)
    agent_id, framework_id = rig.agent(), rig.framework()
    rig.ended(framework_id, agent_id, "t1", "[31000-31000]")
    assert rig.free(agent_id) == TOTAL


def test_the_oldest_come_back_early_when_ports_run_short(rig: PortRig) -> None:
    agent_id = rig.agent(resources="cpus:4;mem:4096;ports:[1000-1009]")
    framework_id = rig.framework()
    for at in range(1000, 1009):
        rig.ended(framework_id, agent_id, f"t{at}", f"[{at}-{at}]")
    assert rig.cluster.agents[agent_id].resting == Resources.parse("ports:[1000-1008]")
    rig.ended(framework_id, agent_id, "t1009", "[1009-1009]")
    # taking the last free one left none: the oldest came back at that moment
    assert rig.cluster.agents[agent_id].resting == Resources.parse("ports:[1001-1009]")
    assert rig.free(agent_id).ranges("ports") == ((1000, 1000),)


def test_a_single_port_never_rests(rig: PortRig) -> None:
    agent_id = rig.agent(resources="cpus:4;mem:4096;ports:[1000-1000]")
    rig.ended(rig.framework(), agent_id, "t1", "[1000-1000]")
    assert rig.free(agent_id).ranges("ports") == ((1000, 1000),)


def test_the_rest_goes_on_while_the_agent_is_away(rig: PortRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework()
    rig.ended(framework_id, agent_id, "t1", "[31000-31000]")
    rig.close_link(1)
    rig.pass_time(30.0)
    rig.say(2, rig.hello(1, agent_id=agent_id), agent_api.Inventory(last=True))
    assert rig.free(agent_id) == TOTAL - Resources.parse("ports:[31000-31000]")
    rig.pass_time(32.0)
    assert rig.free(agent_id) == TOTAL


def test_an_agent_that_lost_the_ports_meanwhile(rig: PortRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework()
    rig.ended(framework_id, agent_id, "t1", "[31000-31010]")
    rig.close_link(1)
    less = "cpus:4;mem:4096;ports:[31005-31999]"
    hello = rig.hello(1, agent_id=agent_id, resources=less)
    rig.say(2, hello, agent_api.Inventory(last=True))
    assert rig.cluster.agents[agent_id].resting == Resources.parse("ports:[31005-31010]")
    assert rig.free(agent_id).ranges("ports") == ((31011, 31999),)
    info = types.AgentInfo(
        "host1", resources=tuple(Resources.parse("cpus:4;ports:[31008-31100]").to_wire())
    )
    rig.say(2, agent_api.Changed(info))
    assert rig.free(agent_id).ranges("ports") == ((31011, 31100),)


def test_a_removed_agent_takes_the_rest_along(rig: PortRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework()
    rig.ended(framework_id, agent_id, "t1", "[31000-31000]")
    rig.close_link(1)
    rig.pass_time(20.0)
    rig.do(rig.core.mark_agent_gone(1, agent_id, now=rig.now, wall=rig.wall))
    assert agent_id not in rig.cluster.agents
    rig.pass_time(60.0)
    rig.drf.check()


def test_a_task_that_comes_back_has_its_ports_whatever_rests(rig: PortRig) -> None:
    """The end of its framework freed them, but the agent was away and never heard of it."""
    agent_id, framework_id = rig.agent(), rig.framework()
    rig.allocate()
    info = task("t1", agent_id, "cpus:1;ports:[31000-31004]")
    rig.accept(framework_id, info)
    framework = rig.cluster.frameworks[framework_id]
    returning = framework.tasks["t1"].describe()
    rig.close_link(1)
    rig.call(framework_id, "TEARDOWN")
    assert rig.cluster.agents[agent_id].resting == Resources.parse("ports:[31000-31004]")
    rig.cluster.completed_frameworks.clear()  # so many others ended since
    listed = agent_api.Inventory(frameworks=(framework.info,), tasks=(returning,), last=True)
    rig.say(2, rig.hello(1, agent_id=agent_id), listed)
    agent = rig.cluster.agents[agent_id]
    assert agent.resting == EMPTY
    assert agent_used(agent).ranges("ports") == ((31000, 31004),)
    assert rig.free(agent_id).ranges("ports") == ((31005, 32000),)


def test_a_framework_that_ends_leaves_its_ports_to_rest(rig: PortRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework()
    rig.allocate()
    executor = types.ExecutorInfo(
        types.ExecutorID("e1"),
        command=types.CommandInfo(value="run"),
        resources=tuple(Resources.parse("cpus:0.1;mem:32;ports:[31100-31100]").to_wire()),
    )
    with_executor = task(
        "t1", agent_id, "cpus:1;ports:[31000-31004]", command=None, executor=executor
    )
    rig.accept(framework_id, with_executor, task("t2", agent_id, "cpus:1;ports:[31005-31005]"))
    assert len(rig.cluster.agents[agent_id].tasks[framework_id]) == 2
    rig.call(framework_id, "TEARDOWN")
    resting = Resources.parse("ports:[31000-31005,31100-31100]")
    assert rig.cluster.agents[agent_id].resting == resting
    assert rig.free(agent_id) == TOTAL - resting
    rig.pass_time(61.0)
    assert rig.free(agent_id) == TOTAL


@pytest.mark.parametrize("seed", range(25))
def test_master_and_allocator_agree_whatever_happens(seed: int) -> None:
    """Tasks come and go, agents leave and return, frameworks end: no port comes back twice."""
    rng = Random(seed)
    rig = PortRig(agent_reregister_timeout_s=50.0)
    links = {rig.agent(1, resources="cpus:8;mem:4096;ports:[1000-1019]"): 1}
    links[rig.agent(2, resources="cpus:8;mem:4096;ports:[1000-1002]")] = 2
    numbers = {agent_id: link for agent_id, link in links.items()}
    names = iter(range(1000))
    frameworks = [rig.framework(f"f{next(names)}") for _ in range(2)]
    for step in range(80):
        match rng.randrange(8):
            case 0 | 1 | 2:
                rig.allocate()
                framework_id = rng.choice(frameworks)
                for offer in list(rig.cluster.frameworks[framework_id].offers.values()):
                    spans = offer.resources.ranges("ports")
                    if not spans or not rng.randrange(4):
                        continue
                    at = spans[0][0]
                    port = f"cpus:0.5;mem:32;ports:[{at}-{at}]"
                    launched = task(f"t{step}", offer.agent_id, port)
                    rig.accept(framework_id, launched, offers=[offer.offer_id], refuse_s=0.0)
                    break
            case 3 | 4:
                live = [
                    (framework_id, record)
                    for framework_id in frameworks
                    for record in rig.cluster.frameworks[framework_id].tasks.values()
                    if record.agent_id in links and not record.state.is_terminal
                ]
                if live:
                    framework_id, record = rng.choice(live)
                    link = links[record.agent_id]
                    rig.update(link, framework_id, record.task_id, TaskState.FINISHED)
            case 5 if links:
                agent_id = rng.choice(sorted(links))
                rig.close_link(links.pop(agent_id))
            case 6 if len(links) < 2:
                agent_id = rng.choice(sorted(numbers.keys() - links.keys()))
                _return(rig, agent_id, numbers[agent_id], link := 10 + step)
                links[agent_id] = link
            case 7 if not rng.randrange(4):
                rig.call(frameworks.pop(rng.randrange(2)), "TEARDOWN")
                frameworks.append(rig.framework(f"f{next(names)}"))
            case _:
                rig.pass_time(rng.random() * 30)
        for agent_id in rig.cluster.agents:
            rig.free(agent_id)
    rig.pass_time(200.0)
    assert not any(agent.rests for agent in rig.cluster.agents.values())


def _return(rig: PortRig, agent_id: str, number: int, link: int) -> None:
    """An agent comes back with what the master thinks that it has."""
    ports = "[1000-1019]" if number == 1 else "[1000-1002]"
    agent = rig.cluster.agents.get(agent_id)
    parts = agent.tasks.values() if agent is not None else ()
    listed = tuple(record.describe() for part in parts for record in part.values())
    hello = rig.hello(number, agent_id=agent_id, resources=f"cpus:8;mem:4096;ports:{ports}")
    rig.say(link, hello, agent_api.Inventory(tasks=listed, last=True))
