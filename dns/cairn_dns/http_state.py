"""What the HTTP API and its status pages show, drawn from the parts of the daemon."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from cairn_core.clusterview.io_source import ClusterSource
from cairn_core.clusterview.view import Snapshot
from cairn_core.mesos.feed_rows import TaskRow

from .config import DCOS_DOMAIN, DnsConfig
from .explain import near_names, why_not
from .givers import Explained, Giver
from .http_records import Enumerated, host_text, rfc3339
from .io_names import Names
from .wire import TYPE_NAMES
from .zone import RecordSet

#: Changes that /debug/state lists.
MAX_SHOWN = 100


class State:
    """Implements `http_api.Known`, and says whether we are ready."""

    def __init__(
        self,
        names: Names,
        source: ClusterSource,
        config: Callable[[], DnsConfig],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._names, self._source, self._config, self._clock = names, source, config, clock
        self._leader_seen = clock()

    @property
    def records(self) -> RecordSet:
        """All records."""
        return self._names.records

    @property
    def serial(self) -> int:
        """Of the zones."""
        return self._names.serial

    @property
    def snapshot(self) -> Snapshot:
        """The cluster."""
        return self._source.view.snapshot

    @property
    def heard(self) -> float | None:
        """When the cluster was last known to be so, seconds since the epoch."""
        age = self._source.age_s()
        return None if age == float("inf") else self._clock() - age

    def enumerate_task(self, task: TaskRow) -> Sequence[Enumerated]:
        """Records of a task as the original lists them."""
        return [Enumerated(*one) for one in self._names.zone.enumerate_task(task)]

    def not_ready(self) -> str | None:
        """Why no cluster is served, or none that has a leader."""
        now = self._clock()
        if not self._names.known:
            return "no state of the cluster is known yet"
        if self._source.in_step and self._names.zone.leader is not None:
            self._leader_seen = now
        patience = self._config().zk_detection_timeout
        if patience and now - self._leader_seen > patience:
            return f"no leading master for {now - self._leader_seen:.0f} s"
        return None

    # -- explanations --------------------------------------------------------------------------

    def explain(self, name: str) -> dict[str, Any]:
        """`/v1/explain/{name}`."""
        config, snapshot = self._config(), self.snapshot
        zones = self._zones(config)
        found = self._names.zone.explain(name)
        told: dict[str, Any] = {
            "name": name,
            "zone": _zone_of(name, zones),
            "exists": bool(found.records),
            "records": self._explained(found.records, name, config, snapshot),
            "changed": None if found.changed is None else rfc3339(found.changed),
            "reason": None,
            "nearest": [],
            "serial": self.serial,
            "source": self.source(),
        }
        if not found.records:
            told["reason"] = why_not(
                name, zones, snapshot, known=self._names.known,
                rfc952=config.rfc952, healthy_only=config.healthy_only,
            )  # fmt: skip
            told["nearest"] = near_names(name, self.records.names())
        return told

    def source(self) -> dict[str, Any]:
        """Where what we know comes from."""
        age, masters = self._source.age_s(), self._source.masters
        return {
            "kind": self._source.kind,
            "master": masters.leader or next(iter(masters.current), None),
            "masters": list(masters.current),
            "age_s": None if age == float("inf") else round(age, 3),
        }

    def _explained(
        self, records: Sequence[Explained], name: str, config: DnsConfig, snapshot: Snapshot
    ) -> list[dict[str, Any]]:
        ids = {giver.id for one in records for giver in one.givers if giver.kind == "task"}
        rows = {row.id: row for row in snapshot.tasks.values() if row.id in ids} if ids else {}
        ttl = 5 if _zone_of(name, self._zones(config)) == DCOS_DOMAIN else config.ttl
        return [
            {
                "type": TYPE_NAMES.get(one.type, str(one.type)),
                "value": host_text(one.type, one.value),
                "ttl": ttl,
                "by": [_giver(giver, rows.get(giver.id)) for giver in one.givers],
            }
            for one in records
        ]

    @staticmethod
    def _zones(config: DnsConfig) -> list[str]:
        return [config.zone, *([DCOS_DOMAIN] if config.dcos_zones else [])]

    # -- /debug/state --------------------------------------------------------------------------

    def tables(self) -> dict[str, Any]:
        """What is inside, in numbers, and the names that changed last."""
        names, zone, snapshot = self._names, self._names.zone, self.snapshot
        recent = list(names.recent)
        return {
            "serial": names.serial,
            "known": names.known,
            "source": self.source(),
            "rows": {
                "tasks": len(snapshot.tasks),
                "agents": len(snapshot.agents),
                "frameworks": len(snapshot.frameworks),
                "masters": len(snapshot.masters),
                "held": self._source.view.held,
            },
            "names": len(names.records),
            "records": {TYPE_NAMES[kind]: count for kind, count in names.records.counts.items()},
            "skipped": {"rows": dict(self._source.skipped), "records": dict(zone.skipped)},
            "hosts": {
                host: [host_text(1, address) for address in addresses]
                for host, addresses in sorted(names.hosts.addresses.items())
            },
            "recent": [
                {"at": rfc3339(one.at), "name": one.name, "types": one.types}
                for one in reversed(recent[-MAX_SHOWN:])
            ],
        }


def _zone_of(name: str, zones: Sequence[str]) -> str | None:
    inside = [zone for zone in zones if name == zone or name.endswith("." + zone)]
    return max(inside, key=len, default=None)


def _giver(giver: Giver, row: TaskRow | None) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": giver.kind, "id": giver.id, "name": giver.name}
    if giver.kind == "task":
        told |= {"framework": giver.framework, "agent": giver.agent}
    if giver.source:
        told["ip_source"] = giver.source
    if giver.kind == "task" and row is not None:
        told |= {"state": row.state, "healthy": row.healthy}
    return told
