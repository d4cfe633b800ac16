"""The master's read side over a real core: what pollers, scrapers and operators see."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import msgspec
import pytest

from cairn_core.extensions import Allocator
from cairn_core.kit.http_server import Handler, Refused, Request, Response, Router, Stream
from cairn_core.kit.routes import Match
from cairn_core.master import http_legacy, http_operator
from cairn_core.master.registry import RegistryImage
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.core import MasterCore
from cairn_core.master.state.effects import (
    AgentChanged,
    AllocationNeeded,
    Changed,
    Effect,
    FrameworkChanged,
    OfferChanged,
    Reply,
    RoleChanged,
    StoreRegistry,
    TaskChanged,
    ToLink,
)
from cairn_core.master.state.records import MasterRecord, Quota
from cairn_core.master.state.settings import Settings
from cairn_core.mesos import agent_api, operator_api, scheduler_api, types
from cairn_core.mesos.types import TaskState
from cairn_core.resources import Resources
from cairn_scheduler.allocator import HierarchicalDrf

MASTER = types.MasterInfo(
    id="m",
    ip=16777343,
    port=5050,
    pid="master@127.0.0.1:5050",
    hostname="master1",
    version="1.11.0",
)


@dataclass
class Master:
    """A core with nothing around it; a `MasterContext` for the handlers."""

    core: MasterCore
    allocator: Allocator
    flags: Mapping[str, str] = field(default_factory=lambda: {"work_dir": "/var/lib/x"})
    elected: types.MasterInfo | None = MASTER
    now: float = 100.0
    requests: int = 0
    replies: dict[int, Reply] = field(default_factory=dict)
    listeners: list[Callable[[Changed], None]] = field(default_factory=list)
    sent: list[Effect] = field(default_factory=list)

    @property
    def cluster(self) -> Cluster:
        return self.core.cluster

    def leader(self) -> types.MasterInfo | None:
        return self.elected

    def leads(self) -> bool:
        return self.elected is MASTER

    def recovered(self) -> bool:
        return True

    def counters(self) -> Mapping[str, float]:
        return {"registrar/queued_operations": 0.0}

    def listen_changes(self, listener: Callable[[Changed], None]) -> None:
        self.listeners.append(listener)

    async def teardown(self, framework_id: str) -> Reply:
        return self.ask(lambda n: self.core.teardown(n, framework_id, now=self.now, wall=1e9))

    async def set_quotas(self, quotas: Mapping[str, Quota | None], *, force: bool) -> Reply:
        return self.ask(
            lambda n: self.core.set_quotas(n, quotas, force=force, now=self.now, wall=1e9)
        )

    async def set_weights(self, weights: Mapping[str, float]) -> Reply:
        return self.ask(lambda n: self.core.set_weights(n, weights, now=self.now, wall=1e9))

    async def mark_agent_gone(self, agent_id: str) -> Reply:
        return self.ask(lambda n: self.core.mark_agent_gone(n, agent_id, now=self.now, wall=1e9))

    def ask(self, fact: Callable[[int], list[Effect]]) -> Reply:
        self.requests += 1
        self.do(fact(self.requests))
        return self.replies.pop(self.requests)

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case StoreRegistry(operation=operation):
                    self.do(self.core.stored(operation, now=self.now, wall=1e9))
                case Reply(request=request):
                    self.replies[request] = effect
                case FrameworkChanged() | AgentChanged() | TaskChanged() | OfferChanged():
                    for listener in self.listeners:
                        listener(effect)
                case RoleChanged() | AllocationNeeded():
                    pass
                case _:
                    self.sent.append(effect)

    def allocate(self) -> None:
        self.now += 1.0
        self.allocator.tick(now=self.now)
        while True:
            result = self.allocator.step(now=self.now, max_agents=100)
            self.do(self.core.allocated(result.allocations, now=self.now, wall=1e9))
            if not result.more:
                return

    def add_framework(self, name: str = "web", role: str = "*") -> str:
        info = types.FrameworkInfo(user="nobody", name=name, role=role, hostname="h1")
        self.do(
            self.core.subscribe(
                f"stream-{name}", scheduler_api.Subscribe(info), None, now=self.now, wall=1e9
            )
        )
        return next(f for f in self.cluster.frameworks.values() if f.info.name == name).framework_id

    def add_agent(self, host: str, resources: str) -> str:
        link = len(self.cluster.links) + 1
        hello = agent_api.Hello(
            protocol_min=1, protocol_max=1, boot_id="b", session=host, epoch=0,
            pid=f"slave(1)@127.0.0.9:{5050 + link}", version="1.11.0",
            info=types.AgentInfo(
                hostname=host, port=5051, resources=tuple(Resources.parse(resources).to_wire())
            ),
        )  # fmt: skip
        for message in (hello, agent_api.Inventory(last=True)):
            self.do(self.core.agent_message(link, message, now=self.now, wall=1e9))
        return cast(str, self.cluster.links[link])

    def launch(self, framework_id: str, task_id: str, cpus: float = 1.0) -> str:
        """Launch a task on the first offer; returns the agent's id."""
        framework = self.cluster.frameworks[framework_id]
        offer = next(iter(framework.offers.values()))
        task = types.TaskInfo(
            name=task_id.upper(),
            task_id=types.TaskID(task_id),
            agent_id=types.AgentID(offer.agent_id),
            command=types.CommandInfo(value="sleep 1"),
            resources=(
                types.Resource(name="cpus", type="SCALAR", scalar=types.Scalar(value=cpus)),
                types.Resource(name="ports", type="RANGES", ranges=types.Ranges(
                    range=(types.Range(begin=31000, end=31001),))),
            ),
            labels=types.Labels(labels=(types.Label(key="tier", value="front"),)),
            discovery=types.DiscoveryInfo(
                visibility="FRAMEWORK",
                ports=types.Ports(ports=(types.Port(number=31000, name="http"),)),
            ),
        )  # fmt: skip
        call = scheduler_api.Call(
            type="ACCEPT",
            accept=scheduler_api.Accept(
                offer_ids=(types.OfferID(offer.offer_id),),
                operations=(
                    scheduler_api.Operation(type="LAUNCH", launch=scheduler_api.Launch((task,))),
                ),
                filters=types.Filters(refuse_seconds=0.0),
            ),
        )
        self.do(self.core.call(framework_id, call, now=self.now, wall=1e9))
        return cast(str, offer.agent_id)

    def update(self, framework_id: str, agent_id: str, task_id: str, state: TaskState) -> None:
        link = next(k for k, v in self.cluster.links.items() if v == agent_id)
        status = types.TaskStatus(
            task_id=types.TaskID(task_id),
            state=state,
            timestamp=1234.5,
            uuid=state.encode().ljust(16)[:16],
            agent_id=types.AgentID(agent_id),
            message="secret detail",
            container_status=types.ContainerStatus(
                network_infos=(
                    types.NetworkInfo(ip_addresses=(types.IPAddress(ip_address="10.0.0.7"),)),
                )
            ),
        )
        message = agent_api.Update(types.FrameworkID(framework_id), status, state)
        self.do(self.core.agent_message(link, message, now=self.now, wall=1e9))


@pytest.fixture
def master() -> Master:
    allocator = HierarchicalDrf(Random(1))
    record = MasterRecord(MASTER, start_time=1e9 - 50, elected_time=1e9 - 40)
    found = Master(MasterCore(record, allocator, Settings()), allocator)
    found.do(found.core.lead(1, RegistryImage(), default_weights={}, now=100.0, wall=1e9))
    return found


class Server:
    """The master's routes without a network."""

    def __init__(self, master: Master) -> None:
        self.router: Router[Handler] = Router(twins=("/master",))
        self.reader = http_legacy.mount(self.router, master)
        self.streams = http_operator.mount(self.router, master, self.reader)

    async def raw(
        self, method: str, target: str, body: bytes = b"", **headers: str
    ) -> Response | Stream:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        found = self.router.find(method, target.partition("?")[0])
        assert isinstance(found, Match), found
        request = Request.make(
            method, target, body, headers=given, params=found.params, rest=found.rest
        )
        try:
            return cast("Response | Stream", await found.handler(request))
        except Refused as refused:
            return refused.response()

    async def ask(
        self, method: str, target: str, body: bytes = b"", **headers: str
    ) -> tuple[int, Any]:
        answer = await self.raw(method, target, body, **headers)
        assert isinstance(answer, Response)
        content = answer.body
        if hasattr(content, "__aiter__"):
            content = b"".join([piece async for piece in content])
        elif not isinstance(content, bytes):
            content = b"".join(content)
        return answer.status, json.loads(content) if content else None

    async def get(self, target: str) -> Any:
        status, body = await self.ask("GET", target)
        assert status == 200, body
        return body

    async def call(self, **call: Any) -> tuple[int, Any]:
        return await self.ask(
            "POST", "/api/v1", json.dumps(call).encode(), Content_Type="application/json"
        )


async def fresh(server: Server) -> Server:
    """Let the next read see what happened since the last one."""
    server.reader._fresh_until = 0.0
    return server


@pytest.fixture
def busy(master: Master) -> tuple[Master, str, str]:
    """One framework, one agent, one running task. Returns master, framework id, agent id."""
    framework_id = master.add_framework()
    master.add_agent("a1", "cpus:4;mem:4096;ports:[31000-32000]")
    master.allocate()
    agent_id = master.launch(framework_id, "t1")
    master.update(framework_id, agent_id, "t1", TaskState.RUNNING)
    return master, framework_id, agent_id


async def test_state_has_the_keys_that_third_parties_read(busy: tuple[Master, str, str]) -> None:
    master, framework_id, agent_id = busy
    state = await Server(master).get("/master/state.json")
    assert state["leader"] == "master@127.0.0.1:5050"
    assert state["version"] == "1.11.0"
    assert state["orphan_tasks"] == state["unregistered_frameworks"] == []
    assert state["activated_slaves"] == 1.0
    assert state["flags"] == {"work_dir": "/var/lib/x"}
    (slave,) = state["slaves"]
    assert slave["id"] == agent_id
    assert slave["pid"] == "slave(1)@127.0.0.9:5051"
    assert slave["resources"] == {
        "cpus": 4.0, "gpus": 0.0, "mem": 4096.0, "disk": 0.0, "ports": "[31000-32000]",
    }  # fmt: skip
    assert slave["used_resources"]["cpus"] == 1.0
    (framework,) = state["frameworks"]
    assert framework["id"] == framework_id
    assert framework["role"] == "*"
    assert framework["hostname"] == "h1"
    assert framework["used_resources"]["ports"] == "[31000-31001]"
    assert framework["used_resources"]["cpus"] == 1.0
    (task,) = framework["tasks"]
    assert task == {
        "id": "t1",
        "name": "T1",
        "framework_id": framework_id,
        "executor_id": "",
        "slave_id": agent_id,
        "state": "TASK_RUNNING",
        "resources": {"cpus": 1.0, "gpus": 0.0, "mem": 0.0, "disk": 0.0, "ports": "[31000-31001]"},
        "role": "*",
        "statuses": [
            {
                "state": "TASK_RUNNING",
                "timestamp": 1234.5,
                "container_status": {
                    "network_infos": [
                        {"ip_addresses": [{"protocol": "IPv4", "ip_address": "10.0.0.7"}]}
                    ]
                },
            }
        ],
        "labels": [{"key": "tier", "value": "front"}],
        "discovery": {
            "visibility": "FRAMEWORK",
            "ports": {"ports": [{"number": 31000, "name": "http"}]},
        },
    }


async def test_state_follows_changes_and_keeps_its_tag_without_them(
    busy: tuple[Master, str, str],
) -> None:
    master, framework_id, agent_id = busy
    server = Server(master)
    first = await server.raw("GET", "/state")
    assert isinstance(first, Response)
    tag = first.headers["ETag"]
    await fresh(server)
    again = await server.raw("GET", "/state", If_None_Match=tag)
    assert isinstance(again, Response)
    assert again.status == 304
    master.update(framework_id, agent_id, "t1", TaskState.FAILED)
    await fresh(server)
    status, body = await server.ask("GET", "/state", If_None_Match=tag)
    assert status == 200
    assert body["frameworks"][0]["tasks"][0]["state"] == "TASK_FAILED"
    assert body["slaves"][0]["used_resources"]["cpus"] == 0.0


async def test_an_acknowledged_end_moves_the_task_to_the_completed_ones(
    busy: tuple[Master, str, str],
) -> None:
    master, framework_id, agent_id = busy
    server = Server(master)
    await server.get("/state")
    master.update(framework_id, agent_id, "t1", TaskState.FINISHED)
    ack = scheduler_api.Acknowledge(
        types.AgentID(agent_id), types.TaskID("t1"), b"TASK_FINISHED   "
    )
    call = scheduler_api.Call(type="ACKNOWLEDGE", acknowledge=ack)
    master.do(master.core.call(framework_id, call, now=master.now, wall=1e9))
    await fresh(server)
    (framework,) = (await server.get("/state"))["frameworks"]
    assert framework["tasks"] == []
    assert [task["id"] for task in framework["completed_tasks"]] == ["t1"]
    summary = await server.get("/state-summary")
    assert summary["frameworks"][0]["TASK_FINISHED"] == 1
    assert summary["frameworks"][0]["slave_ids"] == [agent_id]


async def test_summary_counts_tasks_of_agents_and_frameworks(busy: tuple[Master, str, str]) -> None:
    master, framework_id, agent_id = busy
    summary = await Server(master).get("/state-summary")
    assert summary["hostname"] == "master1"
    assert summary["slaves"][0]["TASK_RUNNING"] == 1
    assert summary["slaves"][0]["framework_ids"] == [framework_id]
    assert summary["frameworks"][0]["TASK_RUNNING"] == 1
    assert summary["frameworks"][0]["TASK_STAGING"] == 0
    assert summary["frameworks"][0]["slave_ids"] == [agent_id]


async def test_many_tasks_come_in_chunks_and_none_is_lost(master: Master) -> None:
    framework_id = master.add_framework()
    for index in range(300):
        master.add_agent(f"a{index}", "cpus:1;mem:1024;ports:[31000-32000]")
    master.allocate()
    for index in range(300):
        master.launch(framework_id, f"t{index}", cpus=0.5)
    server = Server(master)
    state = await server.get("/state")
    assert len(state["frameworks"][0]["tasks"]) == 300
    assert len(state["slaves"]) == 300
    assert state["frameworks"][0]["used_resources"]["cpus"] == 150.0
    tasks = await server.get("/tasks?limit=-1&order=asc")
    assert {task["id"] for task in tasks["tasks"]} == {f"t{index}" for index in range(300)}
    assert len((await server.get("/tasks"))["tasks"]) == 100
    assert len((await server.get("/tasks?limit=7&offset=295"))["tasks"]) == 5
    assert len((await server.get("/tasks?task_id=t17"))["tasks"]) == 1


async def test_slaves_show_resources_in_full(busy: tuple[Master, str, str]) -> None:
    master, _, agent_id = busy
    body = await Server(master).get(f"/slaves?slave_id={agent_id}")
    (slave,) = body["slaves"]
    assert {entry["name"] for entry in slave["used_resources_full"]} == {"cpus", "ports"}
    assert (await Server(master).get("/slaves?slave_id=nobody"))["slaves"] == []


@pytest.mark.parametrize(
    "target", ["/state", "/state-summary", "/slaves", "/frameworks", "/tasks", "/roles"]
)
async def test_reads_of_another_leader_are_redirected_or_refused(
    master: Master, target: str
) -> None:
    master.elected = types.MasterInfo(id="other", ip=1, port=5051, hostname="m2", pid="x")
    answer = await Server(master).raw("GET", f"{target}?a=b%20c")
    assert isinstance(answer, Response)
    assert (answer.status, answer.headers["Location"]) == (307, f"//m2:5051{target}?a=b+c")
    master.elected = None
    answer = await Server(master).raw("GET", target)
    assert isinstance(answer, Response)
    assert answer.status == 503


async def test_redirect_leads_to_the_leader_and_owns_no_deeper_path(master: Master) -> None:
    answer = await Server(master).raw("GET", "/redirect")
    assert isinstance(answer, Response)
    assert (answer.status, answer.headers["Location"]) == (307, "//master1:5050")
    assert (await Server(master).ask("GET", "/redirect/deeper"))[0] == 404


async def test_metrics_have_the_names_that_scrapers_expect(busy: tuple[Master, str, str]) -> None:
    master, framework_id, _ = busy
    numbers = await Server(master).get("/metrics/snapshot?timeout=100ms")
    assert numbers["master/elected"] == 1.0
    assert numbers["master/cpus_total"] == 4.0
    assert numbers["master/cpus_used"] == 1.0
    assert numbers["master/cpus_percent"] == 0.25
    assert numbers["master/tasks_running"] == 1.0
    assert numbers["master/slaves_active"] == 1.0
    assert numbers["master/frameworks_connected"] == 1.0
    assert numbers["master/tasks_lost"] == 0.0
    assert numbers[f"master/frameworks/web/{framework_id}/subscribed"] == 1.0
    assert "system/load_1min" in numbers
    assert "registrar/queued_operations" in numbers


async def test_operator_reads_decode_as_the_original_messages(
    busy: tuple[Master, str, str],
) -> None:
    master, framework_id, agent_id = busy
    server = Server(master)
    for kind, name in (
        ("GET_STATE", "get_state"), ("GET_TASKS", "get_tasks"), ("GET_AGENTS", "get_agents"),
        ("GET_FRAMEWORKS", "get_frameworks"), ("GET_EXECUTORS", "get_executors"),
        ("GET_ROLES", "get_roles"), ("GET_WEIGHTS", "get_weights"), ("GET_QUOTA", "get_quota"),
        ("GET_MASTER", "get_master"), ("GET_HEALTH", "get_health"), ("GET_FLAGS", "get_flags"),
        ("GET_VERSION", "get_version"), ("GET_METRICS", "get_metrics"),
        ("GET_LOGGING_LEVEL", "get_logging_level"), ("GET_OPERATIONS", "get_operations"),
    ):  # fmt: skip
        status, body = await server.call(type=kind)
        assert status == 200, (kind, body)
        response = msgspec.convert(body, operator_api.Response, strict=False)
        assert response.type == kind
        assert getattr(response, name) is not None
    _, body = await server.call(type="GET_STATE")
    state = msgspec.convert(body, operator_api.Response, strict=False).get_state
    assert state is not None
    assert state.get_tasks is not None
    assert state.get_tasks.tasks[0].task_id.value == "t1"
    assert state.get_tasks.tasks[0].statuses[0].state is TaskState.RUNNING
    assert state.get_agents is not None
    assert state.get_agents.agents[0].agent_info.id == types.AgentID(agent_id)
    assert state.get_frameworks is not None
    assert state.get_frameworks.frameworks[0].framework_info.id == types.FrameworkID(framework_id)


@pytest.mark.parametrize(
    ("call", "status", "problem"),
    [
        ({}, 400, "'type' is missing"),
        ({"type": "NO_SUCH"}, 501, "unknown call 'NO_SUCH'"),
        ({"type": "DRAIN_AGENT"}, 501, "DRAIN_AGENT"),
        ({"type": "TEARDOWN"}, 400, "'teardown' is missing"),
        ({"type": "TEARDOWN", "teardown": {}}, 400, "framework_id"),
        ({"type": "TEARDOWN", "teardown": {"framework_id": {"value": "x"}}}, 400, "ID 'x'"),
        ({"type": "UPDATE_WEIGHTS", "update_weights": {"weight_infos": [{"weight": 0}]}}, 400,
         "weight of role '*' is 0"),
        ({"type": "UPDATE_QUOTA", "update_quota": {"quota_configs": [{"role": "a/b"}]}}, 400,
         "nested roles"),
        ({"type": "UPDATE_QUOTA", "update_quota": {"quota_configs": [
            {"role": "a", "guarantees": {"cpus": {"value": -1}}}]}}, 400, "guarantees.cpus is -1"),
        ({"type": "UPDATE_QUOTA", "update_quota": {"quota_configs": [
            {"role": "a", "guarantees": {"cpus": {"value": 2}}, "limits": {"cpus": {"value": 1}}}
        ]}}, 400, "exceeds its limit"),
        ({"type": "UPDATE_QUOTA", "update_quota": {"quota_configs": [
            {"role": "a", "guarantees": {"cpus": {"value": 2}}}]}}, 400, "the cluster has 0"),
        ({"type": "UPDATE_QUOTA", "update_quota": {"quota_configs": [
            {"role": ".."}]}}, 400, "role"),
    ],
)  # fmt: skip
async def test_bad_operator_calls_name_field_and_value(
    master: Master, call: dict[str, Any], status: int, problem: str
) -> None:
    got, body = await Server(master).call(**call)
    assert got == status
    assert problem in body["message"]
    assert master.cluster.quotas == {}
    assert master.cluster.weights == {}


async def test_operator_calls_need_json(master: Master) -> None:
    server = Server(master)
    assert (await server.ask("POST", "/api/v1", b"{}", Content_Type="text/xml"))[0] == 415
    status, _ = await server.ask(
        "POST", "/api/v1", b"{}", Content_Type="application/json", Accept="text/html"
    )
    assert status == 406
    assert (await server.ask("POST", "/api/v1", b"{", Content_Type="application/json"))[0] == 400


async def test_quota_and_weights_are_set_and_read_back(busy: tuple[Master, str, str]) -> None:
    master, _, _ = busy
    server = Server(master)
    config = {
        "role": "dev",
        "guarantees": {"cpus": {"value": 2.5}},
        "limits": {"cpus": {"value": 3}},
    }
    status, _ = await server.call(type="UPDATE_QUOTA", update_quota={"quota_configs": [config]})
    assert status == 200
    status, _ = await server.call(
        type="UPDATE_WEIGHTS", update_weights={"weight_infos": [{"role": "dev", "weight": 2.0}]}
    )
    assert status == 200
    _, body = await server.call(type="GET_QUOTA")
    assert body["get_quota"]["status"]["configs"] == [
        {"role": "dev", "guarantees": {"cpus": {"value": 2.5}}, "limits": {"cpus": {"value": 3.0}}}
    ]
    roles = {role["name"]: role for role in (await server.get("/roles"))["roles"]}
    assert roles["dev"]["weight"] == 2.0
    assert roles["dev"]["quota"]["guarantee"] == {"cpus": 2.5}
    assert await server.get("/weights") == [{"role": "dev", "weight": 2.0}]
    assert (await server.ask("DELETE", "/quota/dev"))[0] == 200
    assert (await server.get("/quota"))["infos"] == []


async def test_teardown_ends_a_framework_and_its_tasks(busy: tuple[Master, str, str]) -> None:
    master, framework_id, _ = busy
    server = Server(master)
    assert (await server.ask("POST", "/teardown", b"nothing"))[0] == 400
    body = f"frameworkId={framework_id}".encode()
    assert (await server.ask("POST", "/teardown", body))[0] == 200
    state = await server.get("/state")
    assert state["frameworks"] == []
    assert [entry["id"] for entry in state["completed_frameworks"]] == [framework_id]


async def test_subscribers_get_everything_then_every_change(busy: tuple[Master, str, str]) -> None:
    master, framework_id, agent_id = busy
    server = Server(master)
    stream = await server.raw(
        "POST", "/api/v1", b'{"type":"SUBSCRIBE"}', Content_Type="application/json"
    )
    assert isinstance(stream, Stream)
    master.update(framework_id, agent_id, "t1", TaskState.KILLING)
    master.add_agent("a2", "cpus:1;mem:32")
    events = _events(stream)
    assert [event.type for event in events] == [
        "SUBSCRIBED", "HEARTBEAT", "TASK_UPDATED", "AGENT_ADDED",
    ]  # fmt: skip
    subscribed = events[0].subscribed
    assert subscribed is not None
    assert subscribed.get_state is not None
    assert subscribed.get_state.get_tasks is not None
    assert len(subscribed.get_state.get_tasks.tasks) == 1
    assert events[2].task_updated is not None
    assert events[2].task_updated.state is TaskState.KILLING


def _events(stream: Stream) -> list[operator_api.Event]:
    data = b"".join(stream._queue)
    events = []
    while data:
        length, _, rest = data.partition(b"\n")
        body, data = rest[: int(length)], rest[int(length) :]
        events.append(msgspec.json.decode(body, type=operator_api.Event))
    return events


async def test_a_thousand_subscribers_are_enough(master: Master) -> None:
    server = Server(master)
    for _ in range(1000):
        await server.streams.subscribe()
    with pytest.raises(Refused) as refused:
        await server.streams.subscribe()
    assert refused.value.status == 503


async def test_why_names_reasons_for_a_framework_without_offers(master: Master) -> None:
    framework_id = master.add_framework()
    master.add_agent("tiny", "cpus:0.001;mem:1")
    master.allocate()
    (why,) = await Server(master).get(f"/cairn/v1/frameworks/{framework_id}/why")
    assert why["role"] == "*"
    assert any("minimum" in reason for reason in why["reasons"])


async def test_unserved_writes_say_so(master: Master) -> None:
    status, body = await Server(master).ask("POST", "/reserve", b"slaveId=x")
    assert status == 501
    assert "/reserve" in body["message"]


def test_sent_effects_are_commands_to_agents(busy: tuple[Master, str, str]) -> None:
    master, _, _ = busy
    messages = [effect.message for effect in master.sent if isinstance(effect, ToLink)]
    assert any(isinstance(message, agent_api.RunTask) for message in messages)
