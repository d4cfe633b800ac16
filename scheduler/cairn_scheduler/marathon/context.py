"""What the HTTP resources of Marathon need of it. The daemon is one; tests make one of their own.

Reads go to `tables` directly; they are never changed by a reader. A change is a method that is
awaited: it returns when the change is in the log, or raises a `MarathonError`, which is the answer.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.effects import Deployed, Killed
from cairn_scheduler.marathon.events import Event
from cairn_scheduler.marathon.groups import RootGroup
from cairn_scheduler.marathon.planner import Plan
from cairn_scheduler.marathon.tables import Tables

#: Makes the new root from the current one. May raise MarathonError; must not change its argument.
#: Versions, service ports, and the check for circles come afterwards.
MakeRoot = Callable[[RootGroup], RootGroup]


class MarathonContext(Protocol):
    """The running Marathon."""

    @property
    def tables(self) -> Tables:
        """What is; see there."""
        ...

    @property
    def config(self) -> MarathonConfig:
        """The settings; `defaults()`, `match_rules()` and such derive from them."""
        ...

    def elected(self) -> bool:
        """Whether this process leads and has read its log: only then it answers."""
        ...

    def leader(self) -> str | None:
        """`host:port` of the leader, None while there is none."""
        ...

    def master_url(self) -> str | None:
        """Base URL of the Mesos master that we are subscribed at."""
        ...

    def counters(self) -> Mapping[str, float]:
        """What was counted since the start, by the original's metric names."""
        ...

    def now(self) -> float:
        """The monotonic clock that launch delays are told by."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch."""
        ...

    def listen_events(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event from now on, in order, at once."""
        ...

    def publish(self, event: Event) -> None:
        """Tell all listeners of something that the HTTP layer knows (`api_post_event`)."""
        ...

    def dry_run(self, make_root: MakeRoot) -> Plan:
        """The plan that a change would make. Raises what `change_root` would, locks aside."""
        ...

    async def change_root(
        self,
        make_root: MakeRoot,
        *,
        force: bool = False,
        restarts: Collection[str] = (),
        kill: Mapping[str, Sequence[str]] | None = None,
        group_id: str = "/",
    ) -> Deployed:
        """Change what shall run.

        restarts: apps to restart though they stay the same. kill: per app the instances that go
        first when it is scaled down. group_id: the group that subscribers are told has changed.
        Raises Locked, TooManyDeployments, NotValid and whatever `make_root` raises.
        """
        ...

    async def kill_instances(
        self,
        instance_ids: Sequence[str],
        *,
        scale: bool = False,
        wipe: bool = False,
        force: bool = False,
    ) -> Killed | Deployed:
        """Kill tasks. They are replaced, or with `scale` their apps get smaller (Deployed).

        Unknown ids are ignored. Raises BadRequest for scale with wipe; Locked.
        """
        ...

    async def rollback(self, plan_id: str) -> Deployed:
        """Undo what a running deployment wanted. Raises NotFound."""
        ...

    async def cancel(self, plan_id: str) -> None:
        """End a deployment and leave the cluster as it is. Raises NotFound."""
        ...

    async def reset_delay(self, app_id: str) -> None:
        """Launch an app without waiting for its delay. Raises NotFound where it is not queued."""
        ...

    def abdicate(self) -> None:
        """Give up leadership: the process ends soon, and its supervisor starts it again."""
        ...
