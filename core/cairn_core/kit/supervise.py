"""The small supervisor: runs unit files where there is no systemd, as PID 1 of a lab host.

    python -m cairn_core.kit.supervise --units DIR --log DIR --control SOCKET
    python -m cairn_core.kit.supervise --control SOCKET status | restart NAME | stop [NAME]
                                                        | kill NAME SIGNAL

It starts services in the order of After, restarts them with a growing delay, appends their output
to `<log>/<name>.log`, keeps the sockets of `.socket` units open over restarts, and reaps orphans.
SIGTERM stops everything in reverse order. Control: one JSON line in, one JSON line out, for root
(or the user it runs as) only; `ask` is the client. Processes are in `spawn`, unit files in `units`.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

from cairn_core.errors import CairnError, LocalError, Unavailable
from cairn_core.kit import logs, spawn, units
from cairn_core.kit.backoff import Backoff

log = logging.getLogger("cairn_core.kit.supervise")  # it runs as __main__

State = Literal["waiting", "starting", "running", "backoff", "stopped", "failed"]

#: A service that ran this long is healthy: its next failure is restarted at once.
HEALTHY_S = 10.0
MAX_DELAY_S = 30.0
#: Systemd waits 90 s; a host of the lab shall go down sooner.
STOP_S = 10.0
MAX_REQUEST_BYTES = 64 * 1024
MAX_NOTIFICATIONS = 64
_CREDENTIALS = struct.Struct("3i")


@dataclass(slots=True)
class Unit:
    """A service and what became of it."""

    service: units.Service
    backoff: Backoff
    state: State = "waiting"
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None
    status: str = ""
    since: float = field(default_factory=time.time)
    #: The operator wants it to run.
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    #: The present process was told to end; its exit is not a failure.
    told: bool = False
    #: Running, or given up: those that come after it may start.
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def become(self, state: State) -> None:
        """Note a change of state."""
        self.state, self.since = state, time.time()
        if state in ("running", "stopped", "failed", "backoff"):
            self.settled.set()

    def report(self) -> dict[str, Any]:
        """What `status` shows."""
        return {
            "state": self.state,
            "pid": self.pid,
            "restarts": self.restarts,
            "exit_code": self.exit_code,
            "status": self.status,
            "since": self.since,
        }


class Supervisor:
    """All units of one host. Made and used inside the loop."""

    def __init__(self, unit_dir: Path, log_dir: Path, control: Path, rng: Random) -> None:
        self._log_dir, self._control = log_dir, control
        self._notify_path = control.with_name(control.name + ".notify")
        services, sockets = load(unit_dir)
        self.units = {
            service.name: Unit(
                service,
                Backoff(max(service.restart_s, 0.01), max(MAX_DELAY_S, service.restart_s), rng),
            )
            for service in units.start_order(services)
        }
        self.held = [(unit, spawn.listen(unit)) for unit in sockets]
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Start everything; returns when all has stopped after SIGTERM or `stop`."""
        loop = asyncio.get_running_loop()
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._control.parent.mkdir(parents=True, exist_ok=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGCHLD, self.reap)
        notify = spawn.notify_socket(self._notify_path)
        loop.add_reader(notify, self._notified, notify)
        server = await self._serve()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._keep(unit)) for unit in self.units.values()]
                for unit in self.units.values():
                    unit.wanted.set()
                log.info("supervising units=%s", ",".join(self.units))
                await self._stop.wait()
                for unit in reversed(self.units.values()):
                    await self.stop(unit)
                for task in tasks:
                    task.cancel()
        finally:
            server.close()
            loop.remove_reader(notify)
            notify.close()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                loop.remove_signal_handler(number)
            for _, pairs in self.held:
                for sock in pairs:
                    sock.close()
            for path in (self._control, self._notify_path):
                path.unlink(missing_ok=True)
        log.info("stopped because asked to")

    # -- one service ---------------------------------------------------------------------------

    async def _keep(self, unit: Unit) -> None:
        """Start the service, and again as its unit file says."""
        for name in unit.service.after:
            if name in self.units:
                await self.units[name].settled.wait()
        while True:
            await unit.wanted.wait()
            began = time.monotonic()
            code = await self._once(unit)
            unit.exit_code = code
            if unit.told:
                unit.told = False
                unit.become("stopped")
                continue
            if not unit.service.restarts_after(code):
                unit.wanted.clear()
                unit.become("stopped" if code == 0 else "failed")
                log.info("unit ended name=%s code=%s", unit.service.name, code)
                continue
            if time.monotonic() - began >= HEALTHY_S:
                unit.backoff.reset()
            delay = unit.backoff.next()
            unit.become("backoff")
            log.warning(
                "unit ended name=%s code=%s, restarting in %.1f s", unit.service.name, code, delay
            )
            unit.hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await unit.hurry.wait()
            if unit.wanted.is_set():
                unit.restarts += 1
            else:
                unit.become("stopped")

    async def _once(self, unit: Unit) -> int:
        """Run the service until it ends; returns its exit code, negative for a signal."""
        service = unit.service
        unit.status = ""
        for argv in (*service.pre, service.argv):
            unit.become("starting")
            unit.exited.clear()
            inherited = [
                (held.fd_name, sock)
                for held, socks in self.held
                for sock in socks
                if held.service == service.name or held.name in service.sockets
            ]
            try:
                unit.pid = spawn.start(
                    service, argv, self._log_dir / f"{service.name}.log", inherited,
                    str(self._notify_path),
                )  # fmt: skip
            except (OSError, LocalError) as error:
                log.error("unit not started name=%s reason=%s", service.name, error)
                unit.exit_code = 203  # what systemd reports for a failed exec
                return 203
            main = argv is service.argv
            if main and service.type in ("simple", "exec"):
                unit.become("running")
            pid = unit.pid
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if main else service.start_timeout_s):
                    await self._until_exit(unit)
            if not main and unit.pid is not None:
                spawn.send(pid, signal.SIGKILL, service.kill_mode)
                await unit.exited.wait()
            if service.kill_mode in ("control-group", "mixed"):
                spawn.send_session(pid, signal.SIGKILL)
            code = unit.exit_code
            if code is None:
                raise RuntimeError(f"exit of {service.name} without a code")
            if code or main:
                return code
        raise AssertionError("unreachable: the main command returns")

    async def _until_exit(self, unit: Unit) -> None:
        """Wait for the end; a service that does not say READY in time is killed."""
        if unit.state == "starting" and unit.service.type == "notify":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(unit.service.start_timeout_s):
                    await unit.exited.wait()
            if unit.state == "starting" and unit.pid is not None:
                log.warning("unit not ready in time, killed name=%s", unit.service.name)
                spawn.send(unit.pid, signal.SIGKILL, unit.service.kill_mode)
        await unit.exited.wait()

    def reap(self) -> None:
        """Collect every ended child, ours and orphans."""
        for pid, code in spawn.ended():
            for unit in self.units.values():
                if unit.pid == pid:
                    unit.pid, unit.exit_code = None, code
                    unit.exited.set()

    async def stop(self, unit: Unit) -> None:
        """SIGTERM, then SIGKILL; returns when the service has ended."""
        unit.wanted.clear()
        unit.hurry.set()
        pid = unit.pid
        if pid is None:
            return
        unit.told = True
        spawn.send(pid, signal.SIGTERM, unit.service.kill_mode)
        try:
            async with asyncio.timeout(min(STOP_S, unit.service.stop_timeout_s)):
                await unit.exited.wait()
        except TimeoutError:
            log.warning("unit did not stop in time, killed name=%s", unit.service.name)
            spawn.send(pid, signal.SIGKILL, unit.service.kill_mode)
            await unit.exited.wait()

    def _notified(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(MAX_NOTIFICATIONS):  # any process may send: a flood must not hold us
                text, pid = spawn.receive_notification(sock)
                for unit in self.units.values():
                    own = unit.pid is not None and (
                        pid == unit.pid
                        or (unit.service.notify_all and spawn.session_of(pid) == unit.pid)
                    )
                    if own:
                        self._note(unit, text)

    def _note(self, unit: Unit, text: str) -> None:
        for line in text.splitlines():
            key, _, value = line.partition("=")
            if key == "STATUS":
                unit.status = value[:200]
            elif line == "READY=1" and unit.state == "starting":
                unit.become("running")
                log.info("unit ready name=%s pid=%s", unit.service.name, unit.pid)

    # -- control -------------------------------------------------------------------------------

    async def _serve(self) -> asyncio.AbstractServer:
        self._control.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(
            self._client, str(self._control), limit=MAX_REQUEST_BYTES
        )
        os.chmod(self._control, 0o600)
        return server

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = writer.get_extra_info("socket").getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
            if _CREDENTIALS.unpack(peer)[1] not in (0, os.getuid()):
                return
            async with asyncio.timeout(60):
                answer = await self._command(await reader.readline())
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, ValueError, ConnectionError) as error:
            log.info("control request dropped reason=%s", error)
        finally:
            writer.close()

    async def _command(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            command, name = request["command"], request.get("name")
            if command == "status":
                return {"units": {n: unit.report() for n, unit in self.units.items()}}
            if command == "stop" and name is None:
                self._stop.set()
                return {}
            unit = self.units.get(name)
            if unit is None:
                return {"error": f"no such unit: {name!r}"}
            match command:
                case "stop":
                    await self.stop(unit)
                case "restart":
                    await self.stop(unit)
                    unit.backoff.reset()
                    unit.settled.clear()
                    unit.wanted.set()
                case "kill":
                    number = spawn.signal_number(request.get("signal", 15))
                    if unit.pid is None:
                        return {"error": f"unit is not running: {name}"}
                    os.kill(unit.pid, number)
                case _:
                    return {"error": f"no such command: {command!r}"}
            return {}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return {"error": f"request not understood: {error}"}


def load(folder: Path) -> tuple[list[units.Service], list[units.Socket]]:
    """All unit files of a folder; raises UnitError for the first wrong one."""
    services, sockets = [], []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".service":
            services.append(units.parse_service(path.name, path.read_text()))
        elif path.suffix == ".socket":
            sockets.append(units.parse_socket(path.name, path.read_text()))
    return services, sockets


def ask(
    control: Path, command: str, *, timeout_s: float = 30.0, **fields: object
) -> dict[str, Any]:
    """Send one command to a supervisor and return its answer.

    Commands: status; restart, stop, kill with `name` (and `signal`); stop without a name ends the
    supervisor. Raises Unavailable when nobody answers, LocalError when it refuses.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(str(control))
            sock.sendall(json.dumps({"command": command, **fields}).encode() + b"\n")
            with sock.makefile("rb") as stream:
                line = stream.readline()
        except OSError as error:
            raise Unavailable(f"no supervisor answers on {control}: {error}") from None
    if not line:
        raise Unavailable(f"supervisor on {control} closed the connection")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise LocalError(str(answer["error"]))
    return answer


def main(argv: list[str] | None = None) -> int:
    """The command line above; returns the exit code."""
    parser = argparse.ArgumentParser(prog="cairn-supervise", description="Run unit files.")
    parser.add_argument("--units", type=Path, metavar="DIR", help="unit files to run")
    parser.add_argument("--log", type=Path, metavar="DIR", default=Path("/var/log/cairn"))
    parser.add_argument("--control", type=Path, metavar="SOCKET", required=True)
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="status, restart, stop, kill")
    given = parser.parse_args(argv)
    if bool(given.command) == (given.units is not None):
        parser.error("expected either --units or a command")
    try:
        if given.command:
            names = ("name", "signal")
            fields = dict(zip(names, given.command[1:], strict=False))
            print(json.dumps(ask(given.control, given.command[0], **fields), indent=2))
            return 0
        logs.set_up()
        spawn.adopt_orphans()
        asyncio.run(_supervise(given.units, given.log, given.control))
        return 0
    except (CairnError, OSError) as error:
        print(f"cairn-supervise: {error}", file=sys.stderr)
        return 1


async def _supervise(unit_dir: Path, log_dir: Path, control: Path) -> None:
    await Supervisor(unit_dir, log_dir, control, Random()).run()


if __name__ == "__main__":
    sys.exit(main())
