"""Ids of instances and tasks.

    instance   <app>.instance-<uuid>          app: the path with `_` for `/`
    task       <instance>._app.<n>            n counts the launches of one instance, from 1
    older      <app>.instance-<uuid>[.<container>], <app>.marathon-<uuid>, <app>.<uuid>

A name in a path has no `_`, so the app can be read back from the id.
"""

import re
from typing import NamedTuple

from cairn_scheduler.marathon import paths
from cairn_scheduler.marathon.errors import bad_task_id

_INSTANCE = re.compile(r"^(?P<app>.+)\.(?:instance-|marathon-)(?P<uuid>[^.]+)$")
_TASK = re.compile(
    r"^(?P<app>.+)\.(?P<kind>instance-|marathon-)(?P<uuid>[^.]+)"
    r"(?:\.(?P<container>[^.]+))?(?:\.(?P<attempt>[0-9]{1,9}))?$"
)
_LEGACY = re.compile(r"^(?P<app>.+)\.(?P<uuid>[^.]+)$")
_APP_CONTAINER = "_app"


class TaskId(NamedTuple):
    """A task's id in parts. attempt: 0 in the older forms."""

    app: str
    instance: str
    attempt: int


def instance_id(app_id: str, uuid: str) -> str:
    """The id of a new instance."""
    return f"{paths.safe(app_id)}.instance-{uuid}"


def task_id(instance: str, attempt: int) -> str:
    """The id of the task of an instance's n-th launch; n >= 1."""
    return f"{instance}.{_APP_CONTAINER}.{attempt}"


def app_of(instance: str) -> str:
    """The app of an instance. Raises BadRequest where it is no instance's id."""
    match = _INSTANCE.match(instance)
    if match is None:
        raise bad_task_id(instance[:256])
    return _path(match["app"])


def parse_task_id(text: str) -> TaskId:
    """Read a task's id in any form. Raises BadRequest."""
    match = _TASK.match(text)
    if match is not None:
        name = f"{match['app']}.{match['kind']}{match['uuid']}"
        attempt = match["attempt"]
        return TaskId(_path(match["app"]), name, int(attempt) if attempt else 0)
    match = _LEGACY.match(text)
    if match is None:
        raise bad_task_id(text[:256])
    return TaskId(_path(match["app"]), f"{match['app']}.marathon-{match['uuid']}", 0)


def _path(safe: str) -> str:
    return "/" + safe.replace("_", "/")
