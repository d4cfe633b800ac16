"""What the HTTP API tells of names, and when we are ready."""

import asyncio
from typing import Any

import pytest

from cairn_core.clusterview.io_source import ClusterSource
from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    NetworkRow,
    Row,
    TaskRow,
)
from cairn_dns.cluster_zone import ClusterZone
from cairn_dns.config import DnsConfig, record_rules, zone_settings
from cairn_dns.encode import Encoder
from cairn_dns.http_state import State
from cairn_dns.io_names import Names
from cairn_dns.table import Update

ROWS: list[Row] = [
    MasterRow("m1", "master1", "10.0.0.1", leads=True),
    AgentRow("c-S0", "agent1", "10.0.0.11"),
    FrameworkRow("F", "marathon", "10.0.0.21"),
    TaskRow(
        "web.1", "web", "F", "c-S0", "TASK_RUNNING", healthy=False,
        networks=(NetworkRow("n", ("9.0.0.5", "fd00::5")),), ports=((31000, 31000),),
    ),
    TaskRow("new.1", "new", "F", "c-S0", "TASK_STAGING"),
]  # fmt: skip


class Rig:
    """A state and what it is drawn from, at a time of its own."""

    def __init__(self, **settings: Any) -> None:
        self.now = 1000.0
        self.config = DnsConfig(masters=["10.0.0.1:5050"], **settings)
        zone = ClusterZone(record_rules(self.config, ()))
        encoder = Encoder(zone_settings(self.config))
        self.names = Names(zone, encoder, self.take, lambda: None, clock=lambda: self.now)
        self.source = ClusterSource(self.config.masters, self.names.on_changes)
        self.state = State(self.names, self.source, lambda: self.config, clock=lambda: self.now)

    async def take(self, update: Update) -> None:
        pass

    async def know(self, *rows: Row) -> None:
        changes = self.source.view.replace(rows or ROWS)
        assert changes is not None
        self.names.on_changes(changes)
        await self.names.apply()


async def test_who_gives_a_record_is_told() -> None:
    rig = Rig()
    await rig.know()
    told = rig.state.explain("web.marathon.mesos")
    by = {
        "kind": "task", "id": "web.1", "name": "web", "framework": "marathon", "agent": "c-S0",
        "ip_source": "netinfo", "state": "TASK_RUNNING", "healthy": False,
    }  # fmt: skip
    assert told == {
        "name": "web.marathon.mesos",
        "zone": "mesos",
        "exists": True,
        "records": [
            {"type": "A", "value": "9.0.0.5", "ttl": 60, "by": [by]},
            {"type": "AAAA", "value": "fd00::5", "ttl": 60, "by": [by]},
        ],
        "changed": "1970-01-01T00:16:40.000Z",
        "reason": None,
        "nearest": [],
        "serial": 1000,
        "source": {
            "kind": "none",
            "master": "10.0.0.1:5050",
            "masters": ["10.0.0.1:5050"],
            "age_s": None,
        },
    }


async def test_names_that_do_not_exist_get_a_reason() -> None:
    rig = Rig(dcos_zones=True)
    unknown = rig.state.explain("web.marathon.mesos")
    assert unknown["reason"] == "no state of the cluster is known yet"
    await rig.know()
    told = rig.state.explain("new.marathon.mesos")
    assert told["reason"] == "task 'new.1' exists, but it is TASK_STAGING"
    assert rig.state.explain("wob.marathon.mesos")["nearest"] == ["web.marathon.mesos"]
    auto = rig.state.explain("web.marathon.autoip.dcos.thisdcos.directory")
    assert (auto["zone"], auto["records"][0]["ttl"]) == ("dcos.thisdcos.directory", 5)
    foreign = rig.state.explain("example.org")
    assert (foreign["zone"], foreign["exists"]) == (None, False)
    assert foreign["reason"] == "not a name of the cluster"


@pytest.mark.parametrize("patience", [0.0, 30.0])
async def test_without_a_leader_we_are_not_ready_for_long(patience: float) -> None:
    rig = Rig(zk_detection_timeout=patience)
    assert rig.state.not_ready() == "no state of the cluster is known yet"
    await rig.know()
    assert rig.state.not_ready() is None
    rig.now += 31
    expected = "no leading master for 31 s" if patience else None
    assert rig.state.not_ready() == expected
    rig.source.in_step = True
    assert rig.state.not_ready() is None
    await rig.know(*ROWS[1:])
    rig.now += 31
    assert rig.state.not_ready() == expected


async def test_tables_are_told_in_numbers() -> None:
    rig = Rig()
    await rig.know()
    rig.now += 5
    await rig.know(*ROWS[:-2])
    told = rig.state.tables()
    assert told["rows"] == {"tasks": 0, "agents": 1, "frameworks": 1, "masters": 1, "held": 0}
    assert told["serial"] == 1005
    assert {"at": "1970-01-01T00:16:45.000Z", "name": "web.marathon.mesos", "types": ()} in (
        told["recent"]
    )
    assert rig.state.heard is None
    assert len(rig.state.enumerate_task(ROWS[3])) == 0  # type: ignore[arg-type]  # a task
    await asyncio.sleep(0)
