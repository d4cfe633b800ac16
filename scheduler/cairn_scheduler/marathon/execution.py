"""What an action of a deployment asks for right now, from nothing but the instances there are.

`advance` is called whenever something changed and again after what it asked for was done; asking
twice does no harm. So a new leader goes on with a plan it has only read. The caller starts
instances, sets goals, and goes to the next step when all actions of one are done.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.conditions import Goal
from cairn_scheduler.marathon.instances import Instance
from cairn_scheduler.marathon.planner import Action, ActionKind
from cairn_scheduler.marathon.rollout import Member, moves
from cairn_scheduler.marathon.scaling import propose

#: Whether an instance does its work: it runs, its checks pass and, where it is new, it is ready.
Serves = Callable[[Instance], bool]


@dataclass(frozen=True, slots=True)
class Work:
    """What to do for an action.

    start: instances to add. end: ids that get `goal`. done: whether nothing is left to wait for.
    """

    start: int = 0
    end: tuple[str, ...] = ()
    goal: Goal = Goal.DECOMMISSIONED
    done: bool = False


def advance(action: Action, app: App | None, instances: Sequence[Instance], serves: Serves) -> Work:
    """The work of one action.

    app: as it shall be; None only for STOP. instances: all of the app, of every version.
    """
    match action.kind:
        case ActionKind.START:
            return Work(done=True)
        case ActionKind.STOP:
            running = tuple(i.id for i in instances if i.goal is not Goal.DECOMMISSIONED)
            return Work(end=running, done=not instances)
        case ActionKind.SCALE:
            assert app is not None
            return _scale(app, action, instances, serves)
        case ActionKind.RESTART:
            assert app is not None
            return _restart(app, instances, serves)


def _goal(app: App) -> Goal:
    """An instance that is bound to volumes is stopped, so that they are used again."""
    return Goal.STOPPED if app.is_resident else Goal.DECOMMISSIONED


def _scale(app: App, action: Action, instances: Sequence[Instance], serves: Serves) -> Work:
    wanted = propose(app, instances, action.scale_to, action.kill)
    counted = [i for i in instances if i.counts]
    done = (
        not wanted.start
        and not wanted.end
        and all(serves(i) for i in counted)
        and not any(_is_ending(i) for i in instances)
    )
    return Work(start=wanted.start, end=wanted.end, goal=_goal(app), done=done)


def _restart(app: App, instances: Sequence[Instance], serves: Serves) -> Work:
    def is_new(instance: Instance) -> bool:
        return instance.config_version == app.config_version

    old = [i for i in instances if i.goal is Goal.RUNNING and not is_new(i)]
    new = [i for i in instances if i.counts and is_new(i)]
    # The order of ends among equals is that of a scaling down.
    order = {name: n for n, name in enumerate(propose(app, old, 0).end)}
    old.sort(key=lambda i: order.get(i.id, -1))
    step = moves(
        app,
        [Member(i.id, serves(i)) for i in old],
        sum(_is_ending(i) for i in instances),
        [Member(i.id, serves(i)) for i in new],
    )
    surplus = propose(app, new, app.instances).end
    done = step.done and not surplus
    return Work(start=step.start, end=(*step.end, *surplus), goal=_goal(app), done=done)


def _is_ending(instance: Instance) -> bool:
    """Whether its end is decided and it still runs."""
    return instance.goal is not Goal.RUNNING and (
        instance.condition.is_active and not instance.condition.is_lost
    )
