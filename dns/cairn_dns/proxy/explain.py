"""Why a name is answered as it is: its route, its cache, the servers that would be asked."""

import math
from typing import Any

from cairn_dns.wire import AAAA, IN, SRV, TYPE_NAMES, A, text_name

from .ask import Ask
from .cache import Cache
from .message import RD, Question
from .metrics import place
from .race import Servers
from .routes import Kind, Routes
from .tables import LocalTables

_REASONS = {
    Kind.LOCAL: "answered by this host",
    Kind.MASTERS: "asked of the masters",
    Kind.ZONE: "asked of the servers of its zone",
    Kind.UPSTREAM: "asked of the upstream resolvers",
    Kind.RENAME: "renamed too often",
}


def explain(
    name: bytes,
    *,
    routes: Routes,
    cache: Cache,
    servers: Servers,
    tables: LocalTables,
    now: float,
) -> dict[str, Any]:
    """What would happen to a question for `name` (wire form); `now` as the cache takes it."""
    plan = routes.plan(name)
    real = name.lower()
    for rename in plan.renames:
        real = real[: len(real) - len(rename.shown)] + rename.real
    reason = _REASONS[plan.route.kind]
    if plan.route.kind is not Kind.LOCAL and not plan.route.servers:
        reason = f"refused: no servers are configured for {plan.route.zone}"
    return {
        "name": text_name(name),
        "route": {
            "kind": plan.route.kind.value,
            "zone": plan.route.zone,
            "reason": reason,
            "renames": [
                {"shown": text_name(one.shown), "real": text_name(one.real)} for one in plan.renames
            ],
            "asked_as": text_name(real),
        },
        "local": _local(text_name(real), tables),
        "cache": _cached(name, cache, now),
        "servers": [_server(servers, server, now) for server in plan.route.servers],
    }


def _local(name: str, tables: LocalTables) -> dict[str, Any] | None:
    """Zone and records of a name of this host."""
    zones = [z for z in tables.zones.values() if name == z.name or name.endswith("." + z.name)]
    if not zones:
        return None
    zone = max(zones, key=lambda one: len(one.name))
    # O(records of the zone), for people only.
    kinds = sorted(
        {TYPE_NAMES.get(kind, str(kind)) for owner, kind, _ in zone.records if owner == name}
    )
    return {
        "zone": zone.name,
        "generation": zone.generation,
        "ttl": zone.ttl,
        "exists": bool(kinds),
        "types": kinds,
    }


def _cached(name: bytes, cache: Cache, now: float) -> list[dict[str, Any]]:
    found = []
    for kind in (A, AAAA, SRV):
        for edns, dnssec in ((False, False), (True, False), (True, True)):
            ask = Ask(Question(name, kind, IN), RD, edns, dnssec)
            entry = cache.stale(ask.key(), now)
            if entry is not None:
                found.append(
                    {
                        "type": TYPE_NAMES[kind],
                        "edns": edns,
                        "dnssec": dnssec,
                        "age_s": round(now - entry.stored, 3),
                        "fresh_s": round(max(entry.fresh_until - now, 0), 3),
                        "stale_s": round(entry.stale_until - now, 3),
                    }
                )
    return found


def _server(servers: Servers, server: tuple[str, int], now: float) -> dict[str, Any]:
    return {"address": place(server)} | server_state(servers, server, now)


def server_state(servers: Servers, server: tuple[str, int], now: float) -> dict[str, Any]:
    """How a server did, for people."""
    state = servers.states.get(server)
    if state is None or math.isinf(state.asked_at):
        return {"asked": False}
    return {
        "asked": True,
        "latency_s": round(state.latency_s, 6),
        "score": round(state.score_at(now), 3),
        "dead": state.dead(now),
        "replies": state.replies,
        "failures": state.failures,
    }
