"""The monitor: parent of one container, which writes down how the container ended.

Keys of the specification (all optional but `id`, `status`, and one of `argv` and `entry`):

- `id`; `status`: path that receives the wait status as a decimal number (wait(2));
- `argv`: command to execute; or `entry`: `module:function` to call in the forked process;
- `env`: the whole environment; `cwd`; `uid`, `gid`, `groups`;
- `namespaces`: kinds to leave (`mnt pid ipc uts net`); `join`: kind -> path to enter instead;
- `mounts`: `[source, target, type, [flags], data]` in order; `hostname`; `masked`: paths to hide;
- `rlimits`: `[RLIMIT_NAME, soft, hard]`; `no_new_privs`; `pre_exec`: commands as root before it;
- `reap`: run `argv` below a small init (wanted in a process namespace);
- `stdout`, `stderr`: `{"dir", "name", "max_bytes", "keep"}`.

The monitor is a child subreaper: whatever the container leaves behind becomes its child and is
killed once the container's first process has ended.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from cairn_core.agent.containerizer.helper import container_init, syscalls
from cairn_core.agent.containerizer.helper.logsink import READ_BYTES, LogSink

MAX_SPEC_BYTES = 8 << 20
SPEC_TIMEOUT_S = 60.0
KILL_AGAIN_S = 0.05

Spec = dict[str, Any]


class Connection:
    """Line-wise JSON with the agent on a stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock: socket.socket | None = sock
        self._buffer = b""

    def read(self) -> Any | None:
        """Next object, waiting for it; None when the agent is gone or talks nonsense."""
        while b"\n" not in self._buffer:
            if self.sock is None or len(self._buffer) > MAX_SPEC_BYTES:
                return None
            try:
                data = self.sock.recv(1 << 16)
            except OSError:
                return None
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError:
            return None

    def send(self, message: Spec) -> None:
        """Send if the agent is still there."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.sendall(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """End the conversation; harmless when repeated."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None


def write_status(path: str, status: int) -> None:
    """Write the wait status so that it is there whole or not at all, also if we are killed.

    It need not outlive the machine's kernel (see runtime_dir.py), so nothing waits for a disk.
    """
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, str(status).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path)


class Monitor:
    """Starts one container and waits for it."""

    def __init__(self, spec: Spec, agent: Connection) -> None:
        self.spec = spec
        self.agent = agent
        self.init = 0  # process id of the container's first process, 0 before it exists
        self.status: int | None = None  # its wait status once it has ended
        self.sinks: dict[int, LogSink] = {}  # read end of a pipe -> file
        self.report = -1  # read end: what the init has to say
        self.go = -1  # write end: one byte releases the init
        self._said = b""  # the init's report so far
        self._executing = False  # the init has come as far as execve(2)
        self._result: int | None = None  # status of the command below a reaping init

    def run(self) -> None:
        """The whole life of a container."""
        self._fork()
        wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._reap()  # the init may have ended before the wake-up was set
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(self.report, select.POLLIN)
        for fd in self.sinks:
            poll.register(fd, select.POLLIN)
        if self.agent.sock is not None:
            poll.register(self.agent.sock, select.POLLIN)
        while self.status is None:
            for fd, _ in poll.poll():
                if fd == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                    self._reap()
                elif fd == self.report:
                    if not self._hear():
                        poll.unregister(fd)
                elif fd in self.sinks:
                    if not self._pump(fd):
                        poll.unregister(fd)
                elif self.agent.sock is not None and fd == self.agent.sock.fileno():
                    poll.unregister(fd)
                    self._obey()
        self._finish()

    def _fork(self) -> None:
        spec = self.spec
        outputs = []
        for name in ("stdout", "stderr"):
            outputs.append(self._output(spec.get(name)))
        if "pid" in spec.get("namespaces", ()):
            syscalls.unshare(["pid"])
        self.report, report_write = os.pipe2(os.O_CLOEXEC)
        go_read, self.go = os.pipe2(os.O_CLOEXEC)
        self.init = os.fork()
        if self.init == 0:
            os.close(self.go)  # else the init would never see it closed
            os.close(self.report)
            self.agent.close()
            container_init.run(spec, go_read, report_write, outputs[0], outputs[1])
        os.close(report_write)
        os.close(go_read)
        for fd in outputs:
            os.close(fd)

    def _output(self, where: Spec | None) -> int:
        """Descriptor for the container to write to."""
        if where is None:
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        sink = LogSink(where["dir"], where["name"], where["max_bytes"], where["keep"])
        if not where["max_bytes"]:
            return sink.fileno()
        read, write = os.pipe2(os.O_CLOEXEC)
        if self.spec.get("uid") is not None:
            # Opening /dev/stdout anew checks the owner of the pipe.
            os.fchown(write, self.spec["uid"], self.spec.get("gid", -1))
        os.set_blocking(read, False)
        self.sinks[read] = sink
        return write

    def _hear(self) -> bool:
        """Read the init's report; False at its end."""
        data = os.read(self.report, 65536)
        if data:
            self._said += data
            while b"\n" in self._said:
                line, _, self._said = self._said.partition(b"\n")
                self._heard(line.decode(errors="replace"))
            return True
        if self._executing:  # and nothing was said since: the kernel closed the report
            self.agent.send({"started": True})
            self.agent.close()
        return False

    def _heard(self, line: str) -> None:
        word, _, text = line.partition(" ")
        if word == "ready":
            self.agent.send({"pid": self.init, "monitor": os.getpid()})
        elif word == "exec":
            self._executing = True
        elif word == "started":
            self.agent.send({"started": True})
            self.agent.close()
        elif word == "error":
            self.agent.send({"error": text})
            self.agent.close()
        elif word == "result":
            self._result = int(text)

    def _obey(self) -> None:
        """Release the container, or end it because the agent is gone or gave up."""
        answer = self.agent.read()
        if isinstance(answer, dict) and answer.get("go") is True:
            with contextlib.suppress(OSError):
                os.write(self.go, b"g")
        elif self.go != -1:
            self.agent.close()
            os.kill(self.init, signal.SIGKILL)
        if self.go != -1:
            os.close(self.go)
            self.go = -1

    def _pump(self, fd: int) -> bool:
        """Copy what is there from a pipe to its file; False at the end of the pipe."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return True
        if data:
            self.sinks[fd].write(data)
        return bool(data)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.init:
                self.status = status

    def _finish(self) -> None:
        assert self.status is not None
        while self._hear():
            pass
        status = self.status if self._result is None else self._result
        try:
            write_status(self.spec["status"], status)
        except OSError as error:
            print(f"{self.spec.get('id')}: cannot write {self.spec['status']}: {error}", flush=True)
        self._kill_rest()
        for fd, sink in self.sinks.items():
            with contextlib.suppress(BlockingIOError):
                while data := os.read(fd, READ_BYTES):
                    sink.write(data)

    def _kill_rest(self) -> None:
        """Kill what the container left; the kernel hands us every orphan in turn."""
        children = f"/proc/self/task/{os.getpid()}/children"
        while True:
            try:
                with open(children) as file:
                    rest = [int(word) for word in file.read().split()]
                for pid in rest:
                    os.kill(pid, signal.SIGKILL)
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            except OSError:
                pass
            time.sleep(KILL_AGAIN_S)


def validate(spec: Any) -> None:
    """ValueError unless this is a specification, before anything is forked for it."""
    if not isinstance(spec, dict) or not isinstance(spec.get("id"), str):
        raise ValueError("not a specification with an id")
    if not str(spec.get("status", "")).startswith("/"):
        raise ValueError("status: not an absolute path")
    if not spec.get("entry") and not (isinstance(spec.get("argv"), list) and spec["argv"]):
        raise ValueError("neither argv nor entry")


def run(sock: socket.socket) -> NoReturn:
    """Life of a monitor on a connection to the agent; leaves the process."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    agent = Connection(sock)
    code = 1
    try:
        os.setsid()
        sock.settimeout(SPEC_TIMEOUT_S)
        spec = agent.read()
        if spec is not None:
            validate(spec)
            sock.settimeout(None)
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
            syscalls.prctl(syscalls.PR_SET_NAME, b"cairn-monitor")
            Monitor(spec, agent).run()
            code = 0
    except (OSError, KeyError, TypeError, ValueError) as error:
        agent.send({"error": f"{type(error).__name__.lower()}: {error}"})
        print(f"monitor {os.getpid()}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)
