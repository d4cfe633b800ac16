"""The tables of a running Marathon: what the rules change and what the HTTP resources read.

Everything here but the launch delays, the readiness results and the queue's statistics is in the
log as well; `store` says how. Apps and root groups are never changed in place, so older versions
of the root share whatever did not change.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.backoff import Backoff
from cairn_scheduler.marathon.errors import app_not_found, deployment_not_found, group_not_found
from cairn_scheduler.marathon.groups import GroupInfo, RootGroup
from cairn_scheduler.marathon.instances import Instance, TaskFailed
from cairn_scheduler.marathon.planner import Plan
from cairn_scheduler.marathon.queue import QueueStatistics
from cairn_scheduler.marathon.task_json import Health

#: Versions that are kept per app, and of the root group: `--zk_max_versions`.
MAX_VERSIONS = 50
#: The version of the root group before anything was ever changed.
FIRST_VERSION = "1970-01-01T00:00:00.000Z"


@dataclass(slots=True)
class Deployment:
    """A running deployment.

    before, after: each affected app as it was and shall be, None where it was, or shall be, not
    there; likewise the groups that changed.
    step: index of the step under way, recomputed from the instances; None before the first look.
    announced: index of the last step whose begin was told to subscribers, -1 for none.
    """

    plan: Plan
    before: Mapping[str, App | None]
    after: Mapping[str, App | None]
    before_groups: Mapping[str, GroupInfo | None]
    after_groups: Mapping[str, GroupInfo | None]
    since: float = 0.0
    step: int | None = None
    announced: int = -1


@dataclass(slots=True)
class Tables:
    """See the module.

    root: what shall run. roots: its latest versions, the oldest first, the current one last.
    versions: per app its latest versions, the oldest first; of removed apps too while instances
    are left. instances: by instance id; `by_app` has the same by app, in order of creation.
    waiting: ids of the instances that wait for an offer, by app.
    held: the deployment that holds an app. health: results by instance, in the order of the
    app's checks, of those checks that have one. readiness: the last result per instance of a
    deployment.
    failures: last task failure by app. queue: per waiting app what became of its offers.
    """

    root: RootGroup = field(default_factory=lambda: RootGroup(FIRST_VERSION))
    roots: OrderedDict[str, RootGroup] = field(default_factory=OrderedDict)
    versions: dict[str, dict[str, App]] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    by_app: dict[str, dict[str, Instance]] = field(default_factory=dict)
    waiting: dict[str, dict[str, None]] = field(default_factory=dict)
    deployments: dict[str, Deployment] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    health: dict[str, tuple[Health, ...]] = field(default_factory=dict)
    readiness: dict[str, dict[str, Any]] = field(default_factory=dict)
    backoff: Backoff = field(default_factory=Backoff)
    failures: dict[str, TaskFailed] = field(default_factory=dict)
    queue: dict[str, QueueStatistics] = field(default_factory=dict)
    framework_id: str | None = None

    # What readers ask

    def instances_of(self, app_id: str) -> Iterator[Instance]:
        """The instances of an app, oldest first."""
        return iter(self.by_app.get(app_id, {}).values())

    def health_of(self, instance_id: str) -> tuple[Health, ...]:
        """Results of the health checks of an instance, those that have one."""
        return self.health.get(instance_id, ())

    def deployments_of(self, app_id: str) -> list[Deployment]:
        """The deployments that hold an app: at most one."""
        plan_id = self.held.get(app_id)
        return [self.deployments[plan_id]] if plan_id is not None else []

    def deployment(self, plan_id: str) -> Deployment:
        """A running deployment. Raises NotFound."""
        found = self.deployments.get(plan_id)
        if found is None:
            raise deployment_not_found(plan_id)
        return found

    def version_of(self, app_id: str, version: str) -> App:
        """An app as it was in one of its versions. Raises NotFound."""
        found = self.versions.get(app_id, {}).get(version)
        if found is None:
            raise app_not_found(app_id, version)
        return found

    def root_as_of(self, version: str) -> RootGroup:
        """The root group in one of its versions. Raises NotFound."""
        found = self.roots.get(version)
        if found is None:
            raise group_not_found("/", version)
        return found

    def readiness_of(self, app_id: str) -> list[dict[str, Any]]:
        """Results of readiness checks of the instances of an app."""
        found = (self.readiness.get(i) for i in self.by_app.get(app_id, {}))
        return [result for result in found if result is not None]

    def app_of(self, instance: Instance) -> App | None:
        """The app as the instance is, or will be, launched; the current one where that is gone."""
        found = self.versions.get(instance.app_id, {}).get(instance.version)
        return found if found is not None else self.root.apps.get(instance.app_id)

    def pending(self, app_id: str) -> int:
        """How many instances of an app wait for an offer."""
        return len(self.waiting.get(app_id, ()))

    # What the rules change

    def put_instance(self, instance: Instance) -> None:
        """Add or replace an instance."""
        self.instances[instance.id] = instance
        self.by_app.setdefault(instance.app_id, {})[instance.id] = instance
        if instance.is_scheduled:
            self.waiting.setdefault(instance.app_id, {})[instance.id] = None
        else:
            self._not_waiting(instance)

    def drop_instance(self, instance: Instance) -> None:
        """Forget an instance and what is known of its health."""
        self.instances.pop(instance.id, None)
        siblings = self.by_app.get(instance.app_id)
        if siblings is not None:
            siblings.pop(instance.id, None)
            if not siblings:
                del self.by_app[instance.app_id]
        self._not_waiting(instance)
        self.health.pop(instance.id, None)
        self.readiness.pop(instance.id, None)

    def _not_waiting(self, instance: Instance) -> None:
        waiting = self.waiting.get(instance.app_id)
        if waiting is not None:
            waiting.pop(instance.id, None)
            if not waiting:
                del self.waiting[instance.app_id]
                self.queue.pop(instance.app_id, None)

    def put_deployment(self, deployment: Deployment) -> None:
        """Add a deployment; it holds its apps."""
        self.deployments[deployment.plan.id] = deployment
        for app_id in deployment.plan.affected:
            self.held[app_id] = deployment.plan.id

    def drop_deployment(self, deployment: Deployment) -> None:
        """A deployment is over: its apps are free."""
        del self.deployments[deployment.plan.id]
        for app_id in deployment.plan.affected:
            if self.held.get(app_id) == deployment.plan.id:
                del self.held[app_id]

    def running_plans(self) -> Sequence[Plan]:
        """The plans of the running deployments."""
        return [deployment.plan for deployment in self.deployments.values()]
