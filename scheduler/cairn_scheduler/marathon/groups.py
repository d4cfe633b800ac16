"""The root group: every app and group by its absolute id, and the ways to change them.

Kept flat: a tree is only what the ids say, and what a client is shown (`group_json`). Each change
makes a new `RootGroup` and leaves the old one as it is. Invariant (`check`): every ancestor of an
app or a group is a group, and no id is both.

Source: the released Marathon's group resource and group rules.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from msgspec import Struct

from cairn_scheduler.marathon import paths
from cairn_scheduler.marathon.app import App, Number, scaled
from cairn_scheduler.marathon.container import Part
from cairn_scheduler.marathon.errors import (
    Fault,
    IllegalArgument,
    NotValid,
    app_at_path,
    app_exists,
    app_not_found,
    fault,
    group_exists,
    group_not_found,
)
from cairn_scheduler.marathon.json_input import read_object
from cairn_scheduler.marathon.legacy_app import AppInput, canonical_update
from cairn_scheduler.marathon.normalize import Defaults, complete, replaced

ROOT = paths.ROOT
_NOT_ALONE = "not allowed in conjunction with other properties."


class GroupInfo(Part, frozen=True):
    """What a group has beside its members. dependencies: absolute ids of apps and groups."""

    dependencies: tuple[str, ...] = ()
    enforce_role: bool | None = None
    version: str = ""


class GroupUpdate(Struct, frozen=True, kw_only=True, rename="camel"):
    """A group as a client writes it; a key that is None was not given."""

    id: str | None = None
    apps: tuple[AppInput, ...] | None = None
    groups: "tuple[GroupUpdate, ...] | None" = None
    dependencies: tuple[str, ...] | None = None
    enforce_role: bool | None = None
    scale_by: Number | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class RootGroup:
    """Everything that shall run. Not to be changed in place."""

    version: str
    apps: Mapping[str, App] = field(default_factory=dict)
    groups: Mapping[str, GroupInfo] = field(default_factory=lambda: {ROOT: GroupInfo()})

    def check(self) -> None:
        """Assert the invariant."""
        assert ROOT in self.groups
        assert not self.apps.keys() & self.groups.keys()
        for name in (*self.apps, *self.groups):
            assert paths.parent(name) in self.groups, f"{name} has no parent"

    def app(self, app_id: str) -> App:
        """The app. Raises NotFound."""
        app = self.apps.get(app_id)
        if app is None:
            raise app_not_found(app_id)
        return app

    def group(self, group_id: str) -> GroupInfo:
        """The group. Raises NotFound."""
        info = self.groups.get(group_id)
        if info is None:
            raise group_not_found(group_id)
        return info

    def apps_below(self, group_id: str) -> Iterator[App]:
        """All apps in a group and in the groups below it, by id."""
        for app_id in sorted(self.apps):
            if paths.is_below(app_id, group_id):
                yield self.apps[app_id]

    def enforced_role(self, path: str) -> str | None:
        """The role that apps at a path must take by default: that of the top-level group."""
        top = paths.top_level(path)
        if top is None:
            return None
        info = self.groups.get(f"/{top}")
        return top if info is not None and info.enforce_role else None

    def allowed_roles(self, path: str, default_role: str) -> frozenset[str]:
        """The roles that an app at a path may take: the default one and its top-level group's."""
        top = paths.top_level(path)
        enforced = self.enforced_role(path)
        if enforced is not None:
            return frozenset({enforced, default_role})
        return frozenset({default_role} if top is None else {default_role, top})


def put_app(root: RootGroup, app: App) -> RootGroup:
    """Add or replace an app; groups above it appear as needed. Raises Conflict at a group's id."""
    if app.id in root.groups:
        raise NotValid([fault("/id", "Groups and Applications may not have the same identifier.")])
    return replace(root, apps={**root.apps, app.id: app}, groups=_with_ancestors(root, app.id))


def add_app(root: RootGroup, app: App) -> RootGroup:
    """Add a new app. Raises Conflict where one exists."""
    if app.id in root.apps:
        raise app_exists(app.id)
    return put_app(root, app)


def remove_app(root: RootGroup, app_id: str) -> RootGroup:
    """Remove an app; its groups stay. Raises NotFound."""
    root.app(app_id)
    return replace(root, apps={k: v for k, v in root.apps.items() if k != app_id})


def remove_group(root: RootGroup, group_id: str) -> RootGroup:
    """Remove a group with all below it. The root loses what is in it and stays. NotFound."""
    root.group(group_id)

    def stays(name: str) -> bool:
        return name == ROOT or (name != group_id and not paths.is_below(name, group_id))

    return replace(
        root,
        apps={k: v for k, v in root.apps.items() if stays(k)},
        groups={k: v for k, v in root.groups.items() if stays(k)},
    )


def restore_group(root: RootGroup, group_id: str, old: RootGroup) -> RootGroup:
    """Make a group, with all in and below it, what it was in an older root. Raises NotFound.

    Conflict where an app has come to stand at the group's path since.
    """
    old.group(group_id)
    if group_id in root.apps:
        raise app_at_path(group_id)

    def inside(name: str) -> bool:
        return name == group_id or paths.is_below(name, group_id)

    apps = {k: v for k, v in root.apps.items() if not inside(k)}
    apps |= {k: v for k, v in old.apps.items() if inside(k)}
    groups = {k: v for k, v in root.groups.items() if not inside(k)}
    groups |= {k: v for k, v in old.groups.items() if inside(k)}
    restored = replace(root, apps=apps, groups=groups)
    return replace(restored, groups=_with_ancestors(restored, group_id))


def scale_group(root: RootGroup, group_id: str, factor: float) -> RootGroup:
    """Multiply the instances of every app in a group, rounded up. Raises NotFound."""
    root.group(group_id)
    if factor < 0 or not math.isfinite(factor):
        raise IllegalArgument(f"scaleBy must be a number of 0 or more, got {factor}")
    changed = {
        app.id: scaled(app, min(math.ceil(round(app.instances * factor, 6)), 1 << 31))
        for app in root.apps_below(group_id)
    }
    return replace(root, apps={**root.apps, **changed})


def _with_ancestors(root: RootGroup, path: str) -> Mapping[str, GroupInfo]:
    """Groups with all above `path` among them. Raises Conflict where an app is in the way."""
    missing = [name for name in paths.ancestors(path) if name not in root.groups]
    for name in missing:
        if name in root.apps:
            raise app_at_path(name)
    return {**root.groups, **{name: GroupInfo() for name in missing}} if missing else root.groups


def read_group(raw: Any) -> GroupUpdate:
    """Read the body of a POST or PUT. Raises UnmappableJson, InvalidJson, NotValid.

    `scaleBy` and `version` must stand alone.
    """
    update = read_object(GroupUpdate, raw)
    given = [name for name in GroupUpdate.__struct_fields__ if getattr(update, name) is not None]
    for name, key in (("scale_by", "/scaleBy"), ("version", "/version")):
        if name in given and len(given) > 1:
            raise NotValid([fault(key, _NOT_ALONE)])
    return update


#: Makes a complete app: (root, input, group it stands in, app of that id so far or None) -> app.
MakeApp = Callable[[RootGroup, AppInput, str, App | None], App]


def defaults_at(root: RootGroup, path: str, defaults: Defaults) -> Defaults:
    """The defaults for an app at a path: its group's role where that is enforced."""
    role = root.enforced_role(path)
    return defaults if role is None else replace(defaults, role=role)


def app_maker(defaults: Defaults) -> MakeApp:
    """Apps of a group's body: complete definitions, with the group's role where it is enforced."""

    def make(root: RootGroup, given: AppInput, group_id: str, before: App | None) -> App:
        update = canonical_update(given, defaults.bridge_name)
        app_id = paths.canonical(update.id or "", group_id)
        own = defaults_at(root, app_id, defaults)
        if before is not None:
            return replaced(before, update, own, group_id)
        return complete(update, app_id, own, group_id)

    return make


def create_group(root: RootGroup, group_id: str, update: GroupUpdate, make: MakeApp) -> RootGroup:
    """Add a group that must not be there. Raises Conflict, NotValid."""
    if group_id in root.apps:
        raise app_at_path(group_id)
    if group_id in root.groups and group_id != ROOT:
        raise group_exists(group_id)
    return put_group(root, group_id, update, make)


def put_group(root: RootGroup, group_id: str, update: GroupUpdate, make: MakeApp) -> RootGroup:
    """Create or change a group.

    Where `apps` or `groups` is given it is the whole set: what is not in it goes. A key that is
    not given leaves what is there. Raises NotValid, Conflict.
    """
    if group_id in root.apps:
        raise app_at_path(group_id)
    texts = paths.faults(group_id) if group_id != ROOT else []
    if texts:
        raise NotValid([Fault("/id", tuple(texts))])
    root = replace(root, groups=_with_ancestors(root, group_id))
    info = root.groups.get(group_id, GroupInfo())
    if update.dependencies is not None:
        below = tuple(paths.canonical(d, group_id) for d in update.dependencies)
        info = msgspec.structs.replace(info, dependencies=below)
    if update.enforce_role is not None:
        if paths.parent(group_id) != ROOT or group_id == ROOT:
            text = "enforceRole can only be set for a top-level group"
            raise NotValid([fault("/enforceRole", text)])
        info = msgspec.structs.replace(info, enforce_role=update.enforce_role)
    root = replace(root, groups={**root.groups, group_id: info})
    if update.apps is not None:
        root = _put_apps(root, group_id, update.apps, make)
    if update.groups is not None:
        root = _put_groups(root, group_id, update.groups, make)
    return root


def _put_apps(
    root: RootGroup, group_id: str, inputs: Iterable[AppInput], make: MakeApp
) -> RootGroup:
    """Replace the apps that stand directly in a group."""
    before = {k: v for k, v in root.apps.items() if paths.parent(k) == group_id}
    after: dict[str, App] = {}
    for i, given in enumerate(inputs):
        if given.id is None:
            raise NotValid([fault(f"/apps({i})/id", "error.path.missing")])
        app_id = paths.canonical(given.id, group_id)
        if paths.parent(app_id) != group_id:
            text = f"Identifier is not child of '{group_id}'. Hint: use relative paths."
            raise NotValid([fault(f"/apps({i})/id", text)])
        if app_id in after:
            raise NotValid([fault("/apps", "Elements must be unique.")])
        try:
            after[app_id] = make(root, given, group_id, before.get(app_id))
        except NotValid as error:
            raise NotValid(_moved(error.faults, f"/apps({i})")) from None
        if app_id in root.groups:
            text = "Groups and Applications may not have the same identifier."
            raise NotValid([fault(f"/apps({i})/id", text)])
    kept = {k: v for k, v in root.apps.items() if k not in before}
    return replace(root, apps={**kept, **after})


def _put_groups(
    root: RootGroup, group_id: str, inputs: Iterable[GroupUpdate], make: MakeApp
) -> RootGroup:
    """Replace the groups that stand directly in a group."""
    wanted: dict[str, GroupUpdate] = {}
    for i, given in enumerate(inputs):
        if given.id is None:
            raise NotValid([fault(f"/groups({i})/id", "error.path.missing")])
        child = paths.canonical(given.id, group_id)
        if paths.parent(child) != group_id or child in wanted:
            text = f"Identifier is not child of '{group_id}'. Hint: use relative paths."
            raise NotValid([fault(f"/groups({i})/id", text)])
        wanted[child] = given
    for child in [g for g in root.groups if g != ROOT and paths.parent(g) == group_id]:
        if child not in wanted:
            root = remove_group(root, child)
    for i, (child, given) in enumerate(wanted.items()):
        if given.scale_by is not None or given.version is not None:
            raise NotValid([fault(f"/groups({i})", _NOT_ALONE)])
        try:
            root = put_group(root, child, given, make)
        except NotValid as error:
            raise NotValid(_moved(error.faults, f"/groups({i})")) from None
    return root


def _moved(faults: Iterable[Fault], under: str) -> list[Fault]:
    return [Fault(under if f.path == "/" else under + f.path, f.errors) for f in faults]


def group_json(
    root: RootGroup,
    group_id: str = ROOT,
    *,
    with_groups: bool = True,
    with_apps: bool = True,
    with_pods: bool = True,
    app_json: Callable[[App], Any] = msgspec.to_builtins,
) -> dict[str, Any]:
    """A group as a client sees it, members nested. Raises NotFound.

    app_json: how an app is shown, so that a caller can add tasks, counts and the like.
    """
    root.group(group_id)
    children: dict[str, list[str]] = {}
    for name in sorted(root.groups):
        if name != ROOT:
            children.setdefault(paths.parent(name), []).append(name)
    members: dict[str, list[App]] = {}
    for name in sorted(root.apps):
        members.setdefault(paths.parent(name), []).append(root.apps[name])

    def shown(name: str) -> dict[str, Any]:
        info = root.groups[name]
        body: dict[str, Any] = {"id": name, "dependencies": list(info.dependencies)}
        if with_apps:
            body["apps"] = [app_json(app) for app in members.get(name, ())]
        if with_pods:
            body["pods"] = []
        if with_groups:
            body["groups"] = [shown(child) for child in children.get(name, ())]
        body["version"] = info.version or root.version
        if info.enforce_role is not None and name != ROOT:
            body["enforceRole"] = info.enforce_role
        return body

    return shown(group_id)
