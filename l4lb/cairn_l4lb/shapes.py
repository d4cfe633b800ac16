"""What the HTTP API answers: the originals' shapes, and ours that tell more.

dcos/minuteman `src/minuteman_api.erl`, `src/minuteman_wm.erl`; dcos-net
`apps/dcos_rest/src/dcos_rest_vips_handler.erl`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from cairn_core.clusterview.view import Snapshot
from cairn_core.vips.names import ZONE

from .histogram import figures_ns, quantile
from .model import Backend, BackendKey, Service, Vip
from .stats import BackendStats, Stats

#: Errors of the original come with status 200.
NO_BACKENDS, BAD_VIP, BAD_BACKEND = (
    {"error": name} for name in ("no_backends", "invalid_vip", "invalid_backend")
)


def key_of(vip: Vip, backend: Backend) -> BackendKey:
    """How a backend is counted, whatever VIPs it serves."""
    return vip.protocol, backend.address, backend.port


# -- the original's ---------------------------------------------------------------------------


def add_vips(found: dict[str, Any], services: Iterable[Service], stats: Stats, now: float) -> None:
    """Add to `/vips`: backends by VIP.

    The original knows TCP only; a UDP VIP is shown where no TCP one has its address and port.
    """
    for service in services:
        if service.vip.text not in found or service.vip.protocol == "tcp":
            found[service.vip.text] = one_vip(service, stats, now)


def one_vip(service: Service, stats: Stats, now: float) -> dict[str, Any]:
    """`/vip/<ip:port>`: objects by backend."""
    return {
        one.text: backend_object(stats.backend(key_of(service.vip, one)), now)
        for one in service.backends
    }


def backend_object(stats: BackendStats, now: float) -> dict[str, Any]:
    """A backend as the original shows it."""
    counts, seconds = stats.minute.get(now)
    return {
        "is_healthy": stats.now.open,
        # Differs: the original reads it under another name than it writes, so has nothing here
        "latency_last_60s": figures_ns(counts, seconds),
        "pending_connections": stats.now.pending,
        "ewma_cost": round(stats.now.ewma_ns * (stats.now.pending + 1)),  # Compat: 1.7 had it
        "total_failures": stats.failures,
        "total_sucesses": stats.successes,  # Compat: the original's spelling
    }


def dcos_net_vips(services: Iterable[Service]) -> list[dict[str, Any]]:
    """`/v1/vips` of dcos-net: VIPs by name, drained backends too."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for service in services:
        if service.backends:
            backends = found.setdefault((service.vip.protocol, full_name(service)), [])
            backends += [{"ip": one.address, "port": one.port} for one in service.backends]
    return [
        {"vip": name, "protocol": protocol, "backend": backends}
        for (protocol, name), backends in sorted(found.items(), key=lambda one: one[0][::-1])
    ]


def full_name(service: Service) -> str:
    """`web.marathon.l4lb.thisdcos.directory:80`, or address and port where there is no name."""
    if not service.name:
        return service.vip.text
    return f"{service.name}.{ZONE}:{service.vip.port}"


def members(snapshot: Snapshot) -> list[dict[str, Any]]:
    """`/lashup/gm`: the hosts of the cluster; there is no gossip, the master knows them."""
    found = []
    for agent in sorted(snapshot.agents.values(), key=lambda row: row.id):
        if agent.ip:
            found.append(_member(agent.ip, agent.hostname, agent.active and not agent.recovering))
    for master in sorted(snapshot.masters.values(), key=lambda row: row.id):
        found.append(_member(master.ip, master.hostname, True))
    return found


def _member(address: str, hostname: str, reachable: bool) -> dict[str, Any]:
    return {
        "node": f"minuteman@{address}",
        "metadata": {"ips": [address], "hostname": hostname},
        "reachable": reachable,
    }


def views(snapshot: Snapshot) -> tuple[list[str], list[str]]:
    """`/lashup/active_view` and `passive_view`: the master that is followed, and the others."""
    masters = sorted(snapshot.masters.values(), key=lambda row: row.id)
    return (
        [f"minuteman@{one.ip}" for one in masters if one.leads],
        [f"minuteman@{one.ip}" for one in masters if not one.leads],
    )


# -- ours -------------------------------------------------------------------------------------


def service_object(
    service: Service, stats: Stats, now: float, served: Mapping[str, Any]
) -> dict[str, Any]:
    """A VIP with everything that is known of it.

    served: options as they are where the VIP's own say nothing. Figures of a backend are those of
    its address and port, by whatever VIP its connections came: health has to be, and so are they.
    """
    vip, counts = service.vip, stats.vip(service.vip)
    own = msgspec.to_builtins(service.options)
    return {
        "vip": vip.text,
        "protocol": vip.protocol,
        "name": full_name(service) if service.name else None,
        "options": {**served, **{key: value for key, value in own.items() if value is not None}},
        "decided_by": decided_by(vip, stats),
        "rate": round(counts.now.rate, 2),
        "picks": counts.picks,
        "refused": counts.refused,
        "failovers": counts.failovers,
        "backends": [_backend(vip, one, stats, now) for one in service.backends],
    }


def decided_by(vip: Vip, stats: Stats) -> str:
    """Who chooses now, `kernel` or `daemon`.  What the kernel does is sampled, so estimated."""
    return "kernel" if vip in stats.promoted else "daemon"


def in_order(services: Iterable[Service]) -> list[Service]:
    """By name, those without one last, then by address, port and protocol."""
    return sorted(services, key=_place_in_order)


def _place_in_order(service: Service) -> tuple[bool, str, bool, str, int, str]:
    vip = service.vip
    return not service.name, service.name, vip.ipv6, vip.address, vip.port, vip.protocol


def _backend(vip: Vip, backend: Backend, stats: Stats, now: float) -> dict[str, Any]:
    found = stats.backend(key_of(vip, backend))
    counts, seconds = found.minute.get(now)
    return {
        "backend": backend.text,
        "state": state_of(backend, found),
        "why": backend.why or None,
        "weight": backend.weight,
        "slot": backend.slot,
        "task": backend.task_id or None,
        "agent": backend.agent_address or None,
        "zone": backend.zone or None,
        "picks": found.picks,
        "successes": found.successes,
        "failures": found.failures,
        "consecutive_failures": found.now.consecutive_failures,
        "pending": found.now.pending,
        "closed_for_s": round(found.now.closed_for_s, 3),
        "p50_ms": _ms(quantile(counts, 0.5, seconds)),
        "p99_ms": _ms(quantile(counts, 0.99, seconds)),
    }


def state_of(backend: Backend, stats: BackendStats) -> str:
    """One word; `Backend.why` says why what is drained is."""
    if backend.weight == 0:
        return "drained"
    if not stats.now.open:
        return "closed"
    return "open" if backend.reachable else "unreachable"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


# -- rates, for who watches -------------------------------------------------------------------


class Rates:
    """Counts a second between two looks.  Only backends that were busy, or are not open, tell."""

    def __init__(self) -> None:
        self._before: dict[BackendKey, tuple[int, int, int]] = {}
        self._at: float | None = None

    def look(
        self, services: Sequence[Service], stats: Stats, now: float, limit: int
    ) -> list[dict[str, Any]]:
        """VIPs with something to tell, the busiest first, at most `limit` backends of all."""
        passed = max(now - self._at, 1e-3) if self._at is not None else None
        self._at = now
        before, self._before = self._before, {}
        found: list[dict[str, Any]] = []
        for service in services:
            rows = []
            for one in service.backends:
                key = key_of(service.vip, one)
                known = stats.backends.get(key)
                if known is None:
                    continue
                counts = known.picks, known.successes, known.failures
                self._before[key] = counts
                old = before.get(key, counts)
                state = state_of(one, known)
                if counts == old and known.now.pending == 0 and state == "open":
                    continue
                picks, successes, failures = (
                    round((new - last) / passed, 2) if passed else 0.0
                    for new, last in zip(counts, old, strict=True)
                )
                minute, seconds = known.minute.get(now)
                rows.append(
                    {
                        "backend": one.text,
                        "state": state,
                        "why": one.why or None,
                        "rate": picks,
                        "successes": successes,
                        "failures": failures,
                        "pending": known.now.pending,
                        "p50_ms": _ms(quantile(minute, 0.5, seconds)),
                        "p99_ms": _ms(quantile(minute, 0.99, seconds)),
                    }
                )
            if rows:
                found.append(
                    {
                        "vip": service.vip.text,
                        "protocol": service.vip.protocol,
                        "name": full_name(service) if service.name else None,
                        "decided_by": decided_by(service.vip, stats),
                        "rate": round(stats.vip(service.vip).now.rate, 2),
                        "backends": rows,
                    }
                )
        found.sort(key=lambda one: (-one["rate"], one["vip"]))
        return _bounded(found, limit)


def _bounded(found: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    kept = []
    for one in found:
        if limit <= 0:
            break
        if len(one["backends"]) > limit:
            one = {**one, "backends": one["backends"][:limit]}
        limit -= len(one["backends"])
        kept.append(one)
    return kept
