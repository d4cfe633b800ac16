"""Hosts while they run: making them, their cables, and the ways into them.

A host is whatever PID 1 of it holds: network, mount, UTS and PID namespaces. Nothing in the
machine's own namespaces refers to it, so a host ends completely when its PID 1 ends.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cairn_lab.errors import LabError
from cairn_lab.host_process import HostSpec
from cairn_lab.starting import Starting, start_all
from cairn_lab.topology import BRIDGE


def start(specs: Mapping[str, HostSpec]) -> dict[str, Starting]:
    """Start the first processes of hosts side by side; returns when all have their files.

    The cgroups named in the specs exist. Raises HostFailed; then nothing is left running.
    """
    started = {
        name: Starting(f"host {name}", "cairn_lab.host_process", s) for name, s in specs.items()
    }
    start_all(started)
    return started


def enter(pid: int, argv: Sequence[str]) -> list[str]:
    """Command line that runs `argv` inside the host whose PID 1 is `pid`.

    Root and working directory are those of PID 1 (-r, -w): entering a mount namespace would
    leave a chroot in which the whole lab may live.
    """
    return ["nsenter", "-t", str(pid), "-n", "-m", "-u", "-p", "-r", "-w", "--", *argv]


def ip_batch(pid: int, commands: str) -> None:
    """Run `ip` commands in the network namespace of `pid`; raises LabError with the first error."""
    done = subprocess.run(
        ["nsenter", "-t", str(pid), "-n", "ip", "-batch", "-"],
        input=commands,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise LabError(f"cannot set up the network: {' '.join(done.stderr.split())[:300]}")


def cut(switch_pid: int, host: str) -> None:
    """Let the switch drop everything from and to `host`; idempotent.

    Its port leaves the bridge and keeps its carrier: to both ends that looks like a failed
    switch, not like a pulled plug, so no address or route of the host disappears.
    """
    ip_batch(switch_pid, f"link set dev {host} nomaster\n")


def heal(switch_pid: int, host: str) -> None:
    """Undo `cut`; idempotent."""
    ip_batch(switch_pid, f"link set dev {host} master {BRIDGE}\n")


def is_cut(switch_pid: int, host: str) -> bool:
    """Whether `cut` is in force for `host`."""
    # read through the root directory of the switch, whose /sys shows its own links
    link = Path(f"/proc/{switch_pid}/root/sys/class/net/{host}")
    return link.exists() and not (link / "master").exists()
