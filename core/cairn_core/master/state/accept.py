"""ACCEPT: offers become tasks, and what is left over is declined.

The order of checks and the states, reasons and messages are those of Apache Mesos
`src/master/master.cpp` (`Master::accept`, `_accept`).
"""

import msgspec

from cairn_core.extensions import AgentId
from cairn_core.master.state import offers, tasks
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.records import (
    AgentRecord,
    ExecutorRecord,
    FrameworkRecord,
    OfferRecord,
    StaticTask,
    TaskRecord,
)
from cairn_core.master.state.settings import refusal
from cairn_core.master.state.validation import Launchable, check_task, executor_bytes, root_user
from cairn_core.mesos import agent_api, scheduler_api, types
from cairn_core.mesos.scheduler_api import Event, Operation
from cairn_core.mesos.types import Reason, Source, TaskState
from cairn_core.resources import Resources

_FINISHED_HERE = frozenset({"LAUNCH", "LAUNCH_GROUP"})


def accept(c: Cluster, framework: FrameworkRecord, call: scheduler_api.Accept) -> None:
    """Use offers. Whatever is wrong, each task and each operation with an id gets an answer."""
    c.counts["master/messages_launch_tasks"] += 1
    accepted = _Accept(c, framework, call)
    fault = accepted.find_offers()
    if fault is not None:
        accepted.refuse(Reason.INVALID_OFFERS, f"Task launched with invalid offers: {fault}")
        return
    if not accepted.offers:
        if any(op.type in _FINISHED_HERE for op in call.operations):
            accepted.refuse(
                Reason.INVALID_OFFERS, "Task launched with invalid offers: No offers specified"
            )
        return
    first = accepted.offers[0]
    for offer in accepted.offers:
        offers.take_off(c, offer)
    # An offer never outlives its agent, so the agent is known here.
    agent = c.agents[first.agent_id]
    pool = Resources.sum(offer.resources for offer in accepted.offers)
    if not agent.connected:
        _give_back(c, first, pool, None)
        accepted.refuse(Reason.AGENT_DISCONNECTED, "Task launched on a disconnected agent")
        return
    for operation in call.operations:
        pool = accepted.apply(operation, agent, first.role, pool)
    refuse_s = refusal(call.filters.refuse_seconds if call.filters else None)
    _give_back(c, first, pool, refuse_s)
    c.allocate_soon()


def _give_back(
    c: Cluster, offer: OfferRecord, resources: Resources, refuse_s: float | None
) -> None:
    if resources:
        c.allocator.recover(
            offer.framework_id, offer.agent_id, offer.role, resources,
            refuse_s=refuse_s, now=c.now,
        )  # fmt: skip


class _Accept:
    """One ACCEPT on its way."""

    def __init__(self, c: Cluster, framework: FrameworkRecord, call: scheduler_api.Accept) -> None:
        self.c = c
        self.framework = framework
        self.call = call
        self.offers: list[OfferRecord] = []

    def find_offers(self) -> str | None:
        """Collect the offers; on a fault give back those that exist and say what is wrong."""
        fault = None
        seen: set[str] = set()
        for offer_id in self.call.offer_ids:
            offer = self.framework.offers.get(offer_id.value)
            if offer_id.value in seen:
                fault = fault or f"Duplicate offer {offer_id.value[:255]} in offer list"
            elif offer is None:
                fault = fault or f"Offer {offer_id.value[:255]} is no longer valid"
            else:
                self.offers.append(offer)
            seen.add(offer_id.value)
        if fault is None and len({offer.agent_id for offer in self.offers}) > 1:
            fault = "Aggregated offers must belong to one single agent"
        if fault is None and len({offer.role for offer in self.offers}) > 1:
            fault = "Aggregated offers must be allocated to the same role"
        if fault is not None:
            for offer in self.offers:
                offers.remove(self.c, offer)
            self.c.allocate_soon()
        return fault

    def refuse(self, reason: Reason, message: str) -> None:
        """Nothing can be launched: TASK_DROPPED or TASK_LOST for each task."""
        state = TaskState.DROPPED.for_framework(partition_aware=self.framework.partition_aware)
        for operation in self.call.operations:
            for task in _tasks_of(operation):
                self.answer(task, state, reason, message)
            if operation.type not in _FINISHED_HERE:
                self.fail(operation, message)

    def answer(self, task: types.TaskInfo, state: TaskState, reason: Reason, message: str) -> None:
        """The end of a task that never was."""
        executor_id = task.executor.executor_id.value if task.executor is not None else None
        status = tasks.status_of(
            self.c, task.task_id.value, task.agent_id.value, state, Source.MASTER, reason,
            message, executor_id,
        )  # fmt: skip
        name = state.removeprefix("TASK_").lower()
        self.c.counts[f"master/tasks_{name}"] += 1
        cause = reason.removeprefix("REASON_").lower().replace("agent", "slave")
        self.c.counts[f"master/task_{name}/source_master/reason_{cause}"] += 1
        tasks.send(self.c, self.framework, status)

    def fail(self, operation: Operation, message: str) -> None:
        """OPERATION_ERROR, when the operation has an id; else nobody could tell which it was."""
        if operation.id is None:
            self.c.counts["master/dropped_messages"] += 1
            return
        status = scheduler_api.OperationStatus("OPERATION_ERROR", operation.id, message)
        self.c.tell(
            self.framework,
            Event(
                type="UPDATE_OPERATION_STATUS",
                update_operation_status=scheduler_api.UpdateOperationStatus(status),
            ),
        )

    def apply(
        self, operation: Operation, agent: AgentRecord, role: str, pool: Resources
    ) -> Resources:
        """Carry out one operation; returns what is left of the offered resources."""
        if operation.type not in _FINISHED_HERE:
            self.fail(operation, f"Operation {str(operation.type)[:40]} is not supported")
            return pool
        fault = None
        reason = Reason.TASK_INVALID
        if operation.id is not None:
            fault = f"The 'id' field is not allowed on {operation.type} operations"
        elif operation.type == "LAUNCH_GROUP":
            fault = "LAUNCH_GROUP is not supported: launch the tasks one by one"
            reason = Reason.TASK_GROUP_INVALID
        for task in _tasks_of(operation):
            if fault is not None:
                self.answer(task, TaskState.ERROR, reason, fault)
            else:
                pool = self.launch(task, agent, role, pool)
        return pool

    def launch(
        self, task: types.TaskInfo, agent: AgentRecord, role: str, pool: Resources
    ) -> Resources:
        """Launch one task; returns what is left."""
        found: Launchable | str | None = None
        if not self.c.settings.root_submissions:
            found = root_user(task)
        found = found or check_task(task, self.framework, agent, role, pool)
        if isinstance(found, str):
            self.answer(task, TaskState.ERROR, Reason.TASK_INVALID, found)
            return pool
        c, framework = self.c, self.framework
        if found.executor is not None:
            executor = ExecutorRecord(
                found.executor.executor_id.value,
                framework.framework_id,
                agent.agent_id,
                role,
                found.executor_resources,
                executor_bytes(found.executor, framework.framework_id),
            )
            tasks.add_executor(c, framework, agent, executor)
        task = _filled(task, framework, role, found)
        tasks.add(c, framework, agent, record_of(task, framework, role, found.resources))
        joins = task.executor is not None and found.executor is None
        c.command(agent, agent_api.RunTask(c.epoch, c.operation_id(), framework.info, task, joins))
        return pool - found.resources - found.executor_resources


def _tasks_of(operation: Operation) -> tuple[types.TaskInfo, ...]:
    if operation.type == "LAUNCH" and operation.launch is not None:
        return operation.launch.task_infos
    if operation.type == "LAUNCH_GROUP" and operation.launch_group is not None:
        return operation.launch_group.task_group.tasks
    return ()


def _filled(
    task: types.TaskInfo, framework: FrameworkRecord, role: str, found: Launchable
) -> types.TaskInfo:
    """The task as the agent gets it: resources in one form, with their role."""
    executor = task.executor
    if executor is not None:
        wire = executor.resources
        if found.executor is not None:
            wire = tuple(found.executor_resources.to_wire(allocation_role=role))
        executor = msgspec.structs.replace(
            executor, framework_id=types.FrameworkID(framework.framework_id), resources=wire
        )
    return msgspec.structs.replace(
        task, executor=executor, resources=tuple(found.resources.to_wire(allocation_role=role))
    )


def record_of(
    task: types.TaskInfo, framework: FrameworkRecord, role: str, resources: Resources
) -> TaskRecord:
    """The record of a task that is being launched."""
    command = task.command or (task.executor.command if task.executor is not None else None)
    executor_id = task.executor.executor_id if task.executor is not None else None
    static = StaticTask(
        task.name,
        task.task_id,
        types.FrameworkID(framework.framework_id),
        task.agent_id,
        executor_id,
        task.resources,
        task.labels,
        task.discovery,
        task.container,
        task.health_check,
        task.kill_policy,
        command.user if command is not None else None,
        task.limits,
    )
    return TaskRecord(
        task.task_id.value,
        framework.framework_id,
        agent_id=AgentId(task.agent_id.value),
        executor_id=executor_id.value if executor_id is not None else None,
        name=task.name,
        role=role,
        resources=resources,
        state=TaskState.STAGING,
        static=msgspec.json.encode(static),
    )
