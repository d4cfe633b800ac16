"""Processes of the supervisor: starting, signalling, reaping, and the notification socket.

Everything is by system calls of our own, because asyncio and subprocess each want to reap their
children themselves while PID 1 has to reap everybody's. The caller must be single-threaded: a child
runs Python between fork and exec.
"""

import contextlib
import ctypes
import fcntl
import grp
import os
import pwd
import resource
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from cairn_core.errors import LocalError, Unavailable
from cairn_core.kit import units

#: systemd's own search path; the folder of our interpreter comes first for our own programs.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PR_SET_CHILD_SUBREAPER = 36
_CREDENTIALS = struct.Struct("3i")
_MAX_NOTIFICATION = 4096
_FIRST_FD = 3
# ip(7), ipv6(7) and socket(7); Python has no names for them
_IP_FREEBIND, _IPV6_FREEBIND, _SO_RCVBUFFORCE = 15, 78, 33


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ended, also when we are not PID 1."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def listen(unit: units.Socket) -> list[socket.socket]:
    """Open the sockets of a unit; raises Unavailable with the address."""
    made: list[socket.socket] = []
    try:
        for item in unit.listens:
            kind = socket.SOCK_STREAM if item.kind == "stream" else socket.SOCK_DGRAM
            if item.path is not None:
                sock = socket.socket(socket.AF_UNIX, kind)
                made.append(sock)
                Path(item.path).parent.mkdir(parents=True, exist_ok=True)
                Path(item.path).unlink(missing_ok=True)
                sock.bind(item.path)
                os.chmod(item.path, unit.mode)
            else:
                # like systemd, a bare port listens on IPv6 and through it on IPv4
                family = socket.AF_INET6 if ":" in item.host or not item.host else socket.AF_INET
                sock = socket.socket(family, kind)
                made.append(sock)
                _set_options(sock, unit)
                sock.bind((item.host or "::", item.port))
            if item.kind == "stream":
                sock.listen(unit.backlog)
    except OSError as error:
        for sock in made:
            sock.close()
        where = item.path or f"{item.host}:{item.port}"
        raise Unavailable(f"unit {unit.name}: cannot listen on {where}: {error.strerror}") from None
    return made


def _set_options(sock: socket.socket, unit: units.Socket) -> None:
    """What a unit says about its Internet sockets, before they are bound."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if unit.reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        if unit.ipv6_only != "default":
            only = int(unit.ipv6_only == "ipv6-only")
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        if unit.free_bind:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    elif unit.free_bind:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    if unit.receive_buffer is not None:
        try:  # beyond the kernel's limit when allowed
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, unit.receive_buffer)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, unit.receive_buffer)


def start(
    service: units.Service,
    argv: Sequence[str],
    output: Path,
    inherited: Sequence[tuple[str, socket.socket]],
    notify: str,
) -> int:
    """Start one command of a service in a session of its own; returns its pid.

    Raises LocalError for a program or user that does not exist, OSError otherwise.
    """
    environment = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8"}
    account = _account(service)
    if account is not None:
        environment |= {"USER": account.pw_name, "HOME": account.pw_dir, "LOGNAME": account.pw_name}
    environment |= service.environment
    for name in service.environment_files:
        try:
            environment |= units.parse_environment_file(Path(name.removeprefix("-")).read_text())
        except OSError:
            if not name.startswith("-"):
                raise
    if service.type == "notify":
        environment["NOTIFY_SOCKET"] = notify
    words = units.expand(argv, environment)
    program = shutil.which(words[0], path=f"{Path(sys.executable).parent}:{SEARCH_PATH}")
    if program is None:
        raise LocalError(f"no such program: {words[0]}")
    if inherited:
        environment["LISTEN_FDS"] = str(len(inherited))
        environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in inherited)
    gid = grp.getgrnam(service.group).gr_gid if service.group else None
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    told, tell = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            _child(
                service, program, words, environment, out, tell,
                [sock.fileno() for _, sock in inherited], account, gid,
            )  # fmt: skip
        os.close(tell)
        tell = -1
        problem = os.read(told, 4096)  # empty as soon as exec has worked
    finally:
        for descriptor in (out, told, tell):
            if descriptor >= 0:
                os.close(descriptor)
    if problem:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        raise LocalError(problem.decode(errors="replace"))
    return pid


def _account(service: units.Service) -> pwd.struct_passwd | None:
    if service.user is None:
        return None
    try:
        return pwd.getpwnam(service.user)
    except KeyError:
        raise LocalError(f"no such user: {service.user}") from None


def _child(
    service: units.Service,
    program: str,
    words: list[str],
    environment: dict[str, str],
    out: int,
    tell: int,
    sockets: list[int],
    account: pwd.struct_passwd | None,
    gid: int | None,
) -> NoReturn:
    """Between fork and exec; never returns."""
    try:
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.set_wakeup_fd(-1)
        # out of the way first, then down to where they are expected
        high = [_duplicate_above(fd, _FIRST_FD + len(sockets)) for fd in (out, tell, *sockets)]
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(high[0], 1)
        os.dup2(high[0], 2)
        tell = high[1]
        for index, fd in enumerate(high[2:]):
            os.dup2(fd, _FIRST_FD + index)
        if service.open_files is not None:
            hard = max(service.open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (service.open_files, hard))
        if sockets:
            environment["LISTEN_PID"] = str(os.getpid())
        if account is not None:
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid if gid is None else gid)
            os.setuid(account.pw_uid)
        elif gid is not None:
            os.setgid(gid)
        os.umask(0o022)
        os.chdir(service.directory or "/")
        os.execve(program, words, environment)
    except BaseException as error:
        # whatever it is, the parent has to learn it and this copy of it has to end
        os.write(tell, f"cannot run {program}: {error}".encode()[:4096])
    finally:
        os._exit(203)


def _duplicate_above(descriptor: int, lowest: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)


def ended() -> Iterator[tuple[int, int]]:
    """(pid, exit code) of every child that ended, orphans included; negative for a signal."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def send(pid: int, number: int, mode: units.KillMode) -> None:
    """Signal a service: all of its session, or only its main process.

    With "mixed" only SIGKILL reaches the others.
    """
    if mode == "none":
        return
    if mode == "control-group" or (mode == "mixed" and number == signal.SIGKILL):
        send_session(pid, number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def send_session(leader: int, number: int) -> None:
    """Signal every process of a session but its leader."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != leader and session_of(int(entry)) == leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry), number)


def session_of(pid: int) -> int | None:
    """Session of a process; None when it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def signal_number(value: object) -> int:
    """9, "9", "KILL" or "SIGKILL"; raises ValueError."""
    if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
        return signal.Signals(int(value)).value
    name = str(value).upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in signal.Signals.__members__:
        raise ValueError(f"no such signal: {str(value)[:20]!r}")
    return signal.Signals[name].value


def notify_socket(path: Path) -> socket.socket:
    """The datagram socket of the sd_notify protocol; the kernel names each sender."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    sock.bind(str(path))
    os.chmod(path, 0o666)
    return sock


def receive_notification(sock: socket.socket) -> tuple[str, int]:
    """One notification and the pid of its sender (0 when unknown)."""
    data, extra, _, _ = sock.recvmsg(_MAX_NOTIFICATION, socket.CMSG_SPACE(_CREDENTIALS.size))
    pid = 0
    for level, kind, value in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid = _CREDENTIALS.unpack(value[: _CREDENTIALS.size])[0]
    return data.decode(errors="replace"), pid
