"""Starts containers through the zygote and kills whatever is left of them.

A launcher knows processes and nothing of isolation. `Launcher` (as any user) finds a container's
processes below its monitor; `LinuxLauncher` (as root) also keeps each container in a group of the
freezer, or of the version 2 tree, so that nothing can escape a kill.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn_core.agent.containerizer import processes
from cairn_core.agent.containerizer.cgroups import HELPERS, CgroupError, Cgroups, own_group
from cairn_core.agent.containerizer.errors import LaunchFailed
from cairn_core.agent.containerizer.runtime_dir import Processes
from cairn_core.extensions import ContainerConfig

log = logging.getLogger(__name__)

HELPER = Path(__file__).parent / "helper"
PACKAGES = HELPER.parents[2]
ANSWER_TIMEOUT_S = 60.0
START_TIMEOUT_S = 20.0
KILL_PAUSE_S = 0.01
MONITOR_PATIENCE_S = 10.0
HELPERS_OOM_SCORE = -900
ZYGOTE_CHECK_S = 30.0


def digest(preload: tuple[str, ...]) -> str:
    """Changes with any source that the zygote has loaded, so that an upgrade starts a new one."""
    total = hashlib.sha256(repr((sys.version, preload)).encode())
    folders = {HELPER, *(PACKAGES.joinpath(*name.split(".")[1:-1]) for name in preload)}
    for folder in sorted(folders):
        for path in sorted(folder.glob("*.py")):
            total.update(path.read_bytes())
    return total.hexdigest()[:12]


class Zygote:
    """The agent's side of the zygote: starts it when needed, connects to it."""

    def __init__(
        self, runtime_dir: str, preload: tuple[str, ...] = (), check_s: float = ZYGOTE_CHECK_S
    ) -> None:
        """check_s: how often it looks whether anybody needs it."""
        self.directory = Path(runtime_dir)
        self.check_s = check_s
        self._lock = -1
        self.preload = preload
        self._name = f"zygote-{digest(preload)}.sock"
        self._starting = asyncio.Lock()
        self.started_new = False  # whether this object started the process

    async def hold(self) -> None:
        """Keep zygotes from ending for want of an agent, until `let_go` or our own end."""
        if self._lock == -1:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # A zygote has the lock for the moment in which it ends.
            await asyncio.to_thread(fcntl.flock, self._lock, fcntl.LOCK_SH)

    def let_go(self) -> None:
        """From now on a zygote without containers ends by itself."""
        if self._lock != -1:
            os.close(self._lock)
            self._lock = -1

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection, which is a monitor to be. Starts the zygote when it does not run."""
        try:
            return await self._open()
        except OSError:
            async with self._starting:
                with contextlib.suppress(OSError):
                    return await self._open()  # another launch has started it meanwhile
                await self._start()
            return await self._open()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        with self._short() as path:
            return await asyncio.open_unix_connection(path)

    @contextlib.contextmanager
    def _short(self, name: str | None = None) -> Any:
        """The socket's path, short enough for sun_path however long the directory's is."""
        fd = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}/{name or self._name}"
        finally:
            os.close(fd)

    async def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.directory / self._name
        path.unlink(missing_ok=True)  # nobody listens there
        argv = [sys.executable, "-I", "-S", str(HELPER / "__main__.py")]
        process = await asyncio.create_subprocess_exec(
            *argv,
            str(path),
            str(self.directory / "helpers.log"),
            str(self.check_s),
            *self.preload,
            # What it has here every container's user can read in /proc/1/environ, and ours may
            # hold credentials.
            env={"PATH": os.defpath},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(START_TIMEOUT_S):
            _, said = await process.communicate()
        if process.returncode:
            why = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise OSError(f"zygote exited with {process.returncode}: {why}")
        self.started_new = True
        log.info("zygote started socket=%s", path)

    def pid(self, name: str | None = None) -> int | None:
        """Process that listens on a zygote's socket; None when nobody does."""
        with self._short(name) as path, socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(path)
            except OSError:
                return None
            pid, _, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, 17, 12))
            return int(pid)

    def retire_others(self) -> None:
        """End zygotes of other versions. What they forked goes on."""
        for path in self.directory.glob("zygote-*.sock"):
            if path.name != self._name:
                self._end(path)

    def stop(self) -> None:
        """End the zygote; containers go on, and the next launch starts a new one."""
        self._end(self.directory / self._name)

    def _end(self, path: Path) -> None:
        if not path.exists():
            return
        pid = self.pid(path.name)
        path.unlink(missing_ok=True)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


@dataclass(slots=True)
class Fork:
    """A container that exists and waits to be released."""

    container_id: str
    processes: Processes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def release(self) -> None:
        """Let it execute its command. LaunchFailed with the reason when it cannot."""
        self.writer.write(b'{"go": true}\n')
        answer = await read_answer(self.container_id, self.reader)
        if answer.get("started") is not True:
            raise LaunchFailed(self.container_id, str(answer.get("error", "no answer")))

    def close(self) -> None:
        """End the conversation; before the release this ends the container."""
        self.writer.close()


async def read_answer(container_id: str, reader: asyncio.StreamReader) -> dict[str, Any]:
    """One line of the monitor. LaunchFailed when it died or reports an error."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        line = await reader.readline()
    answer = json.loads(line) if line else {"error": "its monitor ended"}
    if "error" in answer:
        raise LaunchFailed(container_id, str(answer["error"]))
    assert isinstance(answer, dict)
    return answer


class Launcher:
    """Starts and kills containers as any user (the original's posix launcher)."""

    def __init__(self, zygote: Zygote) -> None:
        self.zygote = zygote

    async def prepare(self) -> None:
        """Called once before anything else."""
        await self.zygote.hold()
        self.zygote.retire_others()

    def close(self) -> None:
        """The agent ends, and no container with it."""
        self.zygote.let_go()

    async def fork(self, container_id: str, spec: dict[str, Any]) -> Fork:
        """A container that waits. Closing it, or the death of the agent, ends it again."""
        reader, writer = await self.zygote.connect()
        try:
            writer.write(json.dumps(spec).encode() + b"\n")
            answer = await read_answer(container_id, reader)
            init = processes.identify(int(answer["pid"]))
            monitor = processes.identify(int(answer["monitor"]))
            if init is None or monitor is None:
                raise LaunchFailed(container_id, "its process ended before it began")
        except BaseException:
            writer.close()
            raise
        return Fork(container_id, Processes(init, monitor), reader, writer)

    def members(self, found: Processes) -> set[int]:
        """All processes of the container but the monitor."""
        roots = {who.pid for who in (found.init, found.monitor) if processes.is_running(who)}
        return processes.descendants(roots) - {found.monitor.pid}

    def orphans(self, known: set[str]) -> set[str]:
        """Containers of ours that are in none of our directories."""
        return set()

    async def kill(self, container_id: str, found: Processes | None) -> None:
        """Return when nothing of the container runs, the monitor included."""
        deadline = time.monotonic() + MONITOR_PATIENCE_S
        while True:
            self._kill_once(container_id, found)
            if not self._populated(container_id, found):
                if found is None or not processes.is_running(found.monitor):
                    return
                if time.monotonic() > deadline:  # stopped or stuck, and it has nothing to wait for
                    processes.kill([found.monitor.pid], signal.SIGKILL)
            await asyncio.sleep(KILL_PAUSE_S)

    def _kill_once(self, container_id: str, found: Processes | None) -> None:
        if found is not None:
            processes.kill(self.members(found), signal.SIGKILL)

    def _populated(self, container_id: str, found: Processes | None) -> bool:
        return found is not None and bool(self.members(found))

    async def remove(self, container_id: str) -> None:
        """Forget the container."""


class LinuxLauncher(Launcher):
    """Also keeps each container in a group, by which everything in it is found and killed."""

    def __init__(self, zygote: Zygote, cgroups: Cgroups) -> None:
        super().__init__(zygote)
        self.cgroups = cgroups
        self.controller = "freezer" if "freezer" in cgroups.hierarchies.v1 else ""
        self._settled: int | None = None

    async def prepare(self) -> None:
        """Make the group of the helpers, and room for it."""
        await super().prepare()
        if self.cgroups.make_room(own_group()):
            log.info("moved the agent to its own group root=%s", self.cgroups.root)
        for controller in self._helper_controllers():
            self.cgroups.create(controller, HELPERS)

    def _helper_controllers(self) -> list[str]:
        wanted = ("cpu", "cpuacct", "memory", "freezer")
        found = [c for c in wanted if c in self.cgroups.hierarchies.v1]
        return [*found, ""] if self.cgroups.hierarchies.v2 else found

    def _settle(self) -> None:
        """Move the zygote out of the agent's groups, and tell the kernel to spare it."""
        pid = self.zygote.pid()
        if pid is None or pid == self._settled:
            return
        for controller in self._helper_controllers():
            self.cgroups.add(controller, HELPERS, pid)
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/oom_score_adj").write_text(str(HELPERS_OOM_SCORE))
        self._settled = pid

    async def fork(self, container_id: str, spec: dict[str, Any]) -> Fork:
        """As above, in a group of its own."""
        if self.zygote.started_new or self._settled is None:
            (await self.zygote.connect())[1].close()
            self.zygote.started_new = False
            self._settle()
        fork = await super().fork(container_id, spec)
        try:
            group = group_of(container_id)
            self.cgroups.create(self.controller, group)
            # The first move waits some 10 ms until all processors have taken note (RCU); those of
            # the isolators, right after it, do not.
            await asyncio.to_thread(
                self.cgroups.add, self.controller, group, fork.processes.init.pid
            )
        except BaseException:
            fork.close()
            raise
        return fork

    def orphans(self, known: set[str]) -> set[str]:
        """Groups named like containers of which nothing is known."""
        return {name for name in self.cgroups.groups(self.controller) if is_uuid(name)} - known

    def _kill_once(self, container_id: str, found: Processes | None) -> None:
        self.cgroups.kill(self.controller, group_of(container_id))
        if found is not None and processes.is_running(found.init):
            processes.kill([found.init.pid], signal.SIGKILL)

    def _populated(self, container_id: str, found: Processes | None) -> bool:
        if self.cgroups.pids(self.controller, group_of(container_id)):
            return True
        return found is not None and processes.is_running(found.init)

    async def remove(self, container_id: str) -> None:
        """Remove the group."""
        with contextlib.suppress(CgroupError):
            await asyncio.to_thread(self.cgroups.remove, self.controller, group_of(container_id))


def group_of(container_id: str) -> str:
    """Name of a container's group; that of a nested one lies below its parent's."""
    return container_id.replace(".", "/mesos/")


def shares_group(container_id: str, config: ContainerConfig) -> bool:
    """Whether a nested container lives in its parent's groups (`LinuxInfo.share_cgroups`)."""
    linux = config.container.linux_info if config.container else None
    return "." in container_id and (linux is None or linux.share_cgroups)


def is_uuid(name: str) -> bool:
    """Whether a group's name is that of a container, and so ours to remove."""
    parts = [len(part) for part in name.split("-")]
    return parts == [8, 4, 4, 4, 12] and all(c in "0123456789abcdef-" for c in name)
