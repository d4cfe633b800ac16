"""When to check a task and what a result means (mesos docs/health-checks.md). Pure.

A check is made `delay` after the task runs, and again `interval` after each result. A *check* only
reports, and only when its result differs from the last. A *health check* reports each change to
healthy and every failure, and asks for the task's end after `consecutive_failures` in a row. A
failure before the first success is ignored during the grace period; as long as that is so, a
health check is made again after as much time as went by since its first probe, if that is less
than the interval. So a task that starts in a moment is known to be healthy a moment later, and
what counts is an interval apart.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

Json = dict[str, Any]

#: Shortest wait between two probes of a task that is coming up, seconds.
SHORTEST_WAIT_S = 0.1


class Probe(NamedTuple):
    """Ask the shell to make one check and to report its result.

    kind: COMMAND, HTTP or TCP. what: the JSON of that kind. timeout_s: 0 is forever.
    """

    health: bool
    kind: str
    what: Json
    timeout_s: float


class Result(NamedTuple):
    """What came out of a probe: exit code, HTTP status, or 1 and 0 for TCP; None: no result."""

    value: int | None
    message: str = ""


class Health(NamedTuple):
    """Tell the framework about the task's health, and end the task if `kill`."""

    healthy: bool
    kill: bool
    message: str = ""


class CheckChanged(NamedTuple):
    """Tell the framework the new result of a check, as CheckStatusInfo."""

    status: Json


def seconds(spec: Mapping[str, Any], name: str, default: float) -> float:
    """A duration of a check in seconds, never negative."""
    value = spec.get(f"{name}_seconds")
    return max(float(default if value is None else value), 0.0)


class Check:
    """One CheckInfo or HealthCheck over the life of a task.

    Invariant: a probe is under way iff `_next` is None and the check is neither paused nor stopped.
    """

    def __init__(self, spec: Json, *, health: bool, now: float) -> None:
        self.health = health
        self.kind = str(spec.get("type") or _guess(spec))
        what = spec.get(self.kind.lower()) or {}
        if self.kind == "COMMAND" and not health:
            what = what.get("command") or {}
        self.what: Json = what
        self._interval_s = seconds(spec, "interval", 10.0)
        self._timeout_s = seconds(spec, "timeout", 20.0)
        self._grace_s = seconds(spec, "grace_period", 10.0)
        failures = spec.get("consecutive_failures")
        self._limit = 3 if failures is None else int(failures)
        self._started = now
        self._first = now + seconds(spec, "delay", 15.0)
        self._next: float | None = self._first
        self._paused = False
        self._stopped = False
        self._probing = False
        self._proven = False  # it has been healthy once
        self._failures = 0  # in a row
        self.status: Json = {"type": self.kind, self.kind.lower(): {}}

    def next_deadline(self) -> float | None:
        """When `expire` has something to do; None: not now."""
        return None if self._paused or self._stopped else self._next

    def expire(self, *, now: float) -> Probe | None:
        """The probe that is due."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return None
        self._next = None
        self._probing = True
        return Probe(self.health, self.kind, self.what, self._timeout_s)

    def pause(self) -> None:
        """Nobody could be told; results of a probe under way are dropped."""
        self._paused = True

    def resume(self, *, now: float) -> None:
        """Go on; the next check is due at once when it was missed."""
        self._paused = False
        if self._next is None and not self._probing:
            self._next = now

    def stop(self) -> None:
        """The task is being killed or has ended."""
        self._stopped = True

    def finished(self, result: Result, *, now: float) -> Health | CheckChanged | None:
        """A probe came back; what to tell, if anything."""
        self._probing = False
        self._next = now + self._interval_s
        if self._stopped or self._paused:
            return None
        if not self.health:
            return self._compare(result)
        if self._is_coming_up(result, now):
            wait_s = max(now - self._first, SHORTEST_WAIT_S)
            self._next = now + min(wait_s, self._interval_s)
            return None
        return self._judge(result)

    def _is_coming_up(self, result: Result, now: float) -> bool:
        """Whether a result does not count."""
        return (
            not self._proven
            and now - self._started <= self._grace_s
            and not self._is_healthy(result.value)
        )

    def _judge(self, result: Result) -> Health | None:
        if self._is_healthy(result.value):
            news = not self._proven or self._failures > 0
            self._proven, self._failures = True, 0
            return Health(True, False) if news else None
        self._failures += 1
        return Health(False, self._failures >= self._limit, result.message)

    def _is_healthy(self, value: int | None) -> bool:
        if value is None:
            return False
        if self.kind == "HTTP":
            statuses = self.what.get("statuses")
            return value in statuses if statuses else 200 <= value <= 399
        return value == (1 if self.kind == "TCP" else 0)

    def _compare(self, result: Result) -> CheckChanged | None:
        detail: Json = {}
        if result.value is not None:
            if self.kind == "COMMAND":
                detail = {"exit_code": result.value}
            elif self.kind == "HTTP":
                detail = {"status_code": result.value}
            else:
                detail = {"succeeded": result.value == 1}
        status = {"type": self.kind, self.kind.lower(): detail}
        if status == self.status:
            return None
        self.status = status
        return CheckChanged(status)


def _guess(spec: Mapping[str, Any]) -> str:
    """Kind of a check that does not name it (frameworks older than the field)."""
    return next((kind for kind in ("HTTP", "TCP") if spec.get(kind.lower())), "COMMAND")
