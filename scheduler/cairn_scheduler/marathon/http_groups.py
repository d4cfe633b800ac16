"""`/v2/groups`: groups with what is in them, their versions, and changes to whole trees.

Source: the released Marathon's group resource. A group's path may end in `apps`, `versions` or
`versions/<version>`; a group whose own path reads so comes first.
"""

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

import msgspec

from cairn_core.kit.http_types import Answer, Handler, Request, Response
from cairn_core.kit.routes import Router
from cairn_scheduler.marathon import groups, paths, timestamps
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.app_view import AppViews, array, embeds
from cairn_scheduler.marathon.context import MakeRoot, MarathonContext
from cairn_scheduler.marathon.deployments import dry_run_json
from cairn_scheduler.marathon.errors import InvalidJson, UnmappableJson, fault, group_not_found
from cairn_scheduler.marathon.groups import GroupUpdate, RootGroup, group_json, read_group
from cairn_scheduler.marathon.http_request import (
    METHODS,
    answer_deployed,
    by_method,
    is_strict,
    path_of,
)
from cairn_scheduler.marathon.json_input import parse

_ALL = frozenset({"group.groups", "group.apps", "group.pods"})
_APP_PREFIX = "group.apps."


class GroupResource:
    """The handlers."""

    def __init__(self, marathon: MarathonContext, views: AppViews) -> None:
        self.marathon = marathon
        self.views = views

    def mount(self, router: Router[Handler]) -> None:
        """Add the routes."""
        router.add("/v2/groups", self.answer, METHODS)

    async def answer(self, request: Request) -> Answer:
        """Any request at or below `/v2/groups`."""
        group_id = path_of(request.rest)
        if group_id not in self.marathon.tables.root.groups:
            found = self._below(request, [p for p in request.rest.split("/") if p])
            if found is not None:
                return await found
        return await by_method(
            request,
            {
                "GET": partial(self.show, group_id=group_id),
                "POST": partial(self.create, base=group_id),
                "PUT": partial(self.update, base=group_id),
                "PATCH": partial(self.patch, group_id=group_id),
                "DELETE": partial(self.delete, group_id=group_id),
            },
        )

    def _below(self, request: Request, parts: Sequence[str]) -> Awaitable[Answer] | None:
        """What answers for a part of a group, None where the path names none."""
        match parts:
            case [*group, "apps"] if request.method in ("GET", "HEAD"):
                return self.list_apps(request, group_id=path_of("/".join(group)))
            case [*group, "versions"] if request.method in ("GET", "HEAD"):
                return self.list_versions(request, group_id=path_of("/".join(group)))
            case [*group, "versions", version]:
                group_id = path_of("/".join(group))
                return by_method(
                    request,
                    {
                        "GET": partial(self.show_version, group_id=group_id, version=version),
                        # Compat: the Python package `marathon` goes back this way.
                        "PUT": partial(self.restore, group_id=group_id, version=version),
                    },
                )
        return None

    # Reading

    def _shown(self, request: Request, root: RootGroup, group_id: str) -> dict[str, Any]:
        names = set(request.query.getall("embed", ())) or _ALL
        wanted = embeds(names, (_APP_PREFIX,))
        strict = is_strict(request, self.marathon.config)
        wall = self.marathon.wall()

        def app_json(app: App) -> Any:
            return msgspec.Raw(self.views.app(app, wanted, wall=wall, strict=strict))

        body = group_json(
            root,
            group_id,
            with_groups="group.groups" in names,
            with_apps="group.apps" in names or bool(wanted),
            with_pods="group.pods" in names,
            app_json=app_json,
        )
        if strict:
            _drop(body, "enforceRole")
        return body

    async def show(self, request: Request, *, group_id: str) -> Answer:
        """`GET /v2/groups/<id>`."""
        return Response.json(self._shown(request, self.marathon.tables.root, group_id))

    async def list_apps(self, request: Request, *, group_id: str) -> Answer:
        """`GET /v2/groups/<id>/apps`: all apps in and below a group."""
        root = self.marathon.tables.root
        root.group(group_id)
        wanted = embeds(request.query.getall("embed", ()), (_APP_PREFIX, "apps.", "app.", ""))
        strict, wall = is_strict(request, self.marathon.config), self.marathon.wall()
        return Response(
            body=array(
                self.views.app(app, wanted, wall=wall, strict=strict)
                for app in root.apps_below(group_id)
            )
        )

    async def list_versions(self, request: Request, *, group_id: str) -> Answer:
        """`GET /v2/groups/<id>/versions`: the versions of the root in which the group was."""
        tables = self.marathon.tables
        tables.root.group(group_id)
        found = [v for v, root in tables.roots.items() if group_id in root.groups]
        return Response.json(sorted({*found, tables.root.version}, reverse=True))

    async def show_version(self, request: Request, *, group_id: str, version: str) -> Answer:
        """`GET /v2/groups/<id>/versions/<version>`."""
        root = self._as_of(group_id, version)
        return Response.json(self._shown(request, root, group_id))

    def _as_of(self, group_id: str, version: str) -> RootGroup:
        """The root in a version in which the group was. Raises NotFound, IllegalArgument."""
        exact = timestamps.canonical(version)
        tables = self.marathon.tables
        root = tables.root if exact == tables.root.version else tables.roots.get(exact)
        if root is None or group_id not in root.groups:
            raise group_not_found(group_id, exact)
        return root

    # Writing

    async def create(self, request: Request, *, base: str) -> Answer:
        """`POST /v2/groups`."""
        update = read_group(parse(request.body))
        group_id = _target(update, base)
        maker = groups.app_maker(self.marathon.config.defaults())
        deployed = await self.marathon.change_root(
            lambda root: groups.create_group(root, group_id, update, maker),
            force=request.flag("force"),
            group_id=group_id,
        )
        return answer_deployed(deployed, 201, {"Location": f"/v2/groups{group_id}"})

    async def update(self, request: Request, *, base: str) -> Answer:
        """`PUT /v2/groups/<id>`."""
        update = read_group(parse(request.body))
        group_id = _target(update, base)
        make = self._change(group_id, update)
        if request.flag("dryRun"):
            return Response.json(dry_run_json(self.marathon.dry_run(make)))
        created = group_id not in self.marathon.tables.root.groups
        deployed = await self.marathon.change_root(
            make, force=request.flag("force"), group_id=group_id
        )
        if created:
            return answer_deployed(deployed, 201, {"Location": f"/v2/groups{group_id}"})
        return answer_deployed(deployed)

    def _change(self, group_id: str, update: GroupUpdate) -> MakeRoot:
        """What the body of a PUT means."""
        version, factor = update.version, update.scale_by
        if version is not None:
            old = self._as_of(group_id, version)
            return lambda root: groups.restore_group(root, group_id, old)
        if factor is not None:
            return lambda root: groups.scale_group(root, group_id, factor)
        maker = groups.app_maker(self.marathon.config.defaults())
        return lambda root: groups.put_group(root, group_id, update, maker)

    async def restore(self, request: Request, *, group_id: str, version: str) -> Answer:
        """`PUT /v2/groups/<id>/versions/<version>`: go back, whatever the body says."""
        old = self._as_of(group_id, version)
        deployed = await self.marathon.change_root(
            lambda root: groups.restore_group(root, group_id, old),
            force=request.flag("force"),
            group_id=group_id,
        )
        return answer_deployed(deployed)

    async def patch(self, request: Request, *, group_id: str) -> Answer:
        """`PATCH /v2/groups/<id>`: change `enforceRole`, and nothing else."""
        raw = parse(request.body)
        if not isinstance(raw, dict):
            raise UnmappableJson("expected a JSON object")
        others = sorted(set(raw) - {"enforceRole"})
        if others:
            raise InvalidJson(
                [fault(f"/{name[:64]}", "error.unknown.key") for name in others[:100]]
            )
        update = read_group(raw)
        maker = groups.app_maker(self.marathon.config.defaults())

        def make(root: RootGroup) -> RootGroup:
            root.group(group_id)
            return groups.put_group(root, group_id, update, maker)

        await self.marathon.change_root(make, group_id=group_id)
        return Response.empty()

    async def delete(self, request: Request, *, group_id: str) -> Answer:
        """`DELETE /v2/groups/<id>`: the group and all below it."""
        deployed = await self.marathon.change_root(
            lambda root: groups.remove_group(root, group_id),
            force=request.flag("force"),
            group_id=paths.parent(group_id),
        )
        return answer_deployed(deployed)


def _target(update: GroupUpdate, base: str) -> str:
    """The group that a body is about, seen from the group of the path."""
    return paths.canonical(update.id, base) if update.id is not None else base


def _drop(group: dict[str, Any], key: str) -> None:
    """Leave a key out of a group and all below it."""
    group.pop(key, None)
    for child in group.get("groups", ()):
        _drop(child, key)
