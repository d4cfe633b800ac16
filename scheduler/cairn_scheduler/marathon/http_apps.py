"""`/v2/apps` and what lies below it: apps, their versions, restarts, and by `http_tasks` tasks.

Source: the released Marathon's app resources. Ids hold slashes, so the end of the path decides
what is meant: `versions`, `versions/<version>`, `tasks`, `tasks/<task>`, `restart`, `*`. An app
whose own path reads like one of these comes first.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import msgspec
from msgspec.structs import replace

from cairn_core.kit.http_types import Answer, Handler, Request, Response
from cairn_core.kit.routes import Router
from cairn_scheduler.marathon import groups, labels, paths, timestamps
from cairn_scheduler.marathon.app import App, AppUpdate, without_version_info
from cairn_scheduler.marathon.app_view import LISTED, SINGLE, AppViews, Embed, array, embeds
from cairn_scheduler.marathon.context import MarathonContext
from cairn_scheduler.marathon.effects import Deployed
from cairn_scheduler.marathon.errors import app_exists, app_not_found
from cairn_scheduler.marathon.events import ApiPost
from cairn_scheduler.marathon.explain import explain
from cairn_scheduler.marathon.groups import RootGroup
from cairn_scheduler.marathon.http_request import (
    METHODS,
    answer_deployed,
    by_method,
    is_strict,
    path_of,
)
from cairn_scheduler.marathon.http_tasks import TaskResource
from cairn_scheduler.marathon.json_input import parse
from cairn_scheduler.marathon.legacy_app import read_app, read_update, read_updates
from cairn_scheduler.marathon.normalize import complete, replaced, rollback_version, updated

#: Apps rendered between two turns of the event loop.
SLICE = 50


class AppResource:
    """The handlers."""

    def __init__(self, marathon: MarathonContext, views: AppViews, tasks: TaskResource) -> None:
        self.marathon = marathon
        self.views = views
        self.tasks = tasks

    def mount(self, router: Router[Handler]) -> None:
        """Add the routes."""
        router.add("/v2/apps", self.answer, METHODS)

    async def answer(self, request: Request) -> Answer:
        """Any request at or below `/v2/apps`."""
        if not request.rest:
            return await by_method(
                request,
                {
                    "GET": self.list_all,
                    "POST": self.create,
                    "PUT": partial(self.update_many, may_create=True),
                    "PATCH": partial(self.update_many, may_create=False),
                },
            )
        app_id = path_of(request.rest)
        if app_id not in self.marathon.tables.root.apps:
            found = self._below(request, request.rest.strip("/").split("/"))
            if found is not None:
                return await found
        return await by_method(
            request,
            {
                "GET": partial(self.show, app_id=app_id),
                "PUT": partial(self.update, app_id=app_id, may_create=True),
                "PATCH": partial(self.update, app_id=app_id, may_create=False),
                "DELETE": partial(self.delete, app_id=app_id),
            },
        )

    def _below(self, request: Request, parts: Sequence[str]) -> Awaitable[Answer] | None:
        """What answers for a part of an app, None where the path names none."""
        match parts:
            case [*group, "*"]:
                listing = partial(self.list_below, group_id=path_of("/".join(group)))
                return by_method(request, {"GET": listing})
            case [*group, "*", "tasks"]:
                below = path_of("/".join(group))
                return by_method(request, {"GET": partial(self.tasks.list_below, group_id=below)})
            case [_, *_, "versions"]:
                app_id = path_of("/".join(parts[:-1]))
                return by_method(request, {"GET": partial(self.list_versions, app_id=app_id)})
            case [_, *_, "versions", version]:
                showing = partial(
                    self.show_version, app_id=path_of("/".join(parts[:-2])), version=version
                )
                return by_method(request, {"GET": showing})
            case [_, *_, "restart"]:
                app_id = path_of("/".join(parts[:-1]))
                return by_method(request, {"POST": partial(self.restart, app_id=app_id)})
            case [_, *_, "explain"]:
                app_id = path_of("/".join(parts[:-1]))
                return by_method(request, {"GET": partial(self.explain, app_id=app_id)})
            case [_, *_, "tasks"]:
                app_id = path_of("/".join(parts[:-1]))
                return by_method(
                    request,
                    {
                        "GET": partial(self.tasks.list_of_app, app_id=app_id),
                        "DELETE": partial(self.tasks.kill_of_app, app_id=app_id),
                    },
                )
            case [_, *_, "tasks", task_id] if request.method == "DELETE":
                app_id = path_of("/".join(parts[:-2]))
                return self.tasks.kill_one(request, app_id=app_id, task_id=task_id)
        return None

    # Reading

    async def list_all(self, request: Request) -> Answer:
        """`GET /v2/apps`."""
        keep = _filters(request)
        apps = self.marathon.tables.root.apps
        chosen = [apps[name] for name in sorted(apps) if keep(apps[name])]
        wanted = embeds(request.query.getall("embed", ())) | LISTED
        return await self._listed(request, b"apps", chosen, wanted)

    async def list_below(self, request: Request, *, group_id: str) -> Answer:
        """`GET /v2/apps/<group>/*`."""
        chosen = list(self.marathon.tables.root.apps_below(group_id))
        wanted = embeds(request.query.getall("embed", ())) | SINGLE
        return await self._listed(request, b"*", chosen, wanted)

    async def _listed(
        self, request: Request, key: bytes, apps: Sequence[App], wanted: frozenset[Embed]
    ) -> Answer:
        pieces = await self.shown(request, apps, wanted)
        return Response(body=b'{"%b":%b}' % (key, array(pieces)))

    async def shown(
        self, request: Request, apps: Sequence[App], wanted: frozenset[Embed]
    ) -> Sequence[bytes]:
        """The JSON of many apps, each as of one moment; others get their turn in between."""
        strict = is_strict(request, self.marathon.config)
        wall = self.marathon.wall()
        pieces = []
        for number, app in enumerate(apps, 1):
            pieces.append(self.views.app(app, wanted, wall=wall, strict=strict))
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return pieces

    async def show(self, request: Request, *, app_id: str) -> Answer:
        """`GET /v2/apps/<id>`."""
        app = self.marathon.tables.root.app(app_id)
        wanted = embeds(request.query.getall("embed", ())) | SINGLE
        (piece,) = await self.shown(request, [app], wanted)
        return Response(body=b'{"app":%b}' % piece)

    async def list_versions(self, request: Request, *, app_id: str) -> Answer:
        """`GET /v2/apps/<id>/versions`."""
        self.marathon.tables.root.app(app_id)
        known = self.marathon.tables.versions.get(app_id, {})
        return Response.json({"versions": sorted(known, reverse=True)})

    async def show_version(self, request: Request, *, app_id: str, version: str) -> Answer:
        """`GET /v2/apps/<id>/versions/<version>`."""
        app = self.marathon.tables.version_of(app_id, timestamps.canonical(version))
        return Response(body=self.views.definition(app))

    async def explain(self, request: Request, *, app_id: str) -> Answer:
        """`GET /v2/apps/<id>/explain`, which the original does not have."""
        marathon = self.marathon
        app = marathon.tables.root.app(app_id)
        return Response.json(
            explain(app, marathon.tables, marathon.config.match_rules(), now=marathon.now())
        )

    # Writing

    async def create(self, request: Request) -> Answer:
        """`POST /v2/apps`."""
        raw = parse(request.body)
        update = read_app(raw, bridge_name=self.marathon.config.mesos_bridge_name)
        app_id = paths.canonical(update.id or "")

        def make(root: RootGroup) -> RootGroup:
            if app_id in root.apps:
                raise app_exists(app_id)
            return groups.add_app(root, self._complete(root, update, app_id))

        deployed = await self.marathon.change_root(
            make, force=request.flag("force"), group_id=paths.parent(app_id)
        )
        app = deployed.root.app(app_id)
        self._tell(request, [app])
        shown = {
            "tasksStaged": 0, "tasksRunning": 0, "tasksHealthy": 0, "tasksUnhealthy": 0,
            "deployments": [{"id": deployed.plan.id}],
        }  # fmt: skip
        body = msgspec.to_builtins(without_version_info(app)) | shown
        return Response.json(
            body,
            201,
            {"Location": f"/v2/apps{app_id}", "Marathon-Deployment-Id": deployed.plan.id},
        )

    async def update(self, request: Request, *, app_id: str, may_create: bool) -> Answer:
        """`PUT` and `PATCH /v2/apps/<id>`."""
        raw = parse(request.body)
        update = read_update(raw, bridge_name=self.marathon.config.mesos_bridge_name)
        deployed, created = await self._apply(request, [(app_id, update)], may_create)
        if created:
            return answer_deployed(deployed, 201, {"Location": f"/v2/apps{app_id}"})
        return answer_deployed(deployed)

    async def update_many(self, request: Request, *, may_create: bool) -> Answer:
        """`PUT` and `PATCH /v2/apps`: one deployment for all."""
        raw = parse(request.body)
        updates = read_updates(raw, bridge_name=self.marathon.config.mesos_bridge_name)
        named = [(paths.canonical(u.id or ""), u) for u in updates]
        deployed, _ = await self._apply(request, named, may_create)
        return answer_deployed(deployed)

    async def _apply(
        self, request: Request, updates: Sequence[tuple[str, AppUpdate]], may_create: bool
    ) -> tuple[Deployed, bool]:
        """Change apps; also says whether one of them is new."""
        merged = request.flag("partialUpdate", True) or not may_create
        created = False

        def make(root: RootGroup) -> RootGroup:
            nonlocal created
            created = False
            for app_id, update in updates:
                before = root.apps.get(app_id)
                if before is None and not may_create:
                    raise app_not_found(app_id)
                created = created or before is None
                root = groups.put_app(root, self._updated(root, app_id, update, merged))
            return root

        group_id = paths.parent(updates[0][0]) if len(updates) == 1 else paths.ROOT
        deployed = await self.marathon.change_root(
            make, force=request.flag("force"), group_id=group_id
        )
        self._tell(request, [deployed.root.app(app_id) for app_id, _ in updates])
        return deployed, created

    def _updated(self, root: RootGroup, app_id: str, update: AppUpdate, merged: bool) -> App:
        before = root.apps.get(app_id)
        version = rollback_version(update)
        if version is not None:
            if before is None:
                raise app_not_found(app_id)
            old = self.marathon.tables.version_of(app_id, version)
            return replace(old, version=before.version, version_info=before.version_info)
        if before is None:
            return self._complete(root, update, app_id)
        defaults = groups.defaults_at(root, app_id, self.marathon.config.defaults())
        change = updated if merged else replaced
        return change(before, update, defaults, app_id)

    def _complete(self, root: RootGroup, update: AppUpdate, app_id: str) -> App:
        defaults = groups.defaults_at(root, app_id, self.marathon.config.defaults())
        # Relative dependencies are seen from the app itself.
        return complete(update, app_id, defaults, app_id)

    async def delete(self, request: Request, *, app_id: str) -> Answer:
        """`DELETE /v2/apps/<id>`."""
        deployed = await self.marathon.change_root(
            lambda root: groups.remove_app(root, app_id),
            # Compat: by default nothing stops a deletion, whatever the documentation says.
            force=request.flag("force", True),
            group_id=paths.parent(app_id),
        )
        return answer_deployed(deployed)

    async def restart(self, request: Request, *, app_id: str) -> Answer:
        """`POST /v2/apps/<id>/restart`."""

        def make(root: RootGroup) -> RootGroup:
            root.app(app_id)
            return root

        deployed = await self.marathon.change_root(
            make,
            force=request.flag("force"),
            restarts=[app_id],
            group_id=paths.parent(app_id),
        )
        return answer_deployed(deployed)

    def _tell(self, request: Request, apps: Iterable[App]) -> None:
        at = timestamps.timestamp(self.marathon.wall())
        for app in apps:
            self.marathon.publish(
                ApiPost(
                    timestamp=at,
                    client_ip=request.peer.address,
                    uri=request.path,
                    app_definition=app,
                )
            )


def _filters(request: Request) -> Callable[[App], bool]:
    """`cmd`, `id` and `label` of a listing. Raises IllegalArgument for a bad selector."""
    tests: list[Callable[[App], bool]] = []
    cmd, app_id, label = (request.query.get(name) for name in ("cmd", "id", "label"))
    if cmd:
        wanted_cmd = cmd.lower()
        tests.append(lambda app: wanted_cmd in (app.cmd or "").lower())
    if app_id:
        wanted_id = app_id.lower()
        tests.append(lambda app: wanted_id in app.id.lower())
    if label:
        holds = labels.selector(label)
        tests.append(lambda app: holds(app.labels))
    return lambda app: all(test(app) for test in tests)
