"""The zygote: a process that does nothing but fork monitors for connections to its socket.

Started by the agent as `python -I -S <this file> SOCKET LOG CHECK PRELOAD...`. It binds SOCKET,
leaves the agent's session, and the first process ends with 0 once connections are accepted. It
reads nothing from a connection, so no input can harm it; the forked monitor does. PRELOAD names
modules to import beforehand (the command executor), whose memory all containers then share.

It ends on SIGTERM, or when a look every CHECK seconds finds its socket's name gone, or nobody to
serve: no monitor of its own lives, and no agent holds its lock (flock(2), shared) on the socket's
directory. It removes the name under the exclusive lock, so an agent that has locked finds either
a zygote that stays or none.
"""

import contextlib
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[4])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # last, so that nothing of ours hides the standard library

monitor = importlib.import_module("cairn_core.agent.containerizer.helper.monitor")


def bind(path: str) -> socket.socket:
    """Bind `path` for the owner only. Names longer than sun_path allows work too."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.umask(0o077)
        sock.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        return sock
    finally:
        os.close(directory)


def peer_uid(conn: socket.socket) -> int:
    """Who connected, as the kernel says."""
    _, uid, _ = struct.unpack("iII", conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def detach(sock: socket.socket, log: str) -> None:
    """Become a session of our own whose output goes to `log`; accept connections from now on.

    The kernel names the process that called listen(2) to those who ask for the peer, so the lasting
    process calls it, and the first one ends only then.
    """
    listening, tell = os.pipe()
    if os.fork():
        os.close(tell)
        os._exit(0 if os.read(listening, 1) else 1)
    os.setsid()
    sock.listen(128)
    os.write(tell, b"l")
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.closerange(4, 65536)  # 3 is the listening socket
    os.chdir("/")


def has_monitors() -> bool:
    """Whether a monitor lives; the kernel reaps them, so a dead one is none."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def retire(path: str) -> bool:
    """Whether nobody needs us; the socket's name is gone then."""
    if has_monitors():
        return False
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return True
    except BlockingIOError:  # an agent lives, or another zygote is just looking
        return False
    finally:
        os.close(directory)


def serve(sock: socket.socket, path: str, check_s: float) -> None:
    """Fork one monitor per connection until nobody can want one."""
    inode = os.stat(path).st_ino
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps monitors
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while True:
        if not poll.poll(check_s * 1000):
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode and not retire(path):
                    continue
            return
        try:
            conn, _ = sock.accept()
        except OSError:
            continue
        if peer_uid(conn) == os.geteuid():
            try:
                pid = os.fork()
            except OSError as error:
                print(f"cannot fork: {error}", file=sys.stderr, flush=True)
                pid = -1
            if pid == 0:
                sock.close()
                monitor.run(conn)
                os._exit(0)
        conn.close()


def main() -> None:
    """Entry point; see the module docstring."""
    path, log, check_s, *preload = sys.argv[1:]
    for name in preload:
        importlib.import_module(name)
    sock = bind(path)
    if sock.fileno() != 3:
        os.dup2(sock.detach(), 3)
        sock = socket.socket(fileno=3)
    detach(sock, log)
    gc.collect()
    gc.freeze()  # shared pages stay shared
    gc.disable()
    serve(sock, path, float(check_s))


if __name__ == "__main__":
    main()
