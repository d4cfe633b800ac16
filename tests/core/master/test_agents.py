"""Agents: admitted, waited for, unreachable, back, gone."""

from random import Random

import msgspec
import pytest

from cairn_core.extensions import AgentId, FrameworkId
from cairn_core.master.registry import (
    AgentStanding,
    RegistryImage,
    StoredAgent,
    agent_record,
    quota_record,
    read_registry,
    weight_record,
)
from cairn_core.master.state.records import KnownAgent, Quota
from cairn_core.master.state.settings import Settings
from cairn_core.mesos import agent_api, types
from cairn_core.mesos.agent_api import Admission, Hello, Inventory, MasterMessage
from cairn_core.mesos.types import TaskState
from cairn_core.replog.interface import Record
from cairn_core.resources import Resources
from cairn_core.testing.master_rig import MASTER_ID, MasterRig, task
from cairn_scheduler.allocator import HierarchicalDrf

AWARE = (types.Capability("PARTITION_AWARE"),)


def new_rig(settings: Settings | None = None, registry: RegistryImage | None = None) -> MasterRig:
    return MasterRig(HierarchicalDrf(Random(1)), settings, registry, epoch=3)


@pytest.fixture
def rig() -> MasterRig:
    return new_rig()


def standing(rig: MasterRig, agent_id: str) -> AgentStanding | None:
    """What the registry says."""
    found = None
    for effect in rig.stored:
        for record in effect.records:
            if record.key == f"agent/{agent_id}":
                found = record.value
    return msgspec.json.decode(found, type=StoredAgent).standing if found else None


def names(messages: list[MasterMessage]) -> list[str]:
    return [type(message).__name__ for message in messages]


def last_status(rig: MasterRig, stream: str = "web") -> types.TaskStatus:
    return [e.update.status for e in rig.events[stream] if e.update is not None][-1]


def test_a_new_agent_is_welcome_after_the_registry_has_it(rig: MasterRig) -> None:
    rig.hold_writes = True
    assert rig.say(1, rig.hello(1)) == []
    rig.write()
    (welcome,) = rig.messages[1]
    assert isinstance(welcome, agent_api.Welcome)
    assert welcome.agent_id.value == f"{MASTER_ID}-S0"
    assert welcome.epoch == 3
    assert welcome.ping_timeout_s == 75.0
    assert standing(rig, welcome.agent_id.value) is AgentStanding.ADMITTED
    assert not rig.cluster.agents, "not before its inventory"
    (registered,) = rig.say(1, Inventory(last=True))
    assert registered == agent_api.Registered(())
    (agent,) = rig.cluster.agents.values()
    assert (agent.hostname, agent.ip, agent.port) == ("host1", "10.0.0.1", 5051)
    assert msgspec.json.decode(agent.info)["id"] == {"value": agent.agent_id}


def test_a_welcome_that_got_lost_is_repeated_with_the_same_id(rig: MasterRig) -> None:
    rig.say(1, rig.hello(1))
    rig.close_link(1)
    (welcome,) = rig.say(2, rig.hello(1))
    assert isinstance(welcome, agent_api.Welcome)
    assert welcome.agent_id.value == f"{MASTER_ID}-S0"
    rig.say(2, Inventory(last=True))
    assert len(rig.cluster.agents) == 1


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "protocol": ({"protocol_min": 9, "protocol_max": 9}, "protocol 9"),
    "epoch": ({"epoch": 4}, "epoch 4"),
    "pid": ({"pid": "nonsense"}, "slave(1)@ip:port"),
    "hostname": ({"info": types.AgentInfo("")}, "hostname"),
    "resources": (
        {
            "info": types.AgentInfo(
                "h", resources=(types.Resource("cpus", "SCALAR", scalar=types.Scalar(-2.0)),)
            )
        },
        "-2.0",
    ),
    "id": ({"agent_id": "../x"}, "slash"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_agent_that_cannot_be_taken_hears_why(rig: MasterRig, name: str) -> None:
    fields, problem = REFUSED[name]
    (answer,) = rig.say(1, rig.hello(1, **fields))  # type: ignore[arg-type]  # by name
    assert isinstance(answer, Admission)
    assert answer.problem is not None
    assert problem in answer.problem
    assert rig.stored == []


def test_agents_authenticate() -> None:
    rig = new_rig(Settings(agent_secrets={"agents": "s3cret"}))
    for principal, secret in ((None, None), ("agents", None), ("x", "s3cret")):
        (answer,) = rig.say(1, rig.hello(1, principal=principal, secret=secret))
        assert isinstance(answer, Admission)
        assert "not authenticated" in (answer.problem or "")
    rig.say(1, rig.hello(1, principal="agents", secret="s3cret"))
    assert names(rig.messages[1])[-1] == "Welcome"


def test_many_agents_are_admitted_in_an_orderly_way() -> None:
    rig = new_rig(Settings(max_joining=2, joins_per_s=10.0))
    delays = []
    for link in range(1, 32):
        (answer,) = rig.say(link, rig.hello(link))
        if isinstance(answer, Admission):
            assert answer.problem is None
            delays.append(answer.retry_after_s)
    assert len(delays) == 29
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(2.9)
    rig.say(1, Inventory(last=True))
    (welcome,) = rig.say(5, rig.hello(5))
    assert isinstance(welcome, agent_api.Welcome)


def test_an_agent_that_only_says_hello_blocks_nobody_for_long() -> None:
    rig = new_rig(Settings(max_joining=1))
    rig.say(1, rig.hello(1))
    (answer,) = rig.say(2, rig.hello(2))
    assert isinstance(answer, Admission)
    rig.pass_time(61.0)
    assert rig.closed_links == [1]
    (answer,) = rig.say(2, rig.hello(2))
    assert isinstance(answer, agent_api.Welcome)


def test_a_broken_link_takes_the_offers_back(rig: MasterRig) -> None:
    agent_id = rig.agent()
    rig.framework()
    rig.allocate()
    rig.close_link(1)
    assert rig.events["web"][-1].type == "RESCIND"
    assert not rig.cluster.offers
    agent = rig.cluster.agents[AgentId(agent_id)]
    assert (agent.connected, agent.active) == (False, False)
    rig.allocate()
    assert not rig.cluster.offers
    rig.say(2, rig.hello(2, agent_id=agent_id), Inventory(last=True))
    rig.allocate()
    assert len(rig.cluster.offers) == 1


def launched(rig: MasterRig, agent_id: str, capabilities: tuple[types.Capability, ...] = ()) -> str:
    framework_id = rig.framework(failover_timeout=100.0, capabilities=capabilities)
    rig.allocate()
    rig.accept(framework_id, task("t1", agent_id))
    rig.update(1, framework_id, "t1", TaskState.RUNNING)
    return framework_id


def test_silence_makes_an_agent_unreachable(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = launched(rig, agent_id, capabilities=AWARE)
    for _ in range(20):
        rig.pass_time(15.0)
        rig.say(1, agent_api.Pong())
    assert rig.cluster.agents[AgentId(agent_id)].connected
    rig.hold_writes = True
    rig.pass_time(5 * 15.0 + 1.0)
    assert names(rig.messages[1])[-5:] == ["Ping"] * 5
    rig.pass_time(15.0)
    assert rig.closed_links == [1]
    assert last_status(rig).state is TaskState.RUNNING, "nothing is said before the write"
    (answer,) = rig.say(2, rig.hello(2, agent_id=agent_id))
    assert answer == Admission(1.0), "and it has to wait for it as well"
    rig.write()
    status = last_status(rig)
    assert (status.state, status.reason) == (TaskState.UNREACHABLE, "REASON_AGENT_REMOVED")
    assert status.unreachable_time is not None
    assert standing(rig, agent_id) is AgentStanding.UNREACHABLE
    framework = rig.cluster.frameworks[FrameworkId(framework_id)]
    assert (list(framework.tasks), list(framework.unreachable_tasks)) == ([], ["t1"])
    failure = rig.events["web"][-1].failure
    assert failure is not None
    assert failure.agent_id == types.AgentID(agent_id)


def test_a_dead_agent_is_given_up_as_soon_as_a_silent_one(rig: MasterRig) -> None:
    """A machine that is switched off may or may not close its connection first."""
    agent_id = rig.agent()
    launched(rig, agent_id, capabilities=AWARE)
    rig.close_link(1)
    rig.pass_time(74.0)
    assert last_status(rig).state is TaskState.RUNNING
    rig.pass_time(2.0)
    assert last_status(rig).state is TaskState.UNREACHABLE
    assert standing(rig, agent_id) is AgentStanding.UNREACHABLE


def test_the_transport_leaves_silence_to_the_pings() -> None:
    """An aborted connection would start another wait, instead of ending the first one."""
    settings = Settings(agent_ping_timeout_s=15.0, max_agent_ping_timeouts=5)
    given_up_s = settings.agent_ping_timeout_s * (settings.max_agent_ping_timeouts + 1)
    assert settings.link_idle_s > given_up_s
    assert Settings(agent_ping_timeout_s=0.1).link_idle_s >= 60.0


@pytest.mark.parametrize("aware", [True, False])
def test_tasks_come_back_with_their_agent(rig: MasterRig, aware: bool) -> None:
    agent_id = rig.agent()
    framework_id = launched(rig, agent_id, capabilities=AWARE if aware else ())
    framework = rig.cluster.frameworks[FrameworkId(framework_id)]
    listed = framework.tasks["t1"].describe()
    rig.close_link(1)
    rig.pass_time(601.0)
    assert last_status(rig).state is (TaskState.UNREACHABLE if aware else TaskState.LOST)
    assert not rig.cluster.agents
    rig.say(2, rig.hello(2, agent_id=agent_id))
    rig.say(2, Inventory((framework.info,), (), (listed,)), Inventory(last=True))
    assert standing(rig, agent_id) is AgentStanding.ADMITTED
    status = last_status(rig)
    assert (status.state, status.reason) == (TaskState.RUNNING, "REASON_AGENT_REREGISTERED")
    assert (status.source, status.uuid) == ("SOURCE_MASTER", None)
    assert list(framework.tasks) == ["t1"]
    assert not framework.unreachable_tasks
    agent = rig.cluster.agents[AgentId(agent_id)]
    assert agent.used[framework_id]["*"].scalar("cpus") == 1000


def test_after_a_change_of_masters_agents_bring_everything(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = launched(rig, agent_id, capabilities=AWARE)
    framework = rig.cluster.frameworks[FrameworkId(framework_id)]
    listed, info = framework.tasks["t1"].describe(), framework.info
    image = read_registry(
        (r.key, r.value, r.schema) for e in rig.stored for r in e.records if r.value is not None
    )
    assert list(image.admitted) == [agent_id]

    second = new_rig(registry=image)
    second.say(1, second.hello(1, agent_id=agent_id))
    second.say(1, Inventory((info,), (), (listed,), last=True))
    assert not second.cluster.recovered_agents
    recovered = second.cluster.frameworks[FrameworkId(framework_id)]
    assert (recovered.recovered, recovered.connected) == (True, False)
    assert recovered.tasks["t1"].state is TaskState.RUNNING
    second.framework("other")
    second.allocate()
    (offer,) = second.cluster.offers.values()
    assert offer.resources.scalar("cpus") == 3000, "what the task holds is not offered"
    second.pass_time(101.0)
    assert FrameworkId(framework_id) in second.cluster.frameworks, "the change of masters was ours"
    second.pass_time(500.0)
    assert FrameworkId(framework_id) not in second.cluster.frameworks, "it had its time"


def test_the_agent_is_asked_for_what_it_does_not_list(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = launched(rig, agent_id, capabilities=AWARE)
    rig.close_link(1)
    rig.say(2, rig.hello(2, agent_id=agent_id))
    (registered,) = rig.say(2, Inventory(last=True))
    assert isinstance(registered, agent_api.Registered)
    (expected,) = registered.expected
    assert (expected.task_id.value, expected.partition_aware) == ("t1", True)
    rig.update(2, framework_id, "t1", TaskState.DROPPED)
    assert last_status(rig).state is TaskState.DROPPED
    assert rig.cluster.agents[AgentId(agent_id)].used == {}


def test_what_the_agent_lists_and_nobody_wants_is_ended(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = launched(rig, agent_id)
    framework = rig.cluster.frameworks[FrameworkId(framework_id)]
    listed, info = framework.tasks["t1"].describe(), framework.info
    rig.close_link(1)
    rig.call(framework_id, "TEARDOWN")
    answers = rig.say(2, rig.hello(2, agent_id=agent_id))
    answers = rig.say(2, Inventory((info,), (), (listed,), last=True))
    assert names(answers) == ["Registered", "ShutdownFramework"]
    assert rig.cluster.agents[AgentId(agent_id)].used == {}


def test_an_agent_marked_gone_never_returns(rig: MasterRig) -> None:
    agent_id = rig.agent()
    launched(rig, agent_id, capabilities=AWARE)
    rig.do(rig.core.mark_agent_gone(1, agent_id, now=rig.now, wall=rig.wall))
    assert rig.replies[1].status == 200
    assert last_status(rig).state is TaskState.GONE_BY_OPERATOR
    assert names(rig.messages[1])[-1] == "Shutdown"
    assert standing(rig, agent_id) is AgentStanding.GONE
    (answer,) = rig.say(2, rig.hello(2, agent_id=agent_id))
    assert answer == agent_api.Shutdown(3, "Agent has been marked gone")
    rig.do(rig.core.mark_agent_gone(2, agent_id, now=rig.now, wall=rig.wall))
    assert rig.replies[2].status == 200
    rig.do(rig.core.mark_agent_gone(3, "nobody", now=rig.now, wall=rig.wall))
    assert rig.replies[3].status == 404


def test_a_new_agent_at_the_same_address_replaces_the_old_one(rig: MasterRig) -> None:
    agent_id = rig.agent()
    launched(rig, agent_id)
    rig.say(2, rig.hello(1, session="another process"), Inventory(last=True))
    (now_there,) = rig.cluster.agents
    assert now_there == f"{MASTER_ID}-S1"
    assert last_status(rig).state is TaskState.LOST
    assert standing(rig, agent_id) is None


def test_goodbye(rig: MasterRig) -> None:
    agent_id = rig.agent()
    launched(rig, agent_id, capabilities=AWARE)
    rig.say(1, agent_api.Goodbye())
    assert last_status(rig).state is TaskState.GONE
    assert not rig.cluster.agents
    assert standing(rig, agent_id) is None


def test_changed_resources_are_offered(rig: MasterRig) -> None:
    rig.agent()
    rig.framework()
    rig.allocate()
    more = tuple(Resources.parse("cpus:16;mem:4096").to_wire())
    rig.say(1, agent_api.Changed(types.AgentInfo("host1", resources=more)))
    assert rig.events["web"][-1].type == "RESCIND"
    rig.allocate()
    (offer,) = rig.cluster.offers.values()
    assert offer.resources.scalar("cpus") == 16_000


def test_an_inventory_without_end_is_refused() -> None:
    rig = new_rig(Settings(max_agent_tasks=10))
    rig.say(1, rig.hello(1))
    infos = tuple(types.FrameworkInfo("u", "n", id=types.FrameworkID(str(n))) for n in range(11))
    (answer,) = rig.say(1, Inventory(infos))
    assert isinstance(answer, Admission)
    assert "more than 10" in (answer.problem or "")
    assert not rig.cluster.joining


def test_old_agents_are_forgotten() -> None:
    wall = 1_800_000_000.0
    ages = {"old": wall - 15 * 86400, "young": wall - 86400, "younger": wall - 3600}
    unreachable = {i: KnownAgent(AgentId(i), b'{"hostname":"h"}', "h", t) for i, t in ages.items()}
    rig = new_rig(Settings(registry_max_agent_count=1), RegistryImage(unreachable=unreachable))
    rig.pass_time(901.0)
    assert list(rig.cluster.unreachable_agents) == ["younger"]
    assert {r.key for e in rig.stored for r in e.records} == {"agent/old", "agent/young"}


def test_quota_and_weights_are_durable_before_they_hold(rig: MasterRig) -> None:
    rig.agent()
    rig.framework(role="dev")
    rig.allocate()
    assert len(rig.cluster.offers) == 1
    rig.hold_writes = True
    quota = Quota({"cpus": 2000}, {"cpus": 2000})
    rig.do(rig.core.set_quotas(1, {"dev": quota}, force=False, now=rig.now, wall=rig.wall))
    assert not rig.replies
    assert rig.cluster.quotas == {}
    rig.write()
    assert rig.replies[1].status == 200
    assert rig.cluster.quotas == {"dev": quota}
    assert not rig.cluster.offers, "offers above the limit are rescinded"
    rig.hold_writes = False
    rig.allocate()
    (offer,) = rig.cluster.offers.values()
    assert offer.resources.scalar("cpus") == 2000
    greedy = Quota({"cpus": 9000}, {})
    rig.do(rig.core.set_quotas(2, {"x": greedy}, force=False, now=rig.now, wall=rig.wall))
    assert rig.replies[2].status == 400
    rig.do(rig.core.set_weights(3, {"dev": 2.0}, now=rig.now, wall=rig.wall))
    assert rig.replies[3].status == 200
    rig.do(rig.core.set_weights(4, {"dev": -1.0}, now=rig.now, wall=rig.wall))
    assert rig.replies[4].status == 400
    image = read_registry(
        (r.key, r.value, r.schema) for e in rig.stored for r in e.records if r.value is not None
    )
    assert (image.quotas, image.weights) == ({"dev": quota}, {"dev": 2.0})


def test_the_registry_reads_what_was_written() -> None:
    records = [
        agent_record("a", AgentStanding.ADMITTED, b'{"hostname":"h","port":5051}'),
        agent_record("u", AgentStanding.UNREACHABLE, b'{"hostname":"h"}', 5.0),
        agent_record("g", AgentStanding.GONE, b'{"hostname":"h"}', 6.0),
        quota_record("r", Quota({"cpus": 1}, {})),
        weight_record("a/b", 2.5),
        Record("foreign/x", b"not ours"),
    ]
    image = read_registry((r.key, r.value or b"", r.schema) for r in records)
    assert image.admitted["a"].info == b'{"hostname":"h","port":5051}'
    assert image.unreachable["u"].time == 5.0
    assert image.gone["g"].time == 6.0
    assert (image.quotas["r"].guarantees, image.weights) == ({"cpus": 1}, {"a/b": 2.5})


@pytest.mark.parametrize(("value", "schema"), [(b"{}", 2), (b"{}", 1), (b"nonsense", 1)])
def test_a_registry_that_is_not_understood_stops_the_master(value: bytes, schema: int) -> None:
    with pytest.raises(Exception, match="agent/x"):
        read_registry([("agent/x", value, schema)])


def test_hello_again_on_the_same_link_starts_over(rig: MasterRig) -> None:
    agent_id = rig.agent()
    (welcome,) = rig.say(1, rig.hello(1, agent_id=agent_id))
    assert isinstance(welcome, agent_api.Welcome)
    assert not rig.cluster.agents[AgentId(agent_id)].connected
    rig.say(1, Inventory(last=True))
    assert rig.cluster.agents[AgentId(agent_id)].connected
    assert rig.closed_links == []


def test_strangers_on_a_link_change_nothing(rig: MasterRig) -> None:
    status = types.TaskStatus(types.TaskID("t"), TaskState.RUNNING)
    update = agent_api.Update(types.FrameworkID("f"), status, TaskState.RUNNING)
    assert rig.say(1, update, agent_api.Pong()) == []
    rig.say(1, Inventory(last=True))
    assert rig.closed_links == [1]
    assert isinstance(rig.hello(1), Hello)
