"""From the files that an earlier agent left back to its tables; the disk is somebody else's.

Input is the content of every file below `meta`, by its path. A directory without its `.info` is
what a crash leaves before anything was done, and is passed over. What cannot be understood is a
problem: with `--strict` it stops the agent, without it the smallest thing it belongs to is left
out - a task, a run, a framework - and its container is destroyed as nobody's.

Source: Apache Mesos `src/slave/state.cpp`, docs/agent-recovery.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cairn_core.agent import checkpoint
from cairn_core.agent.checkpoint import Corrupt
from cairn_core.agent.effects import Kill, Put
from cairn_core.agent.records import ExecutorRecord, ExecutorState, FrameworkRecord, TaskRecord
from cairn_core.agent.state import AgentState
from cairn_core.agent.status_updates import read_records, without_torn
from cairn_core.errors import LocalError
from cairn_core.mesos.types import AgentInfo

#: A directory as a mapping: names to contents or to directories.
Tree: TypeAlias = "dict[str, bytes | Tree]"


class CorruptCheckpoint(LocalError):
    """Files of an earlier agent cannot be read, and `--strict` says not to go on."""


@dataclass(slots=True)
class Found:
    """What recovery came to know beside the tables."""

    boot_id: str | None = None
    #: What the agent registered as; None when it never did.
    registered_as: AgentInfo | None = None
    #: Files left out, with the reason.
    problems: list[Corrupt] = field(default_factory=list)
    #: To be written before anything is appended to these files: they end in half a record.
    repairs: list[Put] = field(default_factory=list)


def tree(files: Mapping[str, bytes]) -> Tree:
    """Nested directories out of paths."""
    root: Tree = {}
    for path, data in files.items():
        *folders, name = path.split("/")
        at = root
        for folder in folders:
            below = at.setdefault(folder, {})
            if not isinstance(below, dict):
                raise Corrupt(path, f"{folder} is a file")
            at = below
        at[name] = data
    return root


def restore(
    state: AgentState, files: Mapping[str, bytes], latest: str | None, *, strict: bool
) -> Found:
    """Fill the tables of a fresh `state`. latest: where `slaves/latest` points, if anywhere.

    Raises CorruptCheckpoint when strict and something cannot be read.
    """
    found = Found()
    loader = _Loader(state, found)
    loader.load(tree(files), latest)
    if found.problems and strict:
        first = found.problems[0]
        raise CorruptCheckpoint(
            f"cannot recover {first.path}: {first.problem}; start with --strict=false to go on "
            f"without what cannot be read ({len(found.problems)} files)"
        )
    return found


@dataclass(slots=True)
class _Loader:
    state: AgentState
    found: Found

    def load(self, root: Tree, latest: str | None) -> None:
        boot_id = root.get(checkpoint.BOOT_ID)
        if isinstance(boot_id, bytes):
            self.found.boot_id = boot_id.decode(errors="replace").strip()
        epoch = root.get(checkpoint.EPOCH)
        if isinstance(epoch, bytes):
            try:
                self.state.epoch = checkpoint.decode_epoch(epoch)
            except Corrupt as error:
                self.found.problems.append(error)
        if latest is None:
            return
        home = _folder(_folder(root, "slaves"), latest)
        path = f"slaves/{latest}"
        try:
            data = _file(home, checkpoint.AGENT_INFO)
            if data is None:
                raise Corrupt(f"{path}/{checkpoint.AGENT_INFO}", "missing")
            content = checkpoint.decode(
                checkpoint.AgentFile, f"{path}/{checkpoint.AGENT_INFO}", data
            )
        except Corrupt as error:
            self.found.problems.append(error)
            return
        self.state.agent_id = content.id
        self.found.registered_as = content.info
        for name in sorted(_folder(home, "frameworks")):
            self._framework(_folder(_folder(home, "frameworks"), name), f"{path}/frameworks/{name}")

    def _framework(self, folder: Tree, path: str) -> None:
        data = _file(folder, checkpoint.FRAMEWORK_INFO)
        if data is None:
            return
        try:
            info = checkpoint.decode_framework(f"{path}/{checkpoint.FRAMEWORK_INFO}", data)
        except Corrupt as error:
            self.found.problems.append(error)
            return
        framework = FrameworkRecord(info)
        executors = _folder(folder, "executors")
        for name in sorted(executors):
            runs = _folder(_folder(executors, name), "runs")
            for run in sorted(runs):
                self._run(framework, _folder(runs, run), run, f"{path}/executors/{name}/runs/{run}")
        if framework.executors:
            self.state.frameworks[framework.id] = framework
        elif framework.completed_executors:
            self.state.completed_frameworks.append(framework)

    def _run(self, framework: FrameworkRecord, folder: Tree, container_id: str, path: str) -> None:
        data = _file(folder, checkpoint.EXECUTOR_INFO)
        if data is None:
            return
        try:
            content = checkpoint.decode(
                checkpoint.ExecutorFile, f"{path}/{checkpoint.EXECUTOR_INFO}", data
            )
        except Corrupt as error:
            self.found.problems.append(error)
            return
        executor = ExecutorRecord(
            framework_id=framework.id,
            info=content.info,
            container_id=container_id,
            token=content.token,
            sandbox=content.sandbox,
            user=content.user,
            is_command=content.is_command,
        )
        over = checkpoint.SENTINEL in folder
        tasks = _folder(folder, "tasks")
        for name in sorted(tasks):
            try:
                self._task(executor, _folder(tasks, name), f"{path}/tasks/{name}", over=over)
            except Corrupt as error:
                self.found.problems.append(error)
        if over or (executor.is_command and not executor.tasks):
            self._past(framework, executor)
            return
        # two runs of one executor: the end of one could not be written down
        other = framework.executors.get(executor.id)
        if other is not None and other.live:
            self._past(framework, executor)
            return
        if other is not None:
            del self.state.containers[other.container_id]
            self._past(framework, other)
        framework.executors[executor.id] = executor
        self.state.containers[container_id] = executor

    def _past(self, framework: FrameworkRecord, executor: ExecutorRecord) -> None:
        executor.state = ExecutorState.TERMINATED
        framework.completed_executors.append(executor)
        while len(framework.completed_executors) > self.state.settings.max_completed_executors:
            framework.completed_executors.popleft()

    def _task(self, executor: ExecutorRecord, folder: Tree, path: str, *, over: bool) -> None:
        data = _file(folder, checkpoint.TASK_INFO)
        if data is None:
            return
        content = checkpoint.decode(checkpoint.TaskFile, f"{path}/{checkpoint.TASK_INFO}", data)
        task = TaskRecord(
            content.info, executor.framework_id, executor.id, content.operation_id, content.user
        )
        self.state.remember(content.operation_id)
        kill = folder.get(checkpoint.TASK_KILL)
        if isinstance(kill, bytes):
            wish = checkpoint.decode(checkpoint.KillFile, f"{path}/{checkpoint.TASK_KILL}", kill)
            task.kill = Kill(wish.policy)
        updates = folder.get(checkpoint.TASK_UPDATES)
        if isinstance(updates, bytes):
            records, problem = read_records(updates)
            if problem is not None:
                self.found.problems.append(Corrupt(f"{path}/{checkpoint.TASK_UPDATES}", problem))
            elif (whole := without_torn(updates)) is not None:
                self.found.repairs.append(Put(f"{path}/{checkpoint.TASK_UPDATES}", whole))
            for status in self.state.streams.replay(executor.framework_id, task.id, records):
                task.note(status)
            executor.unwritten |= self.state.streams.unwritten(executor.framework_id, task.id)
        if over:
            self.state.streams.close(executor.framework_id, task.id)
            executor.completed.append(task)
        elif not task.state.is_terminal:
            executor.launched[task.id] = task
        elif self.state.streams.head(executor.framework_id, task.id) is not None:
            executor.terminated[task.id] = task
        else:
            executor.completed.append(task)


def _folder(folder: Tree, name: str) -> Tree:
    below = folder.get(name)
    return below if isinstance(below, dict) else {}


def _file(folder: Tree, name: str) -> bytes | None:
    data = folder.get(name)
    return data if isinstance(data, bytes) else None
