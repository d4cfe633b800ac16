"""`/v2/tasks`, and the tasks of apps: lists, endpoints as plain text, kills.

Source: the released Marathon's task resources. A kill without `scale` is followed by a new launch;
with `scale` the app gets smaller, which is a deployment.
"""

from collections.abc import Iterable, Sequence

from cairn_core.kit.http_types import Answer, Handler, Request, Response
from cairn_core.kit.routes import Router
from cairn_core.mesos.types import TaskState
from cairn_scheduler.marathon.app_view import AppViews, array
from cairn_scheduler.marathon.context import MarathonContext
from cairn_scheduler.marathon.effects import Deployed
from cairn_scheduler.marathon.endpoints import endpoints_text
from cairn_scheduler.marathon.errors import (
    BadRequest,
    InvalidJson,
    UnmappableJson,
    fault,
    scale_and_wipe,
    task_not_found,
)
from cairn_scheduler.marathon.http_request import (
    EXACT,
    answer_deployed,
    is_strict,
    wants_text,
)
from cairn_scheduler.marathon.instance_ids import parse_task_id
from cairn_scheduler.marathon.instances import Instance
from cairn_scheduler.marathon.json_input import parse

#: Most tasks that one request may kill by name.
MAX_IDS = 10_000
_STATES = {"running": TaskState.RUNNING, "staging": TaskState.STAGING}


class TaskResource:
    """The handlers."""

    def __init__(self, marathon: MarathonContext, views: AppViews) -> None:
        self.marathon = marathon
        self.views = views

    def mount(self, router: Router[Handler]) -> None:
        """Add the routes of `/v2/tasks`; those below apps are found by `http_apps`."""
        router.add("/v2/tasks", self.list_all, ("GET",), options=EXACT)
        router.add("/v2/tasks/delete", self.kill_named, ("POST",), options=EXACT)

    async def list_all(self, request: Request) -> Answer:
        """`GET /v2/tasks`."""
        tables = self.marathon.tables
        if wants_text(request):
            given = request.query.getall("containerNetworks", ())
            names = {name.strip() for text in given for name in text.split(",")} - {""}
            return Response.text(endpoints_text(tables, names))
        wanted = {
            _STATES[value.lower()]
            for name in ("status", "status[]")
            for value in request.query.getall(name, ())
            if value.lower() in _STATES
        }
        instances = (
            instance
            for app_id in sorted(tables.by_app)
            for instance in tables.instances_of(app_id)
            if instance.task is not None and (not wanted or instance.condition.task_state in wanted)
        )
        strict = is_strict(request, self.marathon.config)
        return _tasks(self.views.task_with_service_ports(i, strict=strict) for i in instances)

    async def list_below(self, request: Request, *, group_id: str) -> Answer:
        """`GET /v2/apps/<group>/*/tasks`."""
        apps = self.marathon.tables.root.apps_below(group_id)
        strict = is_strict(request, self.marathon.config)
        return _tasks(piece for app in apps for piece in self.views.tasks(app.id, strict=strict))

    async def list_of_app(self, request: Request, *, app_id: str) -> Answer:
        """`GET /v2/apps/<id>/tasks`."""
        tables = self.marathon.tables
        tables.root.app(app_id)
        if wants_text(request):
            return Response.text(endpoints_text(tables, only=app_id))
        return _tasks(self.views.tasks(app_id, strict=is_strict(request, self.marathon.config)))

    async def kill_of_app(self, request: Request, *, app_id: str) -> Answer:
        """`DELETE /v2/apps/<id>/tasks`."""
        tables = self.marathon.tables
        tables.root.app(app_id)
        host = request.query.get("host", "*")
        chosen = [
            instance
            for instance in tables.instances_of(app_id)
            if instance.agent is not None and host in ("*", instance.agent.hostname)
        ]
        return await self._kill(request, chosen)

    async def kill_one(self, request: Request, *, app_id: str, task_id: str) -> Answer:
        """`DELETE /v2/apps/<id>/tasks/<task>`."""
        tables = self.marathon.tables
        tables.root.app(app_id)
        instance = self._instance(task_id)
        if instance is None or instance.app_id != app_id:
            raise task_not_found(task_id)
        return await self._kill(request, [instance], single=True)

    async def kill_named(self, request: Request) -> Answer:
        """`POST /v2/tasks/delete`."""
        found = map(self._instance, _read_ids(request))
        named = {instance.id: instance for instance in found if instance is not None}
        return await self._kill(request, list(named.values()))

    def _instance(self, task_id: str) -> Instance | None:
        """The instance of a task; its own id will do as well. Raises BadRequest."""
        named = parse_task_id(task_id)
        instance = self.marathon.tables.instances.get(named.instance)
        if instance is None or instance.task is None:
            return None
        return instance if task_id in (instance.task.id, instance.id) else None

    async def _kill(
        self, request: Request, instances: Sequence[Instance], *, single: bool = False
    ) -> Answer:
        scale, wipe = request.flag("scale"), request.flag("wipe")
        if scale and wipe:
            raise scale_and_wipe()
        alive = [i for i in instances if i.task is not None and not i.condition.is_terminal]
        strict = is_strict(request, self.marathon.config)
        # As they were when they were asked for: killing may change them at once.
        shown = [self.views.task(instance, strict=strict) for instance in alive]
        result = await self.marathon.kill_instances(
            [i.id for i in alive], scale=scale, wipe=wipe, force=request.flag("force")
        )
        if isinstance(result, Deployed):
            return answer_deployed(result)
        if single and shown:
            return Response(body=b'{"task":%b}' % shown[0])
        return _tasks(shown)


def _tasks(pieces: Iterable[bytes]) -> Response:
    return Response(body=b'{"tasks":%b}' % array(pieces))


def _read_ids(request: Request) -> list[str]:
    """The body of a kill. Raises MalformedJson, UnmappableJson, InvalidJson, BadRequest."""
    raw = parse(request.body)
    if not isinstance(raw, dict):
        raise UnmappableJson("expected a JSON object")
    ids = raw.get("ids")
    if ids is None:
        raise InvalidJson([fault("/ids", "error.path.missing")])
    if not isinstance(ids, list):
        raise InvalidJson([fault("/ids", "error.expected.jsarray")])
    if len(ids) > MAX_IDS:
        raise BadRequest(f"expected at most {MAX_IDS} ids, got {len(ids)}")
    wrong = [i for i, value in enumerate(ids) if not isinstance(value, str)]
    if wrong:
        raise InvalidJson([fault(f"/ids({i})", "error.expected.jsstring") for i in wrong[:100]])
    return ids
