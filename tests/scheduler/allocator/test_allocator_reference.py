"""The allocator against a dumb one that counts everything anew at every step."""

import importlib.util
import sys
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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


class Comparison(RuleBasedStateMachine):
    """Random facts and rounds; after each round both have allocated the same."""

    @initialize(
        frameworks=st.lists(
            st.tuples(
                st.sets(st.sampled_from(ROLES), min_size=1, max_size=3),
                st.sets(st.sampled_from(CAPABILITIES)),
            ),
            min_size=1,
            max_size=4,
        ),
        weights=st.dictionaries(st.sampled_from(ROLES), st.sampled_from([0.5, 2.0, 3.0])),
    )
    def start(self, frameworks: list[tuple[set[str], set[str]]], weights: dict[str, float]) -> None:
        self.ours = HierarchicalDrf(Zero())
        self.theirs = reference_drf.Reference()
        self.offers: list[Allocation] = []
        self.wanted: dict[str, None] = {}
        self.all_wanted = True
        self.number = 0
        for n, (roles, capabilities) in enumerate(frameworks):
            info = AllocFramework(
                FrameworkId(f"f{n}"), frozenset(roles), capabilities=frozenset(capabilities)
            )
            self.ours.add_framework(info, {}, active=True)
            self.theirs.frameworks[info.id] = info
        self.ours.set_weights(weights)
        self.theirs.weights = weights

    @rule(total=st.sampled_from(TOTALS))
    def agent_comes(self, total: Resources) -> None:
        if self.number == 6:
            return
        self.number += 1
        agent = AllocAgent(AgentId(f"s{self.number}"), f"h{self.number}", total)
        self.ours.add_agent(agent, {})
        self.theirs.agents[agent.id] = agent
        self.wanted[agent.id] = None

    @precondition(lambda self: self.theirs.agents)
    @rule(data=st.data())
    def agent_goes(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(sorted(self.theirs.agents)))
        self.ours.remove_agent(AgentId(gone))
        theirs = self.theirs
        del theirs.agents[gone]
        theirs.held = {key: r for key, r in theirs.held.items() if key[2] != gone}
        self.offers = [o for o in self.offers if o.agent_id != gone]
        self.wanted.pop(gone, None)

    @precondition(lambda self: self.theirs.agents)
    @rule(data=st.data())
    def agent_is_deactivated_or_back(self, data: st.DataObject) -> None:
        agent = data.draw(st.sampled_from(sorted(self.theirs.agents)))
        if agent in self.theirs.inactive:
            self.theirs.inactive.remove(agent)
            self.ours.activate_agent(AgentId(agent))
            self.wanted[agent] = None
        else:
            self.theirs.inactive.add(agent)
            self.ours.deactivate_agent(AgentId(agent))

    @rule(
        role=st.sampled_from(["*", "a", "b"]),
        guarantee=st.sampled_from([{}, {"cpus": 3000}, {"cpus": 9000, "mem": 1_000_000}]),
        limit=st.sampled_from([{}, {"cpus": 10_000}, {"cpus": 9500, "mem": 2_000_000}]),
    )
    def quota_is_set(self, role: str, guarantee: dict[str, int], limit: dict[str, int]) -> None:
        self.ours.set_quota(role, guarantee, limit)
        self.theirs.quota[role] = (guarantee, limit)
        self.all_wanted = True

    @rule(data=st.data(), on=st.booleans())
    def suppressed_or_revived(self, data: st.DataObject, on: bool) -> None:
        framework = data.draw(st.sampled_from(sorted(self.theirs.frameworks)))
        roles = self.theirs.frameworks[framework].roles
        role = data.draw(st.sampled_from(sorted(roles)))
        if on:
            self.ours.suppress(FrameworkId(framework), frozenset({role}))
            self.theirs.suppressed.add((framework, role))
            return
        self.ours.revive(FrameworkId(framework), frozenset({role}), now=0.0)
        theirs = self.theirs
        theirs.suppressed.discard((framework, role))
        theirs.filters = [f for f in theirs.filters if f[:2] != (framework, role)]
        theirs.resting = {r for r in theirs.resting if r[:2] != (framework, role)}
        self.all_wanted = True

    @precondition(lambda self: self.offers)
    @rule(data=st.data(), refuse_s=st.sampled_from([None, 0.0, 60.0]), whole=st.booleans())
    def offer_comes_back(self, data: st.DataObject, refuse_s: float | None, whole: bool) -> None:
        offer = self.offers.pop(data.draw(st.integers(0, len(self.offers) - 1)))
        back = offer.resources
        task = Resources.scalars(cpus=500, mem=64_000)
        if not whole and back.contains(task):
            back = back - task
        self.ours.recover(
            offer.framework_id, offer.agent_id, offer.role, back, refuse_s=refuse_s, now=0.0
        )
        self.theirs.give_back(offer.framework_id, offer.role, offer.agent_id, back, refuse_s)
        self.wanted[offer.agent_id] = None

    @rule()
    def clock_ticks(self) -> None:
        self.ours.tick(now=0.0)
        self.theirs.resting.clear()
        self.all_wanted = True

    @rule(max_agents=st.sampled_from([1, 2, 100]))
    def round_runs(self, max_agents: int) -> None:
        made = []
        for _ in range(100):
            result = self.ours.step(now=0.0, max_agents=max_agents)
            made.extend(result.allocations)
            if not result.more:
                break
        assert not self.ours.pending()
        agents = list(self.theirs.agents) if self.all_wanted else list(self.wanted)
        expected = self.theirs.round(agents)
        assert set(made) == expected
        assert len(made) == len(expected)
        self.offers.extend(made)
        self.all_wanted = False
        self.wanted.clear()

    @invariant()
    def tables_are_consistent(self) -> None:
        if hasattr(self, "ours"):
            self.ours.check()


TestComparison = Comparison.TestCase
TestComparison.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
