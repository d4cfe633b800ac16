"""Frameworks and agents that say anything at any time: the tables stay sound."""

from random import Random

import pytest

from cairn_core.master.state.settings import Settings
from cairn_core.mesos import agent_api, scheduler_api, types
from cairn_core.mesos.types import TaskState
from cairn_core.testing.master_rig import MasterRig, task
from cairn_scheduler.allocator import HierarchicalDrf

SETTINGS = Settings(agent_reregister_timeout_s=20.0, max_joining=2, offer_timeout_s=30.0)
STATES = list(TaskState)


class Chaos:
    """Draws what somebody says next; `MasterRig` checks the invariants after each."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.rig = MasterRig(HierarchicalDrf(Random(seed)), SETTINGS)
        self.streams = 0

    def some_id(self, known: list[str]) -> str:
        return self.rng.choice([*known, "unknown", ""]) if known else "unknown"

    def task_id(self) -> str:
        return f"t{self.rng.randrange(8)}"

    def agent_id(self) -> str:
        return self.some_id(list(self.rig.cluster.agents))

    def framework_id(self) -> str:
        return self.some_id(list(self.rig.cluster.frameworks))

    def step(self) -> None:
        kinds = (
            self.subscribe, self.close_stream, self.call, self.call, self.call, self.hello,
            self.inventory, self.close_link, self.update, self.update, self.agent_says,
            self.operator, self.rig.allocate, self.rig.allocate,
        )  # fmt: skip
        self.rng.choice(kinds)()
        if self.rng.random() < 0.2:
            self.rig.pass_time(self.rng.random() * 40)
        if self.rig.hold_writes and self.rng.random() < 0.3:
            self.rig.write()
        if self.rng.random() < 0.05:
            self.rig.hold_writes = not self.rig.hold_writes

    def subscribe(self) -> None:
        self.streams += 1
        wanted = self.framework_id()
        info = types.FrameworkInfo(
            "nobody", "chaos",
            id=types.FrameworkID(wanted) if self.rng.random() < 0.5 else None,
            failover_timeout=self.rng.choice([0.0, 10.0, 1000.0]),
            capabilities=(types.Capability("PARTITION_AWARE"),) * self.rng.randrange(2),
        )  # fmt: skip
        self.rig.subscribe(f"s{self.streams}", scheduler_api.Subscribe(info))

    def close_stream(self) -> None:
        stream_id = f"s{self.rng.randrange(self.streams + 1)}"
        self.rig.do(self.rig.core.stream_closed(stream_id, now=self.rig.now, wall=self.rig.wall))

    def call(self) -> None:
        framework_id, rng = self.framework_id(), self.rng
        offers = tuple(types.OfferID(o) for o in self.rig.cluster.offers if rng.random() < 0.5)
        tasks = tuple(
            task(self.task_id(), self.agent_id(), f"cpus:{rng.randrange(1, 5)}")
            for _ in range(rng.randrange(3))
        )
        launch = scheduler_api.Operation("LAUNCH", launch=scheduler_api.Launch(tasks))
        body: dict[str, object] = rng.choice(
            [
                {"type": "ACCEPT", "accept": scheduler_api.Accept(offers, (launch,))},
                {"type": "ACCEPT", "accept": scheduler_api.Accept(offers[:1], (launch,))},
                {"type": "DECLINE", "decline": scheduler_api.Decline(offers)},
                {"type": "KILL", "kill": scheduler_api.Kill(types.TaskID(self.task_id()))},
                {"type": "REVIVE"},
                {"type": "SUPPRESS"},
                {"type": "RECONCILE", "reconcile": scheduler_api.Reconcile()},
                {"type": "ACKNOWLEDGE", "acknowledge": scheduler_api.Acknowledge(
                    types.AgentID(self.agent_id()), types.TaskID(self.task_id()), b"u" * 16)},
                {"type": "TEARDOWN"} if rng.random() < 0.1 else {"type": "REQUEST"},
            ]
        )  # fmt: skip
        call = scheduler_api.Call(framework_id=types.FrameworkID(framework_id), **body)  # type: ignore[arg-type]  # by name
        self.rig.do(self.rig.core.call(framework_id, call, now=self.rig.now, wall=self.rig.wall))

    def link(self) -> int:
        return self.rng.randrange(1, 5)

    def hello(self) -> None:
        link = self.link()
        agent_id = self.agent_id() if self.rng.random() < 0.6 else None
        self.rig.say(link, self.rig.hello(link, agent_id=agent_id or None))

    def inventory(self) -> None:
        framework_id = self.framework_id()
        framework = types.FrameworkInfo("u", "n", id=types.FrameworkID(framework_id))
        listed = tuple(
            types.Task(
                "n", types.TaskID(self.task_id()), types.FrameworkID(framework_id),
                types.AgentID(self.agent_id()), self.rng.choice(STATES),
                resources=task("x", "y", "cpus:0.5").resources,
            )
            for _ in range(self.rng.randrange(3))
        )  # fmt: skip
        frameworks = (framework,) if self.rng.random() < 0.7 else ()
        self.rig.say(
            self.link(),
            agent_api.Inventory(frameworks, (), listed, last=self.rng.random() < 0.8),
        )

    def close_link(self) -> None:
        self.rig.close_link(self.link())

    def update(self) -> None:
        state = self.rng.choice(STATES)
        status = types.TaskStatus(
            types.TaskID(self.task_id()), state,
            uuid=self.rng.choice([None, b"u" * 16, b"v" * 16]),
        )  # fmt: skip
        owner = types.FrameworkID(self.framework_id())
        latest = self.rng.choice([state, self.rng.choice(STATES)])
        self.rig.say(self.link(), agent_api.Update(owner, status, latest))

    def agent_says(self) -> None:
        owner, executor = types.FrameworkID(self.framework_id()), types.ExecutorID("e")
        messages: list[agent_api.AgentMessage] = [
            agent_api.ExecutorExited(owner, executor, 1),
            agent_api.FromExecutor(owner, executor, b"x"),
            agent_api.Pong(),
        ]
        if self.rng.random() < 0.1:
            messages.append(agent_api.Goodbye())
        self.rig.say(self.link(), self.rng.choice(messages))

    def operator(self) -> None:
        if self.rng.random() < 0.2:
            agent_id = self.agent_id()
            self.rig.do(
                self.rig.core.mark_agent_gone(1, agent_id, now=self.rig.now, wall=self.rig.wall)
            )


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_is_said_breaks_the_tables(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(250):
        chaos.step()
    # In the end every resource is there: without frameworks, a new one is offered them all.
    rig = chaos.rig
    rig.hold_writes = False
    rig.write()
    for framework_id in list(rig.cluster.frameworks):
        rig.do(rig.core.teardown(1, framework_id, now=rig.now, wall=rig.wall))
    rig.pass_time(61.0)  # those that only said Hello lose their places
    rig.say(4, rig.hello(4), agent_api.Inventory(last=True))
    rig.framework("last")
    rig.allocate()
    active = [agent for agent in rig.cluster.agents.values() if agent.active]
    assert active
    for agent in active:
        assert [offer.resources for offer in agent.offers.values()] == [agent.total]
