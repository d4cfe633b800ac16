"""A master of the v1 scheduler API for tests of frameworks, in this process.

    async with FakeMaster() as master:
        client = SchedulerClient([master.url], ...)
        ...
        master.offer("agent-1", cpus=1, mem=64)
        launched = await master.call("ACCEPT")
        master.update(task_id, "TASK_RUNNING")

It answers the calls of the real one with the same statuses (stream id, unknown framework) and
keeps what it was sent; nothing is scheduled by itself.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from cairn_core.errors import RemoteError
from cairn_core.kit.http_auth import check_basic
from cairn_core.kit.http_server import (
    Answer,
    Handler,
    HttpServer,
    Request,
    Response,
    Router,
    Stream,
)
from cairn_core.mesos import codec, recordio
from cairn_core.mesos.scheduler_api import (
    HEARTBEAT,
    Call,
    Error,
    Event,
    Offer,
    Offers,
    Rescind,
    Subscribed,
    Update,
)
from cairn_core.mesos.types import (
    AgentID,
    AllocationInfo,
    FrameworkID,
    MasterInfo,
    OfferID,
    Resource,
    Scalar,
    TaskID,
    TaskState,
    TaskStatus,
)

STREAM_ID = "Mesos-Stream-Id"
#: Longest wait of a test for a call, seconds.
WAIT_S = 20.0


class FakeMaster:
    """One master with one port; use it as a context.

    redirect_to: answer 307 to this `host:port`, as a master that does not lead.
    secrets: principal -> secret; None asks for no authentication.
    heartbeat_s: what SUBSCRIBED announces; heartbeats are sent by `heartbeat` only.
    """

    def __init__(
        self,
        *,
        redirect_to: str | None = None,
        secrets: Mapping[str, str] | None = None,
        heartbeat_s: float = 15.0,
        port: int = 0,
    ) -> None:
        self.redirect_to = redirect_to
        #: Answer every request with this status; 0 answers properly.
        self.refuse_with = 0
        #: Every call that was accepted, in order, SUBSCRIBE among them.
        self.calls: list[Call] = []
        self._secrets = secrets
        self._heartbeat_s = heartbeat_s
        self._listen = ("127.0.0.1", port)
        self._stream: Stream | None = None
        self._stream_id = ""
        self._known: set[str] = set()
        self._numbers = itertools.count()
        self._called = asyncio.Condition()
        self._taken = 0
        router: Router[Handler] = Router(twins=("/master",))
        router.add("/api/v1/scheduler", self._answer, ("POST",))
        self._server = HttpServer(router)

    async def __aenter__(self) -> "FakeMaster":
        await self._server.start(self._listen)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.disconnect()
        await self._server.drain(0)

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._server.port}"

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{self.address}"

    # -- what tests do -----------------------------------------------------------------------

    def send(self, event: Event) -> bool:
        """Send any event; False when nobody is subscribed."""
        if self._stream is None:
            return False
        return self._stream.send(recordio.encode(codec.encode(event)))

    def heartbeat(self) -> bool:
        """Send a heartbeat."""
        return self.send(HEARTBEAT)

    def offer(self, agent_id: str, *, role: str = "*", **scalars: float) -> OfferID:
        """Offer the scalar resources of one agent."""
        offer_id = OfferID(f"O{next(self._numbers)}")
        allocation = AllocationInfo(role)
        resources = tuple(
            Resource(name=name, type="SCALAR", scalar=Scalar(value), allocation_info=allocation)
            for name, value in scalars.items()
        )
        offer = Offer(
            offer_id, FrameworkID(self._last_framework()), AgentID(agent_id), agent_id,
            resources=resources, allocation_info=allocation,
        )  # fmt: skip
        self.send(Event(type="OFFERS", offers=Offers((offer,))))
        return offer_id

    def rescind(self, offer_id: OfferID) -> None:
        """Take an offer back."""
        self.send(Event(type="RESCIND", rescind=Rescind(offer_id)))

    def update(self, task_id: str, state: str, agent_id: str = "agent-1", **fields: Any) -> bytes:
        """Send a status update that wants to be acknowledged; returns its uuid."""
        uuid = next(self._numbers).to_bytes(16, "big")
        status = TaskStatus(
            TaskID(task_id), TaskState(state), agent_id=AgentID(agent_id), uuid=uuid, **fields
        )
        self.send(Event(type="UPDATE", update=Update(status)))
        return uuid

    def end(self, message: str) -> None:
        """Send ERROR and close the stream."""
        self.send(Event(type="ERROR", error=Error(message)))
        if self._stream is not None:
            self._stream.close()

    def disconnect(self) -> None:
        """Cut the stream, as a master that dies."""
        if self._stream is not None:
            self._stream.abort("disconnected by the test")
            self._stream = None

    async def call(self, kind: str, matches: Callable[[Call], bool] = lambda call: True) -> Call:
        """The next call of this type, in the order of arrival; others before it are skipped.

        Raises TimeoutError.
        """
        async with asyncio.timeout(WAIT_S), self._called:
            while True:
                while self._taken < len(self.calls):
                    call = self.calls[self._taken]
                    self._taken += 1
                    if call.type == kind and matches(call):
                        return call
                await self._called.wait()

    # -- HTTP --------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Answer:
        if self.redirect_to is not None:
            location = f"//{self.redirect_to}{request.path}"
            return Response.empty(307, {"Location": location})
        if self.refuse_with:
            return Response.text("refused on purpose", self.refuse_with)
        authorization = request.headers.get("Authorization")
        if self._secrets is not None and check_basic(authorization, self._secrets) is None:
            challenge = 'Basic realm="mesos-master-scheduler"'
            return Response.empty(401, {"WWW-Authenticate": challenge})
        try:
            call = codec.decode(Call, request.body, request.content_type)
        except RemoteError as error:
            return Response.text(f"Failed to validate scheduler::Call: {error}", 400)
        answer: Answer
        if call.type == "SUBSCRIBE" and call.subscribe is not None:
            answer = self._subscribe(call)
        elif call.framework_id is None or call.framework_id.value not in self._known:
            return Response.text("Framework cannot be found", 400)
        elif self._stream is None or self._stream.closed:
            return Response.text("Framework is not subscribed", 403)
        elif request.headers.get(STREAM_ID) != self._stream_id:
            return Response.text("The stream ID does not match", 400)
        else:
            answer = Response.empty(200 if call.type == "UPDATE_FRAMEWORK" else 202)
        self.calls.append(call)
        async with self._called:
            self._called.notify_all()
        return answer

    def _subscribe(self, call: Call) -> Stream:
        self.disconnect()
        framework_id = call.framework_id or FrameworkID(f"fake-{next(self._numbers):04}")
        self._known.add(framework_id.value)
        self._stream_id = f"stream-{next(self._numbers)}"
        self._stream = Stream(codec.JSON, headers={STREAM_ID: self._stream_id})
        master = MasterInfo("fake", 0x0100007F, self._server.port)
        subscribed = Subscribed(framework_id, self._heartbeat_s, master)
        self.send(Event(type="SUBSCRIBED", subscribed=subscribed))
        self.heartbeat()
        return self._stream

    def _last_framework(self) -> str:
        subscribed = [call for call in self.calls if call.type == "SUBSCRIBE"]
        named = subscribed[-1].framework_id if subscribed else None
        return named.value if named else max(self._known, default="none")
