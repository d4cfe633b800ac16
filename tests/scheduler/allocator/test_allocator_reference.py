"""The allocator against a dumb one that counts everything anew at every step."""

import importlib.util
import sys
from pathlib import Path
from random import Random

import pytest

from cairn_core.extensions import AgentId, AllocAgent, Allocation, AllocFramework, FrameworkId
from cairn_core.mesos import types
from cairn_core.resources import Resources
from cairn_scheduler.allocator import HierarchicalDrf

_spec = importlib.util.spec_from_file_location(
    "reference_drf", Path(__file__).with_name("reference_drf.py")
)
assert _spec is not None
assert _spec.loader is not None
reference_drf = sys.modules["reference_drf"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference_drf)

ROLES = ["*", "a", "a/b", "a/b/c", "b", "b/x"]
CAPABILITIES = ["GPU_RESOURCES", "REVOCABLE_RESOURCES", "RESERVATION_REFINEMENT"]
REFINED = Resources.from_wire(
    [
        types.Resource(
            name="mem",
            type="SCALAR",
            scalar=types.Scalar(value=100),
            reservations=(
                types.ReservationInfo(type="STATIC", role="a"),
                types.ReservationInfo(type="DYNAMIC", role="a/b"),
            ),
        )
    ]
)
REVOCABLE = Resources.from_wire(
    [
        types.Resource(
            name="cpus",
            type="SCALAR",
            scalar=types.Scalar(value=2),
            revocable=types.RevocableInfo(),
        )
    ]
)
TOTALS = [
    Resources.parse("cpus:4;mem:4096;ports:[31000-31099]"),
    Resources.parse("cpus:9;mem:18432"),
    Resources.parse("cpus:2;mem:512;cpus(a):2;mem(a):64"),
    Resources.parse("cpus(b):4;mem(b):2048;ports(b):[1-100]"),
    Resources.parse("cpus:8;mem:8192;gpus:2"),
    Resources.parse("cpus:1;mem:128") + REFINED,
    Resources.parse("cpus:1;mem:256") + REVOCABLE,
]


class Zero(Random):
    """Every agent is picked from the front; see `visiting_order`."""

    def random(self) -> float:
        return 0.0


class Comparison:
    """Random facts and rounds; after each round both have allocated the same."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.ours = HierarchicalDrf(Zero())
        self.theirs = reference_drf.Reference()
        self.offers: list[Allocation] = []
        self.wanted: dict[str, None] = {}
        self.all_wanted = True
        self.number = 0
        for n in range(rng.randint(1, 5)):
            info = AllocFramework(
                FrameworkId(f"f{n}"),
                frozenset(rng.sample(ROLES, rng.randint(1, 3))),
                capabilities=frozenset(c for c in CAPABILITIES if rng.random() < 0.5),
            )
            self.ours.add_framework(info, {}, active=True)
            self.theirs.frameworks[info.id] = info
        weights = {role: rng.choice([0.5, 2.0, 3.0]) for role in rng.sample(ROLES, 2)}
        self.ours.set_weights(weights)
        self.theirs.weights = weights
        for _ in range(rng.randint(1, 4)):
            self.agent_comes()

    def agent_comes(self) -> None:
        if self.number == 8:
            return
        self.number += 1
        total = self.rng.choice(TOTALS)
        agent = AllocAgent(AgentId(f"s{self.number}"), f"h{self.number}", total)
        self.ours.add_agent(agent, {})
        self.theirs.agents[agent.id] = agent
        self.wanted[agent.id] = None

    def agent_goes(self) -> None:
        gone = self.rng.choice(sorted(self.theirs.agents) or [""])
        if not gone or self.rng.random() < 0.7:
            return
        self.ours.remove_agent(AgentId(gone))
        theirs = self.theirs
        del theirs.agents[gone]
        theirs.inactive.discard(gone)
        theirs.held = {key: r for key, r in theirs.held.items() if key[2] != gone}
        self.offers = [o for o in self.offers if o.agent_id != gone]
        self.wanted.pop(gone, None)

    def agent_is_deactivated_or_back(self) -> None:
        agent = self.rng.choice(sorted(self.theirs.agents) or [""])
        if not agent:
            return
        if agent in self.theirs.inactive:
            self.theirs.inactive.remove(agent)
            self.ours.activate_agent(AgentId(agent))
            self.wanted[agent] = None
        elif self.rng.random() < 0.3:
            self.theirs.inactive.add(agent)
            self.ours.deactivate_agent(AgentId(agent))

    def quota_is_set(self) -> None:
        role = self.rng.choice(["*", "a", "b"])
        guarantee = self.rng.choice([{}, {"cpus": 3000}, {"cpus": 9000, "mem": 1_000_000}])
        limit = self.rng.choice([{}, {"cpus": 10_000}, {"cpus": 9500, "mem": 2_000_000}])
        self.ours.set_quota(role, guarantee, limit)
        self.theirs.quota[role] = (guarantee, limit)
        self.all_wanted = True

    def suppressed_or_revived(self) -> None:
        framework = self.rng.choice(sorted(self.theirs.frameworks))
        role = self.rng.choice(sorted(self.theirs.frameworks[framework].roles))
        if self.rng.random() < 0.3:
            self.ours.suppress(FrameworkId(framework), frozenset({role}))
            self.theirs.suppressed.add((framework, role))
            return
        self.ours.revive(FrameworkId(framework), frozenset({role}), now=0.0)
        theirs = self.theirs
        theirs.suppressed.discard((framework, role))
        theirs.filters = [f for f in theirs.filters if f[:2] != (framework, role)]
        theirs.resting = {r for r in theirs.resting if r[:2] != (framework, role)}
        self.all_wanted = True

    def offer_comes_back(self) -> None:
        if not self.offers:
            return
        offer = self.offers.pop(self.rng.randrange(len(self.offers)))
        back = offer.resources
        task = Resources.scalars(cpus=500, mem=64_000)
        if self.rng.random() < 0.5 and back.contains(task):
            back = back - task
        refuse_s = self.rng.choice([None, 0.0, 60.0])
        self.ours.recover(
            offer.framework_id, offer.agent_id, offer.role, back, refuse_s=refuse_s, now=0.0
        )
        self.theirs.give_back(offer.framework_id, offer.role, offer.agent_id, back, refuse_s)
        self.wanted[offer.agent_id] = None

    def clock_ticks(self) -> None:
        self.ours.tick(now=0.0)
        self.theirs.resting.clear()
        self.all_wanted = True

    def round_runs(self) -> int:
        """How much was allocated."""
        made: list[Allocation] = []
        slice_size = self.rng.choice([1, 2, 100])
        for _ in range(100):
            result = self.ours.step(now=0.0, max_agents=slice_size)
            made.extend(result.allocations)
            if not result.more:
                break
        assert not self.ours.pending()
        agents = list(self.theirs.agents) if self.all_wanted else list(self.wanted)
        expected = self.theirs.round(agents)
        assert set(made) == expected
        assert len(made) == len(expected)
        self.ours.check()
        self.offers.extend(made)
        self.all_wanted = False
        self.wanted.clear()
        return len(made)

    def run(self, events: int) -> int:
        made = self.round_runs()
        often = [self.offer_comes_back] * 6 + [self.clock_ticks] * 2
        seldom = [
            self.agent_comes,
            self.agent_goes,
            self.agent_is_deactivated_or_back,
            self.quota_is_set,
            self.suppressed_or_revived,
        ]
        for _ in range(events):
            self.rng.choice(often + seldom)()
            if self.rng.random() < 0.4:
                made += self.round_runs()
        return made + self.round_runs()


@pytest.mark.parametrize("seed", range(120))
def test_rounds_equal_those_of_the_reference(seed: int) -> None:
    Comparison(seed).run(events=30)


def test_the_comparison_sees_many_allocations() -> None:
    assert sum(Comparison(seed).run(events=30) for seed in range(10)) > 100
