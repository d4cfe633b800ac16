"""A whole master in this process: its scheduler API, its links, its registry on disk."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import msgspec
import pytest

from cairn_core.errors import CairnError
from cairn_core.kit.io_link import Channel, LinkClient
from cairn_core.kit.link import Hello as LinkHello
from cairn_core.master.config import MasterConfig, read_credentials
from cairn_core.master.daemon import Assembly, assemble, load_allocator, master_info
from cairn_core.mesos import agent_api, types
from cairn_core.mesos.agent_api import AgentMessage, MasterMessage
from cairn_core.mesos.recordio import Decoder
from cairn_core.replog.interface import MAX_APPEND_RECORDS, Record
from cairn_core.replog.io_writer import parts
from cairn_core.resources import Resources

WAIT_S = 20.0


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(WAIT_S):
        while not (value := condition()):  # noqa: ASYNC110 - conditions come from anywhere
            await asyncio.sleep(0.005)
    return value


@contextlib.asynccontextmanager
async def running(work_dir: Path, **settings: Any) -> AsyncIterator[Assembly]:
    config = MasterConfig(
        work_dir=str(work_dir), ip="127.0.0.1", hostname="localhost",
        **{"allocation_interval": 0.05, **settings},
    )  # fmt: skip
    assembly = await assemble(config, [("127.0.0.1", 0)])
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for service in assembly.services:
            group.create_task(_serve(service, stop))
        await until(lambda: assembly.master.recovered() and assembly.http.addresses)
        try:
            yield assembly
        finally:
            stop.set()


async def _serve(service: Callable[[asyncio.Event], Any], stop: asyncio.Event) -> None:
    await service(stop)


class Scheduler:
    """A scheduler as a third party writes one: HTTP and RecordIO by hand."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self.session = session
        self.url = f"http://127.0.0.1:{port}/api/v1/scheduler"
        self.events: list[dict[str, Any]] = []
        self.stream_id = ""
        self.framework_id = ""
        self.ended = False

    async def subscribe(self, group: asyncio.TaskGroup, **info: Any) -> None:
        self.answer = await self.session.post(
            self.url,
            json={
                "type": "SUBSCRIBE",
                **({"framework_id": info["id"]} if "id" in info else {}),
                "subscribe": {"framework_info": {"user": "nobody", "name": "test", **info}},
            },
        )
        assert self.answer.status == 200
        assert self.answer.headers["Content-Type"] == "application/json"
        assert self.answer.headers["Transfer-Encoding"] == "chunked"
        self.stream_id = self.answer.headers["Mesos-Stream-Id"]
        group.create_task(self._read())
        await until(lambda: self.events)
        if self.events[0]["type"] == "SUBSCRIBED":
            self.framework_id = self.events[0]["subscribed"]["framework_id"]["value"]

    async def _read(self) -> None:
        decoder = Decoder()
        with contextlib.suppress(aiohttp.ClientError):
            async for data in self.answer.content.iter_any():
                self.events += [json.loads(record) for record in decoder.feed(data)]
        self.ended = True

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    async def call(self, kind: str, **body: Any) -> tuple[int, str]:
        call = {"type": kind, "framework_id": {"value": self.framework_id}, **body}
        headers = {"Mesos-Stream-Id": self.stream_id}
        async with self.session.post(self.url, json=call, headers=headers) as answer:
            return answer.status, await answer.text()


class Agent:
    """An agent that launches nothing: it says RUNNING of every task."""

    def __init__(self, port: int, number: int = 1) -> None:
        self.number = number
        self.agent_id: types.AgentID | None = None
        self.messages: list[MasterMessage] = []
        self.losses = 0
        self.client: LinkClient[AgentMessage, MasterMessage] = LinkClient(
            MasterMessage, self, url=lambda: f"http://127.0.0.1:{port}{agent_api.PATH}",
            session=f"agent-{number}", rng=Random(1), max_backoff_s=0.2,
        )  # fmt: skip

    def opened(
        self, channel: Channel[AgentMessage, MasterMessage], hello: LinkHello, resumed: bool
    ) -> None:
        assert not resumed
        wire = tuple(Resources.parse("cpus:4;mem:4096;ports:[31000-32000]").to_wire())
        channel.send(
            agent_api.Hello(
                protocol_min=1, protocol_max=1, agent_id=self.agent_id, boot_id="b",
                session="s", epoch=0, pid=f"slave(1)@127.0.0.1:{5050 + self.number}",
                info=types.AgentInfo("localhost", resources=wire), version="1.11.0",
            )
        )  # fmt: skip

    def received(
        self, channel: Channel[AgentMessage, MasterMessage], messages: list[MasterMessage]
    ) -> None:
        for message in messages:
            self.messages.append(message)
            match message:
                case agent_api.Welcome():
                    self.agent_id = message.agent_id
                    channel.send(agent_api.Inventory(last=True))
                case agent_api.RunTask():
                    status = types.TaskStatus(
                        message.task.task_id, types.TaskState.RUNNING, uuid=b"u" * 16,
                        agent_id=self.agent_id, source="SOURCE_EXECUTOR", timestamp=1.5,
                    )  # fmt: skip
                    assert message.framework.id is not None
                    channel.send(
                        agent_api.Update(message.framework.id, status, types.TaskState.RUNNING)
                    )
                case _:
                    pass

    def closed(self, channel: Channel[AgentMessage, MasterMessage], reason: str) -> None:
        self.losses += 1

    def of(self, kind: type) -> list[MasterMessage]:
        return [message for message in self.messages if isinstance(message, kind)]


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_read=WAIT_S)) as client:
        yield client


async def test_a_task_from_offer_to_acknowledgement(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with running(tmp_path) as assembly, session() as client, asyncio.TaskGroup() as group:
        agent = Agent(assembly.http.port)
        group.create_task(agent.client.run(stop))
        scheduler = Scheduler(client, assembly.http.port)
        await scheduler.subscribe(group)
        assert scheduler.events[0]["subscribed"]["heartbeat_interval_seconds"] == 15.0
        await until(lambda: scheduler.of("HEARTBEAT"))
        (event,) = await until(lambda: scheduler.of("OFFERS"))
        (offer,) = event["offers"]["offers"]
        assert offer["hostname"] == "localhost"
        task = {
            "name": "t", "task_id": {"value": "t1"}, "agent_id": offer["agent_id"],
            "command": {"value": "sleep 1"},
            "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 1}}],
        }  # fmt: skip
        launch = {"type": "LAUNCH", "launch": {"task_infos": [task]}}
        accept = {"offer_ids": [offer["id"]], "operations": [launch]}
        assert await scheduler.call("ACCEPT", accept=accept) == (202, "")
        (event,) = await until(lambda: scheduler.of("UPDATE"))
        status = event["update"]["status"]
        assert status["state"] == "TASK_RUNNING"
        uuid = status["uuid"]
        assert base64.b64decode(uuid) == b"u" * 16
        body = {"agent_id": offer["agent_id"], "task_id": {"value": "t1"}, "uuid": uuid}
        assert (await scheduler.call("ACKNOWLEDGE", acknowledge=body))[0] == 202
        await until(lambda: agent.of(agent_api.Acknowledge))
        assert (await scheduler.call("KILL", kill={"task_id": {"value": "t1"}}))[0] == 202
        await until(lambda: agent.of(agent_api.KillTask))
        async with client.get(f"http://127.0.0.1:{assembly.http.port}/master/state") as answer:
            state = await answer.json()
        assert state["frameworks"][0]["tasks"][0]["state"] == "TASK_RUNNING"
        assert (await scheduler.call("TEARDOWN"))[0] == 202
        await until(lambda: agent.of(agent_api.ShutdownFramework))
        await until(lambda: scheduler.ended)
        stop.set()


async def test_stopping_the_master_ends_no_framework(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with session() as client, asyncio.TaskGroup() as group:
        async with running(tmp_path) as assembly:
            scheduler = Scheduler(client, assembly.http.port)
            await scheduler.subscribe(group, failover_timeout=0)
            agent = Agent(assembly.http.port)
            group.create_task(agent.client.run(stop))
            await until(lambda: scheduler.of("OFFERS"))
        await until(lambda: scheduler.ended)
        assert assembly.master.cluster.frameworks
        assert not agent.of(agent_api.ShutdownFramework)
        stop.set()


async def test_the_registry_outlives_the_master(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        async with running(tmp_path) as assembly:
            first = Agent(assembly.http.port)
            group.create_task(first.client.run(stop))
            await until(lambda: assembly.master.cluster.agents)
            first_id = assembly.master.cluster.master.master_id
        stop.set()
    async with running(tmp_path) as assembly:
        cluster = assembly.master.cluster
        assert cluster.epoch == 2
        assert cluster.master.master_id != first_id
        assert [*cluster.recovered_agents] == [f"{first_id}-S0"]


async def test_the_address_of_a_vip_outlives_the_master(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with running(tmp_path) as assembly, session() as client, asyncio.TaskGroup() as group:
        scheduler = Scheduler(client, assembly.http.port)
        await scheduler.subscribe(group, name="marathon")
        group.create_task(Agent(assembly.http.port).client.run(stop))
        (event,) = await until(lambda: scheduler.of("OFFERS"))
        (offer,) = event["offers"]["offers"]
        labels = {"labels": [{"key": "VIP_0", "value": "/nginxdocker:80"}]}
        task = {
            "name": "t", "task_id": {"value": "t"}, "agent_id": offer["agent_id"],
            "command": {"value": "sleep 1"},
            "discovery": {
                "visibility": "FRAMEWORK", "ports": {"ports": [{"number": 80, "labels": labels}]}
            },
            "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 1}}],
        }  # fmt: skip
        launch = {"type": "LAUNCH", "launch": {"task_infos": [task]}}
        accept = {"offer_ids": [offer["id"]], "operations": [launch]}
        assert await scheduler.call("ACCEPT", accept=accept) == (202, "")
        await until(lambda: scheduler.of("UPDATE"))
        vips = assembly.master.cluster.vips
        await until(lambda: vips.addresses and not vips.storing)
        scheduler.answer.close()
        stop.set()
    async with running(tmp_path) as assembly, session() as client:
        url = f"http://127.0.0.1:{assembly.http.port}"
        async with client.get(f"{url}/debug/state") as answer:
            shown = (await answer.json())["vips"]
        assert shown["addresses"] == {
            "nginxdocker.marathon": "11.112.175.214 fd01:c::40c2:fc7e:db38:c4ce"
        }
        assert (shown["named"], shown["idle"], shown["without_address"]) == (1, 1, 0)
        async with client.get(f"{url}/metrics") as answer:
            assert "vips_named_count 1.0" in await answer.text()


async def test_an_agent_whose_link_breaks_comes_back(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with running(tmp_path) as assembly, asyncio.TaskGroup() as group:
        agent = Agent(assembly.http.port)
        group.create_task(agent.client.run(stop))
        await until(lambda: assembly.master.cluster.links)
        agent.client.channel.close("as if the cable was pulled")
        await until(lambda: agent.losses)
        await until(lambda: len(agent.of(agent_api.Registered)) == 2)
        assert len(assembly.master.cluster.agents) == 1
        stop.set()


async def test_an_operator_marks_an_agent_gone(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with running(tmp_path) as assembly, session() as client, asyncio.TaskGroup() as group:
        agent = Agent(assembly.http.port)
        group.create_task(agent.client.run(stop))
        await until(lambda: assembly.master.cluster.links)
        assert agent.agent_id is not None
        url = f"http://127.0.0.1:{assembly.http.port}/api/v1"
        for agent_id, status in (("nobody", 404), (agent.agent_id.value, 200)):
            call = {"type": "MARK_AGENT_GONE", "mark_agent_gone": {"agent_id": {"value": agent_id}}}
            async with client.post(url, json=call) as answer:
                assert answer.status == status
        await until(lambda: agent.of(agent_api.Shutdown))
        assert list(assembly.master.cluster.gone_agents) == [agent.agent_id.value]
        stop.set()


SUBSCRIBE = {
    "type": "SUBSCRIBE",
    "subscribe": {"framework_info": {"user": "u", "name": "n"}},
}
JSON = {"Content-Type": "application/json"}
#: name: method, headers, body, status, what the answer says
STATUSES: dict[str, tuple[str, dict[str, str], Any, int, str]] = {
    "method": ("GET", {}, None, 405, ""),
    "no type": ("POST", {"Content-Type": ""}, "{}", 400, "Content-Type"),
    "protobuf": ("POST", {"Content-Type": "application/x-protobuf"}, "x", 415, ""),
    "no json": ("POST", JSON, "{", 400, ""),
    "no call type": ("POST", JSON, {}, 400, "Expecting 'type' to be present"),
    "no part": ("POST", JSON, {"type": "SUBSCRIBE"}, 400, "Expecting 'subscribe'"),
    "no framework": ("POST", JSON, {"type": "TEARDOWN"}, 400, "Expecting 'framework_id'"),
    "ids differ": (
        "POST", JSON, {**SUBSCRIBE, "framework_id": {"value": "x"}}, 400, "differs",
    ),
    "accept": ("POST", {**JSON, "Accept": "text/html"}, SUBSCRIBE, 406, "Accept"),
    "stream id": ("POST", {**JSON, "Mesos-Stream-Id": "x"}, SUBSCRIBE, 400, "Mesos-Stream-Id"),
    "large number": (
        "POST", JSON,
        '{"type":"KILL","framework_id":{"value":"x"},"kill":{"task_id":{"value":"t"},'
        '"kill_policy":{"grace_period":{"nanoseconds":1' + "0" * 30 + "}}}}", 400, "64 bits",
    ),
    "unknown framework": (
        "POST", JSON, {"type": "TEARDOWN", "framework_id": {"value": "x"}}, 400,
        "Framework cannot be found",
    ),
}  # fmt: skip


@pytest.fixture(params=["/api/v1/scheduler", "/master/api/v1/scheduler"])
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_statuses_of_bad_calls(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as assembly, session() as client:
        for name, (method, headers, body, status, text) in STATUSES.items():
            data = body if isinstance(body, str) or body is None else json.dumps(body)
            async with client.request(
                method, f"http://127.0.0.1:{assembly.http.port}{path}", headers=headers,
                data=data, skip_auto_headers=["Content-Type"],
            ) as answer:  # fmt: skip
                assert (answer.status, name) == (status, name)
                assert text in await answer.text()
                if status == 405:
                    assert answer.headers["Allow"] == "POST"
        assert not assembly.master.cluster.frameworks


async def test_statuses_of_calls_on_a_stream(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly, session() as client, asyncio.TaskGroup() as group:
        one = Scheduler(client, assembly.http.port)
        await one.subscribe(group, failover_timeout=1000)
        assert (await one.call("NONSENSE"))[0] == 501
        assert (await one.call("RECONCILE_OPERATIONS", reconcile_operations={}))[0] == 501
        body = {"agent_id": {"value": "a"}, "task_id": {"value": "t"}, "uuid": "AA=="}
        assert (await one.call("ACKNOWLEDGE", acknowledge=body))[0] == 400
        assert (await one.call("REVIVE")) == (202, "")
        info = {"user": "nobody", "name": "renamed", "id": {"value": one.framework_id}}
        update = {"framework_info": {**info, "failover_timeout": 500}}
        assert (await one.call("UPDATE_FRAMEWORK", update_framework=update))[0] == 200
        update = {"framework_info": {**info, "user": "other"}}
        assert (await one.call("UPDATE_FRAMEWORK", update_framework=update))[0] == 400
        right, one.stream_id = one.stream_id, "wrong"
        status, text = await one.call("REVIVE")
        assert (status, "wrong" in text) == (400, True)
        one.stream_id = right

        two = Scheduler(client, assembly.http.port)
        await two.subscribe(group, id={"value": one.framework_id}, failover_timeout=1000)
        await until(lambda: one.ended)
        assert one.of("ERROR")[0]["error"]["message"] == "Framework failed over"
        assert (await one.call("REVIVE"))[0] == 400
        two.answer.close()
        await until(lambda: two.ended)
        await until(lambda: not next(iter(assembly.master.cluster.frameworks.values())).connected)
        assert (await two.call("REVIVE")) == (403, "Framework is not subscribed")


async def test_a_bad_framework_gets_one_error_and_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly, session() as client, asyncio.TaskGroup() as group:
        scheduler = Scheduler(client, assembly.http.port)
        await scheduler.subscribe(group, role="a//b")
        await until(lambda: scheduler.ended)
        assert [event["type"] for event in scheduler.events] == ["ERROR"]
        await until(lambda: not len(assembly.master.schedulers))


async def test_frameworks_prove_who_they_are(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text("web secret1\nops secret2\n")
    credentials.chmod(0o600)
    async with (
        running(
            tmp_path / "work", authenticate_frameworks=True, credentials=str(credentials)
        ) as assembly,
        session() as client,
        asyncio.TaskGroup() as group,
    ):
        url = f"http://127.0.0.1:{assembly.http.port}/api/v1/scheduler"
        async with client.post(url, json=SUBSCRIBE) as answer:
            assert answer.status == 401
            challenge = answer.headers["WWW-Authenticate"]
            assert challenge == 'Basic realm="mesos-master-scheduler"'
        headers = {"Authorization": "Basic " + base64.b64encode(b"web:secret1").decode()}
        async with aiohttp.ClientSession(headers=headers) as web:
            scheduler = Scheduler(web, assembly.http.port)
            await scheduler.subscribe(group)
            assert scheduler.events[0]["type"] == "SUBSCRIBED"
            other = Scheduler(client, assembly.http.port)
            other.framework_id, other.stream_id = scheduler.framework_id, scheduler.stream_id
            assert (await other.call("TEARDOWN"))[0] == 401
            headers = {"Authorization": "Basic " + base64.b64encode(b"ops:secret2").decode()}
            async with aiohttp.ClientSession(headers=headers) as ops:
                other.session = ops
                assert (await other.call("TEARDOWN"))[0] == 400
            credentials.write_text("ops secret2\n")
            config = MasterConfig(authenticate_frameworks=True, credentials=str(credentials))
            assembly.reload(config)
            other.session = web
            assert (await other.call("TEARDOWN"))[0] == 401, "no longer known"
            scheduler.answer.close()


async def test_nobody_is_served_before_the_registry_is_read(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly, session() as client:
        url = f"http://127.0.0.1:{assembly.http.port}"
        assembly.master.followed(None)
        async with client.post(f"{url}/api/v1/scheduler") as answer:
            assert answer.status == 503
        async with client.get(f"{url}/health") as answer:
            assert answer.status == 200
        info = types.MasterInfo("other", 0, 5050, hostname="elsewhere")
        assembly.master.followed(info)
        async with client.get(f"{url}/master/state?a=b", allow_redirects=False) as answer:
            assert answer.status == 307
            assert answer.headers["Location"] == "//elsewhere:5050/master/state?a=b"


async def test_what_is_too_large_for_the_feed_stops_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly, session() as client, asyncio.TaskGroup() as group:
        scheduler = Scheduler(client, assembly.http.port)
        scheduler_id = "x" * 250
        await scheduler.subscribe(group, id={"value": scheduler_id}, hostname="h" * 4000)
        assert scheduler.framework_id == scheduler_id
        agent = Agent(assembly.http.port)
        stop = asyncio.Event()
        group.create_task(agent.client.run(stop))
        (event,) = await until(lambda: scheduler.of("OFFERS"))
        (offer,) = event["offers"]["offers"]
        ports = [{"number": n, "name": "p" * 60} for n in range(6000)]
        task = {
            "name": "t", "task_id": {"value": "t" * 255}, "agent_id": offer["agent_id"],
            "command": {"value": "sleep 1"},
            "discovery": {"visibility": "CLUSTER", "ports": {"ports": ports}},
            "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 1}}],
        }  # fmt: skip
        launch = {"type": "LAUNCH", "launch": {"task_infos": [task]}}
        accept = {"offer_ids": [offer["id"]], "operations": [launch]}
        assert await scheduler.call("ACCEPT", accept=accept) == (202, "")
        await until(lambda: scheduler.of("UPDATE"))
        scheduler.answer.close()
        stop.set()


def test_credentials_in_both_forms(tmp_path: Path) -> None:
    file = tmp_path / "c"
    file.touch(0o600)
    file.write_text('{"credentials": [{"principal": "a", "secret": "b"}]}')
    assert read_credentials(str(file)) == {"a": "b"}
    file.write_text("a b\n\nc d\n")
    assert read_credentials(f"file://{file}") == {"a": "b", "c": "d"}
    file.write_text("a secret extra\n")
    with pytest.raises(CairnError, match="line 1") as caught:
        read_credentials(str(file))
    assert "secret" not in str(caught.value).replace("a principal and a secret", "")
    file.chmod(0o644)
    with pytest.raises(CairnError, match="read by others"):
        read_credentials(str(file))


@pytest.mark.parametrize(
    ("name", "value"),
    [("weights", "a"), ("weights", "a=0"), ("roles", "a//b"), ("domain", "{"),
     ("min_allocatable_resources", "cpus"), ("vip_min_ip", "11.0.0"), ("vip_min_ip", "fd00::"),
     ("vip_min_ip", "9.0.0.0"), ("vip_min_ip", "0.0.0.0"),
     ("vip_max_ip", "11.0.0.0"), ("vip_max_ip6", "11.0.0.1"), ("vip_allocator", "x"),
     ("authenticate_agents", True)],
)  # fmt: skip
def test_wrong_settings_name_themselves(name: str, value: Any) -> None:
    wanted = {"authenticate_agents": "credentials"}.get(name, name).replace("vip_max", "vip_min")
    with pytest.raises((ValueError, msgspec.ValidationError), match=wanted):
        msgspec.convert({name: value}, MasterConfig)


def test_an_unknown_allocator_is_said() -> None:
    config = MasterConfig(ip="127.0.0.1", hostname="h", allocator="none")
    with pytest.raises(CairnError, match="hierarchical-drf"):
        load_allocator(config, master_info(config))


def test_the_address_is_written_as_the_original_does() -> None:
    info = master_info(MasterConfig(ip="10.0.0.1", hostname="m1"))
    assert (info.ip, info.pid) == (16777226, "master@10.0.0.1:5050")


def test_large_writes_are_cut_into_appends() -> None:
    many = [Record(f"k{n}", b"x") for n in range(MAX_APPEND_RECORDS + 1)]
    assert [len(part) for part in parts(many)] == [MAX_APPEND_RECORDS, 1]
    large = [Record(f"k{n}", b"x" * 400_000) for n in range(3)]
    assert [len(part) for part in parts(large)] == [2, 1]
