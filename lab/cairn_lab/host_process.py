"""The first process of a host: makes the namespaces, furnishes them, becomes PID 1.

Started by `hosts.start` in the way that `starting` describes. Cgroups come first, so that
`down` finds the process whatever happens later. Documents: namespaces(7), pid_namespaces(7).
"""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from cairn_lab import cgroups, kernel, starting

RUN = Path("/run")
FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
_NAMESPACES = kernel.CLONE_NEWNET | kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS | kernel.CLONE_NEWPID


class HostSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the first process of a host has to know."""

    hostname: str
    #: Joined before anything else; exists already.
    cgroup: str
    #: (source, target): files and directories of the lab that replace the machine's.
    binds: list[tuple[str, str]] = []
    #: What PID 1 runs at last; empty means to stay and reap, as a host without daemons does.
    argv: list[str] = []
    #: Where the output of PID 1 goes, as a path inside the host; None discards it.
    log: str | None = None


def main() -> NoReturn:
    """Read a HostSpec from standard input and become the host."""
    try:
        spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=HostSpec)
        os.setsid()  # a Ctrl-C at the terminal of the starter is not for us
        cgroups.join(spec.cgroup)
        kernel.unshare(_NAMESPACES)
        starting.fork_and_tell()
        _furnish(spec)
        starting.say({"ready": True})
        starting.await_go()
        starting.let_go(Path(spec.log) if spec.log else None)
        if spec.argv:
            os.execve(spec.argv[0], spec.argv, starting.environment())
    except (OSError, msgspec.DecodeError) as error:
        starting.fail(error)
    _stay()


def _furnish(spec: HostSpec) -> None:
    """Give the new mount namespace a /proc, /sys and /run of its own, and the host's files."""
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    quiet = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", str(RUN), "tmpfs", quiet, "mode=755")
    for name in ("cairn", "lock"):
        (RUN / name).mkdir()
    # A sysfs shows the network of the namespace that mounted it, but hides the cgroups
    # mounted below the old one: they are carried over by way of /run.
    aside = RUN / "cgroup"
    aside.mkdir()
    kernel.mount(str(cgroups.MOUNT_ROOT), str(aside), flags=kernel.MS_BIND | kernel.MS_REC)
    kernel.mount("sysfs", "/sys", "sysfs", quiet | kernel.MS_NOEXEC)
    kernel.mount(str(aside), str(cgroups.MOUNT_ROOT), flags=kernel.MS_BIND | kernel.MS_REC)
    kernel.unmount(str(aside))
    aside.rmdir()
    kernel.mount("proc", "/proc", "proc", quiet | kernel.MS_NOEXEC)
    for name in FORWARDING:
        Path("/proc/sys", name).write_text("1")  # for containers behind bridges of the host
    for source, target in spec.binds:
        _bind(source, target)
    kernel.sethostname(spec.hostname)


def _bind(source: str, target: str) -> None:
    """Put `source` in the place of `target`, which exists unless it leads into /run."""
    real = Path(os.path.realpath(target))
    if real.is_relative_to(RUN):
        # /etc/resolv.conf often is a link into /run, which is empty now
        real.parent.mkdir(parents=True, exist_ok=True)
        real.touch()
    kernel.mount(source, str(real), flags=kernel.MS_BIND)


def _stay() -> NoReturn:
    """Be a PID 1 that only reaps; SIGTERM ends it and with it the host."""
    awaited = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    while signal.sigwait(awaited) != signal.SIGTERM:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    os._exit(0)


if __name__ == "__main__":
    main()
