"""Starting processes that outlive us, so that none is left half-made.

The starter runs `python -m MODULE` and both sides exchange lines:

    in   a msgspec struct as JSON    what to do
    out  {"pid": N}                  the process that stays, as the starter sees it
    out  {"ready": true}             it is prepared
    in   go                          begin

The module's own process ends after its first line: what stays is its child, adopted by the
machine's init. End of input instead of `go` means that the starter died, and ends the child;
{"error": "..."} in place of any line says what went wrong.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from cairn_lab.errors import HostFailed

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment() -> dict[str, str]:
    """Environment of everything in the lab: Debian's search path, then our programs."""
    return {
        "PATH": f"{PATH}:{Path(sys.executable).parent}",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
    }


class Starting:
    """The starter's end: a process between its birth and its `go`."""

    def __init__(
        self, name: str, module: str, spec: msgspec.Struct, descriptors: Sequence[int] = ()
    ) -> None:
        """Start `module`; `descriptors` are inherited under the same numbers.

        name: what messages about it call it.
        """
        self.name = name
        #: The process that stays; 0 before `wait_pid`.
        self.pid = 0
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env=environment(),
            pass_fds=descriptors,
        )
        self._write(msgspec.json.encode(spec) + b"\n")

    def wait_pid(self, *, deadline: float) -> None:
        """Wait for the process that stays; `deadline` on the monotonic clock."""
        pid = self._read(deadline).get("pid")
        if not isinstance(pid, int):
            raise HostFailed(self.name, "its first process did not tell its id")
        self.pid = pid
        self._process.wait()

    def wait_ready(self, *, deadline: float) -> None:
        """Wait until it is prepared; `deadline` on the monotonic clock."""
        if self._read(deadline).get("ready") is not True:
            raise HostFailed(self.name, "its first process said something else than ready")

    def go(self) -> None:
        """Let it begin; from now on it lives without us."""
        self._write(b"go\n")
        self._close()

    def abandon(self) -> None:
        """Give up: the process ends, for its input does."""
        self._close()
        self._process.kill()
        self._process.wait()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise HostFailed(self.name, "its first process ended") from error

    def _read(self, deadline: float) -> dict[str, object]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            wait_s = deadline - time.monotonic()
            if wait_s <= 0 or not select.select([descriptor], [], [], wait_s)[0]:
                raise HostFailed(self.name, "its first process does not answer")
            if not (data := os.read(descriptor, 4096)):
                raise HostFailed(self.name, "its first process ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = msgspec.json.decode(line, type=dict[str, object])
        if error := message.get("error"):
            raise HostFailed(self.name, str(error))
        return message


def start_all(starting: Mapping[str, Starting], *, timeout_s: float = 30.0) -> None:
    """Bring processes that were started side by side to the point before `go`.

    Raises HostFailed; then all of them have been abandoned.
    """
    deadline = time.monotonic() + timeout_s
    try:
        for one in starting.values():
            one.wait_pid(deadline=deadline)
        for one in starting.values():
            one.wait_ready(deadline=deadline)
    except BaseException:
        for one in starting.values():
            one.abandon()
        raise


def say(message: Mapping[str, object]) -> None:
    """The started side's lines; a starter that is gone is noticed by `await_go`."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


def fork_and_tell() -> None:
    """Continue as the process that stays; the caller's process tells its id and ends."""
    told, telling = os.pipe()
    pid = os.fork()
    if pid:
        say({"pid": pid})
        os._exit(0)
    # only then may the child say something: the end of its parent ends the pipe
    os.close(telling)
    os.read(told, 1)
    os.close(told)


def await_go() -> None:
    """Return when the starter said `go`; end the process when it died instead."""
    if sys.stdin.buffer.readline() != b"go\n":
        os._exit(1)


def fail(error: Exception) -> NoReturn:
    """Tell the starter why there will be no process, and end."""
    say({"error": str(error)})
    os._exit(1)


def let_go(log: Path | None) -> None:
    """Replace the starter's pipes: input is empty, output goes to `log` or nowhere."""
    nothing = os.open(os.devnull, os.O_RDWR)
    output = nothing
    if log is not None:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    for descriptor in {nothing, output}:
        os.close(descriptor)
