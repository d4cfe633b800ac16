"""Apps as the API shows them: the definition, and with it whatever the client asked to embed.

Source: the released Marathon's app infos and its embed options. Embeds may carry a prefix
(`apps.`, `app.`, `group.apps.`); unknown ones are ignored. The key is `taskStats` whichever
version is asked: some releases print `tasksStats` by mistake, and no client reads that.

Definitions never change in place, and neither do instances, so their JSON is kept until they are
replaced: a list of a thousand apps with their tasks costs look-ups, not encoding.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import msgspec

from cairn_scheduler.marathon import app as definitions
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.instances import Instance
from cairn_scheduler.marathon.tables import Tables
from cairn_scheduler.marathon.task_json import (
    Health,
    counts,
    task_failure_json,
    task_json,
    task_stats,
)


class Embed(Enum):
    """What can be shown with an app."""

    TASKS = auto()
    COUNTS = auto()
    DEPLOYMENTS = auto()
    READINESS = auto()
    LAST_TASK_FAILURE = auto()
    TASK_STATS = auto()


_TASKS = frozenset({Embed.TASKS, Embed.DEPLOYMENTS})
_EMBEDS = {
    "tasks": _TASKS,
    "counts": frozenset({Embed.COUNTS}),
    "deployments": frozenset({Embed.DEPLOYMENTS}),
    "readiness": frozenset({Embed.READINESS}),
    "lastTaskFailure": frozenset({Embed.LAST_TASK_FAILURE}),
    # Compat: deprecated since 0.11, and still what old tools ask for.
    "failures": _TASKS | {Embed.LAST_TASK_FAILURE},
    "taskStats": frozenset({Embed.TASK_STATS}),
}
#: What the list of apps shows in any case.
LISTED = frozenset({Embed.COUNTS, Embed.DEPLOYMENTS})
#: What a single app shows in any case.
SINGLE = frozenset({Embed.COUNTS, Embed.TASKS, Embed.LAST_TASK_FAILURE, Embed.DEPLOYMENTS})
NOTHING: frozenset[Embed] = frozenset()


def embeds(
    names: Iterable[str], prefixes: Sequence[str] = ("apps.", "app.", "")
) -> frozenset[Embed]:
    """Read `embed` parameters. prefixes: those that count, the longest first."""
    found: set[Embed] = set()
    for name in names:
        for prefix in prefixes:
            if name.startswith(prefix):
                found |= _EMBEDS.get(name.removeprefix(prefix), NOTHING)
                break
    return frozenset(found)


@dataclass(slots=True)
class AppViews:
    """Makes the JSON of apps and tasks from the tables, and keeps what it made.

    Invariant: a kept piece is used only for the very objects that it was made from. Bounded: what
    has outgrown the tables twice is dropped.
    """

    tables: Tables
    _apps: dict[str, tuple[App, bytes]] = field(default_factory=dict)
    _tasks: dict[tuple[str, bool], tuple[Instance, tuple[Health, ...], bytes]] = field(
        default_factory=dict
    )

    def definition(self, app: App) -> bytes:
        """The definition alone."""
        kept = self._apps.get(app.id)
        if kept is not None and kept[0] is app:
            return kept[1]
        made = definitions.encode(app)
        if self.tables.root.apps.get(app.id) is app:
            if len(self._apps) > 2 * len(self.tables.root.apps) + 16:
                self._apps.clear()
            self._apps[app.id] = (app, made)
        return made

    def task(self, instance: Instance, *, strict: bool = False) -> bytes:
        """A task, without service ports. The instance must have one. strict: see `task_json`."""
        health = self.tables.health_of(instance.id)
        key = (instance.id, strict)
        kept = self._tasks.get(key)
        if kept is not None and kept[0] is instance and kept[1] == health:
            return kept[2]
        made = msgspec.json.encode(task_json(instance, health, with_check_result=not strict))
        if len(self._tasks) > 4 * len(self.tables.instances) + 16:
            self._tasks.clear()
        self._tasks[key] = (instance, health, made)
        return made

    def tasks(self, app_id: str, *, strict: bool = False) -> list[bytes]:
        """The tasks of an app, oldest instance first."""
        return [
            self.task(instance, strict=strict)
            for instance in self.tables.instances_of(app_id)
            if instance.task is not None
        ]

    def task_with_service_ports(self, instance: Instance, *, strict: bool = False) -> bytes:
        """A task as `/v2/tasks` shows it."""
        app = self.tables.app_of(instance)
        ports = app.service_ports if app is not None else ()
        piece = self.task(instance, strict=strict)
        return piece[:-1] + b',"servicePorts":%b}' % msgspec.json.encode(ports)

    def app(
        self, app: App, wanted: Collection[Embed] = NOTHING, *, wall: float, strict: bool = False
    ) -> bytes:
        """An app with what is wanted. wall: seconds since the epoch, for the tasks' ages."""
        body = self.definition(app)
        if not wanted:
            return body
        tables = self.tables
        shown: dict[str, Any] = {}
        if Embed.COUNTS in wanted:
            shown |= counts(tables.instances_of(app.id), tables.health).as_app_keys()
        if Embed.DEPLOYMENTS in wanted:
            shown["deployments"] = [{"id": d.plan.id} for d in tables.deployments_of(app.id)]
        if Embed.READINESS in wanted:
            shown["readinessCheckResults"] = tables.readiness_of(app.id)
        failure = tables.failures.get(app.id)
        if Embed.LAST_TASK_FAILURE in wanted and failure is not None:
            shown["lastTaskFailure"] = task_failure_json(failure, wall=wall)
        if Embed.TASK_STATS in wanted:
            instances = list(tables.instances_of(app.id))
            shown["taskStats"] = task_stats(app, instances, tables.health, wall=wall)
        if Embed.TASKS in wanted:
            shown["tasks"] = msgspec.Raw(array(self.tasks(app.id, strict=strict)))
        if not shown:
            return body
        return b"%b,%b" % (body[:-1], msgspec.json.encode(shown)[1:])


def array(pieces: Iterable[bytes]) -> bytes:
    """A JSON array of encoded values."""
    return b"[%b]" % b",".join(pieces)
