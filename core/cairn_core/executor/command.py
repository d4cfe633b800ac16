"""Entry point and loop of the command executor; start reading here.

One thread, one `select`: the event stream, the call under way, signals, the next deadline. What
happens is told to `rules.Executor`; what it answers is done here.
"""

import json
import os
import selectors
import signal
import sys
import time
from collections import deque
from typing import Any, NoReturn

from cairn_core.executor import tasks
from cairn_core.executor.checks import Probe, Result
from cairn_core.executor.connection import Exchange
from cairn_core.executor.probes import Running
from cairn_core.executor.rules import Effect, Executor, Exit, Send, Signal, Start
from cairn_core.executor.settings import Settings, read_settings, task_environment
from cairn_core.executor.stream import Records, StreamError

#: How long the agent may take to answer a call before we subscribe anew.
CALL_TIMEOUT_S = 15.0
SUBSCRIBE_TIMEOUT_S = 30.0
FIRST_BACKOFF_S = 0.05


class Loop:
    """The executor's process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rules = Executor(settings, draw_uuid=lambda: os.urandom(16), now=time.monotonic())
        self.selector = selectors.DefaultSelector()
        self.stream: Exchange | None = None
        self.records = Records()
        self.subscribed = False
        self.stream_deadline = 0.0  # for the SUBSCRIBED event
        self.retry_at: float | None = time.monotonic()
        self.backoff_s = FIRST_BACKOFF_S
        self.calls: deque[dict[str, Any]] = deque()
        self.call: Exchange | None = None
        self.call_deadline = 0.0
        self.task_pid = 0
        self.task_environment: dict[str, str] = {}
        self.probes: dict[int, Running] = {}
        self.wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def run(self) -> NoReturn:
        """Go on until the rules say `Exit`."""
        while True:
            for key, mask in self.selector.select(self._pause()):
                if key.fileobj == self.wake:
                    self._woken()
                elif self.stream is not None and key.fileobj is self.stream.sock:
                    self._stream_ready(mask)
                elif self.call is not None and key.fileobj is self.call.sock:
                    self._call_ready(mask)
            self._time_passed()

    def _pause(self) -> float | None:
        times = [self.rules.next_deadline(), self.retry_at]
        times += [probe.deadline for probe in self.probes.values()]
        if self.call is not None:
            times.append(self.call_deadline)
        if self.stream is not None and not self.subscribed:
            times.append(self.stream_deadline)
        known = [t for t in times if t is not None]
        return max(min(known) - time.monotonic(), 0.0) if known else None

    def _time_passed(self) -> None:
        now = time.monotonic()
        for probe in self.probes.values():
            probe.expire(now=now)
        self._do(self.rules.expire(now=now, wall=time.time()))
        if self.call is not None and now >= self.call_deadline:
            self._lost("the agent does not answer a call")
        if self.stream is not None and not self.subscribed and now >= self.stream_deadline:
            self._lost("the agent does not answer SUBSCRIBE")
        if self.retry_at is not None and now >= self.retry_at:
            self.retry_at = None
            self._subscribe()

    # The agent

    def _subscribe(self) -> None:
        try:
            self.stream = Exchange(self.settings, self.rules.subscribe_call())
        except OSError as error:
            self._lost(str(error))
            return
        self.records = Records()
        self.subscribed = False
        self.stream_deadline = time.monotonic() + SUBSCRIBE_TIMEOUT_S
        self.selector.register(self.stream.sock, self.stream.events())

    def _stream_ready(self, mask: int) -> None:
        assert self.stream is not None
        stream = self.stream
        try:
            body = stream.ready(mask)
            if stream.answer.status not in (0, 200):
                self._lost(f"SUBSCRIBE answered {stream.answer.status}")
                return
            self.selector.modify(stream.sock, stream.events())
            for record in self.records.feed(body):
                self._event(record)
                if self.stream is not stream:
                    return
        except (OSError, StreamError) as error:
            self._lost(str(error))
            return
        if stream.closed or stream.answer.done:
            self._lost("the agent closed the stream")

    def _event(self, record: bytes) -> None:
        try:
            event = json.loads(record)
            if event.get("type") == "SUBSCRIBED":
                self.subscribed = True
                self.backoff_s = FIRST_BACKOFF_S
            effects = self.rules.received(event, now=time.monotonic(), wall=time.time())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            say(f"ignored an event: {type(error).__name__}: {error}")
            return
        self._do(effects)

    def _lost(self, why: str) -> None:
        """No connection: drop everything and try again after a while."""
        if self.subscribed:
            say(f"disconnected from the agent: {why}")
        for exchange in (self.stream, self.call):
            if exchange is not None:
                self._unregister(exchange)
        self.stream = self.call = None
        self.subscribed = False
        self.calls.clear()  # updates go along with the next SUBSCRIBE
        now = time.monotonic()
        draw = int.from_bytes(os.urandom(4), "big") / 2**32
        self.retry_at = now + self.backoff_s * (0.5 + draw / 2)
        self.backoff_s = min(self.backoff_s * 2, max(self.settings.backoff_max_s, FIRST_BACKOFF_S))
        self._do(self.rules.disconnected(now=now, wall=time.time()))

    def _unregister(self, exchange: Exchange) -> None:
        self.selector.unregister(exchange.sock)
        exchange.close()

    def _next_call(self) -> None:
        if self.call is not None or not self.calls:
            return
        try:
            self.call = Exchange(self.settings, self.calls.popleft())
        except OSError as error:
            self._lost(str(error))
            return
        self.call_deadline = time.monotonic() + CALL_TIMEOUT_S
        self.selector.register(self.call.sock, self.call.events())

    def _call_ready(self, mask: int) -> None:
        assert self.call is not None
        try:
            self.call.ready(mask)
            self.selector.modify(self.call.sock, self.call.events())
        except (OSError, StreamError) as error:
            self._lost(str(error))
            return
        status = self.call.answer.status
        if status == 0 and not self.call.closed:
            return
        if status in (0, 403) or status >= 500:
            self._lost(f"a call was answered {status or 'with nothing'}")
            return
        if status != 202:
            say(f"the agent refused a call: {status}")
        self._unregister(self.call)
        self.call = None
        self._next_call()

    # Processes

    def _woken(self) -> None:
        numbers = os.read(self.wake, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._child_ended(pid, status)
        if signal.SIGTERM in numbers:
            self._do(self.rules.terminate(now=time.monotonic(), wall=time.time()))

    def _child_ended(self, pid: int, status: int) -> None:
        now, wall = time.monotonic(), time.time()
        if pid == self.task_pid:
            self.task_pid = 0
            self._do(self.rules.exited(status, now=now, wall=wall))
        elif (probe := self.probes.pop(pid, None)) is not None:
            result = probe.result(status)
            self._do(self.rules.probed(probe.probe.health, result, now=now, wall=wall))

    def _start(self, task: dict[str, Any]) -> None:
        command = task.get("command") or {}
        environment = task_environment(os.environ, command)
        try:
            self.task_pid = tasks.spawn(command, environment)
        except (OSError, ValueError) as error:
            now, wall = time.monotonic(), time.time()
            self._do(self.rules.not_started(str(error), now=now, wall=wall))
            return
        self.task_environment = environment
        self._do(self.rules.started(now=time.monotonic(), wall=time.time()))

    def _probe(self, probe: Probe) -> None:
        try:
            running = Running(probe, self.task_environment, time.monotonic())
        except (OSError, ValueError) as error:
            now, wall = time.monotonic(), time.time()
            self._do(self.rules.probed(probe.health, Result(None, str(error)), now=now, wall=wall))
            return
        self.probes[running.pid] = running

    # Effects

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(task):
                    self._start(task)
                case Signal(number):
                    if self.task_pid:
                        tasks.signal_tree(self.task_pid, number)
                case Send(call):
                    if self.subscribed:
                        self.calls.append(call)
                        self._next_call()
                case Probe():
                    self._probe(effect)
                case Exit(code):
                    sys.exit(code)


def say(text: str) -> None:
    """One line for the sandbox's stderr."""
    print(f"executor: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Run the command executor; returns an exit code, or leaves by SystemExit."""
    try:
        settings = read_settings(os.environ)
    except ValueError as error:
        say(str(error))
        return 2
    Loop(settings).run()
