"""What the machine is: processors, memory, disk, name, address."""

import os
import socket
from pathlib import Path

from cairn_core.agent.config import Machine


def machine(work_dir: Path) -> Machine:
    """Size of this machine; the disk is the one that holds the work directory."""
    stat = os.statvfs(work_dir)
    return Machine(cpus(), memory_total(), stat.f_blocks * stat.f_frsize)


def address_towards(host: str, port: int) -> str:
    """Our address on the way to a host; the loopback address when there is no way.

    Nothing is sent: connecting a datagram socket only asks the routing table.
    """
    try:
        for family, kind, _, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as sock:
                sock.connect(target)
                return str(sock.getsockname()[0])
    except OSError:
        pass
    return "127.0.0.1"


def hostname() -> str:
    """The machine's own name; not asked of a name service, which may be ours and not up yet."""
    return socket.gethostname()


def load() -> tuple[float, float, float]:
    """Load averages over 1, 5 and 15 minutes."""
    return os.getloadavg()


def memory_free() -> int:
    """Bytes of memory that are free, as the kernel counts them."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_total() -> int:
    """Bytes of memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
