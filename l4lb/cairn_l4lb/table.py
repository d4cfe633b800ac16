"""The table of services: rows of the cluster in, VIPs with their backends out.

A change costs what it touches: the tasks whose rows changed, or whose agent or framework did, and
the VIPs they are backends of.  Nothing here depends on the order in which things became known but
for two things: a VIP that lost its last backend stays for a while without any, so that its clients
are refused at once and their packets do not leave for wherever the default route leads; and where a
framework declares more than its share, what was there first stays.  No I/O.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from cairn_core.clusterview.view import Changes, Snapshot
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, Row, TaskRow, VipRow
from cairn_core.vips.labels import may_declare
from cairn_core.vips.shares import Shares

from .backends import is_meant, keep_problems, of_members, reported
from .literals import Guard
from .model import Backend, Options, Service, Vip, endpoint
from .options import merge
from .vips import Member, VipKey, VipRules, canonical, task_backends

T = TypeVar("T")

#: Problems that are listed.
MAX_PROBLEMS = 1000
#: VIPs that may be declared, and those by one framework.
MAX_VIPS, MAX_VIPS_OF_FRAMEWORK = 65_536, 8192
#: Tasks that are looked at again at a time, when there is room for their VIPs.
AT_ONCE = 1000


@dataclass(slots=True)
class TableChange:
    """What changed: services that are new or different, VIPs that are gone, and whether `names`
    says anything else.  No VIP is in both."""

    changed: dict[Vip, Service] = field(default_factory=dict)
    gone: set[Vip] = field(default_factory=set)
    names: bool = False

    def __bool__(self) -> bool:
        return bool(self.changed or self.gone or self.names)

    def then(self, later: "TableChange") -> "TableChange":
        """Both as one."""
        changed = {vip: one for vip, one in self.changed.items() if vip not in later.gone}
        return TableChange(
            changed | later.changed,
            (self.gone - later.changed.keys()) | later.gone,
            self.names or later.names,
        )


class TableProblem(NamedTuple):
    """What is not served as somebody wanted, and why.  task, vip: one of them is empty."""

    reason: str
    task: str = ""
    vip: str = ""


@dataclass(slots=True, eq=False)
class _Entry:
    """A VIP.  members: by the key of their task. service: as shown, None while it is not."""

    members: dict[str, tuple[Member, ...]] = field(default_factory=dict)
    service: Service | None = None


@dataclass(slots=True)
class _Override:
    """What an agent itself says."""

    tasks: dict[str, TaskRow]
    frameworks: dict[str, FrameworkRow]
    agent: AgentRow | None


class Table:
    """Services by VIP, kept up to date.

    Invariant: after each call `services` is what the rows, overrides, addresses and drains given
    last make from nothing, plus VIPs without backends that are not expired yet.
    `now`: seconds on the monotonic clock.
    """

    def __init__(
        self, rules: VipRules | None = None, guard: Guard | None = None, *, linger_s: float = 60.0
    ) -> None:
        """guard: which addresses a VIP may have; it is told of hosts by this table and must not be
        shared.  linger_s: how long a VIP stays that lost its last backend."""
        self.services: dict[Vip, Service] = {}
        self._rules = rules or VipRules()
        self._guard = guard or Guard()
        self._linger_s = linger_s
        self._snapshot = Snapshot()
        self._overrides: dict[str, _Override] = {}
        self._drained: frozenset[str] = frozenset()
        #: Addresses of names: those of the master, and those of this node.
        self._recorded: dict[str, tuple[str, str]] = {}
        self._chosen: dict[str, tuple[str, str]] = {}
        #: Names by the address they have; with a sound master each set has one.
        self._holders: dict[str, set[str]] = {}
        # Keys of tasks that declare VIPs, by what they depend on.
        self._of_agent: dict[str, set[str]] = {}
        self._of_framework: dict[str, set[str]] = {}
        #: What each of them gives.
        self._members: dict[str, tuple[Member, ...]] = {}
        #: Of these keys, those of containers that report an address.
        self._reported: dict[str, set[str]] = {}
        self._entries: dict[VipKey, _Entry] = {}
        #: Keys of VIPs by name, or by address for literal ones.
        self._keys_of: dict[str, set[VipKey]] = {}
        #: For whom they count: the framework that declared them first.
        self._shares: Shares[VipKey] = Shares(MAX_VIPS, MAX_VIPS_OF_FRAMEWORK, "VIPs")
        #: Keys of tasks that declare more than their framework may, and its id.
        self._crowded: dict[str, str] = {}
        #: VIPs without backends, and since when.
        self._lingering: dict[VipKey, float] = {}
        self._shown_names: Counter[tuple[str, str]] = Counter()
        self._task_problems: dict[str, tuple[str, ...]] = {}
        self._vip_problems: dict[VipKey, tuple[str, ...]] = {}
        # What has to be made anew: keys of tasks, and of VIPs.
        self._tasks_due: set[str] = set()
        self._keys_due: set[VipKey] = set()

    # -- facts -------------------------------------------------------------------------------------

    def apply(self, news: Changes | Snapshot, now: float) -> TableChange:
        """The cluster changed.  Changes that do not follow what was given last, and a whole
        snapshot, cost O(table) to compare."""
        after = news if isinstance(news, Snapshot) else news.after
        if isinstance(news, Changes) and news.before is self._snapshot:
            rows = news.rows
        else:
            rows = _difference(self._snapshot, after)
        self._snapshot = after
        for key, (old, new) in rows.items():
            self._note(key, old, new)
        return self._settle(now)

    def override(self, agent_id: str, rows: Iterable[Row] | None, now: float) -> TableChange:
        """What an agent itself says replaces what the cluster view says of its tasks; None ends it.

        rows: its tasks, their frameworks, and itself.
        """
        last = self._overrides.pop(agent_id, None)
        self._tasks_due |= self._of_agent.get(agent_id, set())
        self._tasks_due |= last.tasks.keys() if last is not None else set()
        if rows is not None:
            told = list(rows)
            tasks = {
                row.key: row
                for row in told
                if isinstance(row, TaskRow) and row.agent_id == agent_id and may_declare(row)
            }
            frameworks = {row.id: row for row in told if isinstance(row, FrameworkRow)}
            agents = [row for row in told if isinstance(row, AgentRow) and row.id == agent_id]
            self._overrides[agent_id] = _Override(tasks, frameworks, next(iter(agents), None))
            self._tasks_due |= tasks.keys()
        return self._settle(now)

    @property
    def overridden(self) -> list[str]:
        """Agents that speak for themselves."""
        return sorted(self._overrides)

    def choose(self, given: Mapping[str, tuple[str, str]], now: float) -> TableChange:
        """All addresses (IPv4, IPv6; empty for none) that this node chose, where no master does.

        One that a master recorded comes first.
        """
        last, self._chosen = self._chosen, dict(given)
        for name in last.keys() | given.keys():
            if name not in self._recorded and last.get(name) != given.get(name):
                self._move(name, last.get(name), given.get(name))
        return self._settle(now)

    def set_own(self, addresses: Iterable[str], links: Iterable[str], now: float) -> TableChange:
        """This host has these addresses, canonical, and its links these networks.

        Costs O(VIPs) when any of it changes.
        """
        addresses = frozenset(addresses)
        known = self._holders.keys() | ({key.address for key in self._entries} - {""})
        before = {address: self._guard.reason(address) for address in known}
        moved = self._guard.set_own(addresses, links)
        for address, reason in before.items():
            if reason != self._guard.reason(address):
                self._doubt(address)
        for address in moved:
            self._doubt(address)
        if addresses != self._rules.own_addresses:
            moved = addresses ^ self._rules.own_addresses
            self._rules = replace(self._rules, own_addresses=addresses)
            for agent_id in {
                one.id for one in self._snapshot.agents.values()
            } | self._overrides.keys():
                agent = self._agent(agent_id)
                if agent is not None and canonical(agent.ip) in moved:
                    self._tasks_due |= self._tasks_on(agent_id)
        return self._settle(now)

    def drain(self, targets: Iterable[str], now: float) -> TableChange:
        """All backends that are to take no new connections, each by its `address:port`, its task,
        or the address or id of its agent.  Costs O(table) when that changes."""
        last, self._drained = self._drained, frozenset(targets)
        differing = last ^ self._drained
        if differing:
            self._keys_due.update(
                key
                for key, entry in self._entries.items()
                if any(is_meant(one.backend, differing) for one in _all(entry))
            )
        return self._settle(now)

    def expire(self, now: float) -> TableChange:
        """Time passed.  Costs O(VIPs without backends, and tasks whose VIPs are too many)."""
        hopeful = (key for key, one in self._crowded.items() if self._shares.room(one))
        self._tasks_due.update(islice(hopeful, AT_ONCE))
        self._keys_due.update(
            key for key, since in self._lingering.items() if now - since >= self._linger_s
        )
        return self._settle(now)

    # -- what is known -----------------------------------------------------------------------------

    def names(self) -> dict[str, tuple[str, str]]:
        """Names of VIPs with their IPv4 and IPv6 address; empty where no VIP of a family has it."""
        found: dict[str, tuple[str, str]] = {}
        for name, address in self._shown_names:
            ipv4, ipv6 = found.get(name, ("", ""))
            found[name] = (ipv4, address) if ":" in address else (address, ipv6)
        return found

    def unnamed(self) -> list[str]:
        """Names that have backends and no address from anybody, in order.  O(names)."""
        return sorted(
            name
            for name, keys in self._keys_of.items()
            if self._addresses(name) is None
            and any(key.name and self._entries[key].members for key in keys)
        )

    def problems(self, limit: int = MAX_PROBLEMS) -> list[TableProblem]:
        """What is not served as wanted, at most so many of each kind."""
        tasks = (
            TableProblem(reason, task=key.split("/", 2)[2])
            for key, reasons in self._task_problems.items()
            for reason in reasons
        )
        vips = (
            TableProblem(
                reason, vip=f"{key.protocol}/{endpoint(key.name or key.address, key.port)}"
            )
            for key, reasons in self._vip_problems.items()
            for reason in reasons
        )
        return [*islice(tasks, limit), *islice(vips, limit)]

    @property
    def problem_count(self) -> int:
        """How many tasks and VIPs have problems."""
        return len(self._task_problems) + len(self._vip_problems)

    # -- rows --------------------------------------------------------------------------------------

    def _note(self, key: str, old: Row | None, new: Row | None) -> None:
        """A row changed: note what has to be made anew."""
        if isinstance(old, TaskRow) and may_declare(old):
            _remove(self._of_agent, old.agent_id, key)
            _remove(self._of_framework, old.framework_id, key)
            self._tasks_due.add(key)
        match new if new is not None else old:
            case TaskRow():
                if isinstance(new, TaskRow) and may_declare(new):
                    self._of_agent.setdefault(new.agent_id, set()).add(key)
                    self._of_framework.setdefault(new.framework_id, set()).add(key)
                    self._tasks_due.add(key)
            case AgentRow(id=one):
                self._tasks_due |= self._tasks_on(one)
                self._move_host(old, new)
            case FrameworkRow(id=one):
                # A scheduler that comes and goes must not cost all of its tasks.
                if _name_of(old) != _name_of(new):
                    self._tasks_due |= self._of_framework.get(one, set())
                    for told in self._overrides.values():
                        self._tasks_due |= told.tasks.keys()
            case MasterRow():
                self._move_host(old, new)
            case VipRow(name=name):
                last = self._addresses(name)
                if isinstance(new, VipRow):
                    ipv4, ipv6 = canonical(new.ipv4), canonical(new.ipv6)
                    self._recorded[name] = (
                        "" if ":" in ipv4 else ipv4,
                        ipv6 if ":" in ipv6 else "",
                    )
                else:
                    self._recorded.pop(name, None)
                self._move(name, last, self._addresses(name))
            case _:
                pass

    def _move_host(self, old: Row | None, new: Row | None) -> None:
        last = canonical(old.ip) if isinstance(old, AgentRow | MasterRow) else ""
        address = canonical(new.ip) if isinstance(new, AgentRow | MasterRow) else ""
        if last == address:
            return
        if address and self._guard.add_host(address):
            self._doubt(address)
        if last and self._guard.remove_host(last):
            self._doubt(last)

    def _move(self, name: str, old: tuple[str, str] | None, new: tuple[str, str] | None) -> None:
        """A name has other addresses."""
        for address in set(old or ()) - {""}:
            self._doubt(address)
            _remove(self._holders, address, name)
        for address in set(new or ()) - {""}:
            self._holders.setdefault(address, set()).add(name)
            self._doubt(address)

    def _doubt(self, address: str) -> None:
        """Who may have an address is another question now."""
        self._keys_due |= self._keys_of.get(address, set())
        for task_key in self._reported.get(address, ()):
            self._keys_due.update(one.key for one in self._members[task_key])
        for name in self._holders.get(address, ()):
            self._keys_due |= self._keys_of.get(name, set())

    def _addresses(self, name: str) -> tuple[str, str] | None:
        return self._recorded.get(name) or self._chosen.get(name)

    def _task(self, key: str) -> TaskRow | None:
        for told in self._overrides.values():
            if key in told.tasks:
                return told.tasks[key]
        row = self._snapshot.tasks.get(key)
        return None if row is None or row.agent_id in self._overrides else row

    def _agent(self, agent_id: str) -> AgentRow | None:
        row, told = self._snapshot.agent(agent_id), self._overrides.get(agent_id)
        if told is None:
            return row
        # Who answers is there, whatever the master thought last.
        row = row or told.agent
        return replace(row, active=True, recovering=False) if row is not None else None

    def _tasks_on(self, agent_id: str) -> set[str]:
        """Keys of the tasks of an agent, in the view and as it says itself."""
        told = self._overrides.get(agent_id)
        return self._of_agent.get(agent_id, set()) | (told.tasks.keys() if told else set())

    def _framework(self, framework_id: str, agent_id: str) -> FrameworkRow | None:
        row, told = self._snapshot.framework(framework_id), self._overrides.get(agent_id)
        if row is None and told is not None:
            row = told.frameworks.get(framework_id)
        return row

    # -- services ----------------------------------------------------------------------------------

    def _settle(self, now: float) -> TableChange:
        """Make anew what is due."""
        # in order, so that hosts agree on whose VIPs are too many
        for task_key in sorted(self._tasks_due):
            self._make_task(task_key)
        self._tasks_due.clear()
        due, self._keys_due = self._keys_due, set()
        made = {key: self._make(key, now) for key in due}
        change = TableChange()
        named: dict[tuple[str, str], bool] = {}
        # An address may go from one name to another: what goes, goes first.
        for key, service in made.items():
            entry = self._entries[key]
            old = entry.service
            if old is not None and (service is None or service.vip != old.vip):
                del self.services[old.vip]
                change.gone.add(old.vip)
                self._count_name(old, -1, named)
        for key, service in made.items():
            entry = self._entries[key]
            old, entry.service = entry.service, service
            if service is not None and service != old:
                if old is None or old.vip != service.vip:
                    self._count_name(service, 1, named)
                self.services[service.vip] = service
                change.changed[service.vip] = service
                change.gone.discard(service.vip)
            if service is None and not entry.members:
                del self._entries[key]
                self._shares.give_back(key)
                _remove(self._keys_of, key.name or key.address, key)
        change.names = any((self._shown_names[one] > 0) != before for one, before in named.items())
        for one in named:
            if not self._shown_names[one]:
                del self._shown_names[one]
        return change

    def _count_name(self, service: Service, step: int, named: dict[tuple[str, str], bool]) -> None:
        if service.name:
            one = (service.name, service.vip.address)
            named.setdefault(one, self._shown_names[one] > 0)
            self._shown_names[one] += step

    def _make_task(self, key: str) -> None:
        """What a task gives, anew."""
        row = self._task(key)
        members: tuple[Member, ...] = ()
        problems: tuple[str, ...] = ()
        if row is not None:
            members, problems = task_backends(
                row,
                self._agent(row.agent_id),
                self._framework(row.framework_id, row.agent_id),
                self._rules,
            )
        last = self._members.pop(key, ())
        owner = key.split("/", 2)[1]
        members, left_out = self._within_share(owner, members)
        if left_out:
            self._crowded[key] = owner
            why = self._shares.why_full(owner)
            problems += (f"{why}: {left_out} of this task are left out",)
        else:
            self._crowded.pop(key, None)
        if members:
            self._members[key] = members
        keep_problems(self._task_problems, key, problems, MAX_PROBLEMS)
        if members == last:
            return
        for address in reported(last):
            _remove(self._reported, address, key)
        for address in reported(members):
            self._reported.setdefault(address, set()).add(key)
        for vip in {one.key for one in last}:
            del self._entries[vip].members[key]
            self._keys_due.add(vip)
        by_vip: dict[VipKey, list[Member]] = {}
        for member in members:
            by_vip.setdefault(member.key, []).append(member)
        for vip, some in by_vip.items():
            entry = self._entries.get(vip)
            if entry is None:
                entry = self._entries[vip] = _Entry()
                self._keys_of.setdefault(vip.name or vip.address, set()).add(vip)
                self._shares.take(vip, owner)
            entry.members[key] = tuple(some)
            self._keys_due.add(vip)

    def _within_share(
        self, framework_id: str, members: tuple[Member, ...]
    ) -> tuple[tuple[Member, ...], int]:
        """Members without those of VIPs that there is no room for, and how many VIPs those are."""
        # not by set arithmetic with the keys, which looks at all of them
        new = {one.key for one in members if one.key not in self._entries}
        room = self._shares.room(framework_id) if new else 0
        if len(new) <= room:
            return members, 0
        left_out = set(sorted(new)[room:])
        return tuple(one for one in members if one.key not in left_out), len(left_out)

    def _make(self, key: VipKey, now: float) -> Service | None:
        """The service of a VIP as it is to be now; None when it is not to be."""
        entry = self._entries[key]
        address, problem = self._place(key)
        problems: tuple[str, ...] = ()
        service = None
        if entry.members:
            options, conflicts = merge(one.options for one in _all(entry))
            backends, refused = of_members(_all(entry), self._drained, self._not_of_container)
            problems = (*conflicts, *refused, *([problem] if problem else ()))
            if not problem:
                service = self._service(key, address, backends, options)
        elif (
            entry.service is not None
            and not problem
            and now - self._lingering.setdefault(key, now) < self._linger_s
        ):
            service = self._service(key, address, (), entry.service.options)
        if service is None or service.backends:
            self._lingering.pop(key, None)
        keep_problems(self._vip_problems, key, problems, MAX_PROBLEMS)
        return service

    @staticmethod
    def _service(
        key: VipKey, address: str, backends: tuple[Backend, ...], options: Options
    ) -> Service:
        return Service(Vip(key.protocol, address, key.port), key.name, backends, options)

    def _place(self, key: VipKey) -> tuple[str, str]:
        """Address of a VIP, and why it may not have it, or none yet; empty where it may."""
        holders = self._holders.get(key.address, ())
        address = key.address
        if key.name:
            address = (self._addresses(key.name) or ("", ""))[key.ipv6]
            if not address:
                return "", f"no {'IPv6' if key.ipv6 else 'IPv4'} address yet"
            holders = self._holders[address]
        if holders and min(holders) != key.name:
            return "", f"address {address} is that of the name {min(holders)}"
        return address, self._guard.reason(address)

    def _not_of_container(self, address: str) -> str:
        """Why an address that a container reports is none of its own; empty where it is."""
        if address in self._holders:
            return f"address {address} is that of the name {min(self._holders[address])}"
        return self._guard.container_reason(address)


def _name_of(row: Row | None) -> str | None:
    return row.name if isinstance(row, FrameworkRow) else None


def _all(entry: _Entry) -> Iterable[Member]:
    for members in entry.members.values():
        yield from members


def _remove(index: dict[str, set[T]], one: str, key: T) -> None:
    keys = index.get(one)
    if keys is not None:
        keys.discard(key)
        if not keys:
            del index[one]


def _difference(old: Snapshot, new: Snapshot) -> dict[str, tuple[Row | None, Row | None]]:
    rows: dict[str, tuple[Row | None, Row | None]] = {}
    for key, row in new.rows():
        last = old.row(key)
        if last is not row and last != row:
            rows[key] = (last, row)
    for key, row in old.rows():
        if new.row(key) is None:
            rows[key] = (row, None)
    return rows
