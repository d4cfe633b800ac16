"""Life cycle of every container on this agent; start reading here.

    PREPARING -> ISOLATING -> FETCHING -> RUNNING -> DESTROYING
        |            |            |                      ^
        +------------+------------+----------------------+

One task per container goes through this once, so no two steps of one container ever run at the
same time. `destroy` only asks; the task does it. Whatever fails on the way leads to DESTROYING with
REASON_CONTAINER_LAUNCH_FAILED. An agent that stops leaves running containers alone, and `recover`
takes them over (mesos docs/containerizers.md, docs/agent-recovery.md).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import TracebackType
from typing import Any

import msgspec

from cairn_core.agent.containerizer import processes
from cairn_core.agent.containerizer.errors import ContainerizerError, LaunchFailed, UnknownContainer
from cairn_core.agent.containerizer.launch_info import merge
from cairn_core.agent.containerizer.launch_spec import LoggerSettings, build_spec, find_user
from cairn_core.agent.containerizer.launcher import Launcher
from cairn_core.agent.containerizer.runtime_dir import (
    ContainerTermination,
    Processes,
    RuntimeDir,
    parent_of,
    validate_id,
)
from cairn_core.errors import CairnError
from cairn_core.extensions import (
    Amounts,
    ContainerConfig,
    ContainerState,
    Hook,
    Isolator,
    LaunchInfo,
    Limitation,
    NoLimit,
    statistics,
)
from cairn_core.mesos.base import ContainerID
from cairn_core.mesos.containers import ContainerStatus, ResourceStatistics
from cairn_core.mesos.types import Labels, Reason, TaskStatus

log = logging.getLogger(__name__)

#: Ended containers whose termination is kept until somebody asks or `forget`s.
MAX_TERMINATED = 1000
KILL_TIMEOUT_S = 60.0

Fetch = Callable[[str, ContainerConfig], Awaitable[None]]


class _Decoration(msgspec.Struct):
    """What a hook may give a status."""

    labels: Labels | None = None
    container_status: ContainerStatus | None = None


DECORATED = _Decoration.__struct_fields__


class State(Enum):
    """Where a container is in its life."""

    PREPARING = auto()
    ISOLATING = auto()
    FETCHING = auto()
    RUNNING = auto()
    DESTROYING = auto()


@dataclass(slots=True)
class Container:
    """One container from its launch to its termination."""

    container_id: str
    config: ContainerConfig
    state: State = State.PREPARING
    processes: Processes | None = None
    #: Isolators whose `prepare` was called, in order; cleaned up in reverse.
    isolated: list[Isolator] = field(default_factory=list)
    requests: Amounts = field(default_factory=Amounts)
    limits: Amounts | None = None
    #: Set by `destroy`, with why.
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    stop_reason: str | None = None
    stop_message: str = ""
    launched: asyncio.Future[int] = field(default_factory=asyncio.Future)
    terminated: asyncio.Future[ContainerTermination] = field(default_factory=asyncio.Future)


async def no_fetch(container_id: str, config: ContainerConfig) -> None:
    """Stands in where no fetcher is configured."""
    if config.uris:
        raise LaunchFailed(container_id, f"no fetcher for {config.uris[0].value}")


class Containerizer:
    """All containers of one agent. Use as `async with`; leaving it harms no container."""

    def __init__(
        self,
        runtime_dir: str,
        launcher: Launcher,
        isolators: Sequence[Isolator] = (),
        fetch: Fetch = no_fetch,
        logger: LoggerSettings | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self._dir = RuntimeDir(runtime_dir)
        self._launcher = launcher
        self._isolators = tuple(isolators)
        self._fetch = fetch
        self._hooks = tuple(hooks)
        self._logger = logger or LoggerSettings()
        self._containers: dict[str, Container] = {}
        self._ended: dict[str, ContainerTermination] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Containerizer":
        try:
            await self._launcher.prepare()
        except BaseException:
            self._launcher.close()
            raise
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        assert self._group is not None
        # Its tasks never fail, so what ends us is the caller's and passes as it is.
        await self._group.__aexit__(None, None, None)
        for container in self._containers.values():
            container.launched.cancel()
            container.terminated.cancel()
        self._launcher.close()

    # What the agent asks for

    async def recover(self, known: Mapping[str, ContainerConfig | None]) -> set[str]:
        """Take over the containers of an earlier agent.

        known: id -> configuration, for those the agent wants to keep; None where it relies on what
        we wrote ourselves. A known container that has ended, or left no trace, is answered by
        `wait` at once. All others are destroyed; their ids are returned once they are gone.
        """
        found = self._dir.ids()
        kept: list[Container] = []
        for container_id in known:
            validate_id(container_id)
            if not self._take_over(container_id, known[container_id], kept):
                self._ended[container_id] = self._dir.termination(container_id) or (
                    ContainerTermination(message="its agent restarted and found nothing of it")
                )
        strangers = [cid for cid in found if cid not in known and not self._keeps(cid, known)]
        strangers += sorted(self._launcher.orphans(set(found) | set(known)))
        states = [
            ContainerState(c.container_id, c.config, c.processes.init.pid if c.processes else 0)
            for c in kept
        ]
        for isolator in self._isolators:
            await isolator.recover(states, strangers)
        for container in kept:
            self._spawn(self._live(container, recovered=True))
        for container_id in reversed(strangers):  # children before their parents
            await self._destroy_orphan(container_id)
        log.info("recovered containers kept=%d orphans=%d", len(kept), len(strangers))
        return set(strangers)

    def _keeps(self, container_id: str, known: Mapping[str, object]) -> bool:
        """A nested container lives on with its parent."""
        parent = parent_of(container_id)
        return parent is not None and (parent in known or self._keeps(parent, known))

    def _take_over(
        self, container_id: str, config: ContainerConfig | None, kept: list[Container]
    ) -> bool:
        written = config or self._dir.config(container_id)
        if written is None or self._dir.termination(container_id) is not None:
            return False
        container = Container(container_id, written, State.RUNNING)
        container.processes = self._dir.processes(container_id)
        container.requests, container.limits = written.requests, written.limits
        container.isolated = self._isolators_for(container_id)
        if container.processes is not None:
            container.launched.set_result(container.processes.init.pid)
        else:
            container.launched.cancel()
        self._containers[container_id] = container
        kept.append(container)
        return True

    async def _destroy_orphan(self, container_id: str) -> None:
        await self._kill(container_id, self._dir.processes(container_id))
        for isolator in reversed(self._isolators_for(container_id)):
            await self._cleanup(isolator, container_id)
        await self._launcher.remove(container_id)
        self._dir.remove(container_id)

    async def launch(self, container_id: str, config: ContainerConfig) -> int:
        """Start a container; returns the number of its first process.

        Raises LaunchFailed once everything of a failed launch is cleaned up again, and
        ContainerizerError when the id is in use.
        """
        try:
            validate_id(container_id)
        except ValueError as error:
            raise ContainerizerError(container_id[:60], str(error)) from None
        if container_id in self._containers or container_id in self._ended:
            raise ContainerizerError(container_id, "already launched")
        parent = parent_of(container_id)
        if parent is not None and self._containers.get(parent, None) is None:
            raise ContainerizerError(container_id, "its parent does not run")
        container = Container(container_id, config)
        container.requests, container.limits = config.requests, config.limits
        self._containers[container_id] = container
        self._spawn(self._live(container, recovered=False))
        # A caller that gives up must not cancel what others wait for too.
        return await asyncio.shield(container.launched)

    async def update(self, container_id: str, requests: Amounts, limits: Amounts | None) -> None:
        """New amounts for a container, in all isolators at once."""
        container = self._get(container_id)
        container.requests, container.limits = requests, limits
        await asyncio.gather(
            *(i.update(container_id, requests, limits) for i in container.isolated)
        )

    async def destroy(
        self, container_id: str, reason: str | None = None, message: str = ""
    ) -> ContainerTermination:
        """End a container and clean up; returns when nothing of it is left.

        Repeating it, or destroying one that has ended, gives the same termination. Raises
        UnknownContainer.
        """
        if (ended := self._ended.get(container_id)) is not None:
            return ended
        container = self._get(container_id)
        if not container.stop.is_set():
            container.stop_reason, container.stop_message = reason, message
            container.stop.set()
        return await asyncio.shield(container.terminated)

    async def wait(self, container_id: str) -> ContainerTermination:
        """How the container ended, once it has. Raises UnknownContainer."""
        if (ended := self._ended.get(container_id)) is not None:
            return ended
        return await asyncio.shield(self._get(container_id).terminated)

    async def usage(self, container_id: str) -> ResourceStatistics:
        """What the container uses now, as all isolators together know it."""
        container = self._get(container_id)
        merged: dict[str, float | int] = {}
        for fields in await asyncio.gather(*(i.usage(container_id) for i in container.isolated)):
            merged |= fields
        limit = container.limits or container.requests
        if limit.cpus_milli > 0:
            merged.setdefault("cpus_limit", limit.cpus_milli / 1000)
        if limit.mem_mib > 0:
            merged.setdefault("mem_limit_bytes", limit.mem_mib << 20)
        return statistics(time.time(), merged)

    async def status(self, container_id: str) -> ContainerStatus:
        """Process and networks of a running container."""
        container = self._get(container_id)
        told = await asyncio.gather(*(i.status(container_id) for i in container.isolated))
        parts = [part for part in told if part is not None]
        return ContainerStatus(
            container_id=wire_id(container_id),
            executor_pid=container.processes.init.pid if container.processes else None,
            network_infos=tuple(info for part in parts for info in part.network_infos),
            cgroup_info=next((p.cgroup_info for p in parts if p.cgroup_info), None),
        )

    async def limitation(self, container_id: str) -> Limitation | None:
        """The limit that a container which may still run has gone over, if it has."""
        container = self._containers.get(container_id)
        if container is not None:
            for isolator in container.isolated:
                with contextlib.suppress(CairnError, OSError):
                    if (found := await isolator.limitation(container_id)) is not None:
                        return found
        return None

    def decorated(self, framework_id: str, status: TaskStatus) -> TaskStatus:
        """A status with the labels and the container status that hooks give it, the last one's.

        A hook that fails, or gives what is neither, changes nothing.
        """
        for hook in self._hooks:
            try:
                given = hook.task_status(framework_id, msgspec.to_builtins(status))
                wanted = {
                    k: v for k, v in (given or {}).items() if k in DECORATED and v is not None
                }
                if wanted:
                    found = msgspec.convert(wanted, _Decoration)
                    status = msgspec.structs.replace(
                        status, **{name: getattr(found, name) for name in wanted}
                    )
            except Exception as error:  # whatever another's code raises is not the task's fault
                log.error("hook failed task=%s error=%s", status.task_id.value, error)
        return status

    def containers(self) -> dict[str, State]:
        """Every container that has not ended."""
        return {c.container_id: c.state for c in self._containers.values()}

    def forget(self, container_id: str) -> None:
        """The agent has taken note of a termination; drop it from memory and disk."""
        if self._ended.pop(container_id, None) is not None:
            self._dir.remove(container_id)

    # The life of one container

    def _spawn(self, life: Coroutine[Any, Any, None]) -> None:
        if self._group is None:
            raise RuntimeError("the containerizer is not entered")
        task = self._group.create_task(life)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, container: Container, *, recovered: bool) -> None:
        """Everything that happens to a container, in order."""
        end = ContainerTermination()
        try:
            if not recovered:
                await self._unless_stopped(container, self._start(container))
            if not container.stop.is_set():
                end = await self._until_end(container)
        except Exception as error:  # any failure of an isolator is the failure of this container
            expected = isinstance(error, (CairnError, OSError, ValueError, TimeoutError))
            message = error.message if isinstance(error, LaunchFailed) else str(error)
            log.warning(
                "container failed id=%s state=%s error=%s",
                container.container_id, container.state.name, message, exc_info=not expected,
            )  # fmt: skip
            end = ContainerTermination(None, Reason.CONTAINER_LAUNCH_FAILED, message)
        if end.reason is None and container.stop.is_set():
            end = ContainerTermination(None, container.stop_reason, container.stop_message)
        await self._end(container, end)

    async def _unless_stopped(self, container: Container, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` until it is done or the container is to be destroyed."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(container.stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in (working, stopping):
                future.cancel()
            await asyncio.wait({working, stopping})
        if not working.cancelled() and (error := working.exception()) is not None:
            raise error

    async def _start(self, container: Container) -> None:
        cid, config = container.container_id, container.config
        user = find_user(config.user)
        config = container.config = self._decorated(container)
        self._dir.create(cid, config)
        infos: list[tuple[str, LaunchInfo]] = []
        for isolator in self._isolators_for(cid):
            container.isolated.append(isolator)
            if (info := await isolator.prepare(cid, config)) is not None:
                infos.append((isolator.name, info))
        status = str(self._dir.path(cid) / "status")
        spec = build_spec(cid, config, merge(infos), user, status, self._logger)
        container.state = State.ISOLATING
        fork = await self._launcher.fork(cid, spec)
        try:
            container.processes = fork.processes
            self._dir.put_processes(cid, fork.processes)
            pid = fork.processes.init.pid
            await asyncio.gather(*(i.isolate(cid, pid) for i in container.isolated))
            container.state = State.FETCHING
            await self._fetch(cid, config)
            for hook in self._hooks:
                await hook.post_fetch(cid, config.sandbox)
            await fork.release()
        finally:
            fork.close()
        container.state = State.RUNNING
        container.launched.set_result(pid)
        log.info("container running id=%s pid=%d", cid, pid)

    def _decorated(self, container: Container) -> ContainerConfig:
        """The configuration with the variables that hooks add to an executor's environment."""
        config = container.config
        if not self._hooks or parent_of(container.container_id) is not None:
            return config
        framework_id, executor_id = executor_of(config)
        environment = dict(config.environment)
        for hook in self._hooks:
            environment |= hook.executor_environment(
                {"framework_id": {"value": framework_id}, "executor_id": {"value": executor_id}}
            )
        return replace(config, environment=environment)

    async def _tell_removed(self, container: Container) -> None:
        if parent_of(container.container_id) is not None:
            return
        for hook in self._hooks:
            try:
                await hook.remove_executor(*executor_of(container.config))
            except Exception as error:  # the others are told all the same
                log.error("hook failed id=%s error=%s", container.container_id, error)

    async def _until_end(self, container: Container) -> ContainerTermination:
        """Wait for the first of: it ended, a limit was reached, somebody wants it destroyed."""
        found = container.processes
        if found is None:
            return ContainerTermination(message="it was never started")
        ended = asyncio.ensure_future(processes.gone(found.monitor))
        waits: dict[asyncio.Future[Any], Isolator | None] = {
            asyncio.ensure_future(i.watch(container.container_id)): i for i in container.isolated
        }
        waits[ended] = None
        waits[asyncio.ensure_future(container.stop.wait())] = None
        try:
            while True:
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    isolator = waits.pop(future)
                    if isolator is None:
                        return ContainerTermination()
                    limitation = watched(future, isolator, container.container_id)
                    if limitation is not None:
                        return of_limitation(limitation)
        finally:
            for future in waits:
                future.cancel()
            if waits:
                await asyncio.wait(waits)

    async def _end(self, container: Container, end: ContainerTermination) -> None:
        """Destroy and clean up; nothing here may fail for good."""
        cid = container.container_id
        container.state = State.DESTROYING
        nested = [c for c in self._containers.values() if parent_of(c.container_id) == cid]
        for child in nested:
            await self.destroy(child.container_id, end.reason, "its parent ended")
        by_itself = end.reason is None and not container.stop.is_set()
        await self._kill(cid, container.processes)
        if by_itself and (limitation := await self.limitation(cid)) is not None:
            end = of_limitation(limitation)
        for isolator in reversed(container.isolated):
            await self._cleanup(isolator, cid)
        await self._launcher.remove(cid)
        end = ContainerTermination(self._dir.status(cid), end.reason, end.message, end.limited)
        with contextlib.suppress(OSError):  # a full disk must not keep the container from ending
            self._dir.put_termination(cid, end)
        await self._tell_removed(container)
        self._note(container, end)

    def _note(self, container: Container, end: ContainerTermination) -> None:
        cid = container.container_id
        del self._containers[cid]
        self._ended[cid] = end
        while len(self._ended) > MAX_TERMINATED:
            self.forget(next(iter(self._ended)))
        if end.reason != Reason.CONTAINER_LAUNCH_FAILED:  # of which the log tells already
            told = f" reason={end.reason} message={end.message!r}" if end.reason else ""
            log.info("container ended id=%s status=%s%s", cid, end.status, told)
        if not container.launched.done():
            container.launched.set_exception(
                LaunchFailed(cid, end.message or "destroyed during launch")
            )
            container.launched.exception()  # seen, also when nobody waits for it
        container.terminated.set_result(end)

    async def _kill(self, container_id: str, found: Processes | None) -> None:
        try:
            async with asyncio.timeout(KILL_TIMEOUT_S):
                await self._launcher.kill(container_id, found)
        except TimeoutError:
            log.error("container not killed id=%s; processes hang in the kernel", container_id)

    async def _cleanup(self, isolator: Isolator, container_id: str) -> None:
        try:
            await isolator.cleanup(container_id)
        except Exception as error:  # the others still have to clean up
            log.error(
                "cleanup failed isolator=%s id=%s error=%s", isolator.name, container_id, error
            )

    def _isolators_for(self, container_id: str) -> list[Isolator]:
        nested = parent_of(container_id) is not None
        return [i for i in self._isolators if i.supports_nesting or not nested]

    def _get(self, container_id: str) -> Container:
        container = self._containers.get(container_id)
        if container is None:
            raise UnknownContainer(container_id)
        return container


def watched(
    future: asyncio.Future[Limitation], isolator: Isolator, container_id: str
) -> Limitation | None:
    """Result of an isolator's watch; None when it watches nothing or broke."""
    error = future.exception()
    if error is None:
        return future.result()
    if not isinstance(error, NoLimit):
        log.error("watch failed isolator=%s id=%s error=%s", isolator.name, container_id, error)
    return None


def of_limitation(limitation: Limitation) -> ContainerTermination:
    """The end of a container that went over a limit."""
    return ContainerTermination(
        None, limitation.reason, limitation.message, dict(limitation.resources)
    )


def executor_of(config: ContainerConfig) -> tuple[str, str]:
    """Framework and executor that a container is for, as its environment names them."""
    environment = config.environment
    return environment.get("MESOS_FRAMEWORK_ID", ""), environment.get("MESOS_EXECUTOR_ID", "")


def wire_id(container_id: str) -> ContainerID:
    """`parent.child` as the nested message."""
    parent = parent_of(container_id)
    value = container_id.rpartition(".")[2]
    return ContainerID(value, wire_id(parent) if parent else None)
