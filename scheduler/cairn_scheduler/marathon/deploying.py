"""Changes of what shall run, and the deployments that carry them out.

    change -> ports, versions, validation, plan, locks (`change`) -> log (root, plan) -> first step

A deployment is looked at whenever something about its apps changed; which step is next, and what
it asks for, comes from the instances alone (`execution`). Apps that no deployment holds are kept
at their number of instances.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from random import Random
from uuid import UUID

from msgspec.structs import replace

from cairn_scheduler.marathon import events, instance_ids, timestamps
from cairn_scheduler.marathon import instances as rules
from cairn_scheduler.marathon.app import App, scaled
from cairn_scheduler.marathon.change import ChangeRules, Prepared, Wish, prepare
from cairn_scheduler.marathon.conditions import Goal
from cairn_scheduler.marathon.deployments import plan_json, step_json
from cairn_scheduler.marathon.effects import Deployed, Killed
from cairn_scheduler.marathon.errors import scale_and_wipe
from cairn_scheduler.marathon.execution import Work, advance
from cairn_scheduler.marathon.groups import RootGroup, put_app
from cairn_scheduler.marathon.instances import Instance
from cairn_scheduler.marathon.launching import Launcher
from cairn_scheduler.marathon.planner import (
    Action,
    ActionKind,
    Plan,
    revert,
)
from cairn_scheduler.marathon.scaling import propose
from cairn_scheduler.marathon.store import Ledger, changed
from cairn_scheduler.marathon.tables import Deployment
from cairn_scheduler.marathon.tracking import Tracker

MakeRoot = Callable[[RootGroup], RootGroup]
#: Looks at what is dirty within one fact; what is left then is looked at with the next one.
MAX_LOOKS = 20
#: Instances that are added within one fact; the others follow with the next ones.
MAX_STARTS = 1000


class Deployer:
    """See the module. rng: gives the ids of plans and instances."""

    def __init__(
        self,
        tracker: Tracker,
        launcher: Launcher,
        rng: Random,
        rules: ChangeRules,
    ) -> None:
        self._tracker = tracker
        self._launcher = launcher
        self._ledger: Ledger = tracker.ledger
        self._rng = rng
        self._rules = rules
        #: Steps' actions that are done, by deployment, until something about their app changes.
        self._done: dict[str, set[tuple[int, int]]] = {}
        self._starts_left = MAX_STARTS
        self._later: set[str] = set()

    # Changes

    def prepare(self, make_root: MakeRoot, wish: Wish, running: Sequence[Plan] = ()) -> Prepared:
        """What a change leads to: the new root, its plan, what gives way. Raises MarathonError.

        running: the deployments that may be in the way.
        """
        old = self._ledger.tables.root
        return prepare(
            old,
            make_root(old),
            running,
            self._rules,
            wish,
            version=timestamps.next_version(self._ledger.wall, old.version),
            plan_id=str(self._uuid()),
        )

    def change_root(
        self,
        make_root: MakeRoot,
        *,
        force: bool = False,
        restarts: Collection[str] = (),
        kill: Mapping[str, Sequence[str]] | None = None,
        group_id: str = "/",
    ) -> Deployed:
        """Change what shall run, and begin to carry it out. Raises MarathonError."""
        ledger, tables = self._ledger, self._ledger.tables
        old = tables.root
        prepared = self.prepare(
            make_root, Wish(force, restarts, kill or {}), tables.running_plans()
        )
        new, plan = prepared.root, prepared.plan
        apps, groups = changed(old.apps, new.apps), changed(old.groups, new.groups)
        if not apps and not groups and plan.is_empty:
            return Deployed(Plan(plan.id, old.version), old)
        ledger.set_root(new)
        for other in prepared.cancelled:
            self._cancel(tables.deployments[other.id], f"replaced by deployment {plan.id}")
        stamp_now = self._stamp()
        ledger.publish(
            events.GroupChanged(timestamp=stamp_now, group_id=group_id, version=new.version)
        )
        for app_id, (before, after) in apps.items():
            self._tell_checks(before, after)
            if after is None:
                self._tracker.gone(app_id)
        if plan.is_empty:
            ledger.publish(
                events.DeploymentSucceeded(timestamp=stamp_now, id=plan.id, plan=plan_json(plan))
            )
        else:
            self._begin(plan, old, new, groups.keys())
        self._launcher.root_changed()
        ledger.dirty.update(apps)
        self.settle()
        return Deployed(plan, new)

    def _begin(self, plan: Plan, old: RootGroup, new: RootGroup, groups: Iterable[str]) -> None:
        names = list(groups)
        deployment = Deployment(
            plan=plan,
            before={a: old.apps.get(a) for a in plan.affected},
            after={a: new.apps.get(a) for a in plan.affected},
            before_groups={g: old.groups.get(g) for g in names},
            after_groups={g: new.groups.get(g) for g in names},
            since=self._ledger.wall,
        )
        self._ledger.put_deployment(deployment)
        for step in plan.steps:
            for action in step:
                if action.kind is ActionKind.RESTART:
                    self._ledger.tables.backoff.reset(action.app)
                    self._launcher.demand(action.app)
        self._ledger.dirty.update(plan.affected)

    def rollback(self, plan_id: str) -> Deployed:
        """Undo what a deployment wanted, as a deployment of its own. Raises NotFound."""
        deployment = self._ledger.tables.deployment(plan_id)
        old, new = _roots(deployment)
        return self.change_root(lambda current: revert(old, new, current), force=True)

    def cancel(self, plan_id: str) -> None:
        """End a deployment and leave everything as it is. Raises NotFound."""
        self._cancel(self._ledger.tables.deployment(plan_id), "cancelled by a client")
        self.settle()

    def _cancel(self, deployment: Deployment, reason: str) -> None:
        self._end(deployment)
        self._ledger.publish(
            events.DeploymentFailed(
                timestamp=self._stamp(),
                id=deployment.plan.id,
                plan=plan_json(deployment.plan),
                reason=reason,
            )
        )

    def _end(self, deployment: Deployment) -> None:
        self._ledger.drop_deployment(deployment)
        self._done.pop(deployment.plan.id, None)
        tables = self._ledger.tables
        for app_id in deployment.plan.affected:
            self._ledger.dirty.add(app_id)
            for instance in tables.instances_of(app_id):
                self._tracker.readiness.forget(instance)
                tables.readiness.pop(instance.id, None)

    def kill(
        self, instance_ids: Sequence[str], *, scale: bool, wipe: bool, force: bool
    ) -> Killed | Deployed:
        """Kill tasks; see `context`."""
        if scale and wipe:
            raise scale_and_wipe()
        tables = self._ledger.tables
        found = [tables.instances[i] for i in dict.fromkeys(instance_ids) if i in tables.instances]
        if scale:
            return self._kill_and_scale(found, force)
        for instance in found:
            if wipe:
                self._tracker.set_goal([instance], Goal.DECOMMISSIONED)
            else:
                self._tracker.apply(rules.kill(instance))
        self.settle()
        return Killed(tuple(found))

    def _kill_and_scale(self, found: Sequence[Instance], force: bool) -> Deployed:
        kill: dict[str, list[str]] = {}
        for instance in found:
            if instance.counts and instance.app_id in self._ledger.tables.root.apps:
                kill.setdefault(instance.app_id, []).append(instance.id)

        def smaller(root: RootGroup) -> RootGroup:
            for app_id, ids in kill.items():
                app = root.apps[app_id]
                root = put_app(root, scaled(app, max(0, app.instances - len(ids))))
            return root

        return self.change_root(smaller, force=force, kill=kill)

    # Carrying out

    def settle(self) -> None:
        """Look at every app about which something changed, until nothing changes any more."""
        ledger = self._ledger
        self._starts_left = MAX_STARTS
        later: set[str] = set()
        for _ in range(MAX_LOOKS):
            if not ledger.dirty:
                break
            apps, ledger.dirty = ledger.dirty, set()
            plans = set()
            for app_id in sorted(apps):
                plan_id = ledger.tables.held.get(app_id)
                if plan_id is None:
                    self._keep(app_id)
                else:
                    plans.add(plan_id)
            for plan_id in sorted(plans):
                deployment = ledger.tables.deployments.get(plan_id)
                if deployment is not None:
                    self._look(deployment, apps)
            later |= self._later
            self._later = set()
        ledger.dirty |= later
        self._launcher.settle()

    def _keep(self, app_id: str) -> None:
        """Keep an app that no deployment holds at its number of instances."""
        app = self._ledger.tables.root.apps.get(app_id)
        instances = list(self._ledger.tables.instances_of(app_id))
        if app is None:
            self._tracker.set_goal(
                [i for i in instances if i.goal is not Goal.DECOMMISSIONED], Goal.DECOMMISSIONED
            )
            return
        wanted = propose(app, instances, app.instances)
        self._do(app, Work(start=wanted.start, end=wanted.end))

    def _look(self, deployment: Deployment, dirty: Collection[str]) -> None:
        """Do what a deployment's step asks for; go on to the next step, or end it."""
        plan = deployment.plan
        done = self._done.setdefault(plan.id, set())
        done -= {
            (s, a)
            for s, step in enumerate(plan.steps)
            for a, action in enumerate(step)
            if action.app in dirty
        }
        for number, step in enumerate(plan.steps):
            for place, action in enumerate(step):
                if (number, place) not in done and self._act(action):
                    done.add((number, place))
            if not all((number, place) in done for place in range(len(step))):
                break
        else:
            self._announce(deployment, len(plan.steps))
            self._end(deployment)
            self._ledger.publish(
                events.DeploymentSucceeded(
                    timestamp=self._stamp(), id=plan.id, plan=plan_json(plan)
                )
            )
            return
        deployment.step = number
        self._announce(deployment, number)
        later = {action.app for step in plan.steps[number + 1 :] for action in step}
        now = {action.app for step in plan.steps[: number + 1] for action in step}
        for app_id in later & set(dirty):
            if app_id not in now:
                self._keep_before(deployment, app_id)

    def _keep_before(self, deployment: Deployment, app_id: str) -> None:
        """An app whose step is still to come keeps what it had."""
        before = deployment.before.get(app_id)
        if before is None:
            return
        instances = list(self._ledger.tables.instances_of(app_id))
        self._do(before, Work(start=propose(before, instances, before.instances).start))

    def _act(self, action: Action) -> bool:
        """Do what an action asks for now; whether it is done."""
        tables = self._ledger.tables
        app = tables.root.apps.get(action.app)
        if action.kind is not ActionKind.STOP and app is None:
            return True
        instances = list(tables.instances_of(action.app))
        if app is not None and action.kind in (ActionKind.SCALE, ActionKind.RESTART):
            instances = self._prepare(action, app, instances)
            if app.instances and any(
                i.counts and i.config_version != app.config_version for i in instances
            ):
                # Left over from a restart that was cut short: scaling alone would keep them.
                action = replace(action, kind=ActionKind.RESTART)
        work = advance(action, app, instances, self._serves)
        self._do(app, work)
        return work.done

    def _prepare(self, action: Action, app: App, instances: list[Instance]) -> list[Instance]:
        """Ask for readiness; drop what waits to be launched as something old; end the named."""
        for instance in instances:
            self._tracker.readiness.ask(instance, app, now=self._ledger.now)
        ends = [
            i
            for i in instances
            if (i.is_scheduled and i.config_version != app.config_version)
            or (i.counts and i.id in action.kill)
        ]
        if not ends:
            return instances
        self._tracker.set_goal(ends, Goal.DECOMMISSIONED)
        return list(self._ledger.tables.instances_of(app.id))

    def _do(self, app: App | None, work: Work) -> None:
        tables = self._ledger.tables
        for instance_id in work.end:
            instance = tables.instances.get(instance_id)
            if instance is not None:
                # Only what has volumes is worth keeping.
                goal = work.goal if instance.volumes else Goal.DECOMMISSIONED
                self._tracker.set_goal([instance], goal)
        if app is None:
            return
        starts = min(work.start, self._starts_left)
        self._starts_left -= starts
        if starts < work.start:
            self._later.add(app.id)
        for _ in range(starts):
            name = instance_ids.instance_id(app.id, str(self._uuid()))
            self._tracker.apply(rules.schedule(app, name, wall=self._ledger.wall))

    def _serves(self, instance: Instance) -> bool:
        """Whether an instance does its work: it runs, its checks pass, and it is ready."""
        if not instance.considered_healthy:
            return False
        app = self._ledger.tables.app_of(instance)
        if app is None:
            return False
        if app.health_checks:
            results = self._ledger.tables.health_of(instance.id)
            if len(results) < len(app.health_checks) or not all(r.alive for r in results):
                return False
        if not app.readiness_checks or app.id not in self._ledger.tables.held:
            return True
        current = self._ledger.tables.root.apps.get(app.id)
        if current is not None and current.config_version != instance.config_version:
            return True
        return self._tracker.readiness.is_ready(instance)

    # Events

    def _announce(self, deployment: Deployment, number: int) -> None:
        """Tell about the steps that ended and the one that began; each once."""
        plan = deployment.plan
        shown = plan_json(plan)
        while deployment.announced < number:
            if deployment.announced >= 0:
                self._ledger.publish(
                    events.DeploymentStepSucceeded(
                        timestamp=self._stamp(),
                        plan=shown,
                        current_step=step_json(plan.steps[deployment.announced]),
                    )
                )
            deployment.announced += 1
            if deployment.announced < len(plan.steps):
                self._ledger.publish(
                    events.DeploymentInfo(
                        timestamp=self._stamp(),
                        plan=shown,
                        current_step=step_json(plan.steps[deployment.announced]),
                    )
                )

    def _tell_checks(self, before: App | None, after: App | None) -> None:
        """Tell that an app is checked from now on, or not any more."""
        old = before.health_checks if before is not None else ()
        new = after.health_checks if after is not None else ()
        if old == new:
            return
        if old and before is not None:
            self._ledger.publish(
                events.HealthCheckRemoved(timestamp=self._stamp(), app_id=before.id)
            )
        for check in new:
            assert after is not None
            self._ledger.publish(
                events.HealthCheckAdded(
                    timestamp=self._stamp(),
                    app_id=after.id,
                    health_check=check,
                    version=after.version or "",
                )
            )

    def _stamp(self) -> str:
        return timestamps.timestamp(self._ledger.wall)

    def _uuid(self) -> UUID:
        return UUID(int=self._rng.getrandbits(128), version=4)


def _roots(deployment: Deployment) -> tuple[RootGroup, RootGroup]:
    """What a deployment changed, as two roots that hold nothing else."""
    return (
        RootGroup(
            "",
            {k: v for k, v in deployment.before.items() if v is not None},
            {k: v for k, v in deployment.before_groups.items() if v is not None},
        ),
        RootGroup(
            deployment.plan.version,
            {k: v for k, v in deployment.after.items() if v is not None},
            {k: v for k, v in deployment.after_groups.items() if v is not None},
        ),
    )
