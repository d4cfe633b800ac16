"""Marathon's log: which records there are, how a change of the tables becomes records, and back.

    framework-id                  the id that the master gave us
    root                          current version of the root group
    group/<id>                    a group
    app/<id>                      current version of an app
    version/<version><app id>     an app in one of its versions
    change/<version>              what a version of the root changed, to go back in its history
    deployment/<id>               a running deployment, apps by their versions
    instance/<id>                 an instance
    health/<instance id>          last results of its health checks
    failure/<app id>              last task failure
    kill/<task id>                a task that is to be killed and replaced

A replay of any prefix gives tables that the rules can go on with.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from cairn_core.errors import LocalError
from cairn_core.replog.interface import MAX_RECORD_BYTES, Record
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.effects import Effect, Outcome, Publish
from cairn_scheduler.marathon.errors import IllegalArgument
from cairn_scheduler.marathon.events import Event
from cairn_scheduler.marathon.groups import GroupInfo, RootGroup
from cairn_scheduler.marathon.instances import Instance, TaskFailed
from cairn_scheduler.marathon.planner import Plan
from cairn_scheduler.marathon.tables import FIRST_VERSION, MAX_VERSIONS, Deployment, Tables
from cairn_scheduler.marathon.task_json import Health

T = TypeVar("T")

#: Name of the log.
LOG = "marathon"
SCHEMA = 1
_encode = msgspec.json.Encoder().encode


class ChangeRecord(Struct, frozen=True):
    """What a version of the root changed: (before, after) of each app and group."""

    previous: str
    apps: dict[str, tuple[str | None, str | None]] = {}
    groups: dict[str, tuple[GroupInfo | None, GroupInfo | None]] = {}


class DeploymentRecord(Struct, frozen=True):
    """A deployment; apps by their versions."""

    plan: Plan
    before: dict[str, str | None]
    after: dict[str, str | None]
    before_groups: dict[str, GroupInfo | None] = {}
    after_groups: dict[str, GroupInfo | None] = {}
    since: float = 0.0


class HealthRecord(Struct, frozen=True):
    """Results of the checks of an instance, by the index of the check."""

    task_id: str
    results: dict[int, Health] = {}


class Damaged(LocalError):
    """A record cannot be read; `key` names it."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"record {key[:200]} is damaged: {why}")
        self.key = key


def changed(old: Mapping[str, T], new: Mapping[str, T]) -> dict[str, tuple[T | None, T | None]]:
    """What differs between two tables that share what does not: (before, after) by key."""
    found: dict[str, tuple[T | None, T | None]] = {}
    for key, value in new.items():
        before = old.get(key)
        if before is not value and before != value:
            found[key] = (before, value)
    if len(old) + sum(b is None for b, _ in found.values()) != len(new):
        found |= {key: (value, None) for key, value in old.items() if key not in new}
    return found


class Ledger:
    """The tables, and the outcome of the fact at hand. Every change goes through here.

    now, wall: clocks of the fact. dirty: apps to look at before the fact is over, or soon.
    kills: tasks to be killed and replaced that the log knows of.
    """

    def __init__(self, max_versions: int = MAX_VERSIONS) -> None:
        self.tables = Tables()
        self.now = 0.0
        self.wall = 0.0
        self.dirty: set[str] = set()
        self.kills: dict[str, str | None] = {}
        self._max_versions = max_versions
        self._records: dict[str, Record] = {}
        self._effects: list[Effect] = []
        self._kept_health: dict[str, HealthRecord] = {}

    def take(self) -> Outcome:
        """The outcome so far; the next one begins empty."""
        outcome = Outcome(list(self._records.values()), self._effects)
        self._records, self._effects = {}, []
        return outcome

    def emit(self, effect: Effect) -> None:
        """Have something done after the records are in the log."""
        self._effects.append(effect)

    def publish(self, event: Event) -> None:
        """Tell subscribers."""
        self._effects.append(Publish(event))

    def _put(self, key: str, value: object) -> None:
        self._records[key] = Record(key, _encode(value), SCHEMA)

    def _delete(self, key: str) -> None:
        self._records[key] = Record(key, None)

    # Changes

    def set_framework_id(self, framework_id: str) -> None:
        """The master named us."""
        self.tables.framework_id = framework_id
        self._put("framework-id", framework_id)

    def set_root(self, new: RootGroup) -> None:
        """A new version of what shall run, stamped. Raises IllegalArgument for too large an app.

        Nothing is changed when it raises.
        """
        tables, old = self.tables, self.tables.root
        apps, groups = changed(old.apps, new.apps), changed(old.groups, new.groups)
        bodies = {app_id: _encode(after) for app_id, (_, after) in apps.items() if after}
        for app_id, body in bodies.items():
            if len(body) > MAX_RECORD_BYTES:
                raise IllegalArgument(
                    f"app {app_id} has {len(body)} bytes, the limit is {MAX_RECORD_BYTES}"
                )
        for app_id, (_, after) in apps.items():
            if after is None:
                self._delete(f"app/{app_id}")
                continue
            version = after.version or ""
            self._put(f"app/{app_id}", version)
            key = f"version/{version}{app_id}"
            self._records[key] = Record(key, bodies[app_id], SCHEMA)
            versions = tables.versions.setdefault(app_id, {})
            versions.pop(version, None)
            versions[version] = after
        for group_id, (_, info) in groups.items():
            if info is None:
                self._delete(f"group/{group_id}")
            else:
                self._put(f"group/{group_id}", info)
        self._put("root", new.version)
        refs = {
            app_id: (before.version if before else None, after.version if after else None)
            for app_id, (before, after) in apps.items()
        }
        self._put(f"change/{new.version}", ChangeRecord(old.version, refs, groups))
        if not tables.roots:
            tables.roots[old.version] = old
        tables.root = new
        tables.roots[new.version] = new
        touched = set(apps)
        while len(tables.roots) > self._max_versions:
            version, gone = tables.roots.popitem(last=False)
            self._delete(f"change/{version}")
            following = next(iter(tables.roots.values()))
            touched |= changed(gone.apps, following.apps).keys()
        for app_id in touched:
            self._forget_versions(app_id)

    def _forget_versions(self, app_id: str) -> None:
        """Let go of the oldest versions of an app above the limit that nothing refers to."""
        tables = self.tables
        versions = tables.versions.get(app_id, {})
        current = tables.root.apps.get(app_id)
        surplus = len(versions) - (self._max_versions if current is not None else 0)
        if surplus <= 0:
            return
        used = {i.version for i in tables.instances_of(app_id)}
        used |= {r.apps[app_id].version or "" for r in tables.roots.values() if app_id in r.apps}
        for deployment in tables.deployments_of(app_id):
            for app in (deployment.before.get(app_id), deployment.after.get(app_id)):
                if app is not None:
                    used.add(app.version or "")
        for version in [v for v in versions if v not in used][:surplus]:
            del versions[version]
            self._delete(f"version/{version}{app_id}")
        if not versions:
            tables.versions.pop(app_id, None)

    def put_instance(self, instance: Instance) -> None:
        """Add or replace an instance."""
        self.tables.put_instance(instance)
        self._put(f"instance/{instance.id}", instance)
        self.dirty.add(instance.app_id)

    def drop_instance(self, instance: Instance) -> None:
        """Forget an instance."""
        self.tables.drop_instance(instance)
        self._delete(f"instance/{instance.id}")
        self.drop_health(instance.id)
        self.dirty.add(instance.app_id)
        if instance.app_id not in self.tables.root.apps:
            self._forget_versions(instance.app_id)

    def put_deployment(self, deployment: Deployment) -> None:
        """A deployment begins."""
        self.tables.put_deployment(deployment)
        self._put(
            f"deployment/{deployment.plan.id}",
            DeploymentRecord(
                deployment.plan,
                {k: v.version if v else None for k, v in deployment.before.items()},
                {k: v.version if v else None for k, v in deployment.after.items()},
                dict(deployment.before_groups),
                dict(deployment.after_groups),
                deployment.since,
            ),
        )

    def drop_deployment(self, deployment: Deployment) -> None:
        """A deployment is over."""
        self.tables.drop_deployment(deployment)
        self._delete(f"deployment/{deployment.plan.id}")
        for app_id in deployment.plan.affected:
            self._forget_versions(app_id)

    def put_failure(self, failure: TaskFailed) -> None:
        """A task failed."""
        self.tables.failures[failure.instance.app_id] = failure
        self._put(f"failure/{failure.instance.app_id}", failure)

    def drop_failure(self, app_id: str) -> None:
        """An app is gone, and its failures with it."""
        if self.tables.failures.pop(app_id, None) is not None:
            self._delete(f"failure/{app_id}")

    def put_health(self, instance_id: str, record: HealthRecord) -> None:
        """Keep results of health checks."""
        self._kept_health[instance_id] = record
        self._put(f"health/{instance_id}", record)

    def drop_health(self, instance_id: str) -> None:
        """Forget results of health checks."""
        if self._kept_health.pop(instance_id, None) is not None:
            self._delete(f"health/{instance_id}")

    @property
    def kept_health(self) -> Mapping[str, HealthRecord]:
        """The results that the log holds, by instance."""
        return self._kept_health

    def put_kill(self, task_id: str, agent_id: str | None) -> None:
        """Remember that a task is to be killed."""
        self.kills[task_id] = agent_id
        self._put(f"kill/{task_id}", agent_id)

    def drop_kill(self, task_id: str) -> None:
        """A task that was to be killed is gone."""
        if task_id in self.kills:
            del self.kills[task_id]
            self._delete(f"kill/{task_id}")

    # Recovery

    def read(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Fill the empty tables from the log. Raises Damaged."""
        image = _Image()
        for key, value in items:
            try:
                image.read(key, value)
            except (msgspec.MsgspecError, ValueError) as error:
                raise Damaged(key, str(error)) from None
        tables = self.tables
        tables.framework_id = image.framework_id
        tables.versions = {k: dict(sorted(v.items())) for k, v in image.versions.items()}
        tables.root = image.root()
        tables.roots = image.history(tables.root)
        for instance in sorted(image.instances, key=lambda i: (i.since, i.id)):
            tables.put_instance(instance)
        for record in sorted(image.deployments, key=lambda r: (r.since, r.plan.id)):
            tables.put_deployment(image.deployment(record))
        tables.failures = image.failures
        self.kills = image.kills
        self._kept_health = {k: v for k, v in image.health.items() if k in tables.instances}


class _Image:
    """The records, decoded and not yet joined."""

    def __init__(self) -> None:
        self.framework_id: str | None = None
        self.root_version = FIRST_VERSION
        self.current: dict[str, str] = {}
        self.groups: dict[str, GroupInfo] = {}
        self.versions: dict[str, dict[str, App]] = {}
        self.changes: dict[str, ChangeRecord] = {}
        self.instances: list[Instance] = []
        self.deployments: list[DeploymentRecord] = []
        self.health: dict[str, HealthRecord] = {}
        self.failures: dict[str, TaskFailed] = {}
        self.kills: dict[str, str | None] = {}

    def read(self, key: str, value: bytes) -> None:
        """Take one record."""
        kind, _, name = key.partition("/")
        match kind:
            case "framework-id":
                self.framework_id = msgspec.json.decode(value, type=str)
            case "root":
                self.root_version = msgspec.json.decode(value, type=str)
            case "group":
                self.groups[name] = msgspec.json.decode(value, type=GroupInfo)
            case "app":
                self.current[name] = msgspec.json.decode(value, type=str)
            case "version":
                version, slash, path = name.partition("/")
                app = msgspec.json.decode(value, type=App)
                self.versions.setdefault(slash + path, {})[version] = app
            case "change":
                self.changes[name] = msgspec.json.decode(value, type=ChangeRecord)
            case "deployment":
                self.deployments.append(msgspec.json.decode(value, type=DeploymentRecord))
            case "instance":
                self.instances.append(msgspec.json.decode(value, type=Instance))
            case "health":
                self.health[name] = msgspec.json.decode(value, type=HealthRecord)
            case "failure":
                self.failures[name] = msgspec.json.decode(value, type=TaskFailed)
            case "kill":
                self.kills[name] = msgspec.json.decode(value, type=str | None)
            case _:
                raise ValueError(f"unknown kind {kind!r}, written by a newer version?")

    def app(self, app_id: str, version: str | None) -> App | None:
        """An app in a version."""
        return self.versions.get(app_id, {}).get(version) if version is not None else None

    def root(self) -> RootGroup:
        """The current root."""
        apps = {}
        for app_id, version in self.current.items():
            app = self.app(app_id, version)
            if app is None:
                raise Damaged(f"app/{app_id}", f"there is no version {version}")
            apps[app_id] = app
        return RootGroup(self.root_version, apps, self.groups or RootGroup("").groups)

    def history(self, root: RootGroup) -> OrderedDict[str, RootGroup]:
        """Versions of the root, oldest first, as far back as everything needed is there."""
        found = [root]
        while (change := self.changes.get(root.version)) is not None:
            apps, groups = dict(root.apps), dict(root.groups)
            complete = True
            for app_id, (before, _) in change.apps.items():
                apps.pop(app_id, None)
                app = self.app(app_id, before)
                complete = complete and (app is not None or before is None)
                if app is not None:
                    apps[app_id] = app
            for group_id, (info, _) in change.groups.items():
                groups.pop(group_id, None)
                if info is not None:
                    groups[group_id] = info
            if not complete or len(found) >= len(self.changes) + 1:
                break
            root = RootGroup(change.previous, apps, groups)
            found.append(root)
        return OrderedDict((r.version, r) for r in reversed(found))

    def deployment(self, record: DeploymentRecord) -> Deployment:
        """A deployment, joined with its apps."""
        return Deployment(
            plan=record.plan,
            before={k: self.app(k, v) for k, v in record.before.items()},
            after={k: self.app(k, v) for k, v in record.after.items()},
            before_groups=record.before_groups,
            after_groups=record.after_groups,
            since=record.since,
        )
