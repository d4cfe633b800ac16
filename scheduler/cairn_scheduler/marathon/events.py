"""Events of the event stream: their exact fields, and their frames.

A frame is `event: <type>`, `data: <one line of JSON>` and an empty line, each ended by CRLF: some
consumers split on CRLF alone. A bare CRLF is the heartbeat. Source: the released Marathon's events
and their JSON. Plans are light unless a subscriber asked for heavy ones.
"""

from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from cairn_core.mesos.base import emitted
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.checks import HealthCheck
from cairn_scheduler.marathon.instances import Address

HEARTBEAT = b"\r\n"
#: Seconds between heartbeats.
HEARTBEAT_S = 10.0


class Event(
    Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel", tag_field="eventType"
):
    """Something that happened; `timestamp` as the API prints it."""

    timestamp: str

    def event_type(self) -> str:
        """The name that subscribers filter by."""
        return str(type(self).__struct_config__.tag)


class ApiPost(Event, frozen=True, tag="api_post_event"):
    """An app was created or changed through the API."""

    client_ip: str
    uri: str
    app_definition: App


class SchedulerRegistered(Event, frozen=True, tag="scheduler_registered_event"):
    """Registered with a master for the first time."""

    framework_id: str
    master: str


class SchedulerReregistered(Event, frozen=True, tag="scheduler_reregistered_event"):
    """Registered again."""

    master: str


class SchedulerDisconnected(Event, frozen=True, tag="scheduler_disconnected_event"):
    """The connection to the master is gone."""


class StreamAttached(Event, frozen=True, tag="event_stream_attached"):
    """A subscriber came; the first event on each stream."""

    remote_address: str


class StreamDetached(Event, frozen=True, tag="event_stream_detached"):
    """A subscriber went."""

    remote_address: str


class HealthCheckAdded(Event, frozen=True, tag="add_health_check_event"):
    """An app is checked from now on."""

    app_id: str
    health_check: HealthCheck
    version: str


class HealthCheckRemoved(Event, frozen=True, tag="remove_health_check_event"):
    """An app is not checked any more."""

    app_id: str


class HealthCheckFailed(Event, frozen=True, tag="failed_health_check_event"):
    """A check failed; `task_id` is an instance's id, as in the original."""

    app_id: str
    health_check: HealthCheck
    task_id: str


class HealthStatusChanged(Event, frozen=True, tag="health_status_changed_event"):
    """A check of Marathon's own found an instance otherwise than before."""

    app_id: str
    instance_id: str
    version: str
    alive: bool


class UnhealthyInstanceKilled(Event, frozen=True, tag="unhealthy_instance_kill_event"):
    """An instance is killed for its health."""

    app_id: str
    task_id: str
    instance_id: str
    version: str
    reason: str
    host: str
    slave_id: str | None = None


class GroupChanged(Event, frozen=True, tag="group_change_success"):
    """A group was changed."""

    group_id: str
    version: str


class GroupChangeFailed(Event, frozen=True, tag="group_change_failed"):
    """A group could not be changed."""

    group_id: str
    version: str
    reason: str


class _InDeployment(Event, frozen=True):
    """About a step: `deployments.plan_json` and `deployments.step_json` make the two."""

    plan: dict[str, Any]
    current_step: dict[str, Any]


class DeploymentInfo(_InDeployment, frozen=True, tag="deployment_info"):
    """A step begins."""


class DeploymentStepSucceeded(_InDeployment, frozen=True, tag="deployment_step_success"):
    """A step is done."""


class DeploymentStepFailed(_InDeployment, frozen=True, tag="deployment_step_failure"):
    """A step failed."""


class DeploymentSucceeded(Event, frozen=True, tag="deployment_success"):
    """A deployment is carried out."""

    id: str
    plan: dict[str, Any]


class DeploymentFailed(Event, frozen=True, tag="deployment_failed"):
    """A deployment was cancelled."""

    id: str
    plan: dict[str, Any]
    reason: str | None = None


class AppTerminated(Event, frozen=True, tag="app_terminated_event"):
    """The last instance of a removed app is gone."""

    app_id: str


class StatusUpdate(Event, frozen=True, tag="status_update_event"):
    """A task has a new state."""

    slave_id: str
    task_id: str
    task_status: str
    message: str
    app_id: str
    host: str
    version: str
    ip_addresses: tuple[dict[str, str], ...] = emitted(())
    ports: tuple[int, ...] = emitted(())


class InstanceChanged(Event, frozen=True, tag="instance_changed_event"):
    """An instance has a new condition."""

    instance_id: str
    condition: str
    run_spec_id: str
    run_spec_version: str
    agent_id: str | None = emitted(None)
    host: str | None = emitted(None)


class InstanceHealthChanged(Event, frozen=True, tag="instance_health_changed_event"):
    """An instance's health is another; `healthy` is missing while it is not known."""

    instance_id: str
    run_spec_id: str
    run_spec_version: str
    healthy: bool | None = None


class UnknownInstanceTerminated(Event, frozen=True, tag="unknown_instance_terminated_event"):
    """A task that nobody knew has ended."""

    instance_id: str
    run_spec_id: str
    condition: str


class FrameworkMessage(Event, frozen=True, tag="framework_message_event"):
    """An executor sent bytes, here as signed numbers."""

    executor_id: str
    slave_id: str
    message: tuple[int, ...] = emitted(())

    SIGN: ClassVar[int] = 128


def signed_bytes(data: bytes) -> tuple[int, ...]:
    """Bytes as the numbers from -128 to 127 that `FrameworkMessage` carries."""
    return tuple(byte - 256 if byte >= FrameworkMessage.SIGN else byte for byte in data)


def addresses_json(addresses: tuple[Address, ...]) -> tuple[dict[str, str], ...]:
    """The `ipAddresses` of an event or a task."""
    return tuple({"ipAddress": a.ip_address, "protocol": a.protocol} for a in addresses)


def frame(event: Event) -> bytes:
    """The event as it goes over the stream; JSON holds no line breaks."""
    name = event.event_type().encode()
    return b"event: %b\r\ndata: %b\r\n\r\n" % (name, msgspec.json.encode(event))
