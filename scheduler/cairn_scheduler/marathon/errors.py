"""What Marathon refuses, each with the HTTP status and JSON body that clients expect.

    MarathonError
    ├── MalformedJson, UnmappableJson          400, the text is not JSON or not an object
    ├── InvalidJson, NotValid                  422 with the faults under `details`
    ├── IllegalArgument                        422 with a message alone
    ├── BadRequest                             400
    ├── NotFound                               404
    ├── Conflict, Locked                       409; only Locked names deployments
    ├── TooManyDeployments                     403
    └── Busy                                   503

Source: the released Marathon's exception mapper. Clients tell "locked" from "exists already" by
the presence of `deployments`. Differs: an unknown URI is 404, where the original answers 500;
no client needs the 500, and some mark a member as down on any 5xx.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cairn_core.errors import RemoteError


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at one place of a definition.

    path: `/` and field names, array positions as `(i)`; `/` is the whole object.
    errors: the texts, at least one.
    """

    path: str
    errors: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The element of `details`."""
        return {"path": self.path, "errors": list(self.errors)}


def fault(path: str, *errors: str) -> Fault:
    """A fault in one line."""
    return Fault(path, errors)


class MarathonError(RemoteError):
    """Root of what the API answers with something else than success.

    status: the HTTP status. message: the `message` of the body.
    """

    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"message": self.message}


class _WithDetails(MarathonError):
    """An error whose body says where."""

    def __init__(self, message: str, details: Any) -> None:
        super().__init__(message)
        self.details = details

    def body(self) -> dict[str, Any]:
        return {"message": self.message, "details": self.details}


class MalformedJson(_WithDetails):
    """The text is not JSON; `details` is what the parser says."""

    status = 400

    def __init__(self, details: str) -> None:
        super().__init__("Invalid JSON", details)


class UnmappableJson(_WithDetails):
    """JSON, but not of a kind that can hold a definition."""

    status = 400

    def __init__(self, details: str) -> None:
        super().__init__("Please specify data in JSON format", details)


class _WithFaults(MarathonError):
    """An error that lists faults."""

    status = 422

    def __init__(self, message: str, faults: Sequence[Fault]) -> None:
        super().__init__(message)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        places = "; ".join(f"{f.path}: {', '.join(f.errors)}" for f in self.faults[:5])
        return f"{self.message}: {places}"

    def body(self) -> dict[str, Any]:
        return {"message": self.message, "details": [f.as_json() for f in self.faults]}


class InvalidJson(_WithFaults):
    """Wrong types, missing keys, values out of bounds (`error.expected.jsstring`...)."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("Invalid JSON", faults)


class NotValid(_WithFaults):
    """Well-formed, and still not something that can be run."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("Object is not valid", faults)


class IllegalArgument(MarathonError):
    """A bad selector, enumeration value or the like."""

    status = 422


class BadRequest(MarathonError):
    """A request that contradicts itself."""

    status = 400


class NotFound(MarathonError):
    """No such app, group, task or deployment."""

    status = 404


class Conflict(MarathonError):
    """It exists already."""

    status = 409


class Locked(MarathonError):
    """Running deployments hold the app."""

    status = 409

    def __init__(self, deployment_ids: Sequence[str]) -> None:
        super().__init__(
            "App is locked by one or more deployments. Override with the option '?force=true'. "
            "View details at '/v2/deployments/<DEPLOYMENT_ID>'."
        )
        self.deployment_ids = tuple(deployment_ids)

    def body(self) -> dict[str, Any]:
        return {"message": self.message, "deployments": [{"id": i} for i in self.deployment_ids]}


class TooManyDeployments(MarathonError):
    """`--max_running_deployments` is reached."""

    status = 403

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"Max number ({limit}) of running deployments is achieved. Wait for existing "
            "deployments to complete or cancel one using force=true parameter. "
            "You can increase max deployment number by using --max_running_deployments parameter"
        )


class Busy(MarathonError):
    """Storage or a queue did not take it in time."""

    status = 503


def app_not_found(app_id: str, version: str | None = None) -> NotFound:
    """404 for an app, or for one version of it."""
    return NotFound(
        f"App '{app_id}' does not exist" + (f" in version {version}" if version else "")
    )


def group_not_found(group_id: str, version: str | None = None) -> NotFound:
    """404 for a group, or for one version of it."""
    tail = f" in version {version}" if version else ""
    return NotFound(f"Group '{group_id}' does not exist{tail}")


def pod_not_found(pod_id: str) -> NotFound:
    """404 for a pod."""
    return NotFound(f"Pod '{pod_id}' does not exist")


def task_not_found(task_id: str) -> NotFound:
    """404 for a task."""
    return NotFound(f"Task '{task_id}' does not exist")


def deployment_not_found(plan_id: str) -> NotFound:
    """404 for a deployment."""
    return NotFound(f"DeploymentPlan {plan_id} does not exist")


def not_queued(app_id: str) -> NotFound:
    """404 for an app that waits for nothing."""
    return NotFound(f"Application {app_id} not found in tasks queue.")


def uri_not_found() -> NotFound:
    """404 for a path that no resource serves."""
    return NotFound("URI not found")


def app_exists(app_id: str) -> Conflict:
    """409 for an app."""
    return Conflict(f"An app with id [{app_id}] already exists.")


def group_exists(group_id: str) -> Conflict:
    """409 for a group."""
    return Conflict(f"Group {group_id} is already created. Use PUT to change this group.")


def app_at_path(path: str) -> Conflict:
    """409 for a group where an app is."""
    return Conflict(f"An app with the path {path} already exists.")


def bad_task_id(task_id: str) -> BadRequest:
    """400 for an id that is not a task's."""
    return BadRequest(
        f"Invalid task id '{task_id}'. [instance and task ids have the form <app>.instance-<uuid>]"
    )


def scale_and_wipe() -> BadRequest:
    """400 for two options that exclude each other."""
    return BadRequest("You cannot use scale and wipe at the same time.")
