"""From a changed root group to a deployment: the one way by which anything is changed.

    change of the root -> service ports -> versions -> validation -> plan -> conflicts

`prepare` is all of it but the change itself, without side effects: the caller stores the root and
the plan, cancels what is to be cancelled, and starts the deployment. Source: the released
Marathon's group manager.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from cairn_scheduler.marathon import planner, versions
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.errors import Fault, NotValid, fault
from cairn_scheduler.marathon.groups import RootGroup
from cairn_scheduler.marathon.planner import Plan
from cairn_scheduler.marathon.validation import Rules, validate, validate_change


@dataclass(frozen=True, slots=True)
class ChangeRules:
    """What the daemon's configuration says about changes.

    features: `--enable_features`. default_role: `--mesos_role`. first_port, last_port:
    `--local_port_min`, `--local_port_max`. max_apps: `--max_apps`. max_deployments:
    `--max_running_deployments`.
    """

    features: frozenset[str] = frozenset()
    default_role: str = "*"
    first_port: int = 10000
    last_port: int = 20000
    max_apps: int | None = None
    max_deployments: int = 100


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a change leads to.

    changed: apps that are new or have a new version. cancelled: deployments that give way.
    """

    root: RootGroup
    plan: Plan
    changed: tuple[App, ...]
    cancelled: tuple[Plan, ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """What comes with a change.

    force: may cancel deployments, and change what is bound to volumes. restarts: apps to restart
    though nothing changed. kill: per app, instances that go first.
    """

    force: bool = False
    restarts: Collection[str] = ()
    kill: Mapping[str, Sequence[str]] = field(default_factory=dict)


def prepare(
    old: RootGroup,
    changed: RootGroup,
    running: Sequence[Plan],
    rules: ChangeRules,
    wish: Wish,
    *,
    version: str,
    plan_id: str,
) -> Prepared:
    """The new root, its plan, and what gives way to it.

    version: later than that of `old`. Raises NotValid, IllegalArgument (no service port left),
    Locked, TooManyDeployments; then nothing has changed.
    """
    new = versions.assign_service_ports(old, changed, rules.first_port, rules.last_port)
    new = versions.stamp(old, new, version, wish.restarts)
    touched = [a for name, a in sorted(new.apps.items()) if a.version == version]
    faults = _faults(old, new, touched, rules, wish.force)
    if faults:
        raise NotValid(faults)
    plan = planner.make_plan(old, new, plan_id, wish.kill)
    if plan.is_empty:
        return Prepared(new, plan, tuple(touched), ())
    cancelled = planner.admit(plan, running, force=wish.force, limit=rules.max_deployments)
    return Prepared(new, plan, tuple(touched), tuple(cancelled))


def _faults(
    old: RootGroup, new: RootGroup, touched: Sequence[App], rules: ChangeRules, force: bool
) -> list[Fault]:
    """Faults of the apps that changed; what stands unchanged is not judged again."""
    found: list[Fault] = []
    if rules.max_apps is not None and len(new.apps) > max(rules.max_apps, len(old.apps)):
        text = (
            f"This Marathon instance may only handle up to {rules.max_apps} Apps! "
            "(Override with command line option --max_apps)"
        )
        found.append(fault("/", text))
    for app in touched:
        before = old.apps.get(app.id)
        roles = new.allowed_roles(app.id, rules.default_role)
        if before is not None:
            # A role that was allowed once stays so for its app.
            roles |= {before.role}
        own = validate(app, Rules(features=rules.features, roles=roles))
        if before is not None:
            own += validate_change(before, app, force=force)
        if len(touched) > 1:
            under = f"/apps({app.id})"
            own = [Fault(under if f.path == "/" else under + f.path, f.errors) for f in own]
        found += own
        if len(found) >= 100:
            break
    return found
