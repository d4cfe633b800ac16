"""Master, agent, executor and log rules together, through every trouble, repeatable by seed."""

from random import Random

import pytest

from cairn_core.resources import Resources
from cairn_core.testing.sim.chaos import SIZE, TOTAL, DataCentre
from cairn_core.testing.sim.framework import SimFramework
from cairn_scheduler.allocator import HierarchicalDrf


def data_centre(seed: int, **fields: float) -> DataCentre:
    return DataCentre(seed, lambda rng: HierarchicalDrf(rng), **fields)  # type: ignore[arg-type]  # by name


def troubled(seed: int, times: int, **fields: float) -> DataCentre:
    """A data centre behind it all, at rest."""
    centre = data_centre(seed, **fields)
    centre.world.run(10.0, each=centre.check)
    for _ in range(times):
        centre.trouble()
        centre.world.run(centre.world.rng.random() * 25, each=centre.check)
    centre.calm()
    for _ in range(100):
        centre.world.run(2.0)
        centre.check()
    return centre


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_doubled_or_leaked(seed: int) -> None:
    centre = troubled(seed, 12)
    centre.check_calm()
    everything_comes_back(centre)


def everything_comes_back(centre: DataCentre) -> None:
    """When all frameworks are gone, a new one is offered all that there is, rested ports too."""
    core, world = centre.leader.core, centre.world
    assert core is not None
    for framework in centre.frameworks:
        framework.crash()
        assert framework.framework_id is not None
        framework_id = framework.framework_id.value
        centre.leader.do(core.teardown(1, framework_id, now=world.now, wall=world.wall))
        assert centre.leader.replies.pop(1).status == 200
    world.run(60.0, each=centre.check)
    assert centre.running() == {}
    hoarder = SimFramework(world, centre.leader, 99, 0, SIZE)
    hoarder._offered = lambda offer: None  # type: ignore[method-assign]  # it keeps what it gets
    hoarder.start()
    world.run(10.0, each=centre.check)
    offered = Resources.sum(offer.resources for offer in core.cluster.offers.values())
    assert offered.scalar("cpus") == TOTAL.scalar("cpus") * len(centre.hosts)
    for agent in core.cluster.agents.values():
        held = Resources.sum(offer.resources for offer in agent.offers.values())
        assert (held, agent.used, agent.resting) == (TOTAL, {}, Resources())


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> tuple[object, ...]:
        centre = data_centre(Random(5).randrange(100))
        for _ in range(6):
            centre.trouble()
            centre.world.run(10.0)
        files = [sorted(host.disk.files) for host in centre.hosts]
        return centre.world.events, centre.log.images["registry"].bounds, files

    assert run() == run()


@pytest.mark.parametrize("seed", range(4))
def test_a_disk_that_refuses_writes_loses_nothing_that_was_confirmed(seed: int) -> None:
    troubled(seed, 12, disk_trouble=0.05).check_calm()
