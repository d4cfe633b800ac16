"""A machine of the simulation that runs the real agent: rules, recovery, files, executors.

The shell around the rules is that of `cairn_core.agent.daemon`: effects wait in one queue; all
writes of what waits go to disk in one go, then everything is carried out in order. The process may
end at any moment, in the midst of a write too; disk and containers stay, as they do on a machine,
and the next process recovers from them. Some ten times the work of a light `SimAgent`, so for tens
of machines and not for thousands.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeAlias, assert_never

from cairn_core.agent import checkpoint, reconfiguration, recovery
from cairn_core.agent.effects import (
    CloseExecutor,
    ContainerLaunched,
    ContainerMissing,
    ContainerRecovered,
    ContainerTerminated,
    DestroyContainer,
    Discard,
    Disconnect,
    Effect,
    ExecutorDisconnected,
    ExecutorSubscribed,
    ExecutorUpdate,
    Fact,
    LaunchContainer,
    MasterDisconnected,
    Persist,
    PersistFailed,
    Put,
    Rebooted,
    Settings,
    Stop,
    Tick,
    ToExecutor,
    ToMaster,
    UpdateContainer,
)
from cairn_core.agent.state import AgentState
from cairn_core.mesos import agent_api, executor_api, types
from cairn_core.mesos.agent_api import MasterMessage
from cairn_core.resources import Resources
from cairn_core.testing.sim.disk import SimDisk
from cairn_core.testing.sim.ledger import Key, Ledger
from cairn_core.testing.sim.link import LinkedAgent
from cairn_core.testing.sim.master import SimMaster
from cairn_core.testing.sim.process import (
    AGENT_END,
    EXECUTOR_END,
    CommandProcess,
    GroupProcess,
    SimProcess,
)
from cairn_core.testing.sim.world import Connection, World

DISK_S = 0.02
LAUNCH_S = 0.1
RECOVERY_S = 0.2
OUT_OF_MEMORY = 9

#: Epoch of the command that an effect follows from, None where no master is behind it.
_Step: TypeAlias = "tuple[int | None, Effect | Callable[[], None]]"


@dataclass(slots=True)
class Container:
    """A container of the machine. status: how it ended, until the agent has taken note."""

    process: SimProcess
    status: int | None = None


class SimHost(LinkedAgent):
    """One machine with its agent. ledger: shared by all of a simulation."""

    def __init__(
        self,
        world: World,
        master: SimMaster,
        number: int,
        resources: Resources,
        ledger: Ledger,
        *,
        task_s: Callable[[], float | None] = lambda: None,
        disk_trouble: float = 0.0,
    ) -> None:
        """task_s: seconds after which a new task ends by itself; None for never.

        disk_trouble: the part of all groups of writes that fail.
        """
        super().__init__(world, master, number)
        self.resources = resources
        self.ledger = ledger
        self.disk = SimDisk(world.rng, trouble=disk_trouble)
        self.containers: dict[str, Container] = {}
        self.state: AgentState | None = None
        self.boot = 1
        #: Highest epoch on whose behalf this machine did anything, whatever process it was.
        self.acted_epoch = 0
        self.fenced = 0
        #: Does not tell masters of newer ones: then it must refuse the older ones itself.
        self.hides_epoch = False
        #: Called when a batch of writes is on its way to disk.
        self.on_writing: Callable[[], None] = lambda: None
        self._task_s = task_s
        self._ready = False
        self._ever_started: set[str] = set()
        self._queue: list[_Step] = []
        self._writing: list[Persist] | None = None
        self._launching: dict[str, LaunchContainer] = {}
        self._doomed: set[str] = set()
        self._streams: dict[Key, tuple[int, Connection, SimProcess]] = {}
        self._stream_numbers = 0
        self._timer: float | None = None
        info = types.AgentInfo(f"host{number}", resources=tuple(resources.to_wire()))
        self._settings = Settings(
            info=info, work_dir="/var/lib/agent", endpoint="127.0.0.1:5051", pid=self.pid
        )

    def running(self) -> list[Key]:
        """Tasks that run on the machine now."""
        return [
            (container.process.framework_id, task_id)
            for container in self.containers.values()
            for task_id in container.process.running
        ]

    # Life

    def start(self) -> None:
        """The agent's process starts and recovers."""
        self._begin_life()
        state = self.state = AgentState(self._settings, Random(self.world.rng.random()))
        found = recovery.restore(state, dict(self.disk.files), self.disk.latest, strict=True)
        if found.registered_as is not None:
            changed = reconfiguration.check(found.registered_as, self._settings.info, "equal")
            assert not changed
        boot_id = f"boot-{self.boot}"
        writes = (*found.repairs, Put(checkpoint.BOOT_ID, boot_id.encode()))
        while not self.disk.apply([writes])[0]:
            pass  # an agent that cannot write this ends, and is started again
        rebooted = found.boot_id is not None and found.boot_id != boot_id
        for container_id in sorted(self.containers.keys() - state.containers.keys()):
            orphan = self.containers.pop(container_id).process
            assert not orphan.running, f"tasks {list(orphan.running)} run and the agent forgot them"
            orphan.end()
        life = self._life
        self.world.after(
            RECOVERY_S * self.world.rng.random(),
            lambda: self._recovered(rebooted) if life == self._life else None,
        )

    def _recovered(self, rebooted: bool) -> None:
        assert self.state is not None
        self._ready = True
        if rebooted:
            self._feed(Rebooted())
        for container_id in [] if rebooted else list(self.state.containers):
            container = self.containers.get(container_id)
            if container is None:
                self._feed(ContainerMissing(container_id))
                continue
            self._feed(ContainerRecovered(container_id))
            if container.status is not None:
                self._tell_end(container_id, container.status)
        self._connect_later()

    def crash(self) -> None:
        """The agent's process ends in the midst of whatever it does; containers live on."""
        if self._writing:
            self.disk.tear([persist.writes for persist in self._writing])
        for container_id, launch in self._launching.items():
            if self.world.rng.random() < 0.5:  # the child was forked already
                self._begin(container_id, launch)
        self._end_life()
        self.state = None
        self._ready = False
        self._queue.clear()
        self._writing = self._timer = None
        self._launching.clear()
        self._doomed.clear()
        streams = list(self._streams.values())
        self._streams.clear()
        for _, connection, _ in streams:
            connection.cut(silent=AGENT_END)

    def reboot(self) -> None:
        """The machine starts anew: the disk is all that is left."""
        if self.up:
            self.crash()
        for container in self.containers.values():
            container.process.end()
        self.containers.clear()
        self.boot += 1
        self.start()

    def kill_one(self) -> None:
        """Some executor is killed by the machine, with its tasks."""
        alive = [cid for cid, c in self.containers.items() if c.process.alive]
        if alive:
            container_id = self.world.rng.choice(alive)
            self.containers[container_id].process.exit(OUT_OF_MEMORY)

    # The master

    def hello(self) -> agent_api.Hello:
        """See LinkedAgent."""
        assert self.state is not None
        agent_id = self.state.agent_id
        return agent_api.Hello(
            protocol_min=agent_api.PROTOCOL,
            protocol_max=agent_api.PROTOCOL,
            agent_id=types.AgentID(agent_id) if agent_id is not None else None,
            boot_id=f"boot-{self.boot}",
            session=self._session,
            epoch=self.state.epoch if not self.hides_epoch else 0,
            pid=self.pid,
            info=self._settings.info,
            version="1.11.0",
        )

    def received(self, message: MasterMessage) -> None:
        """See LinkedAgent."""
        self._feed(message, getattr(message, "epoch", None))
        if self.state is not None and self._connection is not None:
            self.registered = self.state.master.registered

    def lost(self) -> None:
        """See LinkedAgent."""
        if self.up:
            self._feed(MasterDisconnected())

    # Facts and effects

    def _feed(self, fact: Fact, epoch: int | None = None) -> None:
        state = self.state
        assert state is not None
        fenced = state.counters["fenced_commands"]
        effects = state.handle(fact, now=self.world.now, wall=self.world.wall)
        self.fenced += state.counters["fenced_commands"] - fenced
        state.check()
        stale = epoch is not None and epoch < self.acted_epoch
        assert not stale or all(isinstance(effect, Disconnect) for effect in effects), (
            f"a master of epoch {epoch} commands, after {self.acted_epoch}: {effects}"
        )
        self._queue += [(None if stale else epoch, effect) for effect in effects]
        self._work()
        self._arm()

    def _work(self) -> None:
        """Take all that waits: its writes first, then everything in order."""
        if self._writing is not None or not self._queue:
            return
        batch, self._queue = self._queue, []
        self._writing = [effect for _, effect in batch if isinstance(effect, Persist)]
        life = self._life
        delay = DISK_S * self.world.rng.random() if self._writing else 0.0
        if self._writing:
            self.world.after(delay / 2, lambda: self.on_writing() if life == self._life else None)
        self.world.after(delay, lambda: self._written(batch) if life == self._life else None)

    def _written(self, batch: list[_Step]) -> None:
        assert self._writing is not None
        results = iter(self.disk.apply([persist.writes for persist in self._writing]))
        self._writing = []  # facts that come now wait for the next batch
        for epoch, effect in batch:
            if not isinstance(effect, Persist):
                self._acts(epoch)
                self._do(effect)
            elif next(results):
                for then in effect.then:
                    self._acts(epoch)
                    self._do(then)
            elif effect.failed is not None:
                self._feed(PersistFailed(effect.failed, "No space left on device"))
        self._writing = None
        self._work()

    def _acts(self, epoch: int | None) -> None:
        if epoch is not None:
            self.acted_epoch = max(self.acted_epoch, epoch)

    def _do(self, effect: Effect | Callable[[], None]) -> None:
        match effect:
            case LaunchContainer(container_id):
                self._launching[container_id] = effect
                self._later(LAUNCH_S, lambda: self._launched(container_id))
            case DestroyContainer(container_id):
                self._destroy(container_id)
            case ToExecutor(framework_id, executor_id, number, event):
                present, connection, process = self._stream((framework_id, executor_id))
                if present == number and connection is not None and process is not None:
                    _deliver(connection, process, event)
            case CloseExecutor(framework_id, executor_id):
                _, connection, _ = self._stream((framework_id, executor_id))
                self._streams.pop((framework_id, executor_id), None)
                if connection is not None:
                    connection.cut(silent=AGENT_END)
            case ToMaster(message):
                self._send(message)
            case Disconnect():
                if self._connection is not None:
                    self._lose()
            case Stop(message):
                raise AssertionError(f"agent {self.number} stops: {message}")
            case UpdateContainer() | Discard():
                pass
            case Persist():
                raise AssertionError("a Persist inside of a Persist")
            case _ if callable(effect):
                effect()
            case _:
                assert_never(effect)

    def _stream(self, key: Key) -> tuple[int, Connection | None, SimProcess | None]:
        return self._streams.get(key, (0, None, None))

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        life = self._life
        self.world.after(
            seconds * self.world.rng.random(), lambda: action() if life == self._life else None
        )

    def _arm(self) -> None:
        deadline = self.state.next_deadline() if self.state is not None else None
        if deadline is None or (self._timer is not None and self._timer <= deadline):
            return
        self._timer = deadline
        life = self._life

        def expire() -> None:
            if life == self._life and self._timer == deadline:
                self._timer = None
                self._feed(Tick())

        self.world.at(deadline, expire)

    # Containers

    def _launched(self, container_id: str) -> None:
        launch = self._launching.pop(container_id)
        if container_id in self._doomed:
            self._doomed.discard(container_id)
            self._feed(ContainerTerminated(container_id))
            return
        self._begin(container_id, launch)
        self._later(LAUNCH_S, lambda: self._feed(ContainerLaunched(container_id)))

    def _begin(self, container_id: str, launch: LaunchContainer) -> None:
        assert container_id not in self._ever_started, f"container {container_id} started twice"
        self._ever_started.add(container_id)
        kind = CommandProcess if launch.config.entry else GroupProcess
        process = kind(self, container_id, launch.config.environment)
        self.containers[container_id] = Container(process)

    def _destroy(self, container_id: str) -> None:
        container = self.containers.get(container_id)
        if container_id in self._launching:
            self._doomed.add(container_id)
        elif container is None:
            self._feed(ContainerTerminated(container_id))
        else:
            container.process.exit(OUT_OF_MEMORY)

    def exited(self, container_id: str, status: int) -> None:
        """See Machine."""
        self.containers[container_id].status = status
        if self._ready:
            self._tell_end(container_id, status)

    def _tell_end(self, container_id: str, status: int) -> None:
        def tell() -> None:
            self._feed(ContainerTerminated(container_id, status))
            # only once what follows from it is on disk: the exit status is nowhere else
            self._queue.append((None, lambda: _forget(self.containers, container_id)))

        self._later(LAUNCH_S, tell)

    def task_started(self, wanted: Resources) -> float | None:
        """See Machine."""
        running = [
            resources
            for container in self.containers.values()
            for resources in container.process.running.values()
        ]
        in_use = Resources.sum(running)
        assert self.resources.contains(in_use + wanted), f"host {self.number} is overcommitted"
        return self._task_s()

    # Executors

    def subscribe(
        self, process: SimProcess, connection: Connection, call: executor_api.Call
    ) -> None:
        """See Machine."""
        state, key = self.state, (process.framework_id, process.executor_id)
        if not self._ready or state is None or state.find_executor(*key) is None:
            connection.cut(silent=AGENT_END)
            return
        _, older, _ = self._stream(key)
        if older is not None:
            older.cut(silent=AGENT_END)
        self._stream_numbers += 1
        number = self._stream_numbers
        self._streams[key] = (number, connection, process)

        def closed() -> None:
            if self._stream(key)[0] == number:
                del self._streams[key]
                self._feed(ExecutorDisconnected(*key))

        connection.on_cut[AGENT_END] = closed
        body = call.subscribe or executor_api.Subscribe()
        updates = tuple(update.status for update in body.unacknowledged_updates)
        self._feed(ExecutorSubscribed(*key, number, body.unacknowledged_tasks, updates))

    def call(self, process: SimProcess, call: executor_api.Call) -> None:
        """See Machine."""
        key = (process.framework_id, process.executor_id)
        executor = self.state.find_executor(*key) if self.state is not None else None
        if not self._ready or executor is None or not executor.connected:
            if process.connection is not None:
                process.connection.cut(silent=AGENT_END)
        elif call.update is not None:
            self._feed(ExecutorUpdate(*key, call.update.status))

    def cut_one_stream(self) -> None:
        """The connection of some executor breaks."""
        if self._streams:
            key = self.world.rng.choice(sorted(self._streams))
            self._streams[key][1].cut()


def _deliver(connection: Connection, process: SimProcess, event: executor_api.Event) -> None:
    connection.send(EXECUTOR_END, lambda: process.deliver(connection, event))


def _forget(containers: dict[str, Container], container_id: str) -> None:
    containers.pop(container_id, None)
