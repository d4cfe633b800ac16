"""`/v2/events`: frames, filters, forms of the plan, slow subscribers, heartbeats."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec
import pytest

from cairn_core.kit.http_types import Request, Stream
from cairn_core.mesos.types import TaskState
from cairn_scheduler.marathon import http_events
from cairn_scheduler.marathon.events import AppTerminated, SchedulerReregistered

SSE = {"Accept": "text/event-stream"}
WAIT_S = 20.0


class Reader:
    """A subscriber that splits at CRLF, as the load balancer's does."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.buffer = b""

    async def frame(self) -> tuple[str, Any]:
        """The next event; heartbeats are skipped."""
        async with asyncio.timeout(WAIT_S):
            while True:
                head, end, rest = self.buffer.partition(b"\r\n\r\n")
                if end:
                    self.buffer = rest
                    event, data = head.lstrip(b"\r\n").split(b"\r\n")
                    assert event.startswith(b"event: ")
                    assert data.startswith(b"data: ")
                    return event[7:].decode(), msgspec.json.decode(data[6:])
                piece = await self.answer.content.readany()
                assert piece, "the stream ended"
                self.buffer += piece

    async def until(self, kind: str) -> Any:
        """The next event of a type."""
        while True:
            found, body = await self.frame()
            if found == kind:
                return body


@contextlib.asynccontextmanager
async def listening(site: Any, query: str = "", **headers: str) -> AsyncIterator[Reader]:
    url = f"{site.url}/v2/events{query}"
    async with site.session.get(url, headers=SSE | headers) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert "Content-Encoding" not in answer.headers
        yield Reader(answer)


async def test_the_first_event_says_that_the_stream_is_attached(site: Any) -> None:
    async with listening(site) as reader:
        kind, body = await reader.frame()
        assert kind == "event_stream_attached"
        assert body == {
            "eventType": "event_stream_attached", "remoteAddress": "127.0.0.1",
            "timestamp": body["timestamp"],
        }  # fmt: skip
        assert len(body["timestamp"]) == len("2020-01-31T12:00:00.123Z")


async def test_the_life_of_an_app_is_told(site: Any) -> None:
    async with listening(site) as reader:
        await reader.frame()
        created = await site.sleeper("/told")
        posted = await reader.until("api_post_event")
        assert (posted["clientIp"], posted["uri"]) == ("127.0.0.1", "/v2/apps")
        assert posted["appDefinition"]["id"] == "/told"
        (task,) = site.rig.run("h1")
        update = await reader.until("status_update_event")
        assert (update["taskId"], update["taskStatus"]) == (task, "TASK_RUNNING")
        assert (update["host"], update["appId"]) == ("h1", "/told")
        success = await reader.until("deployment_success")
        assert success["id"] == created["deployments"][0]["id"]
        assert set(success["plan"]) == {"id", "version", "steps"}
        await site("DELETE", "/v2/apps/told")
        site.rig.pass_time()
        site.rig.update(task, TaskState.KILLED)
        site.rig.pass_time()
        assert (await reader.until("app_terminated_event"))["appId"] == "/told"


async def test_types_are_chosen(site: Any) -> None:
    query = "?event_type=app_terminated_event&event_type=deployment_info"
    async with listening(site, query) as reader:
        await site.sleeper("/a")
        kind, body = await reader.frame()
        assert (kind, body["currentStep"]["actions"][0]["app"]) == ("deployment_info", "/a")
        site.rig.publish(AppTerminated(timestamp="now", app_id="/gone"))
        assert await reader.until("app_terminated_event") == {
            "eventType": "app_terminated_event", "timestamp": "now", "appId": "/gone",
        }  # fmt: skip


async def test_heavy_plans_have_the_root_before_and_after(site: Any) -> None:
    await site.sleeper("/old")
    site.rig.run()
    async with listening(site, "?plan-format=heavy&event_type=deployment_info") as reader:
        await site.sleeper("/new")
        _, body = await reader.frame()
    plan = body["plan"]
    assert [app["id"] for app in plan["original"]["apps"]] == ["/old"]
    assert [app["id"] for app in plan["target"]["apps"]] == ["/new", "/old"]
    assert plan["target"]["version"] == plan["version"]


async def test_strict_clients_get_named_roots_and_no_unknown_types(site: Any) -> None:
    async with listening(site, **{"User-Agent": "python-requests/2.31.0"}) as reader:
        await reader.frame()
        site.rig.publish(SchedulerReregistered(timestamp="now", master="m"))
        site.rig.publish(AppTerminated(timestamp="now", app_id="/gone"))
        assert (await reader.frame())[0] == "app_terminated_event"
        await site.sleeper("/new")
        plan = (await reader.until("deployment_info"))["plan"]
    assert plan["target"] == {
        "id": "/", "version": plan["version"], "apps": [], "groups": [], "dependencies": [],
    }  # fmt: skip
    assert plan["original"]["version"] < plan["version"]


async def test_others_hear_that_a_subscriber_went(site: Any) -> None:
    async with listening(site, "?event_type=event_stream_detached") as reader:
        async with listening(site) as other:
            await other.frame()
        kind, body = await reader.frame()
        assert (kind, body["remoteAddress"]) == ("event_stream_detached", "127.0.0.1")


async def test_a_subscriber_that_leaves_too_much_lying_is_cut_off(
    make_site: Callable[..., Any],
) -> None:
    site = await make_site(event_stream_max_outstanding_messages=3)
    streams = http_events.EventStreams(site.rig)
    # Nobody takes anything from this stream, for no server has it.
    stream = await streams.subscribe(Request.make("GET", "/v2/events", headers=SSE))
    assert isinstance(stream, Stream)
    for number in range(2):
        site.rig.publish(AppTerminated(timestamp="now", app_id=f"/{number}"))
    assert (len(streams), stream.close_reason) == (1, None)
    site.rig.publish(AppTerminated(timestamp="now", app_id="/too-much"))
    assert (len(streams), stream.close_reason) == (0, "slow subscriber")


async def test_a_subscriber_that_keeps_up_is_never_cut_off(make_site: Callable[..., Any]) -> None:
    site = await make_site(event_stream_max_outstanding_messages=3)
    async with listening(site, "?event_type=app_terminated_event") as reader:
        for number in range(30):
            site.rig.publish(AppTerminated(timestamp="now", app_id=f"/{number}"))
            assert (await reader.frame())[1]["appId"] == f"/{number}"


async def test_a_bare_line_break_is_the_heartbeat(
    make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_events, "HEARTBEAT_S", 0.02)
    site = await make_site()
    async with listening(site, "?event_type=app_terminated_event") as reader:
        async with asyncio.timeout(WAIT_S):
            received = b""
            while len(received) < 6:
                received += await reader.answer.content.readany()
        assert received.startswith(b"\r\n\r\n\r\n")
        reader.buffer = b""
        site.rig.publish(AppTerminated(timestamp="now", app_id="/a"))
        assert (await reader.frame())[1]["appId"] == "/a"


async def test_only_so_many_may_listen(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_events, "MAX_SUBSCRIBERS", 1)
    async with listening(site) as reader:
        await reader.frame()
        refused = await site("GET", "/v2/events", headers=SSE)
        assert refused.status == 503
        assert refused.headers["Retry-After"] == "15"
