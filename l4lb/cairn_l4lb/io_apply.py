"""Does the work of `apply`: the kernel, in a thread of its own, and the steering process.

Order is everything here; see `docs/l4lb.md`, what is always true.
"""

import asyncio
import contextlib
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from cairn_core.errors import CairnError, Unavailable, cause
from cairn_core.kit.backoff import Backoff

from .apply import Balancer, Work
from .channel import Report, SteerSettings
from .io_kernel import MEMORY, Kernel, uninstall
from .io_nft_watch import NftWatch
from .io_steer import SteerProcess
from .model import Vip
from .rules import KernelSettings

log = logging.getLogger(__name__)

#: How the kernel's part tells of entries that it put right.
_ENTRIES = re.compile(r"set .*: missing=(\d+) extra=(\d+)")

T = TypeVar("T")

#: Between two attempts at work that failed, seconds.
RETRY_S = (0.1, 5.0)
#: Resyncs of hosts that started together are spread by so much.
JITTER = 0.2
#: Changes of rules by others that come within this time are looked at together, seconds.
TOGETHER_S = 0.05
#: The least and the longest time between two looks because of others, seconds: it grows while
#: there was nothing to put right.
OTHERS_S = (0.2, 3.0)
#: Looking in vain takes no more than one part in so many of our time.
OTHERS_SHARE = 20
#: So long the first start waits for the steering process to have the queues, seconds.
READY_S = 10.0


class Applier:
    """Keeps kernel and steering process at what the balancer says.

    balancer: what is to be. settings: of the kernel; None touches nothing of it, and starts no
    steering process. applied: told of work that was done, and how long after its change, seconds.
    changed: told how long one change of the kernel took, seconds. coalesce_s: least time between
    two changes. All `now` are of `time.monotonic`.
    """

    def __init__(
        self,
        balancer: Balancer,
        settings: KernelSettings | None,
        steer: SteerSettings,
        applied: Callable[[Work, float], None],
        changed: Callable[[float], None],
        *,
        prepare: Callable[[], Awaitable[None]],
        coalesce_s: float = 0.02,
        resync_s: float = 30.0,
        rng: Random,
        memory: Path = MEMORY,
    ) -> None:
        """prepare: called before work is taken, to add what it needs. memory: file of the kernel's
        part."""
        self.balancer = balancer
        self.steering: SteerProcess | None = None
        #: What cannot be done at the moment; None when all was.
        self.problem: str | None = None
        #: Whether an operator had everything removed: nothing is touched until a restart.
        self.uninstalled = False
        #: Lines of the latest repairs, and how many there were of all.
        self.repairs: list[str] = []
        self.repaired = 0
        #: Of these entries of sets, and routes, as dcos-net counts them.
        self.reconciled = {"ipset_entries": 0, "routes": 0}
        self._memory = memory
        self._settings, self._applied, self._prepare = settings, applied, prepare
        self._changed = changed
        self._coalesce_s, self._resync_s, self._rng = coalesce_s, resync_s, rng
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kernel")
        self._kernel: Kernel | None = None
        self._turn = asyncio.Lock()
        self._due = asyncio.Event()
        self._known = False
        self._begun = self._is_set_up = False
        self._watch: NftWatch | None = None
        self._steer_task: asyncio.Task[None] | None = None
        #: What runs beside `run`, which ends with it when one fails.
        self._beside: set[asyncio.Task[None]] = set()
        if settings is not None:
            self.steering = SteerProcess(steer, self._reported, balancer.whole, self._died)

    # -- facts ---------------------------------------------------------------------------------

    def wake(self, *, known: bool) -> None:
        """There may be work.  known: what is to be is all that there is, so that what is not part
        of it may be removed; before that nothing is done."""
        self._known = self._known or known
        if self.balancer.is_due or not self._begun:
            self._due.set()

    @property
    def begun(self) -> bool:
        """Whether the first table is applied."""
        return self._begun

    def _reported(self, report: Report) -> None:
        self.balancer.report(report, time.monotonic())
        if self.balancer.is_due:
            self._due.set()

    def _died(self) -> None:
        self.balancer.restarted(time.monotonic())
        if self.balancer.is_due:
            self._due.set()

    @property
    def kernel_problems(self) -> list[str]:
        """What others made in the kernel and we cannot put right; the rest works."""
        return self._kernel.problems if self._kernel is not None else []

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Set up the kernel, and take over the slots it has.  What is missing is logged and tried
        again: names and figures are served without."""
        try:
            await self._set_up()
        except Unavailable as error:
            self.problem = str(error)
            log.error("kernel not set up, trying again reason=%s", error)

    async def _set_up(self) -> None:
        settings = self._settings
        if settings is None or self._is_set_up:
            return
        if self._kernel is None:
            self._kernel = kernel = await self._in_thread(lambda: Kernel(settings, self._memory))
            try:
                self._watch = NftWatch(kernel.port)
            except OSError as error:
                log.error(
                    "changes by others are found every %g s only reason=%s",
                    self._resync_s, cause(error),
                )  # fmt: skip
            self.balancer.adopt(await self._in_thread(kernel.read_slots))
        await self._in_thread(self._kernel.start)
        self._is_set_up = True

    async def run(self, stop: asyncio.Event) -> None:
        """Apply changes until `stop`; then leave the host so that no connection fails."""
        stopping = asyncio.create_task(stop.wait(), name="apply-stop")
        self._start_beside(self._resync_loop(), "resync")
        backoff = Backoff(*RETRY_S, self._rng)
        try:
            while not stop.is_set():
                due = asyncio.create_task(self._due.wait(), name="apply-due")
                await asyncio.wait(
                    {stopping, due, *self._beside}, return_when=asyncio.FIRST_COMPLETED
                )
                due.cancel()
                self._look_beside()
                if stop.is_set():
                    break
                self._due.clear()
                wait_s = self._coalesce_s
                if not await self._once():
                    wait_s = backoff.next()
                    self._due.set()
                else:
                    backoff.reset()
                await asyncio.wait({stopping}, timeout=wait_s)
        finally:
            stopping.cancel()
            await self._end()

    def _start_beside(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._beside.add(task)
        return task

    def _look_beside(self) -> None:
        """Raise what ended one of those beside."""
        for task in [task for task in self._beside if task.done()]:
            self._beside.discard(task)
            task.result()

    async def _once(self) -> bool:
        """Do what is due; False when it has to be tried again."""
        if not self._known or self.uninstalled:
            return True
        async with self._turn:
            try:
                await self._prepare()
            except CairnError as error:
                log.warning("addresses of names not chosen reason=%s", error)
            work = self.balancer.take(time.monotonic())
            try:
                await self._do(work)
            except Unavailable as error:
                if str(error) != self.problem:
                    log.error("kernel not changed, trying again reason=%s", error)
                self.problem = str(error)
                self.balancer.again(work, time.monotonic())
                return False
        if self.problem is not None:
            log.info("kernel changed again")
        self.problem = None
        self._applied(work, time.monotonic() - work.since)
        return True

    async def _do(self, work: Work) -> None:
        await self._set_up()
        kernel, steering = self._kernel, self.steering
        first, balancer = not self._begun, self.balancer
        if kernel is None or steering is None:
            self._begun = True
            return
        update = work.update()
        if first:
            services = list(balancer.services.values())
            await self._change(lambda: kernel.grow(services, whole=True))
            self._begun = True
            # it asks for all there is when it starts
            self._steer_task = self._start_beside(steering.run(), "steering")
            if self._watch is not None:
                self._start_beside(self._watch_loop(self._watch), "watch-others")
            await steering.wait_ready(READY_S)
            await steering.settle()
        elif update is not None:
            await self._change(lambda: kernel.grow(work.changed.values(), work.gone))
            steering.send(update)
            if work.leaving and not await steering.settle():
                log.warning("steering process is late, the kernel goes on without it")
        if first or update is not None or work.health:
            await self._change(lambda: _finish(kernel, work))

    async def resync(self) -> list[str]:
        """Put right what others changed in the kernel; one line each.  Raises Unavailable."""
        kernel = self._kernel
        if kernel is None or self.uninstalled or not self._begun:
            return []
        async with self._turn:
            found = await self._in_thread(kernel.resync)
        if found:
            self.repaired += len(found)
            self.repairs = found[:100]
            for line in found:
                if words := _ENTRIES.fullmatch(line):
                    self.reconciled["ipset_entries"] += int(words[1]) + int(words[2])
                self.reconciled["routes"] += " route add " in line
            log.warning(
                "kernel put right, something else changed it count=%d first=%s",
                len(found), found[0],
            )  # fmt: skip
        return found

    async def _resync_loop(self) -> None:
        while True:
            await asyncio.sleep(self._resync_s * (1 + JITTER * self._rng.random()))
            await self._look()

    async def _watch_loop(self, watch: NftWatch) -> None:
        """Look at once when others changed rules; less often while that does not concern us."""
        backoff, last = Backoff(*OTHERS_S, self._rng), -math.inf
        while True:
            await watch.wait()
            await asyncio.sleep(TOGETHER_S)
            begun = time.monotonic()
            if begun - last > OTHERS_S[1]:
                backoff.reset()
            # before the look: what comes during it is news
            watch.clear()
            rest_s = 0.0
            if await self._look():
                backoff.reset()
            else:
                rest_s = OTHERS_SHARE * (time.monotonic() - begun)
            last = time.monotonic()
            await asyncio.sleep(max(backoff.next(), rest_s))

    async def _look(self) -> bool:
        """Whether there was something to put right."""
        try:
            return bool(await self.resync())
        except Unavailable as error:
            log.error("kernel not looked at reason=%s", error)
            return False

    async def uninstall(self) -> list[str]:
        """Remove everything of ours, and touch nothing more until a restart; one line each."""
        async with self._turn:
            self.uninstalled = True
            removed, problems = await self._in_thread(
                lambda: uninstall(self._memory, self._settings)
            )
            if self.steering is not None:
                await self.steering.drain()
        for one in problems:
            log.error("not removed: %s", one)
        return removed + [f"nothing more: {one}" for one in problems]

    async def preview(self) -> list[str]:
        """What would be changed now; `start` has not to be called."""
        settings, balancer = self._settings, self.balancer
        if settings is None:
            return []
        kernel = await self._in_thread(lambda: Kernel(settings, self._memory))
        balancer.adopt(await self._in_thread(kernel.read_slots))
        balancer.take(time.monotonic())
        services = list(balancer.services.values())
        try:
            return await self._in_thread(lambda: kernel.preview(services))
        finally:
            await self._in_thread(kernel.close)

    async def _end(self) -> None:
        """Have new connections decided by the kernel while the queues drain, then fill the sets
        again: whoever comes next finds everything as it is, and until then the kernel decides."""
        kernel, steering = self._kernel, self.steering
        try:
            if kernel is not None and steering is not None and self._steer_task is not None:
                async with self._turn:
                    await self._drained(kernel, steering)
        finally:
            for task in self._beside:
                task.cancel()
            # one that fails now is told of; the first to fail ended us
            for problem in await asyncio.gather(*self._beside, return_exceptions=True):
                if isinstance(problem, Exception):
                    log.error("ended with an error", exc_info=problem)
            if self._watch is not None:
                self._watch.close()
            if kernel is not None:
                await self._in_thread(kernel.close)
            self._thread.shutdown()

    async def _drained(self, kernel: Kernel, steering: SteerProcess) -> None:
        if self.uninstalled:
            return
        with contextlib.suppress(Unavailable):
            # nobody is left who could close one
            await self._in_thread(lambda: kernel.weigh((), {}))
            await self._in_thread(kernel.open_for_drain)
        await steering.drain()
        try:
            await self._in_thread(kernel.close_after_drain)
        except Unavailable as error:
            log.error("sets not filled again reason=%s", error)

    async def _change(self, work: Callable[[], None]) -> None:
        """Change the kernel, and tell how long it took."""
        begun = time.monotonic()
        await self._in_thread(work)
        self._changed(time.monotonic() - begun)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # -- questions -----------------------------------------------------------------------------

    async def explain(
        self, vip: Vip, client: str, port: int
    ) -> tuple[str | None, Sequence[str], Sequence[tuple[str, str, str, float]]]:
        """Backend, reasons and latest decisions.  Raises Unavailable."""
        if self.steering is None:
            raise Unavailable("enable_networking is false: nothing is decided here")
        answer = await self.steering.ask(vip, client, port)
        return answer.backend, answer.reasons, answer.recent


def _finish(kernel: Kernel, work: Work) -> None:
    kernel.shrink()
    kernel.weigh(work.closed, work.promoted, work.sampled)
