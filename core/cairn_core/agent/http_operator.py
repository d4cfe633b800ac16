"""The v1 operator API of the agent: `POST /api/v1`.

Source: mesos docs/operator-http-api.md, agent.proto. Reads answer 200. Nested containers, attaching
and resource providers are not served: 501 with the call's name.
"""

import logging

from msgspec.structs import replace

from cairn_core.agent.config import flags_of
from cairn_core.agent.http_legacy import AgentContext, Legacy, Usage
from cairn_core.agent.records import ExecutorRecord, FrameworkRecord, TaskRecord
from cairn_core.kit import operator_files
from cairn_core.kit.http_server import Answer, Handler, Options, Refused, Request, Response, Router
from cairn_core.mesos import codec
from cairn_core.mesos import operator_api as api
from cairn_core.mesos.types import (
    AgentID,
    ContainerID,
    ExecutorID,
    FrameworkID,
    Task,
    VersionInfo,
)


class Operator:
    """Answers operator calls."""

    def __init__(self, agent: AgentContext, legacy: Legacy, usage: Usage) -> None:
        self.agent = agent
        self.legacy = legacy
        self.usage = usage
        self._level = 0

    def mount(self, router: Router[Handler]) -> None:
        """Add the route; deeper paths answer too, for some clients post to `/api/v1/operator`."""
        router.add("/api/v1", self.handle, methods=("POST",), options=Options())

    async def handle(self, request: Request) -> Answer:
        """One call."""
        call = read_call(request)
        answer = await self._answer(call.type or "", call)
        return Response.json(answer) if isinstance(answer, api.Response) else answer

    async def _answer(self, kind: str, call: api.Call) -> Answer | api.Response:
        agent, state = self.agent, self.agent.state
        match kind:
            case "GET_HEALTH":
                return api.Response(type=kind, get_health=api.GetHealth(healthy=True))
            case "GET_FLAGS":
                flags = tuple(api.Flag(n, v) for n, v in flags_of(agent.config).items())
                return api.Response(type=kind, get_flags=api.GetFlags(flags))
            case "GET_VERSION":
                version = api.GetVersion(VersionInfo(version=agent.version))
                return api.Response(type=kind, get_version=version)
            case "GET_METRICS":
                metrics = tuple(api.Metric(n, v) for n, v in self.legacy.snapshot().items())
                return api.Response(type=kind, get_metrics=api.GetMetrics(metrics))
            case "GET_LOGGING_LEVEL":
                level = api.GetLoggingLevel(level=self._level)
                return api.Response(type=kind, get_logging_level=level)
            case "SET_LOGGING_LEVEL":
                return self._set_level(call)
            case "GET_AGENT":
                agent_id = AgentID(state.agent_id) if state.agent_id is not None else None
                info = replace(agent.info, id=agent_id)
                return api.Response(type=kind, get_agent=api.GetAgent(info))
            case "GET_STATE":
                return api.Response(
                    type=kind,
                    get_state=api.GetState(
                        get_tasks=self._tasks(),
                        get_executors=self._executors(),
                        get_frameworks=self._frameworks(),
                    ),
                )
            case "GET_TASKS":
                return api.Response(type=kind, get_tasks=self._tasks())
            case "GET_EXECUTORS":
                return api.Response(type=kind, get_executors=self._executors())
            case "GET_FRAMEWORKS":
                return api.Response(type=kind, get_frameworks=self._frameworks())
            case "GET_CONTAINERS":
                return api.Response(type=kind, get_containers=await self._containers())
            case "LIST_FILES" | "READ_FILE":
                return await operator_files.answer(agent.paths, call)
            case "GET_OPERATIONS":
                return api.Response(type=kind, get_operations=api.GetOperations())
            case "GET_RESOURCE_PROVIDERS":
                return Response.json({"type": kind, "get_resource_providers": {}})
            case _:
                raise Refused(501, f"call {kind} is not served by this agent yet")

    def _set_level(self, call: api.Call) -> Response:
        if call.set_logging_level is None:
            raise Refused(400, "call SET_LOGGING_LEVEL: field 'set_logging_level' is missing")
        level = call.set_logging_level.level
        if not 0 <= level <= 9:
            raise Refused(400, f"set_logging_level.level is {level}, not 0 to 9")
        self._level = level
        logging.getLogger("cairn_core").setLevel(logging.DEBUG if level else logging.INFO)
        return Response.empty()

    # ---- parts ------------------------------------------------------------------------------

    def _all_frameworks(self) -> list[FrameworkRecord]:
        return [*self.agent.state.frameworks.values(), *self.agent.state.completed_frameworks]

    def _frameworks(self) -> api.GetFrameworks:
        state = self.agent.state

        def shown(framework: FrameworkRecord, live: bool) -> api.Framework:
            return api.Framework(
                framework_info=framework.info, active=live, connected=live, recovered=False
            )

        return api.GetFrameworks(
            frameworks=tuple(shown(f, True) for f in state.frameworks.values()),
            completed_frameworks=tuple(shown(f, False) for f in state.completed_frameworks),
        )

    def _executors(self) -> api.GetExecutors:
        def shown(executor: ExecutorRecord) -> api.Executor:
            owner = FrameworkID(executor.framework_id)
            return api.Executor(executor_info=replace(executor.info, framework_id=owner))

        return api.GetExecutors(
            executors=tuple(shown(e) for e in self.agent.state.containers.values()),
            completed_executors=tuple(
                shown(e) for f in self._all_frameworks() for e in f.completed_executors
            ),
        )

    def _tasks(self) -> api.GetTasks:
        state = self.agent.state
        live = list(state.containers.values())
        past = [e for f in self._all_frameworks() for e in f.completed_executors]

        def shown(task: TaskRecord) -> Task:
            return task.as_task(state.id, state.streams.head(task.framework_id, task.id))

        return api.GetTasks(
            queued_tasks=tuple(shown(t) for e in live for t in e.queued.values()),
            launched_tasks=tuple(shown(t) for e in live for t in e.launched.values()),
            terminated_tasks=tuple(shown(t) for e in live for t in e.terminated.values()),
            completed_tasks=tuple(shown(t) for e in (*live, *past) for t in e.completed),
        )

    async def _containers(self) -> api.GetContainers:
        return api.GetContainers(
            containers=tuple(
                api.Container(
                    container_id=ContainerID(e.container_id),
                    framework_id=FrameworkID(e.framework_id),
                    executor_id=ExecutorID(e.id),
                    executor_name=e.info.name or "",
                    container_status=e.container_status,
                    resource_statistics=usage,
                )
                for e, usage in await self.usage.all()
            )
        )


def read_call(request: Request) -> api.Call:
    """The call of a request; raises Refused with the original's status codes."""
    if not request.content_type:
        raise Refused(400, "expecting 'Content-Type' to be present")
    if request.content_type != codec.JSON:
        raise Refused(415, f"expecting 'Content-Type' of '{codec.JSON}'")
    accept = request.headers.get("Accept", "*/*")
    if not any(kind in accept for kind in (codec.JSON, "*/*", "application/*")):
        raise Refused(406, f"expecting 'Accept' to allow '{codec.JSON}'")
    try:
        call = codec.decode(api.Call, request.body)
    except codec.DecodeError as error:
        raise Refused(400, f"failed to parse body into agent call: {error}") from None
    if not call.type:
        raise Refused(400, "failed to validate agent::Call: expecting 'type' to be present")
    if call.type not in api.AGENT_CALL_TYPES:
        raise Refused(501, f"call {call.type[:60]!r} is not known")
    return call
