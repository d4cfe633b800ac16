"""Deployment plans: the steps from one root group to another, their conflicts, their reversal.

    step 1      StopApplication     everything that is gone
    step 2      StartApplication    everything that is new, with no instances yet (a marker)
    then        one step per dependency layer:
                  new                              ScaleApplication
                  instances differ, or now 0       ScaleApplication
                  configuration differs, restart   RestartApplication

Steps without actions vanish. Which step is next is decided by what is true of the cluster
(`next_step`), never by an index that somebody stored. Source: the released Marathon's deployment
planning. Both roots must be stamped (`versions.stamp`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace as replace_root
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from cairn_scheduler.marathon import paths
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.dependencies import layers
from cairn_scheduler.marathon.errors import Locked, TooManyDeployments
from cairn_scheduler.marathon.groups import ROOT, GroupInfo, RootGroup
from cairn_scheduler.marathon.versions import is_config_change


class ActionKind(StrEnum):
    """What is done to an app, by its name in the API."""

    START = "StartApplication"
    STOP = "StopApplication"
    SCALE = "ScaleApplication"
    RESTART = "RestartApplication"


class Action(Struct, frozen=True):
    """One thing to do to one app.

    scale_to: instances wanted, for SCALE and RESTART. kill: instances to go first, for SCALE.
    """

    kind: ActionKind
    app: str
    scale_to: int = 0
    kill: tuple[str, ...] = ()


Step = tuple[Action, ...]


class Plan(Struct, frozen=True):
    """A deployment. version: of the root group that it leads to."""

    id: str
    version: str
    steps: tuple[tuple[Action, ...], ...] = ()

    @property
    def affected(self) -> frozenset[str]:
        """The apps that it holds."""
        return frozenset(action.app for step in self.steps for action in step)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.steps


def make_plan(
    old: RootGroup,
    new: RootGroup,
    plan_id: str,
    kill: Mapping[str, Sequence[str]] | None = None,
) -> Plan:
    """The steps that lead from the old root to the new one.

    kill: per app, instances that shall go first when it is scaled down.
    Raises NotValid when the new root's dependencies go in a circle.
    """
    kill = kill or {}
    steps = [
        tuple(Action(ActionKind.STOP, a) for a in sorted(old.apps.keys() - new.apps.keys())),
        tuple(Action(ActionKind.START, a) for a in sorted(new.apps.keys() - old.apps.keys())),
    ]
    for layer in layers(new):
        actions = (
            _action(old.apps.get(app_id), new.apps[app_id], tuple(kill.get(app_id, ())))
            for app_id in layer
        )
        steps.append(tuple(a for a in actions if a is not None))
    return Plan(plan_id, new.version, tuple(step for step in steps if step))


def _action(old: App | None, new: App, kill: tuple[str, ...]) -> Action | None:
    """What a layer does to an app."""
    if old is None:
        return Action(ActionKind.SCALE, new.id, new.instances, kill)
    if old.version == new.version and not kill:
        return None
    if new.instances == 0 or old.config_version == new.config_version:
        return Action(ActionKind.SCALE, new.id, new.instances, kill)
    return Action(ActionKind.RESTART, new.id, new.instances)


def next_step(plan: Plan, is_done: Callable[[Action], bool]) -> int | None:
    """Index of the first step with something left to do; None when the plan is carried out.

    is_done: whether the cluster is as the action wants it. Holds for earlier steps too, so that
    a step whose work was undone is done again.
    """
    for index, step in enumerate(plan.steps):
        if not all(is_done(action) for action in step):
            return index
    return None


def conflicts(plan: Plan, running: Iterable[Plan]) -> list[Plan]:
    """The running plans that hold an app of this one."""
    affected = plan.affected
    return [other for other in running if affected & other.affected]


def admit(plan: Plan, running: Sequence[Plan], *, force: bool, limit: int = 100) -> list[Plan]:
    """The running plans that must be cancelled so that this one can start.

    Raises Locked where there are some and `force` is not set, TooManyDeployments where `limit`
    would be exceeded.
    """
    held = conflicts(plan, running)
    if held and not force:
        raise Locked([other.id for other in held])
    if len(running) - len(held) >= limit:
        raise TooManyDeployments(limit)
    return held


def revert(old: RootGroup, new: RootGroup, current: RootGroup) -> RootGroup:
    """The current root with the changes from old to new undone, and no others.

    Added apps go, removed ones come back, changed ones get their old definition; likewise for
    what groups have themselves. A group that was added goes if nothing is in it. The result is
    not stamped yet.
    """
    apps = dict(current.apps)
    for app_id in old.apps.keys() | new.apps.keys():
        before, after = old.apps.get(app_id), new.apps.get(app_id)
        if before is None:
            apps.pop(app_id, None)
        elif after is None or _differ(before, after):
            apps[app_id] = before
    groups = dict(current.groups)
    for name in old.groups.keys() | new.groups.keys():
        group_before, group_after = old.groups.get(name), new.groups.get(name)
        if group_before is not None and group_after is None:
            groups[name] = group_before
        elif group_before is not None and group_after is not None and name in groups:
            groups[name] = _group_reverted(group_before, group_after, groups[name])
    occupied = {group for name in apps for group in paths.ancestors(name)}
    for name in sorted(new.groups.keys() - old.groups.keys(), key=len, reverse=True):
        children = any(g != ROOT and paths.parent(g) == name for g in groups)
        if name not in occupied and not children:
            groups.pop(name, None)
    for name in list(apps) + list(groups):
        for group in paths.ancestors(name):
            groups.setdefault(group, GroupInfo())
    for app_id in apps.keys() & groups.keys():
        del apps[app_id]
    return replace_root(current, apps=apps, groups=groups)


def _differ(before: App, after: App) -> bool:
    return (
        before.version != after.version
        or before.instances != after.instances
        or (is_config_change(before, after))
    )


def _group_reverted(before: GroupInfo, after: GroupInfo, current: GroupInfo) -> GroupInfo:
    """Undo what changed: dependencies added and removed since by others survive."""
    added = set(after.dependencies) - set(before.dependencies)
    removed = [d for d in before.dependencies if d not in after.dependencies]
    kept = [d for d in current.dependencies if d not in added]
    role = current.enforce_role
    if before.enforce_role != after.enforce_role:
        role = before.enforce_role
    dependencies = (*kept, *(d for d in removed if d not in kept))
    return replace(current, dependencies=dependencies, enforce_role=role)
