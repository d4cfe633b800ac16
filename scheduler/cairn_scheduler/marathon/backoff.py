"""Launch delays of apps whose tasks end: exponential, per app and configuration.

First failure: the app's `backoffSeconds`; each further one multiplies by `backoffFactor` up to
`maxLaunchDelaySeconds`. Progress of a launch moves the reference time, so that start-up does not
eat up the delay. Source: the released Marathon's rate limiter. `now` is monotonic: delays do not
outlive the process.
"""

from dataclasses import dataclass, field

from cairn_scheduler.marathon.app import App


@dataclass(frozen=True, slots=True)
class Delay:
    """A delay that counts from `reference`; times in seconds."""

    reference: float
    delay_s: float
    max_s: float

    @property
    def deadline(self) -> float:
        """When a launch may be tried again."""
        return self.reference + self.delay_s


@dataclass(slots=True)
class Backoff:
    """The delays in force. Bounded by the configurations that failed within the longest delay."""

    _delays: dict[tuple[str, str], Delay] = field(default_factory=dict)

    def grow(self, app: App, *, now: float) -> float:
        """A task of the app ended that should run. Returns the new deadline."""
        key = (app.id, app.config_version)
        before = self._delays.get(key)
        longest = float(app.max_launch_delay_seconds)
        wanted = app.backoff_seconds if before is None else before.delay_s * app.backoff_factor
        delay = Delay(now, min(float(wanted), longest), longest)
        self._delays[key] = delay
        return delay.deadline

    def advance(self, app_id: str, config_version: str, *, now: float) -> None:
        """A launch got on: the delay counts from now."""
        key = (app_id, config_version)
        before = self._delays.get(key)
        if before is not None:
            self._delays[key] = Delay(now, before.delay_s, before.max_s)

    def reset(self, app_id: str) -> bool:
        """Forget the delays of an app, of whatever configuration. Whether there were any."""
        keys = [key for key in self._delays if key[0] == app_id]
        for key in keys:
            del self._delays[key]
        return bool(keys)

    def deadline(self, app: App) -> float | None:
        """When the app may be launched, None at once."""
        delay = self._delays.get((app.id, app.config_version))
        return delay.deadline if delay is not None else None

    def left_s(self, app: App, *, now: float) -> float:
        """Seconds until the app may be launched, 0 when it may."""
        deadline = self.deadline(app)
        return max(0.0, deadline - now) if deadline is not None else 0.0

    def sweep(self, *, now: float) -> list[tuple[str, str]]:
        """Forget what has been quiet for longer than its longest delay; (app, version) of each."""
        over = [key for key, d in self._delays.items() if now > d.reference + d.max_s]
        for key in over:
            del self._delays[key]
        return over
