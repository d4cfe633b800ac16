"""The records of the whole cluster, brought up to date row by row.

A task has records while it runs and its agent and its framework are known.  It is kept under both,
so that a change of one of them redoes its tasks and no others.  No row keeps its records: they
are made again from what it had when they are taken away.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, Row, TaskRow

from .addresses import (
    Address,
    Hosts,
    agent_host,
    framework_host,
    host_addresses,
    parse_address,
)
from .dcos_records import dcos_master_records, dcos_task_records
from .givers import Explanation, explain
from .records import (
    Domains,
    Made,
    Rules,
    agent_records,
    domains_of,
    framework_records,
    is_published,
    joined,
    master_records,
    numbered,
    own_records,
    task_addresses,
    task_records,
    value_text,
)
from .reverse import Reverse
from .wire import TYPE_NAMES
from .zone import RecordSet

#: So many records are as much work as one row.
RECORDS_PER_ROW = 32
_NOTHING = Made([])
_WAITING = Made([], {"task": 1})


class Task:
    """A running task, and what its records were made from.

    agent: addresses of its agent. domains: of its framework. Either is None where it is unknown;
    the task has no records then.
    """

    __slots__ = ("agent", "domains", "row")

    def __init__(self) -> None:
        self.row: TaskRow | None = None
        self.agent: tuple[Address, ...] | None = None
        self.domains: Domains | None = None


class Agent:
    """An agent, and its running tasks by key.  addresses: None where only tasks speak of it."""

    __slots__ = ("addresses", "row", "tasks")

    def __init__(self) -> None:
        self.row: AgentRow | None = None
        self.addresses: tuple[Address, ...] | None = None
        self.tasks: dict[str, Task] = {}


class Framework:
    """A framework, and its running tasks by key.  domains: None where only tasks speak of it."""

    __slots__ = ("addresses", "domains", "row", "tasks")

    def __init__(self) -> None:
        self.row: FrameworkRow | None = None
        self.addresses: tuple[Address, ...] = ()
        self.domains: Domains | None = None
        self.tasks: dict[str, Task] = {}


class ClusterZone:
    """Rows of the cluster in, records out.

    Invariant: once `apply` is through, `records` and `skipped` are those of the rows, masters and
    hosts given last, whatever came before.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.records = RecordSet()
        #: What makes no sense, as it is now: agents and frameworks without an address or a name,
        #: running tasks of unknown or nameless ones ("agent", "framework", "task"), ports
        #: ("port"), and records whose name is none ("name").
        self.skipped: Counter[str] = Counter()
        #: Records made since the start: a measure of the work done.
        self.work = 0
        self.tasks: dict[str, Task] = {}
        self.agents: dict[str, Agent] = {}
        self.frameworks: dict[str, Framework] = {}
        self._masters: dict[str, MasterRow] = {}
        self.given_masters: tuple[Address, ...] = ()
        self._masters_made = _NOTHING
        self._hosts: Hosts = {}
        #: Agents and frameworks by the name of their host, as (table, id).
        self._by_host: dict[str, set[tuple[str, str]]] = {}
        self._reverse = Reverse()
        self._change(_NOTHING, own_records(rules), 0.0)

    def apply(
        self,
        rows: Mapping[str, tuple[Row | None, Row | None]],
        *,
        now: float,
        slice_rows: int = 200,
    ) -> Iterator[None]:
        """Take changed rows (before, after) by key; one step is the work of `slice_rows` tasks.

        now: seconds since the epoch.  Use it up before the next call.
        """
        left = slice_rows
        for cost in self._steps(rows, now):
            left -= cost
            if left <= 0:
                yield
                left = slice_rows

    def set_masters(self, masters: Sequence[Address], *, now: float) -> None:
        """Masters of the configuration or of ZooKeeper, in their order."""
        self.given_masters = tuple(masters)
        self._redo_masters(now)

    def set_hosts(self, hosts: Mapping[str, Sequence[Address]], *, now: float) -> None:
        """All addresses of hosts that rows have by name only; those left out have none."""
        last, self._hosts = self._hosts, {name: tuple(some) for name, some in hosts.items()}
        changed = [name for name in self._by_host if last.get(name) != self._hosts.get(name)]
        for table, one in [place for name in changed for place in self._by_host[name]]:
            if table == "agent":
                steps = self._set_agent(one, self.agents[one].row, now)
            else:
                steps = self._set_framework(one, self.frameworks[one].row, now)
            for _ in steps:
                pass

    def hosts_wanted(self) -> set[str]:
        """Hosts whose addresses have to be looked up."""
        return set(self._by_host)

    @property
    def leader(self) -> MasterRow | None:
        """The master that leads."""
        leading = [key for key, row in self._masters.items() if row.leads]
        return self._masters[min(leading)] if leading else None

    @property
    def masters(self) -> list[Address]:
        """Masters in the order of their numbers."""
        return numbered(self.given_masters, self.leader)

    def explain(self, name: str) -> Explanation:
        """Which rows give the records of a name.  O(tasks): for people."""
        return explain(self, name)

    def enumerate_task(self, task: TaskRow) -> list[tuple[str, str, str]]:
        """Name, value and type of the records of a task in the zone of Mesos-DNS, as texts and in
        the order of the original; empty for a task that has none.
        """
        shown = self.tasks.get(task.key)
        if shown is None or shown.agent is None or shown.domains is None:
            return []
        addresses = task_addresses(task, shown.agent, self.rules)
        made = task_records(task, shown.agent, addresses, shown.domains, self.rules)
        return [
            (f"{name}.", value_text(value), TYPE_NAMES[kind])
            for name, kind, value in dict.fromkeys(made.records)
        ]

    # -- rows --------------------------------------------------------------------------------------

    def _steps(
        self, rows: Mapping[str, tuple[Row | None, Row | None]], now: float
    ) -> Iterator[int]:
        """The changes, each with its cost; tasks last, when what they depend on is there."""
        masters_changed = False
        for key, (before, after) in rows.items():
            row = before if after is None else after
            if isinstance(row, AgentRow):
                yield from self._set_agent(row.id, None if after is None else row, now)
            elif isinstance(row, FrameworkRow):
                yield from self._set_framework(row.id, None if after is None else row, now)
            elif isinstance(row, MasterRow):
                masters_changed = True
                self._masters.pop(key, None)
                if after is not None:
                    self._masters[key] = row
        if masters_changed:
            self._redo_masters(now)
        for key, (before, after) in rows.items():
            row = before if after is None else after
            if isinstance(row, TaskRow):
                yield self._set_task(key, None if after is None else row, now)

    def _set_agent(self, one: str, row: AgentRow | None, now: float) -> Iterator[int]:
        agent = self.agents.setdefault(one, Agent())
        old, last, last_row = self._agent_made(agent), agent.addresses, agent.row
        agent.row = row
        agent.addresses = self._addresses(agent_host(row)) if row is not None else None
        for address in agent.addresses or ():
            self._reverse.add_agent(address)
        for address in last or ():
            self._reverse.remove_agent(address)
        place = ("agent", one)
        self._note_host(place, agent_host(last_row), agent_host(row))
        yield self._change(old, self._agent_made(agent), now)
        if agent.addresses != last:
            for task in list(agent.tasks.values()):
                yield self._show(task, task.row, now)
        if row is None and not agent.tasks:
            self.agents.pop(one, None)

    def _agent_made(self, agent: Agent) -> Made:
        if agent.row is None:
            return _NOTHING
        return agent_records(agent.row, agent.addresses or (), self.rules)

    def _set_framework(self, one: str, row: FrameworkRow | None, now: float) -> Iterator[int]:
        framework = self.frameworks.setdefault(one, Framework())
        old, last, last_row = self._framework_made(framework), framework.domains, framework.row
        framework.row = row
        framework.domains = None if row is None else domains_of(row, self.rules)
        framework.addresses = self._addresses(framework_host(row)[0])
        place = ("framework", one)
        self._note_host(place, framework_host(last_row)[0], framework_host(row)[0])
        yield self._change(old, self._framework_made(framework), now)
        if framework.domains != last:
            for task in list(framework.tasks.values()):
                yield self._show(task, task.row, now)
        if row is None and not framework.tasks:
            self.frameworks.pop(one, None)

    @staticmethod
    def _framework_made(framework: Framework) -> Made:
        if framework.row is None or framework.domains is None:
            return _NOTHING
        return framework_records(framework.row, framework.addresses, framework.domains)

    def _addresses(self, host: str) -> tuple[Address, ...]:
        return host_addresses(host, self._hosts, one_of_each=self.rules.dcos_branch)

    def _note_host(self, place: tuple[str, str], last: str, host: str) -> None:
        """Keep track of who has to be looked up."""
        if last:
            places = self._by_host.get(last, set())
            places.discard(place)
            if not places:
                self._by_host.pop(last, None)
        if host and parse_address(host) is None:
            self._by_host.setdefault(host, set()).add(place)

    def _redo_masters(self, now: float) -> None:
        leader = self.leader
        made = master_records(self.given_masters, leader, self.rules)
        if self.rules.dcos_zones:
            made.records.extend(dcos_master_records(self.given_masters, leader).records)
        if self.rules.reverse:
            domain = self.rules.domain
            self._reverse.set_masters(
                {one: f"master{number}.{domain}" for number, one in enumerate(self.masters)}
            )
        self._change(self._masters_made, made, now)
        self._masters_made = made

    # -- tasks -------------------------------------------------------------------------------------

    def _set_task(self, key: str, row: TaskRow | None, now: float) -> int:
        """Take a row, None when it is gone; the cost."""
        if row is not None and not is_published(row, self.rules):
            row = None
        task = self.tasks.get(key)
        if task is None:
            if row is None:
                return 1
            task = self.tasks[key] = Task()
        last = task.row
        if row is not None:
            agent = self.agents.get(row.agent_id) or self.agents.setdefault(row.agent_id, Agent())
            agent.tasks[key] = task
            framework = self.frameworks.get(row.framework_id) or self.frameworks.setdefault(
                row.framework_id, Framework()
            )
            framework.tasks[key] = task
        cost = self._show(task, row, now)
        if last is not None and (row is None or row.agent_id != last.agent_id):
            agent = self.agents[last.agent_id]
            del agent.tasks[key]
            if agent.row is None and not agent.tasks:
                del self.agents[last.agent_id]
        if last is not None and (row is None or row.framework_id != last.framework_id):
            framework = self.frameworks[last.framework_id]
            del framework.tasks[key]
            if framework.row is None and not framework.tasks:
                del self.frameworks[last.framework_id]
        if row is None:
            del self.tasks[key]
        return cost

    def _show(self, task: Task, row: TaskRow | None, now: float) -> int:
        """Bring the records of a task up to date with its row, its agent and its framework."""
        agent = self.agents[row.agent_id].addresses if row is not None else None
        domains = self.frameworks[row.framework_id].domains if row is not None else None
        if row is task.row and agent == task.agent and domains == task.domains:
            return 1
        old, last_own = self._task_made(task)
        task.row, task.agent, task.domains = row, agent, domains
        new, own = self._task_made(task)
        if (old.host, last_own) != (new.host, own):
            for address in own:
                self._reverse.claim(address, new.host)
            for address in last_own:
                self._reverse.release(address, old.host)
        return self._change(old, new, now)

    def _task_made(self, task: Task) -> tuple[Made, list[Address]]:
        """Records of a task, and the addresses that are its own rather than its agent's."""
        row, agent, domains, rules = task.row, task.agent, task.domains, self.rules
        if row is None:
            return _NOTHING, []
        if agent is None or domains is None:
            return _WAITING, []
        addresses = task_addresses(row, agent, rules)
        made = task_records(row, agent, addresses, domains, rules)
        if rules.dcos_zones:
            made = joined(made, dcos_task_records(row, agent, domains.name))
        if not rules.reverse or not made.host:
            return made, []
        return made, [one for one in dict.fromkeys(addresses) if one not in agent]

    def _change(self, old: Made, new: Made, now: float) -> int:
        """Put one row's records in the place of its last ones; the cost, in rows."""
        remove, add = self._reverse.take()
        self.records.change([*old.records, *remove], [*new.records, *add], now=now)
        for kind, count in new.skipped.items():
            self.skipped[kind] += count
        for kind, count in old.skipped.items():
            self.skipped[kind] -= count
            if not self.skipped[kind]:
                del self.skipped[kind]
        made = len(old.records) + len(new.records)
        self.work += made
        return 1 + made // RECORDS_PER_ROW
