"""The v1 executor API: `POST /api/v1/executor`, over TCP and over the domain socket.

Source: mesos docs/executor-http-api.md, `src/slave/http.cpp` (order of checks). A call is 202 or a
stream of events for SUBSCRIBE; what it leads to comes as events. Each executor has one stream; a
second SUBSCRIBE closes the first.

Who calls: a token per container, made at its launch, in `Authorization: Bearer`. A wrong token is
always refused; none at all is accepted from executors of others unless
`--authenticate_http_executors`, because not every library sends it.
"""

import asyncio
import contextlib
import hmac
import itertools
import logging
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from cairn_core.agent.effects import (
    ExecutorDisconnected,
    ExecutorMessage,
    ExecutorSubscribed,
    ExecutorUpdate,
    Fact,
)
from cairn_core.agent.records import ExecutorRecord
from cairn_core.agent.state import AgentState
from cairn_core.extensions import Limitation
from cairn_core.kit.http_server import Answer, Handler, Refused, Request, Response, Router, Stream
from cairn_core.mesos import codec, executor_api, recordio
from cairn_core.mesos.types import Source, TaskResourceLimitation, TaskState, TaskStatus
from cairn_core.resources import Resources

log = logging.getLogger(__name__)

PATH = "/api/v1/executor"
UUID_BYTES = 16


class ExecutorFront:
    """Streams and calls of all executors of one agent.

    feed: gives a fact to the rules. limitation: the limit that a container has gone over.
    decorated: adds to a status of a framework's task what hooks say.
    ready: False while the agent recovers (503 then).
    """

    def __init__(
        self,
        state: AgentState,
        feed: Callable[[Fact], None],
        limitation: Callable[[str], Awaitable[Limitation | None]],
        decorated: Callable[[str, TaskStatus], TaskStatus],
        *,
        require_token: bool,
    ) -> None:
        self.ready = False
        self._limitation = limitation
        self._decorated = decorated
        self._state = state
        self._feed = feed
        self._require_token = require_token
        self._streams: dict[tuple[str, str], tuple[int, Stream]] = {}
        self._numbers = itertools.count(1)

    def mount(self, router: Router[Handler]) -> None:
        """Add the route."""
        router.add(PATH, self.handle, methods=("POST",))

    def send(
        self, framework_id: str, executor_id: str, number: int, event: executor_api.Event
    ) -> bool:
        """Send an event on a stream; False when it is not the executor's present one."""
        present, stream = self._streams.get((framework_id, executor_id), (0, None))
        if stream is None or present != number:
            return False
        return stream.send(recordio.encode(codec.encode(event)))

    def close(self, framework_id: str, executor_id: str) -> None:
        """End an executor's stream."""
        _, stream = self._streams.pop((framework_id, executor_id), (0, None))
        if stream is not None:
            stream.close()

    async def heartbeats(self, stop: asyncio.Event) -> None:
        """A service: keeps the streams from looking dead to what lies between."""
        beat = recordio.encode(codec.encode(executor_api.HEARTBEAT))
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(executor_api.HEARTBEAT_INTERVAL_S):
                    await stop.wait()
                    return
            for _, stream in list(self._streams.values()):
                stream.send(beat)

    async def handle(self, request: Request) -> Answer:
        """One call."""
        if not self.ready:
            raise Refused(503, "the agent has not finished recovery")
        call = read_call(request)
        executor = self._executor(call)
        self._authenticate(request, executor)
        framework_id, executor_id = call.framework_id.value, call.executor_id.value
        if call.type == "SUBSCRIBE":
            return self._subscribe(request, call, executor)
        if call.type == "HEARTBEAT":
            return Response.empty(202)
        if not executor.connected:
            raise Refused(403, "executor is not subscribed")
        if call.type == "UPDATE" and call.update is not None:
            status = await self._explained(call.update.status, executor)
            status = self._decorated(framework_id, status)
            self._feed(ExecutorUpdate(framework_id, executor_id, status))
        elif call.type == "MESSAGE" and call.message is not None:
            self._feed(ExecutorMessage(framework_id, executor_id, call.message.data))
        return Response.empty(202)

    async def _explained(self, status: TaskStatus, executor: ExecutorRecord) -> TaskStatus:
        """A failure with the limit behind it.

        An executor sees its task killed by the kernel before we are told that memory ran out.
        """
        if status.state is not TaskState.FAILED:
            return status
        found = await self._limitation(executor.container_id)
        if found is None:
            return status
        amounts = Resources.from_quantities(found.resources).to_wire()
        return replace(
            status,
            reason=found.reason,
            message=found.message,
            limitation=TaskResourceLimitation(tuple(amounts)),
        )

    def _executor(self, call: executor_api.Call) -> ExecutorRecord:
        framework_id, executor_id = call.framework_id.value, call.executor_id.value
        if framework_id not in self._state.frameworks:
            raise Refused(400, "framework cannot be found")
        executor = self._state.find_executor(framework_id, executor_id)
        if executor is None:
            raise Refused(400, "executor cannot be found")
        return executor

    def _authenticate(self, request: Request, executor: ExecutorRecord) -> None:
        header = request.headers.get("Authorization")
        if header is None:
            if self._require_token or executor.is_command:
                raise Refused(
                    401,
                    "no token",
                    headers={"WWW-Authenticate": 'Bearer realm="mesos-agent-executor"'},
                )
            return
        scheme, _, token = header.partition(" ")
        given = token.strip().encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, executor.token.encode()):
            raise Refused(403, "the token is not that of this executor's container")

    def _subscribe(
        self, request: Request, call: executor_api.Call, executor: ExecutorRecord
    ) -> Answer:
        accept = request.headers.get("Accept", "*/*")
        if not any(kind in accept for kind in (codec.JSON, "*/*", "application/*")):
            raise Refused(406, f"expecting 'Accept' to allow '{codec.JSON}'")
        key = (call.framework_id.value, call.executor_id.value)
        _, older = self._streams.pop(key, (0, None))
        if older is not None:
            older.close()
        number = next(self._numbers)

        def closed(reason: str) -> None:
            if self._streams.get(key, (0, None))[0] == number:
                del self._streams[key]
                self._feed(ExecutorDisconnected(*key))

        stream = Stream(codec.JSON, on_close=closed)
        self._streams[key] = (number, stream)
        subscribe = call.subscribe or executor_api.Subscribe()
        log.info("executor subscribed framework=%s executor=%s", *key)
        self._feed(
            ExecutorSubscribed(
                *key,
                number,
                subscribe.unacknowledged_tasks,
                tuple(
                    u.status for u in subscribe.unacknowledged_updates if _problem(u.status) is None
                ),
            )
        )
        return stream


def read_call(request: Request) -> executor_api.Call:
    """The call of a request; raises Refused with the original's status codes."""
    if not request.content_type:
        raise Refused(400, "expecting 'Content-Type' to be present")
    if request.content_type != codec.JSON:
        raise Refused(415, f"expecting 'Content-Type' of '{codec.JSON}'")
    try:
        call = codec.decode(executor_api.Call, request.body)
    except codec.DecodeError as error:
        raise Refused(400, f"failed to parse body into executor call: {error}") from None
    problem = validate(call)
    if problem is not None:
        raise Refused(400, f"failed to validate executor::Call: {problem}")
    if call.type not in executor_api.CALL_TYPES:
        raise Refused(501, f"call {call.type!r} is not known")
    return call


def validate(call: executor_api.Call) -> str | None:
    """What is wrong with the structure of a call, or None."""
    if not call.type:
        return "expecting 'type' to be present"
    if call.type == "UPDATE":
        return (
            "expecting 'update' to be present"
            if call.update is None
            else _problem(call.update.status)
        )
    if call.type == "MESSAGE" and call.message is None:
        return "expecting 'message' to be present"
    return None


def _problem(status: TaskStatus) -> str | None:
    """What is wrong with an update of an executor, or None."""
    if status.uuid is None:
        return "expecting 'uuid' to be present"
    if len(status.uuid) != UUID_BYTES:
        return f"'uuid' has {len(status.uuid)} bytes, not {UUID_BYTES}"
    if status.source != Source.EXECUTOR:
        return f"received call from executor with 'source' {status.source!r}"
    if status.state is TaskState.STAGING:
        return "received TASK_STAGING from executor, which is not allowed"
    return None
