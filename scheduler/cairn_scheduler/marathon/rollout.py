"""Rolling restart: how many old instances to end and new ones to start, right now.

Recomputed from the instances each time, so that a new leader goes on where the old one stopped.
With n instances wanted, and H healthy ones (new ones must be ready too):

    min healthy  = ceil(n * minimumHealthCapacity)
    max capacity = floor(n * (1 + maximumOverCapacity))
    end          = H - min healthy
    start        = min(n - new, max capacity - old - new)

Where both bounds meet, nothing could move: one instance more is allowed, or for apps bound to
volumes one less. Source: the released Marathon's rolling restart. Differs: old instances that are
not healthy may always be ended to make room, where the original stands still.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cairn_scheduler.marathon.app import App


@dataclass(frozen=True, slots=True)
class Member:
    """An instance as a rollout sees it. healthy: for a new one, ready as well."""

    id: str
    healthy: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a rollout may not leave."""

    min_healthy: int
    max_capacity: int


@dataclass(frozen=True, slots=True)
class Moves:
    """What to do now. end: old instances; start: new ones; done: nothing is left to do."""

    end: tuple[str, ...] = ()
    start: int = 0
    done: bool = False


def bounds(app: App) -> Bounds:
    """The bounds by the app's upgrade strategy, before any is loosened."""
    strategy, n = app.upgrade_strategy, app.instances
    return Bounds(
        # Rounded first, so that 10 * 0.7 is 7 and not the 8 that floating point makes of it.
        min_healthy=math.ceil(round(n * strategy.minimum_health_capacity, 9)),
        max_capacity=math.floor(round(n * (1 + strategy.maximum_over_capacity), 9)),
    )


def ignition(app: App, healthy: int, current: int) -> tuple[int, int]:
    """What a restart begins with: (old instances to end at once, max capacity).

    healthy: instances with goal Running that are healthy. current: all instances.
    """
    limit = bounds(app)
    end, capacity = max(0, healthy - limit.min_healthy), limit.max_capacity
    if limit.min_healthy == capacity <= healthy:
        if app.is_resident:
            end = healthy - limit.min_healthy + 1
        else:
            capacity += 1
    if app.instances < current:
        end = max(current - app.instances, end)
    return end, capacity


def moves(app: App, old: Sequence[Member], ending: int, new: Sequence[Member]) -> Moves:
    """The next moves of a restart.

    old: instances of earlier configurations with goal Running, in the order to end them.
    ending: old instances whose end is decided and that still run.
    new: instances of the configuration that is being rolled out, waiting ones too.
    """
    if not old and not ending and len(new) >= app.instances and all(m.healthy for m in new):
        return Moves(done=True)
    well_old, well_new = sum(m.healthy for m in old), sum(m.healthy for m in new)
    end, capacity = ignition(app, well_old + well_new, len(old))
    # Each new instance that serves takes the place of an old one, a sick one first.
    end = max(end, len(old) - max(0, app.instances - well_new))
    room = capacity - len(old) - ending - len(new)
    start = max(0, min(app.instances - len(new), room))
    sick = len(old) - well_old
    if sick and not start and not ending and len(new) < app.instances:
        end = max(end, min(sick, app.instances - len(new)))
    sick_first = sorted(old, key=lambda m: m.healthy)
    return Moves(end=tuple(m.id for m in sick_first[:end]), start=start)
