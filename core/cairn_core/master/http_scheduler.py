"""The scheduler API over HTTP: calls in, the event stream out.

`POST /api/v1/scheduler`. The order of the checks and their statuses are those of Apache Mesos
(`src/master/http.cpp`, `src/master/validation.cpp`), so that clients see the answers they know. A
subscriber that lets 8 MiB pile up loses its stream; it never holds up the master.
"""

import asyncio
import re
import uuid
from collections import deque
from collections.abc import Mapping
from typing import Protocol

import msgspec

from cairn_core.kit.http_auth import check_basic
from cairn_core.kit.http_server import (
    Answer,
    Handler,
    Options,
    Refused,
    Request,
    Response,
    Router,
    Stream,
)
from cairn_core.master.http_context import MasterContext, check_leader
from cairn_core.master.scheduler_calls import fault_of_call
from cairn_core.master.state.core import CALLS
from cairn_core.master.state.effects import Reply
from cairn_core.mesos import codec, recordio, scheduler_api
from cairn_core.mesos.scheduler_api import HEARTBEAT, HEARTBEAT_INTERVAL_S, Call, Event

REALM = "mesos-master-scheduler"
STREAM_ID = "Mesos-Stream-Id"
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
#: What may be a number of more than 64 bits, which no protobuf message could hold.
_LARGE = re.compile(rb"[0-9]{19}|[0-9][eE]")
_HEARTBEAT = recordio.encode(codec.encode(HEARTBEAT))


class SchedulerFacts(MasterContext, Protocol):
    """The running master, as this module needs it."""

    def subscribe(
        self, stream_id: str, call: scheduler_api.Subscribe, principal: str | None
    ) -> None:
        """A framework opened a stream."""

    def stream_closed(self, stream_id: str) -> None:
        """A stream is closed."""

    def framework_call(self, framework_id: str, call: Call) -> None:
        """A call that is answered with 202."""

    async def update_framework(
        self, framework_id: str, call: scheduler_api.UpdateFramework
    ) -> Reply:
        """UPDATE_FRAMEWORK."""
        ...


class SchedulerApi:
    """The route and its streams. Made inside the loop.

    secrets: principal to secret when frameworks must authenticate, else None.
    """

    def __init__(self, master: SchedulerFacts, secrets: Mapping[str, str] | None) -> None:
        self._master = master
        self._secrets = secrets
        self._streams: dict[str, Stream] = {}
        self._beats: deque[tuple[float, str]] = deque()
        self._encoded: tuple[Event, bytes] = (HEARTBEAT, _HEARTBEAT)
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._streams)

    def mount(self, router: Router[Handler]) -> None:
        """Add the route. It takes all methods, because leadership is checked before the method."""
        router.add("/api/v1/scheduler", self._handle, _METHODS, options=Options(timeout_s=120.0))

    # Effects

    def send(self, stream_id: str, event: Event) -> None:
        """Queue an event."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if self._encoded[0] is not event:  # one event may go to every framework
            self._encoded = (event, recordio.encode(codec.encode(event)))
        stream.send(self._encoded[1])
        if event.type == "SUBSCRIBED":
            self._beat(stream_id, stream)

    def close(self, stream_id: str) -> None:
        """End a stream after what is queued."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.close()

    async def heartbeats(self, stop: asyncio.Event) -> None:
        """A service: a HEARTBEAT on every stream every 15 s."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                now = self._loop.time()
                while self._beats and self._beats[0][0] <= now:
                    _, stream_id = self._beats.popleft()
                    stream = self._streams.get(stream_id)
                    if stream is not None:
                        self._beat(stream_id, stream)
                await asyncio.wait({stopping}, timeout=1.0)
        finally:
            stopping.cancel()
            for stream in list(self._streams.values()):
                stream.close()

    def _beat(self, stream_id: str, stream: Stream) -> None:
        stream.send(_HEARTBEAT)
        self._beats.append((self._loop.time() + HEARTBEAT_INTERVAL_S, stream_id))

    # One request

    async def _handle(self, request: Request) -> Answer:
        check_leader(self._master, request)
        principal = self._authenticate(request)
        if request.method != "POST":
            raise Refused(405, "Expecting one of { 'POST' }", headers={"Allow": "POST"}, text=True)
        call = _decode(request)
        fault = fault_of_call(call)
        if fault is not None:
            raise Refused(400, f"Failed to validate scheduler::Call: {fault}", text=True)
        stream_id = request.headers.get(STREAM_ID)
        if call.type == "SUBSCRIBE":
            return self._subscribe(request, call, stream_id, principal)
        framework_id = self._check_stream(call, stream_id, principal)
        if call.type == "UPDATE_FRAMEWORK":
            assert call.update_framework is not None
            reply = await self._master.update_framework(framework_id, call.update_framework)
            return Response.text(reply.message, reply.status)
        if call.type not in CALLS:
            raise Refused(501, f"Call {str(call.type)[:60]} is not implemented", text=True)
        self._master.framework_call(framework_id, call)
        return Response.empty(202)

    def _authenticate(self, request: Request) -> str | None:
        if self._secrets is None:
            return None
        principal = check_basic(request.headers.get("Authorization"), self._secrets)
        if principal is None:
            raise Refused(
                401,
                "Unauthenticated",
                headers={"WWW-Authenticate": f'Basic realm="{REALM}"'},
                text=True,
            )
        return principal

    def _subscribe(
        self, request: Request, call: Call, stream_id: str | None, principal: str | None
    ) -> Answer:
        if not _accepts_json(request.headers.get("Accept")):
            raise Refused(406, "Expecting 'Accept' to allow 'application/json'", text=True)
        if stream_id is not None:
            raise Refused(
                400, f"Subscribe calls should not include the '{STREAM_ID}' header", text=True
            )
        assert call.subscribe is not None
        new_id = str(uuid.uuid4())

        def closed(reason: str) -> None:
            # The rules may be in the midst of a fact, so this one waits for its turn.
            self._loop.call_soon(self._closed, new_id)

        stream = Stream(codec.JSON, headers={STREAM_ID: new_id}, on_close=closed)
        self._streams[new_id] = stream
        self._master.subscribe(new_id, call.subscribe, principal)
        return stream

    def _closed(self, stream_id: str) -> None:
        self._streams.pop(stream_id, None)
        self._master.stream_closed(stream_id)

    def _check_stream(self, call: Call, stream_id: str | None, principal: str | None) -> str:
        assert call.framework_id is not None
        framework = self._master.cluster.frameworks.get(call.framework_id.value)
        if framework is None:
            raise Refused(400, "Framework cannot be found", text=True)
        if principal is not None and framework.principal != principal:
            raise Refused(
                400, "Authenticated principal does not match that of the framework", text=True
            )
        if not framework.connected:
            raise Refused(403, "Framework is not subscribed", text=True)
        if stream_id is None:
            raise Refused(
                400, f"All non-subscribe calls should include the '{STREAM_ID}' header", text=True
            )
        if stream_id != framework.stream_id:
            raise Refused(
                400,
                f"The stream ID '{stream_id[:128]}' included in this request didn't match the "
                "stream ID currently associated with the framework",
                text=True,
            )
        return framework.framework_id


def _decode(request: Request) -> Call:
    kind = request.content_type
    if not kind:
        raise Refused(400, "Expecting 'Content-Type' to be present", text=True)
    if kind != codec.JSON:
        raise Refused(415, f"Expecting 'Content-Type' of {codec.JSON}", text=True)
    try:
        call = codec.decode(Call, request.body)
        if _LARGE.search(request.body):
            msgspec.msgpack.encode(call)
    except codec.DecodeError as error:
        raise Refused(400, f"Failed to parse body into Call: {error.problem}", text=True) from None
    except OverflowError:
        raise Refused(
            400, "Failed to parse body into Call: an integer has more than 64 bits", text=True
        ) from None
    return call


def _accepts_json(accept: str | None) -> bool:
    """Whether an Accept header lets JSON pass; quality 0 excludes."""
    if accept is None or not accept.strip():
        return True
    for item in accept.split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        if media in (codec.JSON, "application/*", "*/*") and "q=0" not in parameters:
            return True
    return False
