"""The master's rules through crashes, cuts and slow networks, repeatable by seed."""

from collections import Counter

import pytest

from cairn_core.master.registry import LOG, SCHEMA, read_registry
from cairn_core.master.state.cluster import VipTable
from cairn_core.master.state.invariants import check
from cairn_core.master.state.settings import Settings
from cairn_core.mesos import types
from cairn_core.replog.interface import Entry
from cairn_core.resources import Resources
from cairn_core.testing.sim.agent import SimAgent
from cairn_core.testing.sim.framework import SimFramework
from cairn_core.testing.sim.log import SimLog
from cairn_core.testing.sim.master import SimMaster
from cairn_core.testing.sim.world import World, at_once
from cairn_core.vips.addresses import AddressRange
from cairn_scheduler.allocator import HierarchicalDrf

TOTAL = Resources.parse("cpus:4;mem:4096")
SIZE = Resources.parse("cpus:1;mem:512")
SETTINGS = Settings(
    agent_ping_timeout_s=2.0,
    max_agent_ping_timeouts=3,
    agent_reregister_timeout_s=30.0,
    max_joining=2,
    joins_per_s=4.0,
    vip_ipv4=AddressRange("11.0.0.0", "11.0.0.9", "nfq"),
    vip_release_s=15.0,
)


def vip(number: int) -> types.DiscoveryInfo:
    """Of a task: four names in turn, so that those of three frameworks do not fit the range."""
    labels = types.Labels((types.Label("VIP_0", f"/app{number % 4}:80"),))
    return types.DiscoveryInfo("FRAMEWORK", ports=types.Ports((types.Port(80, labels=labels),)))


class Lab:
    """A small cluster, and what must be true of it in the end."""

    def __init__(self, seed: int, *, agents: int = 5, frameworks: int = 3) -> None:
        self.world = world = World(seed)
        self.launches: Counter[tuple[str, str]] = Counter()
        self.master = SimMaster(world, lambda rng: HierarchicalDrf(rng), SETTINGS)
        self.agents = [
            SimAgent(
                world, self.master, n, TOTAL, self.launches,
                task_s=lambda: world.rng.choice([None, None, 20.0]),
            )
            for n in range(agents)
        ]  # fmt: skip
        capabilities = [("PARTITION_AWARE", "MULTI_ROLE"), ("MULTI_ROLE",), ()]
        self.frameworks = [
            SimFramework(
                world, self.master, n, 4, SIZE, capabilities=capabilities[n % 3], discovery=vip
            )
            for n in range(frameworks)
        ]
        self.master.start()
        for agent in self.agents:
            agent.start()
        for framework in self.frameworks:
            framework.start()

    def check(self) -> None:
        if self.master.core is not None:
            check(self.master.core.cluster)

    def trouble(self) -> None:
        """Something bad happens, for a while."""
        world = self.world
        match world.rng.randrange(5):
            case 0 if self.master.core is not None:
                self.master.crash()
                world.after(world.rng.random() * 5, self.master.start)
            case 1:
                agent = world.rng.choice(self.agents)
                if agent.up:
                    agent.crash()
                    world.after(world.rng.random() * 40, agent.start)
            case 2:
                agent = world.rng.choice(self.agents)
                agent.cut()
                world.after(world.rng.random() * 60, agent.heal)
            case 3:
                framework = world.rng.choice(self.frameworks)
                if framework.up:
                    framework.crash()
                    world.after(world.rng.random() * 10, framework.start)
            case _:
                framework = world.rng.choice(self.frameworks)
                framework.set_goal(world.rng.randrange(7))

    def running(self) -> dict[str, set[str]]:
        """Per framework, what runs on the agents."""
        out: dict[str, set[str]] = {}
        for agent in self.agents:
            for (framework_id, task_id), task in agent.tasks.items():
                if not task.state.is_terminal:
                    out.setdefault(framework_id, set()).add(task_id)
        return out


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_doubled_or_leaked(seed: int) -> None:
    lab = Lab(seed)
    lab.world.run(10.0, each=lab.check)
    for _ in range(12):
        lab.trouble()
        lab.world.run(lab.world.rng.random() * 25, each=lab.check)
    lab.world.run(300.0, each=lab.check)

    core = lab.master.core
    assert core is not None
    cluster = core.cluster
    assert all(agent.registered for agent in lab.agents)
    assert not cluster.transitions
    assert not cluster.joining
    assert set(lab.launches.values()) <= {1}
    running = lab.running()
    for framework in lab.frameworks:
        assert framework.errors == []
        assert framework.framework_id is not None
        on_agents = running.pop(framework.framework_id.value, set())
        known = cluster.frameworks[framework.framework_id.value].tasks
        assert {t for t, record in known.items() if not record.state.is_terminal} == on_agents
        # Tasks end by themselves, so the framework may not have heard of the newest ends.
        assert on_agents <= set(framework.tasks)
    assert not running

    _addresses_are_as_recorded(lab, cluster.vips)
    _everything_comes_back(lab)


def _addresses_are_as_recorded(lab: Lab, vips: VipTable) -> None:
    """The registry says what the master does, and never gave an address that was another's."""
    assert not vips.storing
    assert not vips.leaving
    assert vips.uses
    held: dict[str, bytes] = {}
    for entry in at_once(_entries(lab.master.log)):
        key, value = entry.record.key, entry.record.value
        if key.startswith("vip/"):
            held.pop(key, None)
            if value is not None:
                held[key] = value
                assert len(set(held.values())) == len(held), "one address, two names"
    image = read_registry((key, value, SCHEMA) for key, value in held.items())
    assert image.vips == {name: vips.addresses.of(name) for name in vips.addresses}


async def _entries(log: SimLog) -> list[Entry]:
    return [entry async for entry in log.read(LOG)]


def _everything_comes_back(lab: Lab) -> None:
    """When all frameworks are gone, a new one is offered the whole cluster."""
    core = lab.master.core
    assert core is not None
    for framework in lab.frameworks:
        framework.crash()
        assert framework.framework_id is not None
        now, wall = lab.world.now, lab.world.wall
        lab.master.do(core.teardown(1, framework.framework_id.value, now=now, wall=wall))
        assert lab.master.replies.pop(1).status == 200
    hoarder = SimFramework(lab.world, lab.master, 99, 0, SIZE)
    hoarder._offered = lambda offer: None  # type: ignore[method-assign]  # it keeps what it gets
    hoarder.start()
    lab.world.run(30.0, each=lab.check)
    offered = [offer.resources for offer in core.cluster.offers.values()]
    assert offered == [TOTAL] * len(lab.agents)
    assert all(agent.used == {} for agent in core.cluster.agents.values())


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> tuple[int, Counter[str], list[str]]:
        lab = Lab(5)
        for _ in range(4):
            lab.trouble()
            lab.world.run(10.0)
        return lab.world.events, lab.master.effects, sorted(map(str, lab.launches))

    assert run() == run()


def test_a_change_of_masters_brings_everybody_back_smoothly() -> None:
    lab = Lab(3, agents=20, frameworks=2)
    lab.world.run(20.0, each=lab.check)
    before = lab.running()
    assert sum(map(len, before.values())) > 0
    lab.master.crash()
    lab.world.run(1.0)
    lab.master.start()
    core = lab.master.core
    assert core is not None
    assert len(core.cluster.recovered_agents) == 20
    lab.world.run(25.0, each=lab.check)
    assert len(core.cluster.agents) == 20
    assert not core.cluster.recovered_agents
    for framework in lab.frameworks:
        assert framework.framework_id is not None
        record = core.cluster.frameworks[framework.framework_id.value]
        assert record.connected
        assert not record.recovered
