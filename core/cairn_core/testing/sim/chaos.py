"""A whole small data centre of the simulation, and the trouble that it may have.

Master, agent, executor and log are the real rules. Two places can lead; when the one is given up
while it still runs, both do for a while, on one log. `trouble` does one bad thing, `check` asserts
what holds at every moment, `check_calm` what must be true once nothing bad happens any more.
"""

from collections import Counter
from collections.abc import Callable
from random import Random

from cairn_core.extensions import Allocator
from cairn_core.master.state.invariants import check
from cairn_core.master.state.settings import Settings
from cairn_core.mesos import types
from cairn_core.resources import Resources
from cairn_core.testing.sim.framework import SimFramework
from cairn_core.testing.sim.host import SimHost
from cairn_core.testing.sim.ledger import Key, Ledger
from cairn_core.testing.sim.log import SimLog
from cairn_core.testing.sim.master import SimMaster
from cairn_core.testing.sim.world import World

TOTAL = Resources.parse("cpus:4;mem:4096;ports:[31000-31039]")
SIZE = Resources.parse("cpus:1;mem:512")
#: Shorter than in real life, so that every timeout is reached in a short run.
SETTINGS = Settings(
    agent_ping_timeout_s=2.0,
    max_agent_ping_timeouts=3,
    agent_reregister_timeout_s=30.0,
    max_joining=2,
    joins_per_s=4.0,
    port_rest_s=20.0,
)
EXECUTOR = types.ExecutorInfo(
    types.ExecutorID("group"),
    command=types.CommandInfo(value="run"),
    resources=tuple(Resources.parse("cpus:0.1;mem:32").to_wire()),
)


class DataCentre:
    """Hosts with the real agent, and frameworks of every kind."""

    def __init__(
        self,
        seed: int,
        allocator: Callable[[Random], Allocator],
        *,
        hosts: int = 4,
        log_trouble: float = 0.2,
        disk_trouble: float = 0.0,
    ) -> None:
        """log_trouble, disk_trouble: the part of all writes that go wrong."""
        self.world = world = World(seed)
        self.ledger = Ledger()
        self.log = SimLog(world, trouble=log_trouble)
        self.done: Counter[str] = Counter()
        self.places = [
            SimMaster(world, allocator, SETTINGS, log=self.log),
            SimMaster(world, allocator, SETTINGS, log=self.log),
        ]
        for place in self.places:
            place.on_exit = self._exited(place)
        self.leader = self.places[0]
        self.hosts = [
            SimHost(
                world, self.leader, number, TOTAL, self.ledger,
                task_s=lambda: world.rng.choice([None, None, 20.0]), disk_trouble=disk_trouble,
            )
            for number in range(hosts)
        ]  # fmt: skip
        kinds = (
            (("PARTITION_AWARE", "MULTI_ROLE"), None, True),
            (("MULTI_ROLE",), EXECUTOR, False),
            ((), None, True),
        )
        self.frameworks = [
            SimFramework(
                world, self.leader, number, 4, SIZE,
                capabilities=names, executor=executor, with_port=port, ledger=self.ledger,
            )
            for number, (names, executor, port) in enumerate(kinds)
        ]  # fmt: skip
        self.leader.start()
        for host in self.hosts:
            host.start()
        for framework in self.frameworks:
            framework.start()

    def _exited(self, place: SimMaster) -> Callable[[], None]:
        def exited() -> None:
            self.done["master ended by its log"] += 1
            if place is self.leader:
                self._start_later(place)

        return exited

    def _start_later(self, place: SimMaster) -> None:
        """Somebody starts the leader again, unless it leads, or leads no more, by then."""

        def start() -> None:
            if place is self.leader and place.core is None:
                place.start()

        self.world.after(self.world.rng.random() * 5, start)

    # Trouble

    def trouble(self) -> None:
        """Something bad happens, for a while."""
        rng = self.world.rng
        kinds = (
            self.crash_master, self.usurp, self.crash_agent, self.crash_agent, self.crash_agent,
            self.reboot_host, self.cut_host, self.kill_executor, self.cut_stream,
            self.crash_framework, self.change_goal, self.change_goal,
        )  # fmt: skip
        kind = rng.choice(kinds)
        self.done[kind.__name__] += 1
        kind()

    def crash_master(self) -> None:
        """The leader ends, now or in the midst of its next write, and starts again."""
        place = self.leader

        def crash() -> None:
            place.on_writing = lambda: None
            if place.core is not None:
                place.crash()
                self._start_later(place)

        self._now_or_while_writing(place, crash)

    def usurp(self) -> None:
        """The other place takes the lead; the old one notices late, peers follow one by one."""
        rng, old = self.world.rng, self.leader
        new = next(place for place in self.places if place is not old)
        if new.core is not None:
            return
        self.leader = new
        new.start()
        for framework in self.frameworks:
            self.world.after(rng.random() * 20, self._follow(framework))
        for host in self.hosts:
            self.world.after(rng.random() * 10, self._follow(host))
            # Somebody tells it wrong: it goes back to the old one for a while.
            host.hides_epoch = rng.random() < 0.5
            self.world.after(10 + rng.random() * 10, self._follow(host, old))
            self.world.after(20 + rng.random() * 5, self._follow(host))
        self.world.after(rng.random() * 30, lambda: self._end(old))

    def _follow(
        self, peer: SimHost | SimFramework, place: SimMaster | None = None
    ) -> Callable[[], None]:
        return lambda: peer.leave(place or self.leader)

    def _end(self, old: SimMaster) -> None:
        if old is not self.leader and old.core is not None:
            old.crash()

    def _some_host(self) -> SimHost:
        return self.world.rng.choice(self.hosts)

    def crash_agent(self) -> None:
        """An agent's process ends, now or in the midst of its next write, and starts again."""
        host, delay = self._some_host(), self.world.rng.choice([1.0, 40.0])
        delay *= self.world.rng.random()

        def crash() -> None:
            host.on_writing = lambda: None
            if host.up:
                host.crash()
                self.world.after(delay, lambda: host.start() if not host.up else None)

        self._now_or_while_writing(host, crash)

    def _now_or_while_writing(self, what: SimMaster | SimHost, crash: Callable[[], None]) -> None:
        if self.world.rng.random() < 0.5:
            crash()
        else:
            what.on_writing = crash

    def reboot_host(self) -> None:
        """A machine starts anew."""
        self._some_host().reboot()

    def cut_host(self) -> None:
        """A machine loses its network for a while."""
        host = self._some_host()
        host.cut()
        self.world.after(self.world.rng.random() * 60, host.heal)

    def kill_executor(self) -> None:
        """An executor is killed."""
        self._some_host().kill_one()

    def cut_stream(self) -> None:
        """An executor loses its agent."""
        self._some_host().cut_one_stream()

    def crash_framework(self) -> None:
        """A scheduler ends and starts again."""
        framework = self.world.rng.choice(self.frameworks)
        if framework.up:
            framework.crash()
            self.world.after(self.world.rng.random() * 10, framework.start)

    def change_goal(self) -> None:
        """A framework wants more or fewer tasks."""
        self.world.rng.choice(self.frameworks).set_goal(self.world.rng.randrange(7))

    # What must be true

    def check(self) -> None:
        """At every moment."""
        for place in self.places:
            if place.core is not None:
                check(place.core.cluster)

    def calm(self) -> None:
        """No trouble from now on."""
        self.log.trouble = 0.0
        for place in self.places:
            place.on_writing = lambda: None
        for host in self.hosts:
            host.disk.trouble = 0.0
            host.on_writing = lambda: None

    def running(self) -> dict[str, set[str]]:
        """Per framework, the tasks that run on the machines."""
        out: dict[str, set[str]] = {}
        for host in self.hosts:
            for framework_id, task_id in host.running():
                out.setdefault(framework_id, set()).add(task_id)
        return out

    def check_calm(self) -> None:
        """Once calm for some minutes: everybody agrees on what runs."""
        core = self.leader.core
        assert core is not None
        cluster = core.cluster
        assert all(host.registered for host in self.hosts)
        assert not cluster.transitions
        assert not cluster.joining
        assert not cluster.recovered_agents
        running = self.running()
        for framework in self.frameworks:
            assert framework.errors == []
            assert framework.framework_id is not None
            on_hosts = running.pop(framework.framework_id.value, set())
            known = cluster.frameworks[framework.framework_id.value].tasks
            live = {t for t, record in known.items() if not record.state.is_terminal}
            # What ended in this very second may still be on its way up.
            assert on_hosts <= live, f"lost by the master: {on_hosts - live}"
            assert on_hosts <= framework.tasks.keys(), f"lost by {framework.framework_id}"
            self._check_gone(framework, live - on_hosts)
        assert not running
        unheard = [key for key in self.ledger.unheard() if not self._on_the_way(key)]
        assert not unheard, f"confirmed to executors, and never heard of: {unheard}"

    def _check_gone(self, framework: SimFramework, task_ids: set[str]) -> None:
        """Tasks that the master has and no machine runs: only such as start or end just now."""
        assert framework.framework_id is not None
        for task_id in task_ids:
            key = (framework.framework_id.value, task_id)
            assert self._on_the_way(key), f"task {key} is with the master and nowhere else"

    def _on_the_way(self, key: Key) -> bool:
        """Whether an agent still has the task: it starts, or its updates wait."""
        return any(
            host.state is not None
            and (host.state.find_task(*key) is not None or host.state.streams.head(*key))
            for host in self.hosts
        )
