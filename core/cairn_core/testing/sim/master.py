"""The master of the simulation: the real rules and a real allocator, a registry in memory.

It can crash at any moment. A write that was under way then may or may not have reached the log. The
next master has a new id and a higher epoch; an older one that still runs elsewhere, on the same
log, is fenced at its next write and ends, as the daemon does.
"""

import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable
from random import Random

from cairn_core.errors import Unavailable
from cairn_core.extensions import Allocator
from cairn_core.master.registry import LOG, read_registry
from cairn_core.master.state.core import MasterCore
from cairn_core.master.state.effects import (
    AllocationNeeded,
    CloseLink,
    CloseStream,
    Effect,
    Reply,
    StoreRegistry,
    ToLink,
    ToStream,
)
from cairn_core.master.state.records import MasterRecord
from cairn_core.master.state.settings import Settings
from cairn_core.mesos import scheduler_api
from cairn_core.mesos.agent_api import AgentMessage, MasterMessage
from cairn_core.mesos.types import MasterInfo
from cairn_core.replog.interface import Fenced, Unknown
from cairn_core.replog.io_writer import parts
from cairn_core.replog.state import KeyedStore
from cairn_core.testing.sim.log import SimLog
from cairn_core.testing.sim.world import Connection, Pause, World, at_once

MASTER_END, PEER_END = 0, 1
RETRY_S = 1.0
COALESCE_S = 0.01
INTERVAL_S = 1.0
SLICE_AGENTS = 50


class SimMaster:
    """One place where masters run, one after the other.

    on_exit: called when one ended by itself, because of its log.
    """

    def __init__(
        self,
        world: World,
        allocator: Callable[[Random], Allocator],
        settings: Settings | None = None,
        *,
        log: SimLog | None = None,
        rules: type[MasterCore] = MasterCore,
    ) -> None:
        """allocator: made anew for each master. log: shared with other places; None: its own.

        rules: a benchmark may put a clock into them.
        """
        self._rules = rules
        self.world = world
        self.settings = settings or Settings()
        self.log = log or SimLog(world)
        self.epoch = 0
        self.on_exit: Callable[[], None] = lambda: None
        #: Called when a write is on its way to the log.
        self.on_writing: Callable[[], None] = lambda: None
        self.core: MasterCore | None = None
        self.incarnation = 0
        self.replies: dict[int, Reply] = {}
        self.effects: Counter[str] = Counter()
        self._new_allocator = allocator
        self._streams: dict[str, tuple[Connection, Callable[[scheduler_api.Event], None]]] = {}
        self._links: dict[int, tuple[Connection, Callable[[MasterMessage], None]]] = {}
        self._numbers = 0
        self._stepping = False
        self._timer: float | None = None
        self._store: KeyedStore | None = None
        self._waiting: deque[StoreRegistry] = deque()
        self._writing = False

    # Life

    def start(self) -> None:
        """Begin to lead."""
        assert self.core is None
        world = self.world
        self.incarnation += 1
        self._store = store = at_once(KeyedStore.open(self.log, LOG))
        self.epoch = store.epoch
        self._waiting.clear()
        self._writing = False
        master_id = str(uuid.UUID(int=world.rng.getrandbits(128), version=4))
        info = MasterInfo(master_id, 0, pid="master@127.0.0.1:5050", hostname="master")
        core = self._rules(
            MasterRecord(info, world.wall, world.wall),
            self._new_allocator(Random(world.rng.random())),
            self.settings,
        )
        self.core = core
        self._stepping, self._timer = False, None
        image = read_registry((key, held.value, held.schema) for key, held in store.items())
        self.do(core.lead(self.epoch, image, default_weights={}, now=world.now, wall=world.wall))
        self._tick(self.incarnation)

    def crash(self) -> None:
        """Stop in the midst of whatever it does."""
        self.core = None
        connections = [c for c, _ in (*self._streams.values(), *self._links.values())]
        self._streams.clear()
        self._links.clear()
        for connection in connections:
            connection.cut(silent=MASTER_END)

    # Connections

    def open_stream(
        self,
        connection: Connection,
        call: scheduler_api.Subscribe,
        deliver: Callable[[str, scheduler_api.Event], None],
    ) -> None:
        """A framework subscribes."""
        if self.core is None:
            connection.cut(silent=MASTER_END)
            return
        self._numbers += 1
        stream_id = f"stream-{self._numbers}"
        self._streams[stream_id] = (connection, lambda event: deliver(stream_id, event))
        incarnation = self.incarnation

        def cut() -> None:
            if self.core is not None and self.incarnation == incarnation:
                self._streams.pop(stream_id, None)
                now, wall = self.world.now, self.world.wall
                self.do(self.core.stream_closed(stream_id, now=now, wall=wall))

        connection.on_cut[MASTER_END] = cut
        self.do(
            self.core.subscribe(stream_id, call, None, now=self.world.now, wall=self.world.wall)
        )

    def call(self, stream_id: str, call: scheduler_api.Call) -> None:
        """A call, answered as `http_scheduler` would."""
        assert call.framework_id is not None
        if self.core is None:
            return
        framework = self.core.cluster.frameworks.get(call.framework_id.value)
        if framework is None or framework.stream_id != stream_id:
            return
        self.do(
            self.core.call(framework.framework_id, call, now=self.world.now, wall=self.world.wall)
        )

    def open_link(
        self, connection: Connection, deliver: Callable[[MasterMessage], None]
    ) -> Callable[[AgentMessage], None]:
        """An agent connects; returns what takes its messages."""
        self._numbers += 1
        link, incarnation = self._numbers, self.incarnation
        self._links[link] = (connection, deliver)

        def take(message: AgentMessage) -> None:
            if self.core is not None and self.incarnation == incarnation and link in self._links:
                now, wall = self.world.now, self.world.wall
                self.do(self.core.agent_message(link, message, now=now, wall=wall))

        def cut() -> None:
            if self.core is not None and self.incarnation == incarnation:
                self._links.pop(link, None)
                now, wall = self.world.now, self.world.wall
                self.do(self.core.link_closed(link, now=now, wall=wall))

        connection.on_cut[MASTER_END] = cut
        return take

    # Effects

    def do(self, effects: Iterable[Effect]) -> None:
        """Carry out effects."""
        for effect in effects:
            self.effects[type(effect).__name__] += 1
            match effect:
                case ToStream(stream_id, event):
                    if (stream := self._streams.get(stream_id)) is not None:
                        connection, deliver_event = stream
                        connection.send(PEER_END, _bound(deliver_event, event))
                case ToLink(link, message):
                    if (linked := self._links.get(link)) is not None:
                        connection, deliver = linked
                        connection.send(PEER_END, _bound(deliver, message))
                case CloseStream(stream_id):
                    if (stream := self._streams.pop(stream_id, None)) is not None:
                        connection = stream[0]
                        connection.send(PEER_END, _cutter(connection))
                case CloseLink(link):
                    if (linked := self._links.pop(link, None)) is not None:
                        connection = linked[0]
                        connection.send(PEER_END, _cutter(connection))
                case StoreRegistry():
                    self._waiting.append(effect)
                    self._write_soon()
                case Reply(request):
                    self.replies[request] = effect
                case AllocationNeeded():
                    self._step_soon()
                case _:
                    continue
        self._arm()

    def _write_soon(self) -> None:
        if self._writing:
            return
        self._writing = True
        incarnation = self.incarnation
        survives = self.world.rng.random() < 0.5  # a crash: the request had left the machine
        self.world.spawn(self._write(incarnation), lambda: survives or self._leads(incarnation))

    def _leads(self, incarnation: int) -> bool:
        return self.core is not None and self.incarnation == incarnation

    async def _write(self, incarnation: int) -> None:
        """One write at a time, whatever waits goes along, as in `replog.io_writer`."""
        store = self._store
        assert store is not None
        while self._leads(incarnation) and self._waiting:
            operations = list(self._waiting)
            self._waiting.clear()
            for part in parts([record for effect in operations for record in effect.records]):
                while True:
                    self.world.after(0.0, lambda: self.on_writing())
                    try:
                        await store.write(part)
                        break
                    except Unavailable:
                        await Pause(RETRY_S)
                    except (Fenced, Unknown):
                        if self._leads(incarnation):
                            self.crash()
                            self.on_exit()
                        return
            for effect in operations:
                if not self._leads(incarnation) or self.core is None:
                    return
                now, wall = self.world.now, self.world.wall
                self.do(self.core.stored(effect.operation, now=now, wall=wall))
        if self._leads(incarnation):
            self._writing = False

    def _arm(self) -> None:
        core = self.core
        deadline = core.next_deadline() if core is not None else None
        if deadline is None or (self._timer is not None and self._timer <= deadline):
            return
        self._timer = deadline
        incarnation = self.incarnation

        def expire() -> None:
            if self.core is None or self.incarnation != incarnation or self._timer != deadline:
                return
            self._timer = None
            self.do(self.core.expire(now=self.world.now, wall=self.world.wall))

        self.world.at(deadline, expire)

    def _tick(self, incarnation: int) -> None:
        if self.core is None or self.incarnation != incarnation:
            return
        self.core.cluster.allocator.tick(now=self.world.now)
        self._step()
        self.world.after(INTERVAL_S, lambda: self._tick(incarnation))

    def _step_soon(self) -> None:
        if self._stepping:
            return
        self._stepping = True
        incarnation = self.incarnation

        def step() -> None:
            if self.core is not None and self.incarnation == incarnation:
                self._stepping = False
                self._step()

        self.world.after(COALESCE_S, step)

    def _step(self) -> None:
        core = self.core
        while core is not None:
            result = core.cluster.allocator.step(now=self.world.now, max_agents=SLICE_AGENTS)
            if result.allocations:
                now, wall = self.world.now, self.world.wall
                self.do(core.allocated(result.allocations, now=now, wall=wall))
            if not result.more:
                return


def _bound(deliver: Callable[..., None], message: object) -> Callable[[], None]:
    return lambda: deliver(message)


def _cutter(connection: Connection) -> Callable[[], None]:
    return lambda: connection.cut(silent=MASTER_END)
