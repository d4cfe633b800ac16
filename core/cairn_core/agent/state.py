"""The rules of the agent: facts in, effects out; nothing here waits, reads or writes.

`AgentState.handle` is the one door. What happens to an executor and its tasks is in `executors`
(class `Executors`, the other half of this object); this half is about the master: who commands,
which operations are new, what is launched and killed.

Fencing: a command of a lower epoch than the highest seen is dropped. The epoch is on disk before
anything that a master of that epoch says is done. An operation is applied once: by its id while
this process lives, and beyond by the task that it left on disk.

Source: Apache Mesos `src/slave/slave.cpp`; `cairn_core.mesos.agent_api` for the messages.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import assert_never

from cairn_core.agent import checkpoint, launching
from cairn_core.agent.effects import (
    ContainerLaunched,
    ContainerMissing,
    ContainerRecovered,
    ContainerTerminated,
    Disconnect,
    Effect,
    ExecutorDisconnected,
    ExecutorMessage,
    ExecutorSubscribed,
    ExecutorUpdate,
    Fact,
    Kill,
    LaunchContainer,
    LaunchKey,
    MasterDisconnected,
    Persist,
    PersistFailed,
    Rebooted,
    Remove,
    Stop,
    Tick,
    ToMaster,
    UpdateKey,
    Write,
)
from cairn_core.agent.executors import Executors
from cairn_core.agent.records import ExecutorRecord, ExecutorState, FrameworkRecord, TaskRecord
from cairn_core.errors import RemoteError
from cairn_core.mesos import agent_api, executor_api
from cairn_core.mesos.types import ExecutorID, FrameworkID, Reason, TaskState
from cairn_core.resources import Resources

#: Operation ids remembered; a link repeats only what it has sent within one session.
MAX_OPERATIONS = 10_000
#: Tasks in one message of the inventory.
CHUNK = 200


class AgentState(Executors):
    """Everything that the agent knows, and what to do about what happens."""

    _operations: "OrderedDict[str, None]"

    def handle(self, fact: Fact, *, now: float, wall: float) -> list[Effect]:
        """Take in a fact. now: monotonic seconds; wall: seconds since the epoch."""
        self.now, self.wall = now, wall
        epoch = getattr(fact, "epoch", None)
        if epoch is None:
            return self._dispatch(fact)
        if epoch < self.epoch:
            self.counters["fenced_commands"] += 1
            if isinstance(fact, agent_api.Welcome):
                problem = f"master's epoch {epoch} is older than {self.epoch}"
                return [Disconnect(problem)]
            return []
        effects: list[Effect] = []
        if epoch > self.epoch and not isinstance(fact, agent_api.Welcome):
            self.epoch = epoch
            effects.append(Persist((checkpoint.put_epoch(epoch),)))
        return effects + self._dispatch(fact)

    def _dispatch(self, fact: Fact) -> list[Effect]:
        match fact:
            case agent_api.RunTask():
                return self._run_task(fact) if self._is_new(fact.operation_id) else []
            case agent_api.KillTask():
                return self._kill_task(fact) if self._is_new(fact.operation_id) else []
            case agent_api.ShutdownExecutor():
                return self._shutdown_executor(fact) if self._is_new(fact.operation_id) else []
            case agent_api.ShutdownFramework():
                if not self._is_new(fact.operation_id):
                    return []
                return self._shutdown_framework(fact.framework_id.value)
            case agent_api.Acknowledge():
                return self._acknowledge(fact.framework_id.value, fact.task_id.value, fact.uuid)
            case agent_api.UpdateFramework():
                return self._update_framework(fact)
            case agent_api.ToExecutor():
                self.counters["valid_framework_messages"] += 1
                event = executor_api.Event(
                    type="MESSAGE", message=executor_api.ExecutorMessage(fact.data)
                )
                executor = self.find_executor(fact.framework_id.value, fact.executor_id.value)
                return [self._to_executor(executor, event)] if executor is not None else []
            case agent_api.Welcome():
                return self._welcome(fact)
            case agent_api.Registered():
                return self._registered(fact)
            case agent_api.Ping():
                return [ToMaster(agent_api.Pong())]
            case agent_api.Admission():
                return []  # how long to stay away is the connection's business
            case agent_api.Shutdown():
                return self._shutdown(fact)
            case MasterDisconnected():
                self.master.registered = False
                self.streams.pause()
                return []
            case PersistFailed():
                return self._persist_failed(fact)
            case ContainerLaunched():
                return self._container_launched(fact)
            case ContainerTerminated():
                return self._container_terminated(fact)
            case ContainerMissing():
                return self._container_missing(fact)
            case ContainerRecovered():
                return self._container_recovered(fact)
            case Rebooted():
                return self._rebooted()
            case ExecutorSubscribed():
                return self._subscribed(fact)
            case ExecutorDisconnected():
                return self._executor_disconnected(fact)
            case ExecutorUpdate():
                return self._executor_update(fact.framework_id, fact.executor_id, fact.status)
            case ExecutorMessage():
                self.counters["valid_framework_messages"] += 1
                message = agent_api.FromExecutor(
                    FrameworkID(fact.framework_id), ExecutorID(fact.executor_id), fact.data
                )
                return [ToMaster(message)]
            case Tick():
                return self._tick()
            case _:
                assert_never(fact)

    def _is_new(self, operation_id: str) -> bool:
        """Whether an operation has not been applied yet; remembers it."""
        if operation_id in self._operations:
            self.counters["repeated_operations"] += 1
            return False
        self.remember(operation_id)
        return True

    def remember(self, operation_id: str) -> None:
        """An operation was applied, now or by an earlier process."""
        self._operations[operation_id] = None
        if len(self._operations) > MAX_OPERATIONS:
            self._operations.popitem(last=False)

    # ---- the master -------------------------------------------------------------------------

    def _welcome(self, welcome: agent_api.Welcome) -> list[Effect]:
        agent_id = welcome.agent_id.value
        if self.agent_id is not None and self.agent_id != agent_id:
            return [Stop(f"registered as {agent_id}, but this agent is {self.agent_id}")]
        try:
            checkpoint.component("agent_id", agent_id)
        except checkpoint.BadId as error:
            return [Disconnect(str(error))]
        writes: list[Write] = []
        if welcome.epoch > self.epoch or self.epoch_unwritten:
            self.epoch = welcome.epoch
            self.epoch_unwritten = False
            writes.append(checkpoint.put_epoch(welcome.epoch))
        if self.agent_id is None:
            self.agent_id = agent_id
            self.id_is_new = True
            writes += checkpoint.put_agent(agent_id, self.settings.info)
        self.master.info = welcome.master
        inventory = tuple(ToMaster(part) for part in self.inventory())
        if not writes:
            return list(inventory)
        failed = Disconnect("cannot write the registration to disk")
        return [Persist(tuple(writes), inventory, failed)]

    def inventory(self) -> Iterator[agent_api.Inventory]:
        """What runs here, in parts, for a master that has just admitted us."""
        live = [f for f in self.frameworks.values() if not f.terminating]
        executors = tuple(
            agent_api.Executor(FrameworkID(f.id), e.info)
            for f in live
            for e in f.executors.values()
            if not e.is_command and e.state is not ExecutorState.TERMINATED
        )
        tasks = [
            task.as_task(self.id, self.streams.head(f.id, task.id))
            for f in live
            for e in f.executors.values()
            for task in e.tasks
        ]
        yield agent_api.Inventory(tuple(f.info for f in live), executors, tuple(tasks[:CHUNK]))
        for at in range(CHUNK, len(tasks), CHUNK):
            yield agent_api.Inventory(tasks=tuple(tasks[at : at + CHUNK]))
        yield agent_api.Inventory(last=True)

    def _registered(self, registered: agent_api.Registered) -> list[Effect]:
        self.master.registered = True
        self.id_is_new = False
        self.counters["registrations"] += 1
        effects: list[Effect] = []
        for expected in registered.expected:
            framework_id, task_id = expected.framework_id.value, expected.task_id.value
            if self.find_task(framework_id, task_id) is not None:
                continue
            if self.streams.head(framework_id, task_id) is not None:
                continue
            state = TaskState.DROPPED if expected.partition_aware else TaskState.LOST
            status = self._status(
                task_id, state, Reason.RECONCILIATION, "the agent does not know the task"
            )
            effects += self._report(framework_id, status)
        effects += self._forward(self.streams.resume(now=self.now))
        return effects

    def _update_framework(self, update: agent_api.UpdateFramework) -> list[Effect]:
        framework = self.frameworks.get(update.framework.id.value if update.framework.id else "")
        if framework is None:
            return []
        framework.info = update.framework
        return self._persist(
            framework.info.checkpoint, checkpoint.put_framework(self.id, framework)
        )

    def _shutdown(self, shutdown: agent_api.Shutdown) -> list[Effect]:
        """Leave the cluster: the next start registers as a new agent."""
        self.stopping = shutdown.message
        effects: list[Effect] = [Persist((Remove(checkpoint.LATEST),))]
        for framework_id in list(self.frameworks):
            effects += self._shutdown_framework(framework_id)
        if not self.frameworks:
            effects.append(Stop(shutdown.message))
        return effects

    # ---- tasks ------------------------------------------------------------------------------

    def _run_task(self, run: agent_api.RunTask) -> list[Effect]:
        if run.framework.id is None or self.agent_id is None:
            return []
        framework_id, task_id = run.framework.id.value, run.task.task_id.value
        if self.find_task(framework_id, task_id) is not None:
            self.counters["repeated_operations"] += 1
            return []
        framework = self.frameworks.get(framework_id)
        partition_aware = FrameworkRecord(run.framework).has("PARTITION_AWARE")
        dropped = TaskState.DROPPED if partition_aware else TaskState.LOST
        problem = self._problem(run)
        if problem is not None:
            status = self._status(task_id, TaskState.ERROR, Reason.TASK_INVALID, problem)
            return self._report(framework_id, status)
        if (unsupported := launching.unsupported(run.task)) is not None:
            status = self._status(
                task_id, TaskState.FAILED, Reason.CONTAINER_LAUNCH_FAILED, unsupported
            )
            return self._report(framework_id, status)
        if self.stopping is not None or (framework is not None and framework.terminating):
            status = self._status(
                task_id, dropped, Reason.FRAMEWORK_REMOVED, "the framework is being shut down"
            )
            return self._report(framework_id, status)
        info, is_command = launching.executor_for(run.task, run.framework)
        executor = framework.executors.get(info.executor_id.value) if framework else None
        if executor is not None and (
            is_command or executor.state in (ExecutorState.TERMINATING, ExecutorState.TERMINATED)
        ):
            status = self._status(
                task_id, dropped, Reason.EXECUTOR_TERMINATED, f"executor {executor.id} is ending"
            )
            return self._report(framework_id, status)
        if executor is None and run.joins:
            status = self._status(
                task_id,
                dropped,
                Reason.EXECUTOR_TERMINATED,
                f"executor {info.executor_id.value} ended",
            )
            return self._report(framework_id, status)
        framework = self._framework(run)
        user = launching.user_of(run.task, run.framework, self.settings)
        task = TaskRecord(run.task, framework_id, info.executor_id.value, run.operation_id, user)
        self.counters["tasks_launched"] += 1
        if executor is None:
            return self._start_executor(framework, task, is_command)
        return self._add_task(executor, task)

    def _problem(self, run: agent_api.RunTask) -> str | None:
        """What is wrong with a task, which the master should have refused already."""
        executor = run.task.executor
        try:
            assert run.framework.id is not None
            checkpoint.component("framework_id", run.framework.id.value)
            checkpoint.component("task_id", run.task.task_id.value)
            Resources.from_wire(run.task.resources)
            if executor is not None:
                checkpoint.component("executor_id", executor.executor_id.value)
                Resources.from_wire(executor.resources)
        except RemoteError as error:
            return str(error)
        return None

    def _framework(self, run: agent_api.RunTask) -> FrameworkRecord:
        """The framework's record, from the history when its executors had all gone."""
        assert run.framework.id is not None
        framework = self.frameworks.get(run.framework.id.value)
        if framework is None:
            framework = next(
                (f for f in self.completed_frameworks if f.id == run.framework.id.value), None
            )
            if framework is not None:
                self.completed_frameworks.remove(framework)
                framework.terminating = False
            else:
                framework = FrameworkRecord(run.framework)
            self.frameworks[framework.id] = framework
        framework.info = run.framework
        return framework

    def _start_executor(
        self, framework: FrameworkRecord, task: TaskRecord, is_command: bool
    ) -> list[Effect]:
        info, _ = launching.executor_for(task.info, framework.info)
        container_id = self._uuid()
        executor = ExecutorRecord(
            framework_id=framework.id,
            info=info,
            container_id=container_id,
            token=self._token(),
            sandbox=checkpoint.run_dir(self.id, framework.id, info.executor_id.value, container_id),
            user=task.user,
            is_command=is_command,
            checkpoint=framework.info.checkpoint,
            launched_for=task.id,
            queued={task.id: task},
        )
        framework.executors[executor.id] = executor
        self.containers[container_id] = executor
        config = launching.container_config(executor, framework, self.id, self.settings)
        launch = LaunchContainer(container_id, config)
        if not executor.checkpoint:
            return [launch]
        writes = (
            checkpoint.put_framework(self.id, framework),
            checkpoint.put_executor(self.id, executor),
            checkpoint.put_task(self.id, executor, task),
        )
        return [Persist(writes, (launch,), LaunchKey(framework.id, task.id))]

    def _add_task(self, executor: ExecutorRecord, task: TaskRecord) -> list[Effect]:
        then: list[Effect] = []
        if executor.connected:
            executor.launched[task.id] = task
            then.append(self._resize(executor))
            then.append(self._launch_event(executor, task))
        else:
            executor.queued[task.id] = task
        if not executor.checkpoint:
            return then
        write = checkpoint.put_task(self.id, executor, task)
        return [Persist((write,), tuple(then), LaunchKey(executor.framework_id, task.id))]

    def _kill_task(self, kill: agent_api.KillTask) -> list[Effect]:
        framework_id, task_id = kill.framework_id.value, kill.task_id.value
        found = self.find_task(framework_id, task_id)
        if found is None:
            if self.streams.head(framework_id, task_id) is not None:
                return []  # it ended, and the scheduler is being told
            framework = self.frameworks.get(framework_id)
            aware = framework is not None and framework.has("PARTITION_AWARE")
            state = TaskState.DROPPED if aware else TaskState.LOST
            status = self._status(
                task_id, state, Reason.EXECUTOR_TERMINATED, "the agent does not know the task"
            )
            return self._report(framework_id, status)
        executor, task = found
        if task.state.is_terminal:
            return []
        if task.id in executor.queued:
            return self._kill_queued(executor, task)
        task.kill = Kill(kill.kill_policy)
        effects = self._persist(
            executor.checkpoint, checkpoint.put_kill(self.id, executor, task.id, task.kill)
        )
        return [*effects, self._kill_event(executor, task)]

    def _kill_queued(self, executor: ExecutorRecord, task: TaskRecord) -> list[Effect]:
        status = self._status(
            task.id,
            TaskState.KILLED,
            Reason.TASK_KILLED_DURING_LAUNCH,
            "the task was killed before its executor was ready",
        )
        effects = self._task_status(executor, task, status)
        starting = executor.state is ExecutorState.REGISTERING and not executor.recovered
        if starting and not executor.live:
            effects += self._end(executor, None)
        return effects

    def _shutdown_executor(self, shutdown: agent_api.ShutdownExecutor) -> list[Effect]:
        executor = self.find_executor(shutdown.framework_id.value, shutdown.executor_id.value)
        return self._ask_to_stop(executor) if executor is not None else []

    def _shutdown_framework(self, framework_id: str) -> list[Effect]:
        self.streams.close_framework(framework_id)
        framework = self.frameworks.get(framework_id)
        if framework is None:
            return []
        framework.terminating = True
        effects: list[Effect] = []
        for executor in list(framework.executors.values()):
            for task in list(executor.terminated.values()):
                self._complete(executor, task)
            if executor.state is ExecutorState.TERMINATED:
                effects += self._finish(executor)
            else:
                effects += self._ask_to_stop(executor)
        return effects

    def _persist_failed(self, fact: PersistFailed) -> list[Effect]:
        if isinstance(fact.failed, Disconnect):
            if self.id_is_new:
                self.agent_id = None
            self.epoch_unwritten = True
            return [Disconnect(f"{fact.failed.reason}: {fact.problem}")]
        if isinstance(fact.failed, UpdateKey):
            self._update_refused(fact.failed)
            return []
        found = self.find_task(fact.failed.framework_id, fact.failed.task_id)
        if found is None:
            return []
        executor, task = found
        message = f"cannot write the task to the agent's disk: {fact.problem}"
        reason = Reason.CONTAINER_LAUNCH_FAILED
        if task.id == executor.launched_for:
            # the launch stood behind the write, so there is no container and will be none
            end = ContainerTerminated(executor.container_id, None, reason, message)
            return self._container_terminated(end)
        if task.state.is_terminal:
            return []
        effects: list[Effect] = []
        if task.id in executor.launched:
            effects.append(self._kill_event(executor, task))
        status = self._status(task.id, TaskState.FAILED, reason, message)
        return effects + self._task_status(executor, task, status)
