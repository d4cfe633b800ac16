"""The scheduler client: one subscription kept open, calls as methods, events in order.

    client = SchedulerClient(["http://master:5050"], FrameworkInfo(...), handle)
    await client.run(stop)            # a service for kit.daemon.run

`handle` is awaited for one notice at a time: events as they come, and `Disconnected`.  While it
works, further events wait in a bounded queue; when that is full the stream is not read, and the
master closes it if that lasts.  Events of a stream that is gone are dropped: its offers are void,
and unacknowledged updates come again.
"""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import TypeAlias

import msgspec

from cairn_core.errors import RemoteError, Unavailable, shorten
from cairn_core.kit.http_client import HttpClient, StreamReply
from cairn_core.mesos import codec
from cairn_core.mesos.scheduler_api import (
    Accept,
    Acknowledge,
    AcknowledgeOperationStatus,
    Call,
    Decline,
    Event,
    Kill,
    Operation,
    Reconcile,
    Revive,
    SchedulerMessage,
    Shutdown,
    Suppress,
    UpdateFramework,
)
from cairn_core.mesos.types import (
    AgentID,
    ExecutorID,
    Filters,
    FrameworkID,
    FrameworkInfo,
    KillPolicy,
    OfferID,
    TaskID,
    TaskStatus,
)

from .session import Connect, Deliver, Disconnect, Effect, End, Session, State

log = logging.getLogger(__name__)

SCHEDULER_PATH = "/api/v1/scheduler"
STREAM_ID = "Mesos-Stream-Id"
#: Events that may wait for the handler.
MAX_QUEUED_EVENTS = 1024
#: Seconds for one call, connect included.
CALL_TIMEOUT_S = 30.0


class FrameworkEnded(RemoteError):
    """The master sent ERROR or refused the subscription for good; `reason` is its text."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the master ended the subscription: {shorten(reason)}")
        self.reason = reason


class NotSubscribed(Unavailable):
    """A call was made while no stream is open; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The stream is gone and a new one is being sought; every offer is void."""

    reason: str


Notice: TypeAlias = Event | Disconnected


@dataclass(frozen=True, slots=True)
class _Open:
    """The stream that is open: where calls go, and which streams' events are still valid."""

    url: str
    stream_id: str
    number: int


class SchedulerClient:
    """A framework's connection to the leading master.

    masters: base URLs (`http://host:5050`), any of which redirects to the leader or leads.
    credential: (principal, secret) for Basic authentication.
    """

    def __init__(
        self,
        masters: Sequence[str],
        framework: FrameworkInfo,
        handle: Callable[[Notice], Awaitable[None]],
        *,
        credential: tuple[str, str] | None = None,
        suppressed_roles: tuple[str, ...] = (),
        rng: Random | None = None,
    ) -> None:
        urls = [url if "://" in url else f"http://{url}" for url in masters]
        self._session = Session(
            [url.rstrip("/") for url in urls],
            framework,
            rng or SystemRandom(),
            suppressed_roles=suppressed_roles,
        )
        self._handle = handle
        headers = {"Content-Type": codec.JSON, "Accept": codec.JSON}
        if credential is not None:
            token = base64.b64encode(":".join(credential).encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        self._http = HttpClient(total_s=CALL_TIMEOUT_S, headers=headers)
        self._queue: asyncio.Queue[tuple[int, Notice]] = asyncio.Queue(MAX_QUEUED_EVENTS)
        self._open: _Open | None = None
        self._torn_down = False
        self._told = ""  #: the reason for having no stream that was logged last
        self._streams = 0
        # Calls are sent one after the other: a KILL must not overtake its ACCEPT.
        self._sending = asyncio.Lock()

    @property
    def framework_id(self) -> FrameworkID | None:
        """What the master named us; keep it and put it into `FrameworkInfo.id` next time."""
        return self._session.framework.id

    @property
    def subscribed(self) -> bool:
        """Whether calls can be made now."""
        return self._session.state is State.SUBSCRIBED

    @property
    def leader(self) -> str | None:
        """Base URL of the master that we are subscribed at."""
        return self._open.url.removesuffix(SCHEDULER_PATH) if self._open else None

    async def run(self, stop: asyncio.Event) -> None:
        """Stay subscribed until `stop`.

        Raises FrameworkEnded (alone, not in a group), and what the handler raises.
        """
        async with self._http:
            delivering = asyncio.create_task(self._deliver(), name="scheduler-events")
            subscribing = asyncio.create_task(self._subscribe(), name="scheduler-stream")
            stopping = asyncio.create_task(stop.wait(), name="scheduler-stop")
            tasks = (delivering, subscribing, stopping)
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                self._open = None
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    # -- calls -------------------------------------------------------------------------------

    async def call(self, call: Call) -> None:
        """Send any call; the framework id is filled in.

        Raises NotSubscribed, Unavailable (nobody knows whether it arrived: expect the events,
        or reconcile), RemoteError (the master refused it).
        """
        async with self._sending:
            await self._post(call)

    async def _post(self, call: Call) -> None:
        """Send a call at once.  Raises as `call`."""
        if self._open is None or not self.subscribed:
            raise NotSubscribed(f"cannot send {call.type}: not subscribed")
        reply = await self._http.request(
            "POST",
            self._open.url,
            body=codec.encode(msgspec.structs.replace(call, framework_id=self.framework_id)),
            headers={STREAM_ID: self._open.stream_id},
            redirects=0,
        )
        if reply.status in (307, 308):
            raise NotSubscribed(f"cannot send {call.type}: {reply.url} does not lead any more")
        reply.expect()

    async def accept(
        self,
        offer_ids: Iterable[OfferID],
        operations: Iterable[Operation],
        refuse_s: float | None = None,
    ) -> None:
        """Use offers of one agent; what is left is refused for `refuse_s` (None: 5 s)."""
        body = Accept(tuple(offer_ids), tuple(operations), _filters(refuse_s))
        await self.call(Call(type="ACCEPT", accept=body))

    async def decline(self, offer_ids: Iterable[OfferID], refuse_s: float | None = None) -> None:
        """Give offers back and do not want them again for `refuse_s` (None: 5 s)."""
        body = Decline(tuple(offer_ids), _filters(refuse_s))
        await self.call(Call(type="DECLINE", decline=body))

    async def revive(self, roles: Iterable[str] = ()) -> None:
        """Want offers again, whatever was declined; no roles means all."""
        await self.call(Call(type="REVIVE", revive=Revive(tuple(roles))))

    async def suppress(self, roles: Iterable[str] = ()) -> None:
        """Want no offers; no roles means all."""
        await self.call(Call(type="SUPPRESS", suppress=Suppress(tuple(roles))))

    async def kill(
        self,
        task_id: TaskID,
        agent_id: AgentID | None = None,
        kill_policy: KillPolicy | None = None,
    ) -> None:
        """End a task; a terminal update follows."""
        await self.call(Call(type="KILL", kill=Kill(task_id, agent_id, kill_policy)))

    async def shutdown(self, executor_id: ExecutorID, agent_id: AgentID) -> None:
        """End an executor and its tasks."""
        await self.call(Call(type="SHUTDOWN", shutdown=Shutdown(executor_id, agent_id)))

    async def acknowledge(self, status: TaskStatus) -> None:
        """Confirm an update once its meaning is safe; one without uuid needs none.

        Acknowledgements have no order among calls: several may be on their way at once.
        """
        if status.uuid is None or status.agent_id is None:
            return
        body = Acknowledge(status.agent_id, status.task_id, status.uuid)
        await self._post(Call(type="ACKNOWLEDGE", acknowledge=body))

    async def acknowledge_operation(self, body: AcknowledgeOperationStatus) -> None:
        """Confirm an update of an operation."""
        call = Call(type="ACKNOWLEDGE_OPERATION_STATUS", acknowledge_operation_status=body)
        await self.call(call)

    async def reconcile(self, body: Reconcile) -> None:
        """Ask for task states (`reconciliation.Reconciliation` makes the calls)."""
        await self.call(Call(type="RECONCILE", reconcile=body))

    async def message(self, agent_id: AgentID, executor_id: ExecutorID, data: bytes) -> None:
        """Send data to an executor, best effort."""
        await self.call(Call(type="MESSAGE", message=SchedulerMessage(agent_id, executor_id, data)))

    async def teardown(self) -> None:
        """Remove the framework and kill its tasks; its id can never be used again.

        `run` then ends with FrameworkEnded.
        """
        self._torn_down = True  # the stream may end before the answer comes
        try:
            await self.call(Call(type="TEARDOWN"))
        except BaseException:
            self._torn_down = False
            raise

    async def update_framework(
        self, framework: FrameworkInfo, suppressed_roles: tuple[str, ...] = ()
    ) -> None:
        """Change the framework in place.  Raises RemoteError when the master refuses it."""
        framework = msgspec.structs.replace(framework, id=self.framework_id)
        body = UpdateFramework(framework, suppressed_roles)
        await self.call(Call(type="UPDATE_FRAMEWORK", update_framework=body))
        self._session.framework = framework
        self._session.suppressed_roles = suppressed_roles

    # -- the stream --------------------------------------------------------------------------

    async def _subscribe(self) -> None:
        """Keep a stream open; ends only by an exception."""
        while True:
            effects = await self._one_stream(self._session.begin(now=_now()))
            for effect in effects:
                match effect:
                    case Disconnect() if self._torn_down:
                        raise FrameworkEnded("torn down, as we asked")
                    case Disconnect(reason, retry_at):
                        wait_s = max(0.0, retry_at - _now())
                        # A master that stays away is reported once.
                        level = logging.DEBUG if reason == self._told else logging.WARNING
                        self._told = reason
                        log.log(
                            level, "not subscribed reason=%s retrying in %.1f s",
                            shorten(reason), wait_s,
                        )  # fmt: skip
                        await self._queue.put((self._streams, Disconnected(reason)))
                        await asyncio.sleep(wait_s)
                    case End(reason):
                        raise FrameworkEnded(reason)
                    case Connect() | Deliver():
                        raise AssertionError(f"{effect} after the end of a stream")

    async def _one_stream(self, connect: Connect) -> list[Effect]:
        """One subscription from its call to its end, and the effects of the end."""
        session = self._session
        url, body = connect.url + SCHEDULER_PATH, codec.encode(connect.call)
        try:
            async with (
                asyncio.timeout_at(session.deadline()) as limit,
                self._http.stream("POST", url, body=body, idle_s=None) as reply,
            ):
                return await self._read(reply, limit)
        except TimeoutError:
            return session.silent(now=max(_now(), session.deadline() or 0.0))
        except (Unavailable, RemoteError) as error:
            return session.lost(str(error), now=_now())
        finally:
            self._open = None

    async def _read(self, reply: StreamReply, limit: asyncio.Timeout) -> list[Effect]:
        session = self._session
        text = ""
        if reply.status != 200:
            text = shorten((await reply.read()).decode(errors="replace"))
        if effects := session.opened(reply.status, text, now=_now()):
            return effects
        self._streams += 1
        self._open = _Open(reply.url, reply.headers.get(STREAM_ID, ""), self._streams)
        async for record in reply.records():
            event = codec.decode(Event, record)
            for effect in session.received(event, now=_now()):
                if not isinstance(effect, Deliver):
                    return [effect]
                if event.type == "SUBSCRIBED":
                    self._told = ""
                    log.info("subscribed at=%s framework=%s", reply.url, self.framework_id)
                limit.reschedule(None)
                await self._queue.put((self._streams, event))
                session.listening(now=_now())
            limit.reschedule(session.deadline())
        return session.lost("the master closed the stream", now=_now())

    async def _deliver(self) -> None:
        while True:
            number, notice = await self._queue.get()
            stale = self._open is None or number != self._open.number
            if stale and not isinstance(notice, Disconnected):
                continue
            await self._handle(notice)


def _filters(refuse_s: float | None) -> Filters | None:
    return None if refuse_s is None else Filters(refuse_seconds=refuse_s)


def _now() -> float:
    return asyncio.get_running_loop().time()
