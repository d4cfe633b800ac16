"""What a command executor does when: facts in, effects out. Pure.

One task. Its updates are kept until the agent acknowledges them, and go along with every new
subscription, so an agent that restarts learns what happened meanwhile. The executor ends once the
last update is acknowledged, or when waiting for that makes no sense any more.
"""

import base64
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from cairn_core.executor.checks import Check, CheckChanged, Health, Probe, Result
from cairn_core.executor.settings import Settings

Json = dict[str, Any]

DEFAULT_GRACE_S = 3.0
#: Taken off the agent's patience, so that we kill the task before the agent kills us.
SHUTDOWN_MARGIN_S = 2.0
#: How long the last update may stay unacknowledged while we are connected.
ACK_PATIENCE_S = 60.0
#: How long an executor without checkpointing looks for its agent when it starts.
FIRST_PATIENCE_S = 60.0
TERMINAL = frozenset({"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR"})


class Start(NamedTuple):
    """Run the command of this task."""

    task: Json


class Signal(NamedTuple):
    """Send a signal to the task's whole process tree."""

    number: int


class Send(NamedTuple):
    """Send this call to the agent."""

    call: Json


class Exit(NamedTuple):
    """End this process."""

    code: int


Effect = Start | Signal | Send | Exit | Probe


class Executor:
    """The command executor.

    draw_uuid: gives 16 random bytes. Invariants: at most one task is ever started; an update is in
    `_updates` iff it was made and not acknowledged.
    """

    def __init__(self, settings: Settings, *, draw_uuid: Callable[[], bytes], now: float) -> None:
        self._settings = settings
        self._draw_uuid = draw_uuid
        self._connected = False
        patience = settings.recovery_timeout_s if settings.checkpoint else FIRST_PATIENCE_S
        self._abandon_at: float | None = now + patience
        self._killing_told = False  # whether the framework knows TASK_KILLING
        self._task: Json | None = None
        self._task_known = False  # an update of the task was acknowledged
        self._state = ""
        self._updates: dict[str, Json] = {}  # by uuid, oldest first
        self._offered: frozenset[str] = frozenset()  # updates in the last SUBSCRIBE call
        self._checks: list[Check] = []
        self._healthy: bool | None = None
        self._check_status: Json | None = None
        self._killed = False
        self._unhealthy = False  # killed by its health check
        self._overdue = False  # killed by max_completion_time
        self._escalate_at: float | None = None  # when SIGTERM becomes SIGKILL
        self._complete_by: float | None = None
        self._exit_at: float | None = None
        self._shutting_down = False

    # The agent

    def subscribe_call(self) -> Json:
        """The SUBSCRIBE call to send now."""
        body: Json = {}
        self._offered = frozenset(self._updates)
        if self._task is not None and not self._task_known:
            body["unacknowledged_tasks"] = [self._task]
        if self._updates:
            body["unacknowledged_updates"] = [{"status": s} for s in self._updates.values()]
        return self._call("SUBSCRIBE", subscribe=body)

    def disconnected(self, *, now: float, wall: float) -> list[Effect]:
        """The agent is gone, or could not be reached."""
        if self._connected:
            self._connected = False
            for check in self._checks:
                check.pause()
            if self._exit_at is not None and not self._settings.checkpoint:
                return [Exit(0)]
            patience = self._settings.recovery_timeout_s if self._settings.checkpoint else 0.0
            self._abandon_at = now + patience
        return self.expire(now=now, wall=wall)

    def received(self, event: Json, *, now: float, wall: float) -> list[Effect]:
        """One event of the agent. One that makes no sense is ignored."""
        kind = event.get("type")
        body = event.get(str(kind).lower())
        body = body if isinstance(body, dict) else {}
        if kind == "SUBSCRIBED":
            return self._subscribed(body, now)
        if kind == "LAUNCH" and isinstance(body.get("task"), dict):
            return self._launch(body["task"], now, wall)
        if kind == "KILL":
            return self._asked_to_kill(body, now, wall)
        if kind == "ACKNOWLEDGED":
            return self._acknowledged(body)
        if kind == "SHUTDOWN":
            return self._shutdown(now, wall)
        if kind == "ERROR":
            return [Signal(signal.SIGKILL), Exit(1)] if self._running() else [Exit(1)]
        return []

    def terminate(self, *, now: float, wall: float) -> list[Effect]:
        """Somebody sent us SIGTERM."""
        return self._shutdown(now, wall)

    def _subscribed(self, body: Json, now: float) -> list[Effect]:
        capabilities = (body.get("framework_info") or {}).get("capabilities") or ()
        self._killing_told = any(c.get("type") == "TASK_KILLING_STATE" for c in capabilities)
        self._connected = True
        self._abandon_at = None
        if self._exit_at is not None:
            self._exit_at = now + ACK_PATIENCE_S
        for check in self._checks:
            check.resume(now=now)
        # Made after the SUBSCRIBE call was written, so the agent has not seen them.
        return [
            Send(self._call("UPDATE", update={"status": status}))
            for uuid, status in self._updates.items()
            if uuid not in self._offered
        ]

    def _launch(self, task: Json, now: float, wall: float) -> list[Effect]:
        if self._task is not None:
            text = "a command executor runs one task only"
            return [self._send(self._status(task, "TASK_FAILED", wall, message=text))]
        self._task = task
        if self._shutting_down:
            return self._ended("TASK_KILLED", "the executor is shutting down", None, now, wall)
        return [self._update("TASK_STARTING", wall), Start(task)]

    def _acknowledged(self, body: Json) -> list[Effect]:
        status = self._updates.pop(str(body.get("uuid")), None)
        mine = self._task is not None and self._task.get("task_id")
        if status is not None and status["task_id"] == mine:
            self._task_known = True
        if self._exit_at is not None and not self._updates:
            return [Exit(0)]
        return []

    # The task

    def started(self, *, now: float, wall: float) -> list[Effect]:
        """The command runs."""
        assert self._task is not None
        if spec := self._task.get("health_check"):
            self._checks.append(Check(spec, health=True, now=now))
        if spec := self._task.get("check"):
            self._checks.append(Check(spec, health=False, now=now))
            self._check_status = self._checks[-1].status
        limit = _nanoseconds(self._task.get("max_completion_time"))
        if limit is not None:
            self._complete_by = now + limit
        return [self._update("TASK_RUNNING", wall)]

    def not_started(self, message: str, *, now: float, wall: float) -> list[Effect]:
        """The command could not be executed."""
        reason = "REASON_COMMAND_EXECUTOR_FAILED"
        return self._ended("TASK_FAILED", message, reason, now, wall)

    def exited(self, status: int, *, now: float, wall: float) -> list[Effect]:
        """The command's process has ended with this wait status."""
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            message = f"Command terminated with signal {signal.strsignal(number) or number}"
        else:
            message = f"Command exited with status {os.WEXITSTATUS(status)}"
        if self._overdue:
            reason = "REASON_MAX_COMPLETION_TIME_REACHED"
            return self._ended("TASK_FAILED", message, reason, now, wall)
        if self._killed:
            return self._ended("TASK_KILLED", message, None, now, wall)
        if status == 0:
            return self._ended("TASK_FINISHED", message, None, now, wall)
        reason = "REASON_COMMAND_EXECUTOR_FAILED"
        return self._ended("TASK_FAILED", message, reason, now, wall)

    def probed(self, health: bool, result: Result, *, now: float, wall: float) -> list[Effect]:
        """A probe came back."""
        news = [c.finished(result, now=now) for c in self._checks if c.health == health]
        effects: list[Effect] = []
        for item in news:
            if isinstance(item, Health):
                self._healthy = item.healthy
                reason = "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED"
                effects.append(self._update(self._state, wall, reason, item.message))
                if item.kill:
                    self._unhealthy = True
                    effects += self._kill(self._task_grace(), now, wall)
            elif isinstance(item, CheckChanged):
                self._check_status = item.status
                reason = "REASON_TASK_CHECK_STATUS_UPDATED"
                effects.append(self._update(self._state, wall, reason))
        return effects

    # Killing

    def _asked_to_kill(self, body: Json, now: float, wall: float) -> list[Effect]:
        if self._task is None or body.get("task_id") != self._task.get("task_id"):
            return []
        grace = _nanoseconds((body.get("kill_policy") or {}).get("grace_period"))
        return self._kill(self._task_grace() if grace is None else grace, now, wall)

    def _task_grace(self) -> float:
        assert self._task is not None
        policy = self._task.get("kill_policy") or {}
        grace = _nanoseconds(policy.get("grace_period"))
        return DEFAULT_GRACE_S if grace is None else grace

    def _kill(self, grace_s: float, now: float, wall: float) -> list[Effect]:
        """Begin to kill; a second call can only shorten the grace period."""
        if not self._running():
            return []
        deadline = now + grace_s
        if self._killed or self._overdue:
            if self._escalate_at is not None:
                self._escalate_at = min(self._escalate_at, deadline)
            return self.expire(now=now, wall=wall)
        self._killed = True
        for check in self._checks:
            check.stop()
        effects: list[Effect] = []
        if self._killing_told:
            effects.append(self._update("TASK_KILLING", wall))
        self._escalate_at = deadline
        return [*effects, Signal(signal.SIGTERM)]

    def _shutdown(self, now: float, wall: float) -> list[Effect]:
        self._shutting_down = True
        if self._running():
            grace = max(self._settings.shutdown_grace_s - SHUTDOWN_MARGIN_S, 0.0)
            return self._kill(grace, now, wall)
        if not self._updates or not self._connected:
            return [Exit(0)]
        return []

    # Time

    def next_deadline(self) -> float | None:
        """When `expire` wants to be called; None: no time is awaited."""
        found = [
            self._abandon_at, self._escalate_at, self._complete_by, self._exit_at,
            *(check.next_deadline() for check in self._checks),
        ]  # fmt: skip
        return min((t for t in found if t is not None), default=None)

    def expire(self, *, now: float, wall: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        if self._abandon_at is not None and now >= self._abandon_at:
            self._abandon_at = None
            effects += self._shutdown(now, wall)
        if self._complete_by is not None and now >= self._complete_by:
            self._complete_by = None
            if self._running() and not self._killed:
                self._overdue = True
                self._escalate_at = now
                for check in self._checks:
                    check.stop()
        if self._escalate_at is not None and now >= self._escalate_at:
            self._escalate_at = None
            effects.append(Signal(signal.SIGKILL))
        if self._exit_at is not None and now >= self._exit_at:
            self._exit_at = None
            effects.append(Exit(0))
        for check in self._checks:
            if (probe := check.expire(now=now)) is not None:
                effects.append(probe)
        return effects

    # Updates

    def _running(self) -> bool:
        return self._task is not None and self._state not in TERMINAL

    def _ended(
        self, state: str, message: str, reason: str | None, now: float, wall: float
    ) -> list[Effect]:
        for check in self._checks:
            check.stop()
        self._escalate_at = self._complete_by = None
        if self._unhealthy:
            self._healthy = False
        effects: list[Effect] = [self._update(state, wall, reason, message)]
        gone = not self._connected and (self._shutting_down or not self._settings.checkpoint)
        if gone and self._abandon_at is None:
            return [Exit(0)]
        if self._connected:
            self._exit_at = now + ACK_PATIENCE_S
        else:
            self._exit_at = self._abandon_at
        return effects

    def _update(
        self, state: str, wall: float, reason: str | None = None, message: str = ""
    ) -> Send:
        assert self._task is not None
        self._state = state
        status = self._status(self._task, state, wall, reason=reason, message=message)
        if self._healthy is not None:
            status["healthy"] = self._healthy
        if self._check_status is not None:
            status["check_status"] = self._check_status
        return self._send(status)

    def _status(
        self, task: Json, state: str, wall: float, *, reason: str | None = None, message: str = ""
    ) -> Json:
        raw = bytearray(self._draw_uuid())
        raw[6] = raw[6] & 0x0F | 0x40  # version 4
        raw[8] = raw[8] & 0x3F | 0x80  # variant of RFC 9562
        status: Json = {
            "task_id": task.get("task_id"),
            "executor_id": {"value": self._settings.executor_id},
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "timestamp": wall,
            "uuid": base64.b64encode(raw).decode(),
        }
        if reason:
            status["reason"] = reason
        if message:
            status["message"] = message
        return status

    def _send(self, status: Json) -> Send:
        self._updates[status["uuid"]] = status
        return Send(self._call("UPDATE", update={"status": status}))

    def _call(self, kind: str, **body: Json) -> Json:
        return {
            "type": kind,
            "framework_id": {"value": self._settings.framework_id},
            "executor_id": {"value": self._settings.executor_id},
            **body,
        }


def _nanoseconds(duration: Any) -> float | None:
    """Seconds of a DurationInfo; None when there is none."""
    if not isinstance(duration, dict) or duration.get("nanoseconds") is None:
        return None
    return max(int(duration["nanoseconds"]) / 1e9, 0.0)
