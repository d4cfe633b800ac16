"""How a daemon runs: start reading here.

A daemon's entry point is one call:

    def main() -> int:
        return daemon.main("cairn-dns", DnsConfig, build)

where `async def build(config) -> Daemon` makes the objects and lists their services. `main` parses
flags, loads settings, sets up logging and the loop, and `run` holds the services together until a
signal or a failure ends them. Exit codes: 0 asked to stop, 1 refused or failed, 2 wrong usage.
"""

import asyncio
import contextlib
import fcntl
import gc
import inspect
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import click
import msgspec
import uvloop

from cairn_core.errors import CairnError, LocalError, cause
from cairn_core.kit import logs
from cairn_core.kit.config import ConfigError, Loaded, load
from cairn_core.kit.flags import command

log = logging.getLogger(__name__)

C = TypeVar("C", bound=msgspec.Struct)

#: A part of a daemon that runs until the event is set, then returns.
Service: TypeAlias = Callable[[asyncio.Event], Awaitable[None]]


#: New objects after which the collector looks at them, and how often it does before it looks at
#: those that survived.
YOUNG, MIDDLE = 5_000, 5
#: More collections of the middle generation between two looks than this: some 50,000 objects.
MUCH = 2


class ServiceEnded(LocalError):
    """A service returned without being asked; that is a bug in it."""


@dataclass(frozen=True, slots=True)
class Daemon(Generic[C]):
    """What `build` gives to `main`.

    on_reload: called with the new settings on SIGHUP, after they were found right; wrong ones
        are logged and change nothing.
    grace_s: how long services may take to stop.
    """

    services: Sequence[Service]
    on_reload: Callable[[C], Awaitable[None] | None] | None = None
    grace_s: float = 10.0


async def run(
    *services: Service,
    grace_s: float = 10.0,
    on_reload: Callable[[], Awaitable[None] | None] | None = None,
) -> None:
    """Run services until one fails or a signal arrives.

    Each service gets one event; when it is set the service has `grace_s` seconds to return,
    then it is cancelled. A service that fails stops the others, and its exception leaves this
    function inside an ExceptionGroup; so does ServiceEnded when a service returns unasked.
    A second SIGTERM or SIGINT ends the grace. SIGHUP calls `on_reload`.
    """
    loop = asyncio.get_running_loop()
    stop, hurry, reload = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def on_stop() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    with _signals(
        loop, {signal.SIGTERM: on_stop, signal.SIGINT: on_stop, signal.SIGHUP: reload.set}
    ):
        async with asyncio.TaskGroup() as group:
            tasks = {
                group.create_task(_start(service, stop), name=_name(service))
                for service in services
            }
            stopping = group.create_task(stop.wait(), name="stopping")
            reloading = group.create_task(_reload_loop(reload, on_reload), name="reloading")
            notify("READY=1")
            done, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
            reloading.cancel()
            if stopping not in done:
                if any(task.exception() for task in done if not task.cancelled()):
                    # the group cancels the others and raises what the service raised
                    await asyncio.Event().wait()
                raise ServiceEnded(
                    "service ended unasked: " + ", ".join(sorted(task.get_name() for task in done))
                )
            notify("STOPPING=1")
            hurrying = group.create_task(hurry.wait(), name="hurrying")
            everything = group.create_task(_ended(tasks), name="everything")
            waiting: set[asyncio.Task[Any]] = {everything, hurrying}
            await asyncio.wait(waiting, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
            hurrying.cancel()
            late = [task for task in tasks if not task.done()]
            for task in late:
                log.warning("service did not stop in time, cancelled service=%s", task.get_name())
                task.cancel()


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)


async def _start(service: Service, stop: asyncio.Event) -> None:
    await service(stop)


async def _reload_loop(
    asked: asyncio.Event, on_reload: Callable[[], Awaitable[None] | None] | None
) -> None:
    while True:
        await asked.wait()
        asked.clear()
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        if on_reload is not None:
            try:
                result = on_reload()
                if inspect.isawaitable(result):
                    await result
            except CairnError as error:
                log.error("reload refused, keeping the old settings reason=%s", error)
            except Exception:
                # whatever it is, the daemon works by what it had
                log.exception("reload failed because of a bug")
        notify("READY=1")


@contextlib.contextmanager
def _signals(
    loop: asyncio.AbstractEventLoop, handlers: Mapping[signal.Signals, Callable[[], None]]
) -> Iterator[None]:
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _name(service: Service) -> str:
    return getattr(service, "__qualname__", type(service).__qualname__)


def notify(state: str) -> None:
    """Tell the supervisor (sd_notify protocol); does nothing without one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), target)
        except OSError as error:
            log.warning("supervisor not notified reason=%s", error)


def inherited_sockets() -> dict[str, list[socket.socket]]:
    """Sockets that the supervisor opened for us, by name (LISTEN_FDS, LISTEN_FDNAMES).

    Unnamed ones are called "unknown", as systemd does. The variables are removed, so that
    children do not take the sockets for theirs; a second call gives nothing.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()):
        return {}
    if not count.isdigit() or not 0 < int(count) <= 1024:
        raise LocalError(f"LISTEN_FDS is not a count of sockets: {count[:20]!r}")
    found: dict[str, list[socket.socket]] = {}
    for index in range(int(count)):
        try:
            sock = socket.socket(fileno=3 + index)
        except OSError as error:
            raise LocalError(f"inherited descriptor {3 + index} is no socket: {error}") from None
        sock.set_inheritable(False)
        sock.setblocking(False)
        name = names[index] if index < len(names) and names[index] else "unknown"
        found.setdefault(name, []).append(sock)
    return found


@contextlib.contextmanager
def work_dir_lock(path: Path) -> Iterator[None]:
    """Own a work directory (made if missing) while the block runs.

    The lock goes with the process, however it ends. Raises LocalError when another has it.
    """
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise LocalError(f"work directory {path} is used by process {owner}") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def enter_state_dir(stack: contextlib.ExitStack, path: Path) -> Path | None:
    """Own the directory where what is known is kept, until `stack` ends; None when it cannot be
    written, for a network daemon serves without.  Raises LocalError when another process has it."""
    try:
        stack.enter_context(work_dir_lock(path))
    except OSError as error:
        log.error("state_dir: nothing is kept directory=%s reason=%s", path, cause(error))
        return None
    return path


async def collect_when_idle(
    stop: asyncio.Event,
    *,
    every_s: float = 60.0,
    busy: float = 0.3,
    at_most_s: float = 900.0,
    deep_s: float = 86400.0,
) -> None:
    """Look for garbage in cycles when the process is idle, instead of in the middle of work.

    What survives is frozen, so that the next look only sees what came since. Where much came
    since the last look, that is data: looking at it all would hold up the loop, so it is frozen
    as it is. Cycles that become garbage later wait for the deep look at everything.

    every_s: how often to look. busy: fraction of a core used since the last look above which a
    collection is put off, but never for longer than `at_most_s`. deep_s: time between deep looks,
    which wait for an idle moment.
    """
    collected = deep = looked = time.monotonic()
    used = time.process_time()
    promoted = _promotions()
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await stop.wait()
                return
        now, cpu = time.monotonic(), time.process_time()
        idle = (cpu - used) / max(now - looked, 1e-3) < busy
        looked, used = now, cpu
        if _promotions() - promoted > MUCH:
            gc.freeze()
        elif idle and now - deep >= deep_s:
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            collected = deep = now
        elif idle or now - collected >= at_most_s:
            gc.collect()
            gc.freeze()
            collected = now
        else:
            continue
        promoted = _promotions()


def _promotions() -> int:
    """How often survivors were moved to the generation that only full collections look at."""
    return int(gc.get_stats()[1]["collections"])


def _tame_gc() -> None:
    """What start-up made stays; full collections no longer start by themselves."""
    gc.collect()
    gc.freeze()
    # A collection of the middle generation looks at up to YOUNG * MIDDLE objects: a few
    # milliseconds. The third number would start a full collection.
    gc.set_threshold(YOUNG, MIDDLE, 1_000_000)


def main(
    program: str,
    config_type: type[C],
    build: Callable[[C], Awaitable[Daemon[C]]],
    argv: Sequence[str] | None = None,
    *,
    env_prefixes: Iterable[str] = (),
    ignore_prefixes: Iterable[str] = (),
    foreign_file: bool = False,
    foreign_keys: Container[str] = (),
) -> int:
    """Run `program` as its command line says; returns the exit code.

    build: called inside the loop; what it raises ends the start with one line.
    argv: without the program's name; sys.argv when None.
    foreign_file: the file may be that of an original; foreign_keys: keys of it that are ignored;
        see `config.load`.
    """
    version = package_version("cairn")
    try:
        chosen = command(program, config_type, version).main(
            args=list(sys.argv[1:] if argv is None else argv), standalone_mode=False
        )
        if not isinstance(chosen, dict):
            return int(chosen or 0)  # --help and --version have done their work
        return _main(
            program,
            version,
            config_type,
            build,
            chosen,
            env_prefixes,
            ignore_prefixes,
            foreign_file,
            foreign_keys,
        )
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as error:
        print(f"{program}: {error.format_message().rstrip('.')} (see --help)", file=sys.stderr)
        return 2
    except click.Abort:
        return 1
    except CairnError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except ExceptionGroup as group:
        return _report(group)


def _main(
    program: str,
    version: str,
    config_type: type[C],
    build: Callable[[C], Awaitable[Daemon[C]]],
    chosen: dict[str, Any],
    env_prefixes: Iterable[str],
    ignore_prefixes: Iterable[str],
    foreign_file: bool,
    foreign_keys: Container[str],
) -> int:
    file = chosen.pop("config", None)
    check, show = chosen.pop("check_config"), chosen.pop("print_config")
    prefixes, ignored = tuple(env_prefixes), tuple(ignore_prefixes)

    def settings() -> Loaded[C]:
        return load(
            config_type,
            program=program,
            file=None if file is None else Path(file),
            env_prefixes=prefixes,
            ignore_prefixes=ignored,
            flags=chosen,
            foreign_file=foreign_file,
            foreign_keys=foreign_keys,
        )

    loaded = settings()
    if loaded.ignored:
        print(f"{program}: settings ignored: {', '.join(loaded.ignored)}", file=sys.stderr)
    if show:
        with contextlib.suppress(BrokenPipeError):  # `| head` has seen enough
            print("\n".join(loaded.lines()), flush=True)
    if show or check:
        return 0
    config = loaded.config
    logs.set_up(getattr(config, "log_level", "info"), getattr(config, "log_format", "plain"))
    changed = {source for source in loaded.sources.values() if source != "default"}
    log.info("starting program=%s version=%s settings=%s", program, version, sorted(changed))

    async def live() -> None:
        daemon = await build(config)

        def on_reload() -> Awaitable[None] | None:
            fresh = settings().config
            logs.set_up(getattr(fresh, "log_level", "info"), getattr(fresh, "log_format", "plain"))
            log.info("reloading settings")
            return None if daemon.on_reload is None else daemon.on_reload(fresh)

        _tame_gc()
        await run(*daemon.services, collect_when_idle, grace_s=daemon.grace_s, on_reload=on_reload)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live())
    log.info("stopped because asked to program=%s", program)
    return 0


def _report(group: BaseExceptionGroup[BaseException]) -> int:
    """One line per reason of ours, a traceback for what is a bug."""
    for error in _leaves(group):
        if isinstance(error, CairnError | ConfigError):
            log.error("stopped because %s", error)
        else:
            log.error("stopped because of a bug", exc_info=error)
    return 1


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
