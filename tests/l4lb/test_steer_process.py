"""The steering process from outside: told things, hanging, too slow, and drained."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from msgspec.structs import replace

from cairn_core.errors import Unavailable
from cairn_core.kit.messages import Messages, message
from cairn_core.testing.requires import requires
from cairn_l4lb import channel, io_steer
from cairn_l4lb.channel import Report, SteerSettings, Update
from cairn_l4lb.io_steer import SteerProcess
from cairn_l4lb.model import Backend, Service, Vip
from cairn_l4lb.testing import Namespace

pytestmark = pytest.mark.netns

PATIENCE_S = 20.0


def vip(number: int) -> Vip:
    return Vip("tcp", f"11.0.{number >> 8}.{number & 255}", 80)


def service(number: int, backend: str = "10.0.0.1") -> Service:
    return Service(vip(number), backends=(Backend(backend, 80, slot=1),))


class Told:
    """A process, and what it told."""

    def __init__(self) -> None:
        self.services = {vip(n): service(n) for n in range(250)}
        self.reports: list[Report] = []
        self.deaths = 0
        self.steer = SteerProcess(
            SteerSettings(seed=1, report_s=0.05), self.reports.append, self.whole, self.died
        )

    def whole(self) -> Update:
        return Update(list(self.services.values()), whole=True)

    def died(self) -> None:
        self.deaths += 1

    def change(self, *changed: Service) -> None:
        self.services |= {one.vip: one for one in changed}
        self.steer.send(Update(list(changed)))

    async def backend(self, number: int) -> str | None:
        return (await self.steer.ask(vip(number), timeout_s=PATIENCE_S)).backend

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def signal(self, number: int) -> None:
        assert self.steer.pid is not None
        os.kill(self.steer.pid, number)


@asynccontextmanager
async def process() -> AsyncIterator[Told]:
    requires("root")
    namespace = Namespace()
    with namespace.inside():
        told = Told()
        running = asyncio.create_task(told.steer.run())
        try:
            assert await told.steer.wait_ready(PATIENCE_S)
            assert await told.steer.settle(PATIENCE_S)
            yield told
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
    namespace.close()


async def test_it_has_the_whole_table_and_every_change() -> None:
    async with process() as told:
        assert await told.backend(0) == await told.backend(249) == "10.0.0.1:80"
        told.change(service(249, "10.0.0.2"))
        told.steer.send(Update(gone=[vip(0)]))
        assert await told.steer.settle()
        assert await told.backend(249) == "10.0.0.2:80"
        assert await told.backend(0) is None
        await told.until(lambda: len(told.reports) >= 2)


async def test_another_one_takes_over_with_all_there_is() -> None:
    async with process() as told:
        told.signal(signal.SIGKILL)
        await told.until(lambda: told.deaths == 1)
        told.change(service(3, "10.0.0.3"))  # nobody is there to hear of it
        assert await told.steer.settle()
        assert await told.steer.wait_ready(PATIENCE_S)
        assert await told.backend(3) == "10.0.0.3:80"
        assert told.steer.deaths == 1


def test_it_is_ready_when_it_serves_all_there_is() -> None:
    requires("root")
    namespace = Namespace()
    ours, its = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    with namespace.inside(), ours:
        command = [sys.executable, "-m", "cairn_l4lb.io_steer_server", str(its.fileno())]
        with its:
            process = subprocess.Popen(command, pass_fds=[its.fileno()])
        messages = Messages()

        def heard() -> bytes:
            while (found := messages.next()) is None:
                messages.feed(ours.recv(65536))
            return found[0]

        ours.sendall(message(channel.SETTINGS, channel.encode(SteerSettings(seed=1))))
        # it runs, and knows of nothing
        assert heard() == channel.REPORT
        ours.sendall(message(channel.UPDATE, channel.encode(Update([service(1)], whole=True))))
        ours.sendall(message(channel.READY))
        assert channel.READY in iter(heard, None)
    assert process.wait(PATIENCE_S) == 0
    namespace.close()


async def test_a_question_has_no_answer_when_it_dies() -> None:
    async with process() as told:
        told.signal(signal.SIGSTOP)
        asking = asyncio.create_task(told.steer.ask(vip(0), timeout_s=PATIENCE_S))
        settling = asyncio.create_task(told.steer.settle(0.05))
        assert not await settling
        told.signal(signal.SIGKILL)
        with pytest.raises(Unavailable, match="steering process ended"):
            await asking
        with pytest.raises(Unavailable, match="does not run"):
            await told.steer.ask(vip(0))


async def test_one_that_is_too_slow_gets_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io_steer, "MAX_WAITING_BYTES", 200_000)
    async with process() as told:
        told.signal(signal.SIGSTOP)
        for n in range(30):
            told.change(*(service(m, f"10.0.1.{n}") for m in range(250)))
            await asyncio.sleep(0)
        assert told.steer.overflows >= 1
        told.signal(signal.SIGCONT)
        assert await told.steer.settle(PATIENCE_S)
        assert await told.backend(7) == "10.0.1.29:80"
        assert told.deaths == 0


async def test_one_that_hangs_is_replaced() -> None:
    async with process() as told:
        # only one that reports may hang, so that none does while it starts
        await told.until(lambda: len(told.reports) > 0)
        told.signal(signal.SIGSTOP)
        began = time.monotonic()
        await told.until(lambda: told.deaths >= 1)
        assert time.monotonic() - began < 3.0


async def test_a_report_that_cannot_be_taken_is_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(report: Report) -> None:
        raise ZeroDivisionError("a bug")

    async with process() as told:
        good, told.steer._on_report = told.steer._on_report, broken
        await told.until(lambda: "a bug" in caplog.text)
        assert "Traceback" in caplog.text
        told.steer._on_report, count = good, len(told.reports)
        await told.until(lambda: len(told.reports) > count + 1)
        assert caplog.text.count("Traceback") == 1
        assert told.deaths == 0


@pytest.mark.parametrize("late", [False, True])
async def test_a_table_that_cannot_be_had_is_no_silence(late: bool) -> None:
    requires("root")
    namespace = Namespace()

    def whole() -> Update:
        raise ZeroDivisionError("a bug")

    with namespace.inside():
        told = Told()
        if not late:
            told.steer._whole = whole
        running = asyncio.create_task(told.steer.run())
        if late:
            assert await told.steer.wait_ready(PATIENCE_S)
            told.steer._whole = whole
            told.steer._hungry = True
            told.steer._more.set()
        with pytest.raises(ZeroDivisionError, match="a bug"):
            async with asyncio.timeout(PATIENCE_S):
                await running
        assert not told.steer.ready
    namespace.close()


def test_an_update_comes_in_parts_that_make_the_same() -> None:
    many = tuple(Backend("10.0.0.1", port, slot=port) for port in range(1, 700))
    services = [Service(vip(n), backends=many) for n in range(5)]
    update = Update(services, gone=[vip(9)], whole=True)
    parts = list(io_steer._chunks(update))
    assert [len(part.services) for part in parts] == [2, 2, 1]
    assert [one for part in parts for one in part.services] == services
    assert [(part.gone, part.whole) for part in parts] == [
        ([vip(9)], True),
        ([], False),
        ([], False),
    ]
    assert list(io_steer._chunks(Update(gone=[vip(9)]))) == [Update(gone=[vip(9)])]


async def test_settings_change_while_it_runs() -> None:
    async with process() as told:
        settings = SteerSettings(
            seed=1, queues=(60, 61), mark_mask=0x0000FF00, queue_length=10, fail_open=False
        )
        told.steer.configure(settings)
        told.steer.configure(replace(settings, queue_length=20, fail_open=True))
        assert await told.steer.settle()
        with open("/proc/thread-self/net/netfilter/nfnetlink_queue") as file:
            numbers = [int(line.split()[0]) for line in file]
        assert numbers == [60, 61]
        assert told.deaths == 0


async def test_it_ends_for_good_when_drained() -> None:
    async with process() as told:
        await told.steer.drain()
        await told.until(lambda: told.deaths == 1)
        assert not told.steer.ready
        assert told.steer.deaths == 0  # nobody's fault
        with pytest.raises(Unavailable):
            await told.steer.ask(vip(0))
        assert await told.steer.settle()
