"""How many instances to start, and which ones to end, to get from what is to what shall be.

Order of ends: those a client named; those that keep every GROUP_BY balanced; then by condition
(unreachable, staging, starting, running, the rest), ties by the app's `killSelection`. Source: the
released Marathon's scaling proposition.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cairn_scheduler.marathon.app import OLDEST_FIRST, App
from cairn_scheduler.marathon.conditions import Condition
from cairn_scheduler.marathon.constraints import Place, surplus
from cairn_scheduler.marathon.instances import Instance

_WEIGHTS = {
    Condition.UNREACHABLE: 1,
    Condition.STAGING: 2,
    Condition.STARTING: 3,
    Condition.RUNNING: 4,
}
#: An instance that waits for an offer costs nobody anything: it goes before all that run.
_WAITING = {Condition.SCHEDULED: 0}


@dataclass(frozen=True, slots=True)
class Proposition:
    """What to do: ids to decommission, in order, and how many to start."""

    end: tuple[str, ...] = ()
    start: int = 0


def propose(
    app: App,
    instances: Iterable[Instance],
    scale_to: int,
    sentenced: Collection[str] = (),
) -> Proposition:
    """What leads from these instances of an app to `scale_to` of them.

    sentenced: ids that must go in any case; they are replaced if that leaves too few.
    Instances that do not count (inactive, or ending already) are left alone.
    """
    counted = [i for i in instances if i.counts]
    condemned = [i for i in counted if i.id in sentenced]
    rest = sorted((i for i in counted if i.id not in sentenced), key=lambda i: _rank(app, i))
    count = max(len(counted) - scale_to, len(condemned))
    balancing = surplus(
        app.constraints,
        [i for i in rest if i.agent is not None],
        _place,
        count - len(condemned) - sum(i.agent is None for i in rest),
    )
    chosen = {i.id for i in balancing}
    waiting = [i for i in rest if i.agent is None]
    others = [i for i in rest if i.agent is not None and i.id not in chosen]
    order = [*condemned, *waiting, *balancing, *others]
    return Proposition(
        end=tuple(i.id for i in order[:count]),
        start=max(0, scale_to - len(counted) + count),
    )


def _place(instance: Instance) -> Place:
    assert instance.agent is not None
    return instance.agent.place


def _rank(app: App, instance: Instance) -> tuple[int, float, str]:
    """Lower goes first; the id makes the order total."""
    weight = _WAITING.get(instance.condition, _WEIGHTS.get(instance.condition, 5))
    if instance.condition is Condition.STAGING and instance.task is not None:
        at = instance.task.staged_at
    elif instance.condition is Condition.STARTING or instance.active_since is None:
        at = instance.since
    else:
        at = instance.active_since
    return (weight, at if app.kill_selection == OLDEST_FIRST else -at, instance.id)
