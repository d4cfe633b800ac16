"""A framework of the simulation: keeps so many tasks running, and reconciles.

It believes what it is told. A task counts as running from its launch until it is told of an end;
UNREACHABLE, UNKNOWN, GONE and LOST end it too, and when such a task is heard of again it is killed.
"""

from collections import Counter
from collections.abc import Callable

from cairn_core.mesos import scheduler_api, types
from cairn_core.mesos.scheduler_api import Call, Event
from cairn_core.mesos.types import TaskState, TaskStatus
from cairn_core.resources import Resources
from cairn_core.testing.sim.ledger import Ledger
from cairn_core.testing.sim.master import MASTER_END, PEER_END, SimMaster
from cairn_core.testing.sim.world import Connection, World

_OVER = frozenset({TaskState.UNREACHABLE, TaskState.UNKNOWN})
RECONCILE_S = 10.0
BACKOFF_S = 1.0


class SimFramework:
    """One framework. goal: how many tasks it wants; size: of each."""

    def __init__(
        self,
        world: World,
        master: SimMaster,
        number: int,
        goal: int,
        size: Resources,
        *,
        capabilities: tuple[str, ...] = ("PARTITION_AWARE", "MULTI_ROLE"),
        failover_timeout_s: float = 10_000.0,
        refuse_s: float = 5.0,
        executor: types.ExecutorInfo | None = None,
        with_port: bool = False,
        ledger: Ledger | None = None,
        discovery: Callable[[int], types.DiscoveryInfo | None] = lambda number: None,
    ) -> None:
        """executor: of all its tasks, one on each agent; None for command tasks.

        with_port: each task takes a host port beside `size`. discovery: of each task by its number.
        """
        self.world = world
        self.master = self._place = master
        self.number = number
        self.goal = goal
        self.size = size
        self.refuse_s = refuse_s
        self.framework_id: types.FrameworkID | None = None
        self.tasks: dict[str, TaskState] = {}
        self.agents: dict[str, types.AgentID] = {}
        self.told: Counter[str] = Counter()
        self.errors: list[str] = []
        self.up = False
        self._launched = 0
        self._executor = executor
        self._with_port = with_port
        self._ledger = ledger
        self._discovery = discovery
        self._suppressed = False
        self._capabilities = capabilities
        self._failover_timeout_s = failover_timeout_s
        self._connection: Connection | None = None
        self._stream_id = ""
        self._life = 0

    def start(self) -> None:
        """Begin, or come back after a crash."""
        self.up = True
        self._life += 1
        self._connect_later()
        self._reconcile_later(self._life)

    def crash(self) -> None:
        """The process ends; what it knows is on its disk."""
        self.up = False
        self._life += 1
        if self._connection is not None:
            self._connection.cut(silent=PEER_END)
            self._connection = None

    def leave(self, master: SimMaster) -> None:
        """Follow another place, at once when connected elsewhere."""
        self.master = master
        if self._connection is not None and self._place is not master:
            self._connection.cut(silent=PEER_END)
            self._connection = None
            self._connect_later()

    def _connect_later(self) -> None:
        life = self._life
        delay = BACKOFF_S * (0.5 + self.world.rng.random())
        self.world.after(delay, lambda: self._connect() if life == self._life else None)

    def _connect(self) -> None:
        if not self.up or self._connection is not None:
            return
        if self.master.core is None:
            self._connect_later()
            return
        connection = self._connection = Connection(self.world)

        def cut() -> None:
            if self._connection is connection:
                self._connection = None
                self._connect_later()

        connection.on_cut[PEER_END] = cut
        multi = "MULTI_ROLE" in self._capabilities
        info = types.FrameworkInfo(
            "nobody",
            f"framework{self.number}",
            id=self.framework_id,
            failover_timeout=self._failover_timeout_s,
            checkpoint=True,
            roles=("*",) if multi else (),
            capabilities=tuple(types.Capability(name) for name in self._capabilities),
        )
        call = scheduler_api.Subscribe(info)
        take = self._taker(connection)
        master = self._place = self.master
        connection.send(MASTER_END, lambda: master.open_stream(connection, call, take))

    def _taker(self, connection: Connection) -> Callable[[str, Event], None]:
        def take(stream_id: str, event: Event) -> None:
            if connection is self._connection:
                self._stream_id = stream_id
                self._take(event)

        return take

    def _call(self, call: Call) -> None:
        connection, stream_id = self._connection, self._stream_id
        if connection is not None:
            master = self._place
            connection.send(MASTER_END, lambda: master.call(stream_id, call))

    def call(self, kind: str, **body: object) -> None:
        """Send a call of this framework."""
        self._call(Call(type=kind, framework_id=self.framework_id, **body))  # type: ignore[arg-type]  # by name

    def set_goal(self, goal: int) -> None:
        """Want more tasks, or fewer: then some are killed."""
        self.goal = goal
        for task_id in list(self.tasks)[goal:]:
            self.call("KILL", kill=scheduler_api.Kill(types.TaskID(task_id)))
        self._want_offers()

    def _want_offers(self) -> None:
        if len(self.tasks) < self.goal:
            self._suppressed = False
            self.call("REVIVE", revive=scheduler_api.Revive())

    # Events

    def _take(self, event: Event) -> None:
        self.told[event.type] += 1
        if event.subscribed is not None:
            self.framework_id = event.subscribed.framework_id
            self._suppressed = False
            self._reconcile()
        if event.error is not None:
            self.errors.append(event.error.message)
        for offer in event.offers.offers if event.offers is not None else ():
            self._offered(offer)
        if event.update is not None:
            self._updated(event.update.status)

    def _offered(self, offer: scheduler_api.Offer) -> None:
        left = Resources.from_wire(offer.resources)
        infos = []
        if self._executor is not None and not offer.executor_ids:
            left = left.minus_common(Resources.from_wire(self._executor.resources))
        while len(self.tasks) < self.goal and left.contains(size := self._next(left)):
            left = left - size
            self._launched += 1
            task_id = f"f{self.number}.{self._launched}"
            self.tasks[task_id] = TaskState.STAGING
            self.agents[task_id] = offer.agent_id
            infos.append(
                types.TaskInfo(
                    f"task {task_id}",
                    types.TaskID(task_id),
                    offer.agent_id,
                    tuple(size.to_wire()),
                    executor=self._executor,
                    discovery=self._discovery(self._launched),
                    command=types.CommandInfo(value="sleep 1000") if not self._executor else None,
                )
            )
        filters = types.Filters(self.refuse_s)
        if not infos:
            self.call("DECLINE", decline=scheduler_api.Decline((offer.id,), filters))
            if len(self.tasks) >= self.goal and not self._suppressed:
                self._suppressed = True
                self.call("SUPPRESS", suppress=scheduler_api.Suppress())
            return
        launch = scheduler_api.Operation("LAUNCH", launch=scheduler_api.Launch(tuple(infos)))
        self.call("ACCEPT", accept=scheduler_api.Accept((offer.id,), (launch,), filters))

    def _next(self, left: Resources) -> Resources:
        """What the next task takes; more than there is when no port is left."""
        if not self._with_port:
            return self.size
        ports = left.ranges("ports")
        port = ports[0][0] if ports else 1
        return self.size + Resources.parse(f"ports:[{port}-{port}]")

    def _updated(self, status: TaskStatus) -> None:
        task_id = status.task_id.value
        if self._ledger is not None and self.framework_id is not None:
            self._ledger.hear(self.framework_id.value, status)
        if status.uuid is not None and status.agent_id is not None:
            self.call(
                "ACKNOWLEDGE",
                acknowledge=scheduler_api.Acknowledge(status.agent_id, status.task_id, status.uuid),
            )
        if status.state.is_terminal or status.state in _OVER:
            if self.tasks.pop(task_id, None) is not None:
                self.agents.pop(task_id)
                self._want_offers()
        elif task_id in self.tasks:
            self.tasks[task_id] = status.state
        else:
            self.call("KILL", kill=scheduler_api.Kill(status.task_id))

    # Reconciliation

    def _reconcile_later(self, life: int) -> None:
        def again() -> None:
            if life == self._life:
                self._reconcile()
                self._reconcile_later(life)

        self.world.after(RECONCILE_S, again)

    def _reconcile(self) -> None:
        if self._connection is None or self.framework_id is None:
            return
        asked = tuple(
            scheduler_api.ReconcileTask(types.TaskID(task_id), self.agents[task_id])
            for task_id in self.tasks
        )
        if asked:
            self.call("RECONCILE", reconcile=scheduler_api.Reconcile(asked))
        # And all that the master has, so that tasks we gave up are heard of.
        self.call("RECONCILE", reconcile=scheduler_api.Reconcile())
