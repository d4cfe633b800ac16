"""Starting a command and signalling all that came of it (fork(2), proc(5))."""

import contextlib
import os
import pwd
import signal
from collections.abc import Mapping
from typing import Any

FAILED = 127
SHELL = "/bin/sh"


def argv_of(command: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Program and arguments of a CommandInfo; argument 0 is what the framework says it is.

    Raises ValueError when there is nothing to run.
    """
    value = command.get("value")
    shell = command.get("shell")
    if shell is None or shell:
        if not value:
            raise ValueError("command.value: missing")
        return SHELL, ["sh", "-c", str(value)]
    arguments = [str(argument) for argument in command.get("arguments") or ()]
    if not value and not arguments:
        raise ValueError("command.value: missing")
    return str(value or arguments[0]), arguments or [str(value)]


def spawn(command: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    """Run a command in a session of its own; returns its process id.

    Raises OSError or ValueError with a text for the task's status when it cannot be executed.
    """
    program, argv = argv_of(command)
    user = command.get("user")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _execute(program, argv, environment, str(user) if user else None)
        except BaseException as error:
            text = getattr(error, "strerror", None) or str(error)
            os.write(write, f"cannot execute {program}: {text}".encode()[:1000])
        os._exit(FAILED)
    os.close(write)
    with open(read, "rb") as pipe:  # ends when the command is executed
        failure = pipe.read()
    if failure:
        os.waitpid(pid, 0)
        raise OSError(failure.decode(errors="replace"))
    return pid


def _execute(
    program: str, argv: list[str], environment: Mapping[str, str], user: str | None
) -> None:
    os.setsid()
    reset_signals()
    if user is not None and os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    if "/" in program:
        os.execve(program, argv, environment)
    missing: OSError = FileNotFoundError(2, "No such file or directory")
    for directory in environment.get("PATH", os.defpath).split(":"):
        try:
            os.execve(os.path.join(directory or ".", program), argv, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            missing = error
    raise missing


def reset_signals() -> None:
    """What a new program expects: nothing ignored, nothing blocked."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def tree(root: int) -> set[int]:
    """The process, all that descend from it, and all in its session."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="latin-1") as file:
                text = file.read()
        except OSError:
            continue
        words = text[text.rindex(")") + 2 :].split()
        parents[int(name)] = int(words[1])
        if int(words[3]) == root or int(name) == root:
            found.add(int(name))
    grew = True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grew = bool(more)
    return found - {os.getpid()}


def signal_tree(root: int, number: int) -> None:
    """Send a signal to all of `tree`. A kill stops everything first, so that nothing forks away."""
    members = tree(root)
    if number == signal.SIGKILL:
        _send(members, signal.SIGSTOP)
        members |= tree(root)
    _send(members, number)


def _send(members: set[int], number: int) -> None:
    for pid in members:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
