"""Offers: which waiting instances they are used for, and when offers are wanted at all.

Instances are spread over the offers at hand in turn. An instance is recorded as provisioned, with
version and agent, before its offer is accepted. Offers that nothing can use are declined for long;
new demand asks for them again, every `revive_s` at most after a few at once.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from cairn_core.mesos.scheduler_api import Offer
from cairn_core.mesos.types import TaskInfo
from cairn_core.resources import ResourceError
from cairn_scheduler.marathon import instances as rules
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.constraints import Place
from cairn_scheduler.marathon.effects import (
    AcceptOffer,
    DeclineOffers,
    ReviveOffers,
    SuppressOffers,
    UseRoles,
)
from cairn_scheduler.marathon.instances import Instance
from cairn_scheduler.marathon.matcher import (
    Match,
    MatchRules,
    Offered,
    Reason,
    match,
    obstacle,
)
from cairn_scheduler.marathon.queue import QueueStatistics
from cairn_scheduler.marathon.store import Ledger
from cairn_scheduler.marathon.task_builder import BuildRules, build
from cairn_scheduler.marathon.tracking import Tracker

#: Offers are suppressed when nothing has waited for this long, so that the instances of a rolling
#: restart do not switch them on and off.
SUPPRESS_AFTER_S = 1.0
#: Wishes for offers that may follow each other at once after a quiet time, so that a few changes in
#: a row do not wait for the interval.
REVIVE_BURST = 4
#: Instances that are placed before others get a turn.
MAX_PER_SLICE = 200


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """Times in seconds. tokens: launches that may be unconfirmed, None for any number."""

    default_role: str = "*"
    max_per_offer: int = 100
    decline_s: float = 120.0
    revive_s: float = 0.5
    tokens: int | None = None
    token_refresh_s: float = 30.0


@dataclass(slots=True)
class _Table:
    """An offer that is being used."""

    offered: Offered
    tasks: list[TaskInfo] = field(default_factory=list)


class Launcher:
    """See the module."""

    def __init__(
        self,
        tracker: Tracker,
        settings: LaunchSettings,
        match_rules: MatchRules,
        build_rules: BuildRules,
        rng: Random,
    ) -> None:
        self.rules = match_rules
        self.offers_seen = 0
        self.offers_used = 0
        self.offers_declined = 0
        self.tasks_launched = 0
        self.revives = 0
        self.suppresses = 0
        self._tracker = tracker
        self._ledger: Ledger = tracker.ledger
        self._settings = settings
        self._build_rules = build_rules
        self._rng = rng
        self._roles: tuple[str, ...] = ()
        self._first_roles: tuple[str, ...] = ()
        self._suppressed: set[str] = set()
        self._wanted: set[str] = set()
        self._idle_since: dict[str, float] = {}
        #: When all wishes so far would have been made, had each waited for the interval.
        self._revives_until: float | None = None
        self._delays: list[tuple[float, str]] = []
        self._open: list[_Table] = []
        self._budget = 0
        self._tokens_used = 0
        self._tokens_at = 0.0
        self._launched_before = 0

    # Whether offers are wanted

    def roles_in_use(self) -> tuple[str, ...]:
        """The roles to subscribe with."""
        roles = {app.role for app in self._ledger.tables.root.apps.values()}
        return tuple(sorted(roles | {self._settings.default_role}))

    def started(self, roles: tuple[str, ...]) -> None:
        """These are the roles that the framework begins with."""
        self._roles = self._first_roles = roles

    def root_changed(self) -> None:
        """Apps came or went: the roles may be others."""
        roles = self.roles_in_use()
        if roles != self._roles:
            self._roles = roles
            self._ledger.emit(UseRoles(roles))

    def registered(self) -> None:
        """A subscription began: offers come for all roles, what was offered before is void.

        Launches on offers that are void turn out as lost when the tasks are asked for.
        """
        self._open.clear()
        if self._roles != self._first_roles:
            # The change may have been made while nobody could be told.
            self._ledger.emit(UseRoles(self._roles))
        self._suppressed.clear()
        self._wanted.clear()
        self._idle_since.clear()
        self._revives_until = None

    def disconnected(self) -> None:
        """The subscription is over, and with it every offer."""
        self._open.clear()

    def unsure(self) -> None:
        """Nobody knows which calls arrived: whatever is wanted is asked for again."""
        self._suppressed.clear()
        self._revives_until = None

    def launchable(self, app: App) -> bool:
        """Whether offers can be used for an app now."""
        return not self._delayed(app) and obstacle(app, self.rules) is None

    def _delayed(self, app: App) -> bool:
        deadline = self._ledger.tables.backoff.deadline(app)
        return deadline is not None and deadline > self._ledger.now

    def _app(self, app_id: str) -> App | None:
        """What an app's first waiting instance would be launched as."""
        waiting = self._ledger.tables.waiting.get(app_id)
        if not waiting:
            return None
        return self._launch_app(self._ledger.tables.instances[next(iter(waiting))])

    def _launch_app(self, instance: Instance) -> App | None:
        """As what an instance is launched: its own configuration, with its latest scaling."""
        current = self._ledger.tables.root.apps.get(instance.app_id)
        if current is not None and current.config_version == instance.config_version:
            return current
        return self._ledger.tables.app_of(instance)

    def settle(self) -> None:
        """Demand may have changed: see to it that offers come where they are wanted, only there."""
        ledger, tables = self._ledger, self._ledger.tables
        for app_id in self._tracker.demand:
            app = self._app(app_id)
            if app is None:
                continue
            tables.queue.setdefault(app_id, QueueStatistics(since=ledger.wall))
            if self._delayed(app):
                heapq.heappush(self._delays, (tables.backoff.deadline(app) or 0.0, app_id))
            elif obstacle(app, self.rules) is None:
                self._wanted.add(app.role)
        self._tracker.demand.clear()
        if self._tracker.connected:
            self._revive()
            self._suppress()

    def _revive(self) -> None:
        now, revive_at = self._ledger.now, self._revive_at()
        if not self._wanted or (revive_at is not None and revive_at > now):
            return
        roles = tuple(sorted(self._wanted))
        self._ledger.emit(ReviveOffers(roles))
        self.revives += 1
        self._revives_until = max(self._revives_until or now, now) + self._settings.revive_s
        self._suppressed -= self._wanted
        for role in roles:
            self._idle_since.pop(role, None)
        self._wanted.clear()

    def _revive_at(self) -> float | None:
        """From when the next wish may be made; None: there was none yet."""
        if self._revives_until is None:
            return None
        return self._revives_until - (REVIVE_BURST - 1) * self._settings.revive_s

    def _suppress(self) -> None:
        tables, now = self._ledger.tables, self._ledger.now
        busy = set(self._wanted)
        for app_id in tables.waiting:
            app = self._app(app_id)
            if app is not None and app.role not in busy and self.launchable(app):
                busy.add(app.role)
        idle = []
        for role in self._roles:
            if role in busy:
                self._idle_since.pop(role, None)
            elif role not in self._suppressed and (
                now >= self._idle_since.setdefault(role, now) + SUPPRESS_AFTER_S
            ):
                idle.append(role)
        if idle:
            self._suppressed.update(idle)
            for role in idle:
                self._idle_since.pop(role, None)
            self._ledger.emit(SuppressOffers(tuple(idle)))
            self.suppresses += 1

    def deadline(self) -> float | None:
        """When to settle though nothing happens."""
        if self._open:
            return self._ledger.now
        found = [self._delays[0][0]] if self._delays else []
        if self._tracker.connected:
            if self._wanted and (revive_at := self._revive_at()) is not None:
                found.append(revive_at)
            found += [since + SUPPRESS_AFTER_S for since in self._idle_since.values()]
        return min(found, default=None)

    def due(self) -> None:
        """Time passed: apps whose delay is over want offers, and so do those without token."""
        if self._settings.tokens is not None and self._has_token():
            self._tracker.demand |= self._ledger.tables.waiting.keys()
        while self._delays and self._delays[0][0] <= self._ledger.now:
            self._tracker.demand.add(heapq.heappop(self._delays)[1])

    def demand(self, app_id: str) -> None:
        """Look at an app again, for its delay was reset."""
        self._tracker.demand.add(app_id)

    # Using offers

    def use(self, offers: Sequence[Offer]) -> None:
        """Launch what waits on these offers, and decline the rest."""
        self.offers_seen += len(offers)
        unread = []
        for offer in offers:
            try:
                self._open.append(_Table(Offered.of(offer)))
            except ResourceError:
                unread.append(offer.id.value)
        self._decline(unread)
        self.go_on()

    @property
    def is_placing(self) -> bool:
        """Whether offers are being used, a slice at a time."""
        return bool(self._open)

    def go_on(self) -> None:
        """Place some more instances on the offers at hand; with the last one they are used.

        A slice at a time, so that thousands of launches hold up nothing else.
        """
        ledger = self._ledger
        if not self._open:
            return
        self._budget = MAX_PER_SLICE
        waiting = list(ledger.tables.waiting)
        self._rng.shuffle(waiting)
        more = False
        for app_id in waiting:
            # Where least was put first, also over the slices.
            self._open.sort(key=lambda table: len(table.tasks))
            more = self._place(app_id, self._open) or more
            if not self._budget:
                return
        tables, self._open = self._open, []
        for table in tables:
            if not table.tasks:
                continue
            # Where only the limit stopped us the rest shall come back soon.
            full = more and len(table.tasks) >= self._settings.max_per_offer
            refuse_s = 0.0 if full else self._settings.decline_s
            ledger.emit(AcceptOffer(table.offered.offer.id.value, tuple(table.tasks), refuse_s))
            self.offers_used += 1
            self.tasks_launched += len(table.tasks)
        self._decline([t.offered.offer.id.value for t in tables if not t.tasks])

    def _decline(self, offer_ids: Sequence[str]) -> None:
        if offer_ids:
            self._ledger.emit(DeclineOffers(tuple(offer_ids), self._settings.decline_s))
            self.offers_declined += len(offer_ids)

    def _place(self, app_id: str, tables: Sequence[_Table]) -> bool:
        """Place waiting instances of one app; whether some are left for which the limits are."""
        ledger = self._ledger
        ids = list(ledger.tables.waiting.get(app_id, ()))
        statistics = ledger.tables.queue.setdefault(app_id, QueueStatistics(since=ledger.wall))
        at = 0
        while at < len(ids):
            app = self._launch_app(ledger.tables.instances[ids[at]])
            if app is None:
                at += 1
                continue
            if self._delayed(app):
                return False
            end = at + 1
            while end < len(ids) and (self._launch_app(ledger.tables.instances[ids[end]]) is app):
                end += 1
            if not self._place_alike(app, ids[at:end], tables, statistics):
                return True
            at = end
        return False

    def _place_alike(
        self,
        app: App,
        ids: Sequence[str],
        tables: Sequence[_Table],
        statistics: QueueStatistics,
    ) -> bool:
        """Place instances of one version; whether all found a place.

        Each offer is tried until the first refusal. With constraints a refusal may pass when
        others were placed, so the refusing ones are tried again as long as that helps.
        """
        ledger = self._ledger
        placed = self._places(app) if app.constraints else []
        open_tables = deque(t for t in tables if len(t.tasks) < self._settings.max_per_offer)
        refused: list[tuple[_Table, tuple[Reason, ...]]] = []
        moved = False
        left = deque(ids)
        while left and self._budget and self._has_token():
            if not open_tables:
                again = [t for t, reasons in refused if reasons == (Reason.CONSTRAINT,)]
                if not (moved and again):
                    break
                open_tables.extend(again)
                refused = [r for r in refused if r[1] != (Reason.CONSTRAINT,)]
                moved = False
            table = open_tables.popleft()
            found = match(app, table.offered, placed, self.rules, self._rng, wall=ledger.wall)
            if not isinstance(found, Match):
                refused.append((table, found.reasons))
                continue
            self._provision(ledger.tables.instances[left.popleft()], app, table, found)
            statistics.used(table.offered.offer, wall=ledger.wall)
            moved = True
            if app.constraints:
                placed.append(table.offered.place)
            if len(table.tasks) < self._settings.max_per_offer:
                open_tables.append(table)
        for table, reasons in refused:
            statistics.declined(table.offered.offer, reasons, wall=ledger.wall)
        return not left

    def _places(self, app: App) -> list[Place]:
        """Where instances are that constraints count, oldest first."""
        return [
            i.agent.place
            for i in self._ledger.tables.instances_of(app.id)
            if i.agent is not None
            and i.condition.is_active
            and i.config_version >= app.config_version
        ]

    def _provision(self, instance: Instance, app: App, table: _Table, found: Match) -> None:
        """Record the launch, and add the task to what the offer is accepted with."""
        ledger, offer = self._ledger, table.offered.offer
        if instance.version != app.version:
            instance = (
                self._tracker.apply(rules.reschedule(instance, app, wall=ledger.wall)) or instance
            )
        place = table.offered.place
        agent = rules.Agent(
            agent_id=offer.agent_id.value,
            hostname=place.hostname,
            region=place.region,
            zone=place.zone,
            attributes=dict(place.attributes),
        )
        after = self._tracker.apply(
            rules.provision(instance, agent, found.host_ports, wall=ledger.wall)
        )
        assert after is not None
        assert after.task is not None
        enforced = ledger.tables.root.enforced_role(app.id) is not None
        task = build(
            app, after.task.id, table.offered, found, self._build_rules, self._rng,
            enforce_role=enforced,
        )  # fmt: skip
        table.tasks.append(task)
        table.offered = table.offered.less(found.resources)
        self._tokens_used += 1
        self._budget -= 1

    # Launch tokens

    def _has_token(self) -> bool:
        """Whether one more launch may be unconfirmed; tokens return as tasks run or turn healthy,
        and all of them after a while.
        """
        limit = self._settings.tokens
        if limit is None:
            return True
        now = self._ledger.now
        if now - self._tokens_at >= self._settings.token_refresh_s:
            self._tokens_at, self._tokens_used = now, 0
        back = self._tracker.launched - self._launched_before
        self._launched_before = self._tracker.launched
        self._tokens_used = max(0, self._tokens_used - back)
        return self._tokens_used < limit
