"""What becomes of executors and their tasks: subscriptions, updates, deadlines, ends.

The half of `state.AgentState` that does not know a master. Every change of a task's state goes
through `_task_status`, every end of a container through `_container_terminated`.
"""

import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from random import Random

from msgspec.structs import replace

from cairn_core.agent import checkpoint, launching
from cairn_core.agent.effects import (
    CloseExecutor,
    ContainerLaunched,
    ContainerMissing,
    ContainerRecovered,
    ContainerTerminated,
    DestroyContainer,
    Discard,
    Effect,
    ExecutorDisconnected,
    ExecutorSubscribed,
    LaunchContainer,
    Master,
    Persist,
    Settings,
    Stop,
    ToExecutor,
    ToMaster,
    UpdateContainer,
    UpdateKey,
    Write,
)
from cairn_core.agent.records import (
    Ending,
    ExecutorRecord,
    ExecutorState,
    FrameworkRecord,
    TaskRecord,
)
from cairn_core.agent.status_updates import Forward, UpdateStreams
from cairn_core.kit.durations import format_duration
from cairn_core.mesos import agent_api, executor_api
from cairn_core.mesos.types import (
    AgentID,
    ContainerID,
    ContainerStatus,
    ExecutorID,
    FrameworkID,
    Reason,
    Source,
    TaskID,
    TaskState,
    TaskStatus,
)


class Executors:
    """Tables of the agent and the rules of its executors.

    Invariants (`check`): a container id belongs to exactly one executor that has not finished; a
    task is in one table of its executor; a task in `terminated` has an update on the way, or its
    framework is being shut down.
    """

    def __init__(self, settings: Settings, rng: Random) -> None:
        """rng: of ids and tokens, so in production one that nobody can predict."""
        self.settings = settings
        self._rng = rng
        #: Highest epoch of a master seen.
        self.epoch = 0
        #: Whether the disk refused it: then it is written again before anything is done for it.
        self.epoch_unwritten = False
        self.start_over()

    def start_over(self) -> None:
        """Forget everything but the highest epoch: the agent will be a new one."""
        settings = self.settings
        self.agent_id: str | None = None
        self.master = Master()
        self.frameworks: dict[str, FrameworkRecord] = {}
        self.completed_frameworks: deque[FrameworkRecord] = deque(
            maxlen=settings.max_completed_frameworks
        )
        self.containers: dict[str, ExecutorRecord] = {}
        self.streams = UpdateStreams()
        self.counters: Counter[str] = Counter()
        #: Why the agent is leaving; None while it stays.
        self.stopping: str | None = None
        #: Whether the id came in this process and may not be on disk yet.
        self.id_is_new = False
        self.now = 0.0
        self.wall = 0.0
        self._operations: OrderedDict[str, None] = OrderedDict()

    @property
    def id(self) -> str:
        """The agent's id; asked only after registration."""
        assert self.agent_id is not None
        return self.agent_id

    def find_executor(self, framework_id: str, executor_id: str) -> ExecutorRecord | None:
        """An executor that has not finished."""
        framework = self.frameworks.get(framework_id)
        return framework.executors.get(executor_id) if framework is not None else None

    def find_task(
        self, framework_id: str, task_id: str
    ) -> tuple[ExecutorRecord, TaskRecord] | None:
        """A task that the master still has to know of."""
        framework = self.frameworks.get(framework_id)
        if framework is None:
            return None
        for executor in framework.executors.values():
            task = executor.task(task_id)
            if task is not None:
                return executor, task
        return None

    def check(self) -> None:
        """Assert the invariants; for tests."""
        for framework in self.frameworks.values():
            assert framework.executors, f"framework {framework.id} without executors"
            for executor in framework.executors.values():
                assert self.containers.get(executor.container_id) is executor
                tables = (executor.queued, executor.launched, executor.terminated)
                ids = [task_id for table in tables for task_id in table]
                assert len(ids) == len(set(ids)), f"task in two tables: {ids}"
                assert not any(t.state.is_terminal for t in executor.live)
                assert all(t.state.is_terminal for t in executor.terminated.values())
                for task in executor.terminated.values():
                    assert self.streams.head(framework.id, task.id) is not None
                if executor.state is ExecutorState.TERMINATED:
                    assert executor.tasks
                    assert not executor.live
        assert len(self.containers) == sum(len(f.executors) for f in self.frameworks.values())

    # ---- small makers -----------------------------------------------------------------------

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _token(self) -> str:
        return f"{self._rng.getrandbits(256):064x}"

    def _status(
        self, task_id: str, state: TaskState, reason: Reason | str, message: str
    ) -> TaskStatus:
        """A status of our own making."""
        return TaskStatus(
            task_id=TaskID(task_id),
            state=state,
            message=message or None,
            source=Source.AGENT,
            reason=str(reason),
            agent_id=AgentID(self.agent_id) if self.agent_id is not None else None,
            timestamp=self.wall,
            uuid=uuid.UUID(int=self._rng.getrandbits(128), version=4).bytes,
        )

    @staticmethod
    def _persist(checkpoint_: bool, *writes: Write, then: tuple[Effect, ...] = ()) -> list[Effect]:
        """Write, unless the framework wants nothing kept."""
        return [Persist(writes, then)] if checkpoint_ else list(then)

    @staticmethod
    def _to_executor(executor: ExecutorRecord, event: executor_api.Event) -> Effect:
        return ToExecutor(executor.framework_id, executor.id, executor.stream, event)

    def _launch_event(self, executor: ExecutorRecord, task: TaskRecord) -> Effect:
        event = executor_api.Event(type="LAUNCH", launch=executor_api.Launch(task.info))
        return self._to_executor(executor, event)

    def _kill_event(self, executor: ExecutorRecord, task: TaskRecord) -> Effect:
        policy = task.kill.policy if task.kill is not None else None
        event = executor_api.Event(type="KILL", kill=executor_api.Kill(TaskID(task.id), policy))
        return self._to_executor(executor, event)

    def _resize(self, executor: ExecutorRecord) -> Effect:
        requests, limits = launching.amounts(executor, executor.live)
        return UpdateContainer(executor.container_id, requests, limits)

    def _forward(self, forwards: Iterable[Forward]) -> list[Effect]:
        return [
            ToMaster(agent_api.Update(FrameworkID(f.framework_id), f.status, f.latest_state))
            for f in forwards
        ]

    # ---- updates ----------------------------------------------------------------------------

    def _report(self, framework_id: str, status: TaskStatus) -> list[Effect]:
        """Tell of a task that has no executor here; kept in memory until acknowledged."""
        if not self.streams.is_open(framework_id, status.task_id.value):
            return []
        self._count(status)
        return self._forward(self.streams.add(framework_id, status, now=self.now))

    def _count(self, status: TaskStatus) -> None:
        self.counters["valid_status_updates"] += 1
        if status.state.is_terminal:
            self.counters[f"tasks_{status.state.removeprefix('TASK_').lower()}"] += 1

    def _task_status(
        self,
        executor: ExecutorRecord,
        task: TaskRecord,
        status: TaskStatus,
        then: tuple[Effect, ...] = (),
    ) -> list[Effect]:
        """Take in a status of a task: keep it, tell the master. then: once it is on disk.

        The master is told even when the disk refused, for then at least somebody knows; `then`,
        which lets the executor forget the update, does not happen in that case.
        """
        status = self._completed_status(executor, status)
        self._count(status)
        task.note(status)
        if status.state.is_terminal:
            self._terminate(executor, task)
        effects = self._keep(executor, status, then)
        effects += self._forward(self.streams.add(executor.framework_id, status, now=self.now))
        ends = status.state.is_terminal and not executor.is_command
        if ends and executor.state is ExecutorState.RUNNING:
            effects.append(self._resize(executor))
        return effects

    def _keep(
        self, executor: ExecutorRecord, status: TaskStatus, then: tuple[Effect, ...]
    ) -> list[Effect]:
        """Write an update down, then tell the executor that we have it."""
        if not executor.checkpoint:
            return list(then)
        assert status.uuid is not None
        write = checkpoint.append_update(self.id, executor, status)
        return [Persist((write,), then, UpdateKey(executor.container_id, status.uuid))]

    def _learn(
        self, executor: ExecutorRecord, task: TaskRecord, status: TaskStatus
    ) -> list[Effect]:
        """An update that an earlier process could not write down, and the master knows."""
        if task.state.is_terminal:
            return []
        if not status.state.is_terminal:
            if task.state is TaskState.STAGING:
                task.note(status)
            return []
        task.note(status)
        self._terminate(executor, task)
        if self.streams.head(executor.framework_id, task.id) is not None:
            return []  # something older is still on its way
        self.streams.close(executor.framework_id, task.id)
        self._complete(executor, task)
        return self._finish(executor)

    def _update_refused(self, key: UpdateKey) -> None:
        """The disk refused an update; its executor will repeat what is not confirmed."""
        executor = self.containers.get(key.container_id)
        if executor is not None:
            executor.unwritten.add(key.uuid)

    @staticmethod
    def _terminate(executor: ExecutorRecord, task: TaskRecord) -> None:
        executor.queued.pop(task.id, None)
        executor.launched.pop(task.id, None)
        executor.terminated[task.id] = task

    def _completed_status(self, executor: ExecutorRecord, status: TaskStatus) -> TaskStatus:
        """The status with what the agent knows better or beside."""
        own = status.container_status or ContainerStatus()
        known = executor.container_status or ContainerStatus()
        container_status = ContainerStatus(
            container_id=own.container_id
            or known.container_id
            or ContainerID(executor.container_id),
            network_infos=own.network_infos or known.network_infos,
            cgroup_info=own.cgroup_info or known.cgroup_info,
            executor_pid=known.executor_pid or own.executor_pid,
        )
        return replace(
            status,
            agent_id=AgentID(self.id),
            executor_id=ExecutorID(executor.id),
            timestamp=status.timestamp if status.timestamp is not None else self.wall,
            container_status=container_status,
        )

    def _executor_update(
        self, framework_id: str, executor_id: str, status: TaskStatus
    ) -> list[Effect]:
        executor = self.find_executor(framework_id, executor_id)
        if executor is None or status.uuid is None:
            self.counters["invalid_status_updates"] += 1
            return []
        task_id = status.task_id.value
        acknowledged = executor_api.Acknowledged(status.task_id, status.uuid)
        confirm = self._to_executor(
            executor, executor_api.Event(type="ACKNOWLEDGED", acknowledged=acknowledged)
        )
        task = executor.task(task_id)
        framework = self.frameworks[framework_id]
        if (
            task is None
            or framework.terminating
            or self.streams.knows(framework_id, task_id, status.uuid)
            or not self.streams.is_open(framework_id, task_id)
        ):
            # repeated, or about a task that has ended: nothing is new, let the executor forget it
            if task is None:
                self.counters["invalid_status_updates"] += 1
            if task is not None and status.uuid in executor.unwritten:
                executor.unwritten.discard(status.uuid)
                status = self._completed_status(executor, status)
                return self._keep(executor, status, (confirm,)) + self._learn(
                    executor, task, status
                )
            return [confirm]
        if task.id in executor.queued:
            executor.launched[task.id] = executor.queued.pop(task.id)
        return self._task_status(executor, task, status, (confirm,))

    def _acknowledge(self, framework_id: str, task_id: str, ack: bytes) -> list[Effect]:
        status, forwards = self.streams.acknowledge(framework_id, task_id, ack, now=self.now)
        if status is None:
            return []
        effects: list[Effect] = []
        found = self.find_task(framework_id, task_id)
        if found is not None:
            executor, task = found
            write: Write = checkpoint.append_ack(self.id, executor, task_id, ack)
            shorter = self.streams.compacted(framework_id, task_id, task.statuses)
            if shorter is not None:
                write = checkpoint.put_updates(self.id, executor, task_id, shorter)
            effects += self._persist(executor.checkpoint, write)
            if task.state.is_terminal and self.streams.head(framework_id, task_id) is None:
                self.streams.close(framework_id, task_id)
                self._complete(executor, task)
                effects += self._finish(executor)
        return effects + self._forward(forwards)

    # ---- life of an executor ----------------------------------------------------------------

    def _container_launched(self, fact: ContainerLaunched) -> list[Effect]:
        executor = self.containers.get(fact.container_id)
        if executor is None:
            return [DestroyContainer(fact.container_id)]
        executor.container_status = fact.status
        executor.launched_for = None
        if executor.state is ExecutorState.REGISTERING and executor.deadline is None:
            executor.deadline = self.now + self.settings.executor_registration_timeout_s
        return []

    def _container_recovered(self, fact: ContainerRecovered) -> list[Effect]:
        """Alive or ended, its end will be reported. Lateness alone is no reason to kill it."""
        executor = self.containers.get(fact.container_id)
        if executor is None:
            return [DestroyContainer(fact.container_id)]
        executor.container_status = fact.status
        executor.recovered = True
        executor.deadline = self.now + self.settings.recovery_timeout_s
        return []

    def _container_missing(self, fact: ContainerMissing) -> list[Effect]:
        executor = self.containers.get(fact.container_id)
        if executor is None:
            return []
        framework = self.frameworks[executor.framework_id]
        untouched = executor.live and not executor.terminated and not executor.completed
        if untouched and all(task.state is TaskState.STAGING for task in executor.live):
            # we ended between writing the launch down and starting it
            executor.queued |= executor.launched
            executor.launched.clear()
            config = launching.container_config(executor, framework, self.id, self.settings)
            return [LaunchContainer(executor.container_id, config)]
        return self._container_terminated(ContainerTerminated(fact.container_id))

    def _rebooted(self) -> list[Effect]:
        effects: list[Effect] = []
        for executor in list(self.containers.values()):
            aware = self.frameworks[executor.framework_id].has("PARTITION_AWARE")
            executor.ending = Ending(
                TaskState.GONE if aware else TaskState.LOST,
                Reason.AGENT_RESTARTED,
                "the agent's machine was restarted",
            )
            effects += self._container_terminated(ContainerTerminated(executor.container_id))
        return effects

    def _subscribed(self, fact: ExecutorSubscribed) -> list[Effect]:
        executor = self.find_executor(fact.framework_id, fact.executor_id)
        if executor is None:
            return []
        framework = self.frameworks[fact.framework_id]
        info = replace(executor.info, framework_id=FrameworkID(framework.id))
        subscribed = executor_api.Subscribed(
            executor_info=info,
            framework_info=framework.info,
            agent_info=replace(self.settings.info, id=AgentID(self.id)),
            container_id=ContainerID(executor.container_id),
        )
        event = executor_api.Event(type="SUBSCRIBED", subscribed=subscribed)
        executor.stream = fact.stream
        executor.connected = True
        effects: list[Effect] = [self._to_executor(executor, event)]
        executor.recovered = False
        for status in fact.unacknowledged_updates:
            effects += self._executor_update(framework.id, executor.id, status)
        if executor.state in (ExecutorState.TERMINATING, ExecutorState.TERMINATED):
            return [*effects, self._to_executor(executor, executor_api.SHUTDOWN)]
        executor.state = ExecutorState.RUNNING
        executor.deadline = None
        if not executor.live and (executor.is_command or not executor.ever_ran):
            # its tasks were killed before it came, or its only one has ended
            return effects + self._ask_to_stop(executor)
        # what was sent into a broken stream, or just before we were restarted, was never received:
        # an executor lists every task that it has and whose first update it was not confirmed
        received = {task.task_id.value for task in fact.unacknowledged_tasks}
        lost = [
            task
            for task in executor.launched.values()
            if task.state is TaskState.STAGING and task.id not in received
        ]
        fresh = [*executor.queued.values(), *lost]
        executor.launched |= executor.queued
        executor.queued.clear()
        if fresh and not executor.is_command:
            effects.append(self._resize(executor))
        effects += [self._launch_event(executor, task) for task in fresh]
        effects += [
            self._kill_event(executor, task)
            for task in executor.launched.values()
            if task.kill is not None
        ]
        return effects

    def _executor_disconnected(self, fact: ExecutorDisconnected) -> list[Effect]:
        executor = self.find_executor(fact.framework_id, fact.executor_id)
        if executor is not None:
            executor.connected = False
        return []

    def _ask_to_stop(self, executor: ExecutorRecord) -> list[Effect]:
        """Shut an executor down: a request first, its container after the grace period."""
        if executor.state in (ExecutorState.TERMINATING, ExecutorState.TERMINATED):
            return []
        if not executor.connected:
            return self._end(executor, None)
        executor.state = ExecutorState.TERMINATING
        executor.deadline = self.now + launching.grace_s(executor, self.settings)
        return [self._to_executor(executor, executor_api.SHUTDOWN)]

    def _end(self, executor: ExecutorRecord, ending: Ending | None) -> list[Effect]:
        """Destroy the container; `ending` is what its tasks will have ended with."""
        executor.state = ExecutorState.TERMINATING
        executor.deadline = None
        executor.ending = executor.ending or ending
        return [DestroyContainer(executor.container_id)]

    def _container_terminated(self, fact: ContainerTerminated) -> list[Effect]:
        executor = self.containers.get(fact.container_id)
        if executor is None or executor.state is ExecutorState.TERMINATED:
            return []
        framework = self.frameworks[executor.framework_id]
        executor.state = ExecutorState.TERMINATED
        executor.connected = False
        executor.deadline = None
        effects: list[Effect] = [CloseExecutor(framework.id, executor.id)]
        for task in executor.live:
            if framework.terminating:
                task.state = TaskState.KILLED
                self._terminate(executor, task)
                self._complete(executor, task)
            else:
                effects += self._task_status(
                    executor, task, self._last_status(executor, task, fact)
                )
        if not executor.is_command and not framework.terminating:
            effects.append(
                ToMaster(
                    agent_api.ExecutorExited(
                        FrameworkID(framework.id),
                        ExecutorID(executor.id),
                        fact.status if fact.status is not None else -1,
                    )
                )
            )
        self.counters["executors_terminated"] += 1
        return effects + self._finish(executor)

    def _last_status(
        self, executor: ExecutorRecord, task: TaskRecord, end: ContainerTerminated
    ) -> TaskStatus:
        """What to say of a task whose container is gone before the task told of its end."""
        ending = executor.ending
        state = TaskState.FAILED
        reason: str = Reason.EXECUTOR_TERMINATED
        messages = []
        if ending is not None:
            state, reason = ending.state, ending.reason
            messages.append(ending.message)
        if end.reason is not None:
            state, reason = TaskState.FAILED, end.reason
        if end.message:
            messages.append(end.message)
        if not messages:
            messages.append(f"the executor {wait_status_text(end.status)} and left the task behind")
        return self._status(task.id, state, reason, "; ".join(messages))

    def _complete(self, executor: ExecutorRecord, task: TaskRecord) -> None:
        """Nobody needs to hear of the task any more."""
        executor.terminated.pop(task.id, None)
        executor.completed.append(task)
        while len(executor.completed) > self.settings.max_completed_tasks:
            executor.completed.popleft()

    def _finish(self, executor: ExecutorRecord) -> list[Effect]:
        """Move an executor to the history when it has ended and its tasks are acknowledged."""
        if executor.state is not ExecutorState.TERMINATED or executor.tasks:
            return []
        framework = self.frameworks[executor.framework_id]
        del framework.executors[executor.id]
        del self.containers[executor.container_id]
        framework.completed_executors.append(executor)
        while len(framework.completed_executors) > self.settings.max_completed_executors:
            framework.completed_executors.popleft()
        discard = Discard(executor.sandbox, executor.sandbox if executor.checkpoint else "")
        effects = self._persist(executor.checkpoint, checkpoint.put_sentinel(self.id, executor))
        effects.append(discard)
        if not framework.executors:
            del self.frameworks[framework.id]
            self.completed_frameworks.append(framework)
            if self.stopping is not None and not self.frameworks:
                effects.append(Stop(self.stopping))
        return effects

    # ---- time -------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When a Tick has something to do; monotonic seconds."""
        times = [e.deadline for e in self.containers.values() if e.deadline is not None]
        repeat = self.streams.next_deadline()
        if repeat is not None:
            times.append(repeat)
        return min(times, default=None)

    def _tick(self) -> list[Effect]:
        effects: list[Effect] = []
        for executor in list(self.containers.values()):
            if executor.deadline is not None and executor.deadline <= self.now:
                effects += self._expired(executor)
        return effects + self._forward(self.streams.repeat(now=self.now))

    def _expired(self, executor: ExecutorRecord) -> list[Effect]:
        if executor.state is ExecutorState.TERMINATING:
            return self._end(executor, None)
        if executor.recovered:
            waited = format_duration(self.settings.recovery_timeout_s)
            ending = Ending(
                TaskState.FAILED,
                Reason.EXECUTOR_REREGISTRATION_TIMEOUT,
                f"the executor did not come back within {waited} of the agent's restart",
            )
        else:
            waited = format_duration(self.settings.executor_registration_timeout_s)
            ending = Ending(
                TaskState.FAILED,
                Reason.EXECUTOR_REGISTRATION_TIMEOUT,
                f"the executor did not register within {waited}",
            )
        return self._end(executor, ending)


def wait_status_text(status: int | None) -> str:
    """How a process ended, in words, from its wait status (wait(2))."""
    if status is None:
        return "ended"
    if status & 0x7F:
        return f"was killed by signal {status & 0x7F}"
    return f"exited with status {status >> 8 & 0xFF}"
