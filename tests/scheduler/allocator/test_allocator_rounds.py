"""What frameworks are offered, told as short stories."""

from dataclasses import dataclass
from random import Random

import pytest

from cairn_core.extensions import (
    AgentId,
    AllocAgent,
    Allocation,
    Allocator,
    AllocatorSettings,
    AllocFramework,
    FrameworkId,
    WhyNot,
)
from cairn_core.mesos import types
from cairn_core.resources import Resources, read_attributes
from cairn_scheduler.allocator import HierarchicalDrf

F1, F2, F3 = FrameworkId("f1"), FrameworkId("f2"), FrameworkId("f3")
S1, S2 = AgentId("s1"), AgentId("s2")


def rounds(allocator: Allocator, now: float = 0.0) -> list[Allocation]:
    """Run until nothing is pending."""
    out: list[Allocation] = []
    for _ in range(1000):
        result = allocator.step(now=now, max_agents=10)
        out.extend(result.allocations)
        if not result.more:
            return out
    raise AssertionError("the round does not end")


def tick(allocator: Allocator, now: float = 0.0) -> list[Allocation]:
    allocator.tick(now=now)
    return rounds(allocator, now)


def cluster(
    agents: dict[str, str], frameworks: dict[str, str], **settings: object
) -> HierarchicalDrf:
    """agents: id -> resources; frameworks: id -> role."""
    allocator = HierarchicalDrf(Random(1), AllocatorSettings(**settings))  # type: ignore[arg-type]  # by name
    for framework, role in frameworks.items():
        info = AllocFramework(FrameworkId(framework), frozenset({role}))
        allocator.add_framework(info, {}, active=True)
    for agent, resources in agents.items():
        allocator.add_agent(AllocAgent(AgentId(agent), agent, Resources.parse(resources)), {})
    return allocator


def test_what_the_first_framework_leaves_is_offered_to_the_second() -> None:
    allocator = cluster({"s1": "cpus:4;mem:4096"}, {"f1": "*", "f2": "*"})
    [offer] = rounds(allocator)
    assert offer == Allocation(F1, "*", S1, Resources.parse("cpus:4;mem:4096"))
    rest = offer.resources - Resources.parse("cpus:2;mem:1024") - Resources.parse("cpus:1;mem:2048")
    allocator.recover(F1, S1, "*", rest, refuse_s=5.0, now=0.0)
    [second] = rounds(allocator)
    assert second == Allocation(F2, "*", S1, Resources.parse("cpus:1;mem:1024"))
    allocator.check()


def test_dominant_resource_fairness_gives_a_three_tasks_and_b_two() -> None:
    allocator = cluster({"s1": "cpus:9;mem:18432"}, {"a": "*", "b": "*"})
    demand = {"a": Resources.parse("cpus:1;mem:4096"), "b": Resources.parse("cpus:3;mem:1024")}
    tasks = {"a": 0, "b": 0}
    for second in range(20):
        for offer in tick(allocator, float(second)):
            rest = offer.resources
            if rest.contains(demand[offer.framework_id]):
                rest = rest - demand[offer.framework_id]
                tasks[offer.framework_id] += 1
            allocator.recover(offer.framework_id, S1, "*", rest, refuse_s=0.0, now=float(second))
    assert tasks == {"a": 3, "b": 2}
    assert allocator.shares() == {"*": pytest.approx(1.0)}


def test_a_framework_gets_what_it_declined_without_a_filter_only_after_the_next_tick() -> None:
    allocator = cluster({"s1": "cpus:1;mem:64"}, {"f1": "*"})
    [offer] = rounds(allocator)
    allocator.recover(F1, S1, "*", offer.resources, refuse_s=0.0, now=0.0)
    assert rounds(allocator) == []
    assert allocator.explain(F1, "*").counts == {WhyNot.REFUSED: 1}
    assert tick(allocator) == [offer]


def test_resources_of_an_ended_task_are_offered_at_once_to_anybody() -> None:
    allocator = cluster({"s1": "cpus:1;mem:64"}, {"f1": "*"})
    [offer] = rounds(allocator)
    allocator.recover(F1, S1, "*", offer.resources, refuse_s=None, now=0.0)
    assert rounds(allocator) == [offer]


def test_a_filter_ends_and_lets_larger_offers_through() -> None:
    allocator = cluster({"s1": "cpus:2;mem:64"}, {"f1": "*"})
    [offer] = rounds(allocator)
    task = Resources.scalars(cpus=1000)
    allocator.recover(F1, S1, "*", offer.resources - task, refuse_s=60.0, now=0.0)
    assert tick(allocator, 59.0) == []
    allocator.recover(F1, S1, "*", task, refuse_s=None, now=59.0)
    assert tick(allocator, 59.5) == [offer]
    allocator.recover(F1, S1, "*", offer.resources, refuse_s=1.0, now=60.0)
    assert rounds(allocator, 60.5) == []
    due = allocator.next_deadline()
    assert due is not None
    assert 61.0 <= due <= 61.2
    assert rounds(allocator, due) == [offer]


def test_a_filter_lives_at_least_one_interval() -> None:
    allocator = cluster({"s1": "cpus:2;mem:64"}, {"f1": "*"}, interval_s=10.0)
    [offer] = rounds(allocator)
    allocator.recover(F1, S1, "*", offer.resources, refuse_s=0.1, now=0.0)
    assert tick(allocator, 9.0) == []
    assert tick(allocator, 11.0) == [offer]


@pytest.mark.parametrize("refuse_s", [-1.0, float("nan"), float("inf")])
def test_a_filter_of_invalid_length_lasts_five_seconds(refuse_s: float) -> None:
    allocator = cluster({"s1": "cpus:2;mem:64"}, {"f1": "*"})
    [offer] = rounds(allocator)
    allocator.recover(F1, S1, "*", offer.resources, refuse_s=refuse_s, now=0.0)
    assert tick(allocator, 4.9) == []
    assert tick(allocator, 5.2) == [offer]


def test_revive_forgets_filters_and_suppression_of_the_roles_it_names() -> None:
    allocator = HierarchicalDrf(Random(1))
    info = AllocFramework(F1, frozenset({"a", "b"}))
    allocator.add_framework(info, {}, active=True)
    allocator.suppress(F1, frozenset({"b"}))
    allocator.add_agent(AllocAgent(S1, "h", Resources.parse("cpus:2;mem:64")), {})
    [offer] = rounds(allocator)
    assert offer.role == "a"
    allocator.recover(F1, S1, "a", offer.resources, refuse_s=1e9, now=0.0)
    assert tick(allocator) == []
    assert allocator.explain(F1, "b").counts == {WhyNot.SUPPRESSED: 1}
    assert allocator.explain(F1, "a").counts == {WhyNot.REFUSED: 1}
    allocator.revive(F1, frozenset({"b"}), now=0.0)
    [offer] = rounds(allocator)
    assert offer.role == "b"
    allocator.recover(F1, S1, "b", offer.resources, refuse_s=1e9, now=0.0)
    assert rounds(allocator) == []
    allocator.revive(F1, frozenset(), now=0.0)
    assert [offer.role for offer in rounds(allocator)] == ["a"]


def test_weights_share_agents_in_proportion() -> None:
    agents = {f"s{n}": "cpus:1;mem:64" for n in range(30)}
    allocator = cluster(agents, {"f1": "a", "f2": "b"})
    allocator.set_weights({"b": 2.0})
    offers = rounds(allocator)
    assert [sum(o.role == r for o in offers) for r in "ab"] == [10, 20]
    with pytest.raises(ValueError, match="not above 0"):
        allocator.set_weights({"a": 0.0})


def test_roles_share_before_the_frameworks_in_them() -> None:
    agents = {f"s{n}": "cpus:1;mem:64" for n in range(12)}
    allocator = cluster(agents, {"f1": "a", "f2": "b/x", "f3": "b/y", "f4": "b"})
    offers = rounds(allocator)
    held = {f: sum(o.framework_id == f for o in offers) for f in ("f1", "f2", "f3", "f4")}
    assert held == {"f1": 6, "f2": 2, "f3": 2, "f4": 2}


def test_agents_with_gpus_are_kept_for_frameworks_that_want_them() -> None:
    allocator = cluster({"s1": "cpus:2;mem:64;gpus:1"}, {"f1": "*"})
    assert rounds(allocator) == []
    assert allocator.explain(F1, "*").counts == {WhyNot.GPU: 1}
    assert allocator.explain(F1, "*").examples == {WhyNot.GPU: (S1,)}
    able = AllocFramework(F1, frozenset({"*"}), capabilities=frozenset({"GPU_RESOURCES"}))
    allocator.update_framework(able)
    assert len(rounds(allocator)) == 1
    unfiltered = cluster({"s1": "cpus:2;mem:64;gpus:1"}, {"f1": "*"}, filter_gpus=False)
    assert len(rounds(unfiltered)) == 1


def test_agents_of_other_regions_are_for_region_aware_frameworks() -> None:
    allocator = cluster({}, {"f1": "*"}, region="here")
    far = AllocAgent(S1, "h", Resources.parse("cpus:2;mem:64"), region="there")
    allocator.add_agent(far, {})
    assert rounds(allocator) == []
    assert allocator.explain(F1, "*").counts == {WhyNot.REGION: 1}
    aware = AllocFramework(F1, frozenset({"*"}), capabilities=frozenset({"REGION_AWARE"}))
    allocator.update_framework(aware)
    assert len(rounds(allocator)) == 1


def test_old_agents_get_no_hierarchical_roles() -> None:
    allocator = cluster({}, {"f1": "a/b", "f2": "a"})
    old = AllocAgent(
        S1, "h", Resources.parse("cpus:2;mem:64"), capabilities=frozenset({"MULTI_ROLE"})
    )
    allocator.add_agent(old, {})
    assert [o.framework_id for o in rounds(allocator)] == [F2]


def test_reserved_resources_go_to_the_role_and_those_below_it() -> None:
    allocator = cluster({"s1": "cpus(a):2;mem(a):64"}, {"f1": "b", "f2": "a/x"})
    assert [o.framework_id for o in rounds(allocator)] == [F2]
    allocator.suppress(F2, frozenset())
    [held] = [Resources.parse("cpus(a):2;mem(a):64")]
    allocator.recover(F2, S1, "a/x", held, refuse_s=None, now=0.0)
    assert rounds(allocator) == []
    assert allocator.explain(F1, "b").counts == {WhyNot.RESERVED: 1}


def test_the_least_offer_is_a_framework_s_own_choice() -> None:
    allocator = cluster({"s1": "cpus:0.005;mem:31"}, {"f1": "*"})
    assert rounds(allocator) == []
    assert allocator.explain(F1, "*").counts == {WhyNot.TOO_SMALL: 1}
    allocator.update_framework(
        AllocFramework(F1, frozenset({"*"}), min_allocatable={"*": ({"mem": 31_000},)})
    )
    assert len(rounds(allocator)) == 1
    picky = cluster({"s1": "cpus:4;mem:64;ports:[1-2]"}, {"f1": "*"})
    picky.update_framework(
        AllocFramework(F1, frozenset({"*"}), min_allocatable={"*": ({"cpus": 8000},)})
    )
    assert rounds(picky) == []
    picky.update_framework(AllocFramework(F1, frozenset({"*"}), min_allocatable={"*": ()}))
    assert len(rounds(picky)) == 1


def test_quota_limits_cut_what_a_role_is_offered() -> None:
    allocator = cluster({"s1": "cpus:8;mem:1024"}, {"f1": "a"})
    allocator.set_quota("a", {}, {"cpus": 3000})
    [offer] = rounds(allocator)
    assert offer.resources == Resources.parse("cpus:3;mem:1024")
    assert allocator.quota_consumption() == {"a": {"cpus": 3000, "mem": 1_024_000}}
    allocator.set_quota("a", {}, {"cpus": 3000, "mem": 1_024_000})
    allocator.recover(F1, S1, "a", Resources.parse("mem:512"), refuse_s=None, now=0.0)
    assert rounds(allocator)[0].resources == Resources.parse("mem:512")
    allocator.check()


def test_guarantees_are_served_first_and_kept_back_from_others() -> None:
    allocator = cluster({"s1": "cpus:4;mem:1024", "s2": "cpus:4;mem:1024"}, {"f1": "a", "f2": "b"})
    allocator.set_quota("b", {"cpus": 6000}, {})
    offers = rounds(allocator)
    by_framework = {
        f: Resources.sum(o.resources for o in offers if o.framework_id == f) for f in (F1, F2)
    }
    assert by_framework[F2].scalar("cpus") == 8000
    assert not by_framework[F1]

    kept = cluster({"s1": "cpus:4;mem:1024"}, {"f1": "a"})
    kept.set_quota("b", {"cpus": 3000}, {})
    [offer] = rounds(kept)
    assert offer.resources == Resources.parse("cpus:1;mem:1024")
    kept.set_quota("b", {"cpus": 4000, "mem": 1_024_000}, {})
    kept.recover(F1, S1, "a", offer.resources, refuse_s=None, now=0.0)
    assert rounds(kept) == []
    assert kept.explain(F1, "a").counts == {WhyNot.HEADROOM: 1}


def test_a_full_quota_limit_is_the_reason_given() -> None:
    allocator = cluster({"s1": "cpus:8;mem:1024"}, {"f1": "a"})
    allocator.set_quota("a", {}, {"cpus": 0, "mem": 0})
    assert rounds(allocator) == []
    assert allocator.explain(F1, "a").counts == {WhyNot.QUOTA_LIMIT: 1}


def test_after_a_failover_with_quota_nothing_is_offered_until_enough_agents_are_back() -> None:
    allocator = cluster({}, {"f1": "a"})
    allocator.set_quota("a", {}, {"cpus": 9000})
    allocator.hold(agents=2, timeout_s=600.0, now=0.0)
    allocator.add_agent(AllocAgent(S1, "h1", Resources.parse("cpus:1;mem:64")), {})
    assert tick(allocator) == []
    assert allocator.explain(F1, "a").counts == {WhyNot.PAUSED: 1}
    assert not allocator.pending()
    assert allocator.next_deadline() == 600.0
    allocator.add_agent(AllocAgent(S2, "h2", Resources.parse("cpus:1;mem:64")), {})
    assert len(rounds(allocator)) == 2
    late = cluster({"s1": "cpus:1;mem:64"}, {"f1": "a"})
    late.set_quota("a", {}, {"cpus": 9000})
    late.hold(agents=2, timeout_s=600.0, now=0.0)
    assert tick(late, 599.0) == []
    assert len(tick(late, 600.0)) == 1


def test_frameworks_known_from_their_tasks_count_before_they_return() -> None:
    allocator = cluster({}, {"f1": "*", "f2": "*"})
    used = {F3: {"*": Resources.parse("cpus:2;mem:32")}, F1: {"*": Resources.parse("cpus:1")}}
    agent = AllocAgent(S1, "h", Resources.parse("cpus:4;mem:128"))
    allocator.add_agent(agent, used)
    [offer] = rounds(allocator)
    assert offer == Allocation(F2, "*", S1, Resources.parse("cpus:1;mem:96"))
    assert allocator.explain(F3, "*").counts == {WhyNot.NOT_IN_ROLE: 1}
    back = AllocFramework(F3, frozenset({"*"}))
    allocator.add_framework(back, {S1: used[F3]}, active=True)
    allocator.check()
    assert allocator.explain(F3, "*").allocated == 1
    allocator.remove_framework(F3)
    allocator.check()
    assert [o.resources for o in rounds(allocator)] == [Resources.parse("cpus:2;mem:32")]


def test_inactive_frameworks_and_agents_get_and_give_nothing() -> None:
    allocator = cluster({"s1": "cpus:2;mem:64"}, {"f1": "*"})
    allocator.deactivate_agent(S1)
    assert tick(allocator) == []
    assert allocator.explain(F1, "*").counts == {WhyNot.AGENT_INACTIVE: 1}
    allocator.activate_agent(S1)
    allocator.deactivate_framework(F1)
    assert tick(allocator) == []
    assert allocator.explain(F1, "*").counts == {WhyNot.INACTIVE: 1}
    allocator.activate_framework(F1)
    allocator.set_whitelist(frozenset({"other"}))
    assert tick(allocator) == []
    allocator.set_whitelist(None)
    assert len(rounds(allocator)) == 1
    assert allocator.explain(F1, "*").counts == {WhyNot.NOTHING_FREE: 1}


def test_a_framework_that_leaves_a_role_still_counts_there_until_its_tasks_end() -> None:
    allocator = cluster({"s1": "cpus:2;mem:64"}, {"f1": "a"})
    [offer] = rounds(allocator)
    allocator.update_framework(AllocFramework(F1, frozenset({"b"})))
    assert allocator.shares()["a"] == 1.0
    allocator.recover(F1, S1, "a", offer.resources, refuse_s=None, now=0.0)
    assert [o.role for o in rounds(allocator)] == ["b"]
    assert set(allocator.shares()) == {"b"}
    allocator.check()


def test_agents_that_shrink_below_what_is_used_offer_nothing_until_it_ends() -> None:
    allocator = cluster({"s1": "cpus:4;mem:256"}, {"f1": "*"})
    assert len(rounds(allocator)) == 1
    allocator.update_agent(AllocAgent(S1, "s1", Resources.parse("cpus:2;mem:128")))
    half = Resources.parse("cpus:2;mem:128")
    allocator.recover(F1, S1, "*", half, refuse_s=None, now=0.0)
    assert rounds(allocator) == []
    allocator.recover(F1, S1, "*", half, refuse_s=None, now=0.0)
    assert rounds(allocator) == [Allocation(F1, "*", S1, half)]
    allocator.check()


def test_resources_taken_outside_an_offer_are_not_offered() -> None:
    allocator = cluster({"s1": "cpus:4;mem:256"}, {"f1": "*"})
    allocator.allocate_used(F2, S1, "z", Resources.parse("cpus:3"))
    [offer] = rounds(allocator)
    assert offer.resources == Resources.parse("cpus:1;mem:256")
    allocator.check()


def test_a_reservation_made_by_a_framework_changes_the_agent() -> None:
    allocator = cluster({"s1": "cpus:4;mem:256"}, {"f1": "a", "f2": "b"})
    allocator.set_quota("a", {}, {"cpus": 4000})
    [offer] = rounds(allocator)
    assert offer.framework_id == F1
    mine = Resources.parse("cpus(a):1")
    allocator.convert(F1, S1, "a", Resources.parse("cpus:1"), mine)
    allocator.check()
    back = offer.resources - Resources.parse("cpus:1") + mine
    allocator.recover(F1, S1, "a", back, refuse_s=1e6, now=0.0)
    [rest] = rounds(allocator)
    assert rest.framework_id == F2
    assert rest.resources == Resources.parse("cpus:3;mem:256")
    assert allocator.quota_consumption()["a"]["cpus"] == 1000
    allocator.check()


def test_facts_about_unknown_things_are_ignored() -> None:
    allocator = cluster({"s1": "cpus:4;mem:256"}, {"f1": "*"})
    some = Resources.parse("cpus:1")
    allocator.recover(F2, S1, "*", some, refuse_s=5.0, now=0.0)
    allocator.recover(F1, S2, "*", some, refuse_s=5.0, now=0.0)
    allocator.recover(F1, S1, "*", some, refuse_s=None, now=0.0)
    allocator.allocate_used(F1, S2, "*", some)
    allocator.convert(F1, S1, "*", some, some)
    allocator.remove_agent(S2)
    allocator.remove_framework(F2)
    allocator.revive(F2, frozenset(), now=0.0)
    allocator.check()
    assert len(rounds(allocator)) == 1
    assert allocator.explain(F2, "*").counts == {WhyNot.NOT_IN_ROLE: 1}


def test_bits_are_used_again_without_inheriting_filters() -> None:
    allocator = cluster({"s1": "cpus:4;mem:256"}, {"f1": "*"})
    [offer] = rounds(allocator)
    allocator.recover(F1, S1, "*", offer.resources, refuse_s=1e6, now=0.0)
    allocator.remove_framework(F1)
    allocator.add_framework(AllocFramework(F2, frozenset({"*"})), {}, active=True)
    assert [o.framework_id for o in rounds(allocator)] == [F2]


def test_metrics_carry_the_names_of_the_original() -> None:
    allocator = cluster({"s1": "cpus:4;mem:256"}, {"f1": "a"})
    allocator.set_quota("a", {"cpus": 1000}, {"cpus": 4000})
    rounds(allocator)
    metrics = allocator.metrics()
    assert metrics["allocator/mesos/resources/cpus/total"] == 4.0
    assert metrics["allocator/mesos/resources/cpus/offered_or_allocated"] == 4.0
    assert metrics["allocator/mesos/roles/a/shares/dominant"] == 1.0
    assert metrics["allocator/mesos/quota/roles/a/resources/cpus/limit"] == 4.0
    assert metrics["allocator/mesos/allocation_runs"] == 1.0


def test_a_shared_volume_is_offered_to_those_who_can_share() -> None:
    volume = Resources.from_wire(
        [
            types.Resource(
                name="disk",
                type="SCALAR",
                scalar=types.Scalar(value=10),
                role="a",
                disk=types.DiskInfo(persistence=types.Persistence(id="v")),
                shared=types.SharedInfo(),
            )
        ]
    )
    allocator = cluster({}, {"f1": "a"})
    sharing = AllocFramework(F2, frozenset({"a"}), capabilities=frozenset({"SHARED_RESOURCES"}))
    allocator.add_framework(sharing, {}, active=True)
    allocator.add_agent(AllocAgent(S1, "h", Resources.parse("cpus:2;mem:64") + volume), {})
    used = Resources.parse("cpus:1;mem:32") + volume
    allocator.allocate_used(F2, S1, "a", used)
    [offer] = rounds(allocator)
    assert offer == Allocation(F1, "a", S1, Resources.parse("cpus:1;mem:32"))
    allocator.recover(F1, S1, "a", offer.resources, refuse_s=1e6, now=0.0)
    [offer] = rounds(allocator)
    assert offer == Allocation(F2, "a", S1, used)
    allocator.recover(F2, S1, "a", used, refuse_s=None, now=0.0)
    allocator.check()


def test_a_guarantee_and_its_role_s_fair_share_on_one_agent_are_one_offer() -> None:
    allocator = cluster({"s1": "cpus:4;mem:256"}, {"f1": "a"})
    allocator.set_quota("a", {"cpus": 1000}, {})
    assert [o.resources for o in rounds(allocator)] == [Resources.parse("cpus:4;mem:256")]


def test_revocable_resources_are_for_those_who_say_so() -> None:
    spare = Resources.from_wire(
        [
            types.Resource(
                name="cpus",
                type="SCALAR",
                scalar=types.Scalar(value=2),
                revocable=types.RevocableInfo(),
            )
        ]
    )
    allocator = cluster({}, {"f1": "*"})
    allocator.add_agent(AllocAgent(S1, "h", spare), {})
    assert rounds(allocator) == []
    able = AllocFramework(F1, frozenset({"*"}), capabilities=frozenset({"REVOCABLE_RESOURCES"}))
    allocator.update_framework(able)
    assert [o.resources for o in rounds(allocator)] == [spare]


@dataclass(frozen=True)
class OnRack:
    """Wants agents whose attribute `rack` has a value."""

    rack: str
    per_host: bool = False

    def allows(self, agent: AllocAgent) -> bool:
        return any(a.text is not None and a.text.value == self.rack for a in agent.attributes)


@dataclass(frozen=True)
class OnHosts:
    """Wants agents by host name."""

    hosts: frozenset[str]
    per_host: bool = True

    def allows(self, agent: AllocAgent) -> bool:
        return agent.hostname in self.hosts


def test_offer_constraints_decide_which_agents_are_offered() -> None:
    allocator = cluster({}, {"f2": "*"})
    allocator.deactivate_framework(F2)
    for n in range(4):
        agent = AllocAgent(
            AgentId(f"s{n}"),
            f"h{n}",
            Resources.parse("cpus:2;mem:64"),
            attributes=read_attributes(f"rack:r{n % 2}"),
        )
        allocator.add_agent(agent, {})
    rack = {"*": OnRack("r1")}
    info = AllocFramework(F1, frozenset({"*"}), offer_constraints=rack)
    allocator.add_framework(info, {}, active=True)
    assert {o.agent_id for o in rounds(allocator)} == {"s1", "s3"}
    assert allocator.explain(F1, "*").counts == {WhyNot.NOTHING_FREE: 2, WhyNot.CONSTRAINT: 2}
    host = {"*": OnHosts(frozenset({"h0", "h3"}))}
    changed = AllocFramework(F1, frozenset({"*"}), offer_constraints=host)
    allocator.update_framework(changed)
    assert {o.agent_id for o in rounds(allocator)} == {"s0"}
    allocator.update_framework(AllocFramework(F1, frozenset({"*"})))
    assert {o.agent_id for o in rounds(allocator)} == {"s2"}


@pytest.mark.parametrize("wake", ["tick", "event"])
def test_a_refusal_of_what_a_limit_left_does_not_outlive_the_limit(wake: str) -> None:
    allocator = cluster({"s1": "cpus:3;mem:64"}, {"f1": "a"})
    allocator.set_quota("a", {}, {"cpus": 4000})
    [first] = rounds(allocator)
    allocator.add_agent(AllocAgent(S2, "s2", Resources.parse("cpus:3;mem:64")), {})
    [rest] = rounds(allocator)
    assert rest.resources == Resources.parse("cpus:1;mem:64")
    allocator.recover(F1, S2, "a", rest.resources, refuse_s=1e6, now=0.0)
    assert tick(allocator) == []
    assert tick(allocator) == []
    assert allocator.explain(F1, "a").counts == {WhyNot.NOTHING_FREE: 1, WhyNot.REFUSED: 1}
    allocator.deactivate_agent(S1)
    allocator.recover(F1, S1, "a", first.resources, refuse_s=None, now=0.0)
    if wake == "tick":
        offers = tick(allocator)
    else:
        allocator.set_whitelist(None)
        offers = rounds(allocator)
    assert offers == [Allocation(F1, "a", S2, Resources.parse("cpus:3;mem:64"))]
    allocator.check()


def test_a_refusal_of_what_guarantees_left_does_not_outlive_them() -> None:
    allocator = cluster({"s1": "cpus:4;mem:64"}, {"f1": "a"})
    allocator.set_quota("b", {"cpus": 3000}, {})
    [offer] = rounds(allocator)
    assert offer.resources == Resources.parse("cpus:1;mem:64")
    allocator.recover(F1, S1, "a", offer.resources, refuse_s=1e6, now=0.0)
    assert tick(allocator) == []
    allocator.add_agent(AllocAgent(S2, "s2", Resources.parse("cpus:2;mem:16")), {})
    allocator.deactivate_agent(S2)
    assert [o.resources for o in tick(allocator)] == [Resources.parse("cpus:3;mem:64")]
    allocator.check()
