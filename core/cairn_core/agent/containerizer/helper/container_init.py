"""The container's first process: namespaces, mounts, user and limits, then the command.

Runs in the process the monitor forked, in the order that mesos-containerizer's launch helper uses
(docs/containerizers.md): namespaces, wait to be released, mounts, pre-exec commands, limits,
directory, user, no-new-privileges, execute. Everything that fails is reported as one line to the
monitor and ends the process with 127.
"""

import contextlib
import gc
import importlib
import os
import resource
import signal
import sys
from typing import Any, NoReturn

from cairn_core.agent.containerizer.helper import syscalls

FAILED = 127
Spec = dict[str, Any]


def run(spec: Spec, go: int, report: int, stdout: int, stderr: int) -> NoReturn:
    """Become the container. `go` is read once; `report` takes lines for the monitor."""
    try:
        signal.set_wakeup_fd(-1)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        _reset_signals()
        with contextlib.suppress(OSError):  # the zygote is dear to the kernel, a container is not
            _write("/proc/self/oom_score_adj", str(spec.get("oom_score_adj", 0)))
        for kind, path in spec.get("join", {}).items():
            syscalls.setns(path, kind)
        syscalls.unshare([n for n in spec.get("namespaces", ()) if n != "pid"])
        _say(report, "ready")
        if os.read(go, 1) != b"g":
            os._exit(FAILED)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        report = _keep_only(report)
        _prepare(spec)
        if spec.get("reap"):
            _reap_for(spec, report)
        _become(spec, report)
    except BaseException as error:
        _fail(report, error)
    os._exit(FAILED)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _say(report: int, line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(report, line.replace("\n", " ").encode() + b"\n")


def _fail(report: int, error: BaseException) -> None:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    _say(report, f"error {text}")


def _reset_signals() -> None:
    """Undo what the zygote, the monitor and the interpreter have set."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _keep_only(report: int) -> int:
    """Close every descriptor but 0, 1, 2 and the report, which moves to 3."""
    if report != 3:
        os.dup2(report, 3, inheritable=False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    return 3


def _prepare(spec: Spec) -> None:
    """All that needs privileges."""
    if "mnt" in spec.get("namespaces", ()):
        syscalls.mount("", "/", "", ["rec", "slave"])
    for source, target, fstype, flags, data in spec.get("mounts", ()):
        bind_ro = "bind" in flags and "ro" in flags
        syscalls.mount(source, target, fstype, [f for f in flags if not bind_ro or f != "ro"], data)
        if bind_ro:  # the kernel takes read-only only when a bind is mounted again
            syscalls.mount("", target, "", ["bind", "remount", "ro"])
    for path in spec.get("masked", ()):
        if os.path.isdir(path):
            syscalls.mount("tmpfs", path, "tmpfs", ["ro", "nosuid", "nodev", "noexec"], "size=0")
        elif os.path.exists(path):
            syscalls.mount(os.devnull, path, "", ["bind"])
    if spec.get("hostname"):
        _write("/proc/sys/kernel/hostname", spec["hostname"])
    for argv in spec.get("pre_exec", ()):
        _run_before(argv, spec.get("env", {}))
    for name, soft, hard in spec.get("rlimits", ()):
        resource.setrlimit(getattr(resource, name), (soft, hard))


def _run_before(argv: list[str], env: dict[str, str]) -> None:
    # Not in the zygote: subprocess brings threading, whose work after a fork makes 300 kB of every
    # process private.
    import subprocess

    done = subprocess.run(argv, capture_output=True, env=env, check=False)
    if done.returncode:
        text = done.stderr.decode(errors="replace")[-500:].strip()
        raise OSError(f"pre-exec command {argv[0]} exited with {done.returncode}: {text}")


def _become(spec: Spec, report: int) -> None:
    """Drop privileges and turn into the command; returns only by an exception."""
    os.umask(0o022)
    if spec.get("uid") is not None:
        os.setgroups(spec.get("groups", []))
        os.setgid(spec["gid"])
        os.setuid(spec["uid"])
    os.chdir(spec.get("cwd") or "/")  # as the user: it must be able to reach it
    if spec.get("no_new_privs"):
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    # Changing user clears it, so only now: a container never outlives its monitor.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    env = spec.get("env", {})
    if spec.get("entry"):
        _enter(spec["entry"], env, report)
    argv = spec["argv"]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _say(report, "exec")
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        raise OSError(f"cannot execute {argv[0]}: {error.strerror}") from None


def _enter(entry: str, env: dict[str, str], report: int) -> NoReturn:
    """Call a function of a module the zygote has loaded, as if it were the whole program."""
    # A process that changed its user and did not execute may not read its own /proc entries.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    syscalls.prctl(syscalls.PR_SET_NAME, b"cairn-executor")
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [entry]
    gc.enable()
    module, _, function = entry.partition(":")
    main = getattr(importlib.import_module(module), function)
    _say(report, "started")
    os.close(report)
    code = 1
    try:
        code = int(main() or 0)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        print(f"{entry}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _reap_for(spec: Spec, report: int) -> NoReturn:
    """Be process 1 for a command that was not written to be one: reap, forward, pass its end on."""
    heard, child_report = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(heard)
        try:
            os.setsid()
            _become(spec, child_report)
        except BaseException as error:
            _fail(child_report, error)
        os._exit(FAILED)
    os.close(child_report)
    syscalls.prctl(syscalls.PR_SET_NAME, b"cairn-init")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, _: _forward(child, received))
    with open(heard, "rb") as pipe:  # ends once the command runs
        said = pipe.read().splitlines()
    refused = [line for line in said if line.startswith(b"error ")]
    os.write(report, refused[0] + b"\n" if refused else b"started\n")
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            _say(report, f"result {status}")
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _forward(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)
