"""The ways to reach backends that the benchmarks of the layer-4 load balancer compare.

direct      the client dials the backends in turn; connections are tracked and NAT hooks loaded
nft         a plain rule: of the backends one by `numgen random`
mark        cairn-l4lb: the steering process chooses, and says so by a packet mark
mark-poll   likewise, and it does not sleep within 5 ms after a connection
ctnetlink   likewise, by a connection tracking entry, as the original
kernel      likewise, by weights that it gives the kernel
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.l4lb_cluster import app_rows, cluster_rows, vip_address
from bench.l4lb_daemon import daemon
from bench.l4lb_net import PORT, TRACKING, Client, Site

VIP = vip_address(0)

HOOKS = """
table inet hooks {
  chain output { type nat hook output priority -100; }
  chain prerouting { type nat hook prerouting priority -100; }
  chain input { type nat hook input priority 100; }
  chain postrouting { type nat hook postrouting priority 100; }
  chain track { type filter hook output priority 0; ct state invalid counter; }
}
"""
NUMGEN = """
table inet plain {
  chain output {
    type nat hook output priority -100;
    ip daddr %s tcp dport %d meta l4proto tcp dnat ip to numgen random mod %d map { %s }
  }
  chain prerouting { type nat hook prerouting priority -100; }
  chain input { type nat hook input priority 100; }
  chain postrouting { type nat hook postrouting priority 100; }
}
"""


#: Ways of cairn-l4lb, by name, with their settings.
OURS: dict[str, dict[str, object]] = {
    "mark": {"mode": "mark"},
    "mark-poll": {"mode": "mark", "busy_poll_ms": 5},
    "ctnetlink": {"mode": "ctnetlink"},
    "kernel": {"mode": "kernel"},
    "auto": {"mode": "auto"},
}


@dataclass(frozen=True, slots=True)
class Way:
    """One of them, ready.  steer: the steering process' id, None where there is none."""

    client: Client
    steer: int | None = None

    @property
    def name(self) -> str:
        """Which one."""
        return self.client.name

    def steer_cpu_s(self) -> float:
        """Processor seconds of the steering process."""
        return cpu_s(self.steer) if self.steer else 0.0


def cpu_s(pid: int) -> float:
    """Processor seconds of a process, all threads."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


@contextmanager
def direct(site: Site) -> Iterator[Way]:
    """No balancer; what every connection of a host with any NAT rule pays is there all the same."""
    with site.client("direct") as client:
        client.host.run("nft", "-f", "-", given=HOOKS)
        client.host.settings(TRACKING)
        yield Way(client)


@contextmanager
def nft(site: Site) -> Iterator[Way]:
    """The kernel alone, with the shortest rule that does it."""
    with site.client("nft", [f"{VIP}:{PORT}"]) as client:
        backends = ", ".join(f"{i} : {a} . {PORT}" for i, a in enumerate(site.backends))
        rules = NUMGEN % (VIP, PORT, len(site.backends), backends)
        client.host.run("nft", "-f", "-", given=rules)
        client.host.settings(TRACKING)
        yield Way(client)


@contextmanager
def ours(site: Site, name: str) -> Iterator[Way]:
    """Cairn's own."""
    with site.client(name, [f"{VIP}:{PORT}"]) as client:
        rows = [*cluster_rows(site.backends), *app_rows(0, site.backends, PORT)]
        with daemon(client, rows, 1, **OURS[name]) as (balancer, _master):
            client.host.settings(TRACKING)
            yield Way(client, balancer.steer())
