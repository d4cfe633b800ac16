"""How a daemon starts, stops, reloads and fails."""

import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from cairn_core.errors import LocalError
from cairn_core.kit import daemon, logs
from cairn_core.kit.daemon import ServiceEnded, inherited_sockets, notify, run, work_dir_lock

PROGRAM = """
import asyncio, sys
from typing import Annotated
from msgspec import Meta
from cairn_core.errors import Unavailable
from cairn_core.kit.config import CommonConfig, Port
from cairn_core.kit.daemon import Daemon, main

class Config(CommonConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    "Settings of `cairn-sample`."
    port: Annotated[Port, Meta(description="where to listen")] = 53
    how: str = "wait"

async def build(config):
    if config.how == "refuse":
        raise Unavailable("cannot listen on :53: in use")
    async def service(stop):
        if config.how == "end":
            return
        if config.how == "bug":
            raise KeyError("x")
        await stop.wait()
    def on_reload(fresh):
        print("reloaded", fresh.port, flush=True)
    return Daemon([service], on_reload=on_reload)

sys.exit(main("cairn-sample", Config, build))
"""


def start(*flags: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | env,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("flags", "code", "out", "err"),
    [
        (["--check-config"], 0, "", ""),
        (["--port", "x"], 1, "", "cairn-sample: flag --port: port: expected a whole number"),
        (["--no-such"], 2, "", "cairn-sample: No such option '--no-such'"),
        (["--print-config", "--log_level=error"], 0, "port = 53  # default", ""),
        (["--version"], 0, "cairn-sample, version", ""),
        (["--help"], 0, "where to listen [53]", ""),
        (["--how", "refuse"], 1, "", "cairn-sample: cannot listen on :53: in use"),
        (["--how", "end"], 1, "", "stopped because service ended unasked: build.<locals>.service"),
        (["--how", "bug"], 1, "", "stopped because of a bug\n  Traceback"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_command_line(flags: list[str], code: int, out: str, err: str) -> None:
    got = finish(start(*flags))
    assert got[0] == code
    assert out in got[1]
    assert err in got[2]
    assert "Traceback" not in got[2] or "bug" in flags


def test_a_daemon_reports_ready_reloads_and_stops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(20)
        config = tmp_path / "sample.json"
        config.write_text('{"port": 1}')
        process = start("--config", str(config), NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert supervisor.recv(100) == b"READY=1"
        config.write_text('{"port": 2}')
        process.send_signal(signal.SIGHUP)
        assert supervisor.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert supervisor.recv(100) == b"READY=1"
        config.write_text('{"port": "wrong"}')
        process.send_signal(signal.SIGHUP)
        assert supervisor.recv(100).startswith(b"RELOADING=1")
        assert supervisor.recv(100) == b"READY=1"
        process.send_signal(signal.SIGTERM)
        assert supervisor.recv(100) == b"STOPPING=1"
        code, out, err = finish(process)
    assert (code, out) == (0, "reloaded 2\n")
    assert "reload refused, keeping the old settings" in err
    assert "stopped because asked to" in err


async def test_services_get_time_to_stop_and_are_then_cancelled() -> None:
    stopped: list[str] = []

    async def polite(stop: asyncio.Event) -> None:
        await stop.wait()
        stopped.append("polite")

    async def deaf(stop: asyncio.Event) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append("deaf")
            raise

    async def asking(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()

    async with asyncio.timeout(10):
        await run(polite, deaf, asking, grace_s=0.05)
    assert stopped == ["polite", "deaf"]


async def test_a_service_that_ends_unasked_stops_the_others() -> None:
    cancelled = asyncio.Event()

    async def other(stop: asyncio.Event) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await stop.wait()
        cancelled.set()

    async def ending(stop: asyncio.Event) -> None:
        return

    with pytest.raises(ExceptionGroup) as caught:
        await run(other, ending)
    assert caught.group_contains(ServiceEnded, match=r"ending$")
    assert cancelled.is_set()


async def test_what_a_service_raises_comes_out() -> None:
    async def failing(stop: asyncio.Event) -> None:
        raise OSError("disk gone")

    async def other(stop: asyncio.Event) -> None:
        await stop.wait()

    with pytest.raises(ExceptionGroup) as caught:
        await run(failing, other)
    assert caught.group_contains(OSError, match="disk gone")


def test_a_work_directory_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with work_dir_lock(path):
        holds = f"{path} is used by process {os.getpid()}"
        with pytest.raises(LocalError, match=holds), work_dir_lock(path):
            pass
    with work_dir_lock(path):
        pass


def test_inherited_sockets_come_by_name() -> None:
    code = """
import json, os
from cairn_core.kit.daemon import inherited_sockets
os.environ["LISTEN_PID"] = str(os.getpid())
found = inherited_sockets()
print(json.dumps({name: [s.getsockname()[1] for s in socks] for name, socks in found.items()}))
assert inherited_sockets() == {} and "LISTEN_FDS" not in os.environ
assert not any(s.get_inheritable() for socks in found.values() for s in socks)
"""
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        high = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 50) for sock in (a, b)]
        shell = f'exec 3<&{high[0]} 4<&{high[1]}; exec "$@"'
        done = subprocess.run(
            ["/bin/bash", "-c", shell, "x", sys.executable, "-c", code],
            pass_fds=high,
            env=os.environ | {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:"},
            stdout=subprocess.PIPE,
            check=True,
            timeout=20,
        )
        ports = [s.getsockname()[1] for s in (a, b)]
        for descriptor in high:
            os.close(descriptor)
    assert json.loads(done.stdout) == {"http": [ports[0]], "unknown": [ports[1]]}


def test_sockets_of_another_process_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "3")
    assert inherited_sockets() == {}
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "many")
    with pytest.raises(LocalError, match="not a count of sockets: 'many'"):
        inherited_sockets()


def test_a_supervisor_that_is_gone_is_only_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    notify("READY=1")
    assert "supervisor not notified" in caplog.text


def test_log_lines_cannot_be_forged() -> None:
    record = logging.LogRecord("cairn", logging.INFO, "", 0, "got %s", ("a\nb\x1b[0m",), None)
    record.created, record.msecs = 0.0, 5.0
    line = logs.PlainFormatter().format(record)
    assert line == "1970-01-01T00:00:00.005Z INFO cairn: got a\\nb\\x1b[0m"
    assert json.loads(logs.JsonFormatter().format(record)) == {
        "time": "1970-01-01T00:00:00.005Z",
        "level": "INFO",
        "logger": "cairn",
        "message": "got a\nb\x1b[0m",
    }


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - conditions come from anywhere
            await asyncio.sleep(0.001)


async def test_garbage_is_collected_when_idle_and_data_is_frozen() -> None:
    class Node:
        def __init__(self) -> None:
            self.myself = self

    before, thresholds = gc.get_freeze_count(), gc.get_threshold()
    stop = asyncio.Event()
    gc.set_threshold(100_000, 100, 100)  # nothing is collected unasked
    try:
        async with asyncio.TaskGroup() as group:
            ref = weakref.ref(Node())
            group.create_task(daemon.collect_when_idle(stop, every_s=0.001, busy=1e9, deep_s=1e9))
            await until(lambda: ref() is None)
            await until(lambda: gc.get_freeze_count() > before)
            kept = Node()
            again = weakref.ref(kept)
            for _ in range(daemon.MUCH + 1):
                gc.collect(1)
            count = gc.get_freeze_count()
            await until(lambda: gc.get_freeze_count() > count)
            assert not any(one is kept for one in gc.get_objects())
            del kept
            stop.set()
        assert again() is not None  # frozen: only a deep look finds it
        stop.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(daemon.collect_when_idle(stop, every_s=0.001, busy=1e9, deep_s=0.0))
            await until(lambda: again() is None)
            stop.set()
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
