"""The scheduler client against the fake master, over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest

from cairn_core.errors import RemoteError
from cairn_core.framework.io_client import (
    Disconnected,
    FrameworkEnded,
    Notice,
    NotSubscribed,
    SchedulerClient,
)
from cairn_core.mesos.scheduler_api import Event, Launch, Operation
from cairn_core.mesos.types import FrameworkID, FrameworkInfo, TaskStatus
from cairn_core.testing.fake_master import FakeMaster

INFO = FrameworkInfo(user="nobody", name="test")


class Recorder:
    """Keeps notices and lets a test wait for one."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self._queue: asyncio.Queue[Notice] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, notice: Notice) -> None:
        await self.gate.wait()
        self.notices.append(notice)
        self._queue.put_nowait(notice)

    async def next(self, kind: str) -> Event:
        async with asyncio.timeout(20):
            while True:
                notice = await self._queue.get()
                if isinstance(notice, Event) and notice.type == kind:
                    return notice

    async def disconnected(self) -> Disconnected:
        async with asyncio.timeout(20):
            while True:
                notice = await self._queue.get()
                if isinstance(notice, Disconnected):
                    return notice


@asynccontextmanager
async def running(client: SchedulerClient) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(client.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make(recorder: Recorder) -> Callable[..., SchedulerClient]:
    def client(*masters: str, **options: object) -> SchedulerClient:
        return SchedulerClient(masters, INFO, recorder.handle, rng=Random(1), **options)  # type: ignore[arg-type]  # options are passed through

    return client


async def test_offer_launch_update_acknowledge(
    make: Callable[..., SchedulerClient], recorder: Recorder
) -> None:
    async with FakeMaster() as master:
        client = make(master.url)
        with pytest.raises(NotSubscribed):
            await client.revive()
        async with running(client):
            await recorder.next("SUBSCRIBED")
            assert client.framework_id == FrameworkID("fake-0000")
            assert client.leader == master.url
            offer_id = master.offer("agent-1", cpus=1.0, mem=64.0)
            event = await recorder.next("OFFERS")
            assert event.offers is not None
            assert event.offers.offers[0].id == offer_id
            await client.accept([offer_id], [Operation(type="LAUNCH", launch=Launch())], 0.5)
            accepted = await master.call("ACCEPT")
            assert accepted.framework_id == client.framework_id
            assert accepted.accept is not None
            assert accepted.accept.filters is not None
            assert accepted.accept.filters.refuse_seconds == 0.5
            uuid = master.update("t1", "TASK_RUNNING")
            update = (await recorder.next("UPDATE")).update
            assert update is not None
            await client.acknowledge(update.status)
            acknowledged = (await master.call("ACKNOWLEDGE")).acknowledge
            assert acknowledged is not None
            assert acknowledged.uuid == uuid
            await client.acknowledge(TaskStatus(update.status.task_id, update.status.state))
            await client.teardown()
            await master.call("TEARDOWN")
        assert [call.type for call in master.calls].count("ACKNOWLEDGE") == 1


async def test_calls_arrive_in_the_order_in_which_they_were_made(
    make: Callable[..., SchedulerClient], recorder: Recorder
) -> None:
    async with FakeMaster() as master:
        client = make(master.url)
        async with running(client):
            await recorder.next("SUBSCRIBED")
            await asyncio.gather(*(client.revive([f"r{i}"]) for i in range(50)))
        roles = [call.revive.roles[0] for call in master.calls if call.revive]
        assert roles == [f"r{i}" for i in range(50)]


async def test_a_redirect_leads_to_the_leader_and_calls_go_there(
    make: Callable[..., SchedulerClient], recorder: Recorder
) -> None:
    async with FakeMaster() as leader, FakeMaster(redirect_to=leader.address) as other:
        client = make(other.url)
        async with running(client):
            await recorder.next("SUBSCRIBED")
            assert client.leader == leader.url
            await client.suppress()
        assert [call.type for call in leader.calls] == ["SUBSCRIBE", "SUPPRESS"]
        assert other.calls == []


async def test_a_broken_stream_is_subscribed_again_with_the_same_id(
    make: Callable[..., SchedulerClient], recorder: Recorder
) -> None:
    async with FakeMaster() as master:
        client = make(master.url)
        async with running(client):
            await recorder.next("SUBSCRIBED")
            master.disconnect()
            await recorder.disconnected()
            await recorder.next("SUBSCRIBED")
            await client.revive()
        subscriptions = [call for call in master.calls if call.type == "SUBSCRIBE"]
        assert [call.framework_id for call in subscriptions] == [None, FrameworkID("fake-0000")]


async def test_a_silent_master_is_left(
    make: Callable[..., SchedulerClient], recorder: Recorder
) -> None:
    async with FakeMaster(heartbeat_s=0.1) as master:
        client = make(master.url)
        async with running(client):
            await recorder.next("SUBSCRIBED")
            assert "nothing heard" in (await recorder.disconnected()).reason


async def test_the_next_master_is_asked_when_one_is_down(
    make: Callable[..., SchedulerClient], recorder: Recorder
) -> None:
    async with FakeMaster() as gone:
        address = gone.address
    async with FakeMaster() as busy, FakeMaster() as master:
        busy.refuse_with = 503
        client = make(address, busy.url, master.url)
        async with running(client):
            await recorder.next("SUBSCRIBED")
            assert client.leader == master.url


async def test_events_of_a_stream_that_is_gone_are_dropped(
    make: Callable[..., SchedulerClient], recorder: Recorder
) -> None:
    async with FakeMaster() as master:
        client = make(master.url)
        async with running(client):
            await recorder.next("SUBSCRIBED")
            recorder.gate.clear()
            master.update("t0", "TASK_RUNNING")
            stale = master.offer("agent-1", cpus=1.0)
            master.disconnect()
            # The second subscription is there before the handler goes on.
            await master.call("SUBSCRIBE")
            await master.call("SUBSCRIBE")
            recorder.gate.set()
            await recorder.next("SUBSCRIBED")
            fresh = master.offer("agent-1", cpus=1.0)
            event = await recorder.next("OFFERS")
            assert event.offers is not None
            assert event.offers.offers[0].id == fresh != stale


async def test_error_ends_the_client(
    make: Callable[..., SchedulerClient], recorder: Recorder
) -> None:
    async with FakeMaster() as master:
        task = asyncio.create_task(make(master.url).run(asyncio.Event()))
        await recorder.next("SUBSCRIBED")
        master.end("Framework failed over")
        with pytest.raises(FrameworkEnded) as caught:
            await asyncio.wait_for(task, 20)
        assert caught.value.reason == "Framework failed over"


async def test_a_framework_that_was_torn_down_does_not_come_back(
    make: Callable[..., SchedulerClient], recorder: Recorder
) -> None:
    async with FakeMaster() as master:
        client = make(master.url)
        task = asyncio.create_task(client.run(asyncio.Event()))
        await recorder.next("SUBSCRIBED")
        await client.teardown()
        master.disconnect()
        with pytest.raises(FrameworkEnded, match="torn down"):
            await asyncio.wait_for(task, 20)
        assert [call.type for call in master.calls] == ["SUBSCRIBE", "TEARDOWN"]


async def test_credentials_are_sent_and_wrong_ones_end_the_client(
    make: Callable[..., SchedulerClient], recorder: Recorder
) -> None:
    async with FakeMaster(secrets={"p": "s"}) as master:
        async with running(make(master.url, credential=("p", "s"))):
            await recorder.next("SUBSCRIBED")
        with pytest.raises(FrameworkEnded, match="401"):
            await asyncio.wait_for(make(master.url, credential=("p", "x")).run(asyncio.Event()), 20)


async def test_a_refused_call_tells_why(
    make: Callable[..., SchedulerClient], recorder: Recorder
) -> None:
    async with FakeMaster() as master:
        client = make(master.url)
        async with running(client):
            await recorder.next("SUBSCRIBED")
            master.refuse_with = 400
            with pytest.raises(RemoteError, match="refused on purpose"):
                await client.revive()


async def test_a_failing_handler_ends_the_client() -> None:
    async def broken(notice: Notice) -> None:
        raise ZeroDivisionError

    async with FakeMaster() as master:
        client = SchedulerClient([master.url], INFO, broken)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(client.run(asyncio.Event()), 20)
