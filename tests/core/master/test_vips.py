"""Names of VIPs get addresses: recorded before they are told, kept, and released when idle."""

import contextlib
from collections.abc import Sequence
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.extensions import FrameworkId
from cairn_core.master.feed import FeedRows
from cairn_core.master.metrics_snapshot import Tally
from cairn_core.master.registry import RegistryImage, read_registry
from cairn_core.master.state.effects import Change, VipChanged, VipsRefused
from cairn_core.master.state.records import StaticTask
from cairn_core.master.state.settings import Settings
from cairn_core.master.state.vips import names_of
from cairn_core.mesos import agent_api, scheduler_api, types
from cairn_core.mesos.containers import (
    ContainerInfo,
    DockerInfo,
    HealthCheck,
    HealthCheckTcp,
    PortMapping,
)
from cairn_core.mesos.feed_rows import (
    TaskRow,
    VipRow,
    decode_row,
    discovery_ports,
    task_row,
    vip_labels,
)
from cairn_core.mesos.types import TaskState
from cairn_core.testing.master_rig import INFO, MasterRig, task
from cairn_core.vips.addresses import AddressRange, Given
from cairn_core.vips.labels import declared
from cairn_core.vips.names import BadName, full_name
from cairn_scheduler.allocator import HierarchicalDrf

NGINX = Given("11.112.175.214", "fd01:c::40c2:fc7e:db38:c4ce")
DAY_S = 86400.0


class Feed:
    """What the feed would publish."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        self.rows[key] = value

    def delete(self, key: str) -> None:
        self.rows.pop(key, None)

    def vips(self) -> dict[str, VipRow]:
        rows = [decode_row(k, v) for k, v in self.rows.items() if k.startswith("vip/")]
        return {row.name: row for row in rows if isinstance(row, VipRow)}


class VipRig(MasterRig):
    """A rig with a feed and a registry that is read again."""

    def __init__(self, registry: RegistryImage | None = None, **settings: object) -> None:
        super().__init__(
            HierarchicalDrf(Random(1)),
            Settings(**settings),  # type: ignore[arg-type]  # by name
            registry,
            epoch=2 if registry is not None else 1,
        )
        self.feed = Feed()
        self.rows = FeedRows(self.feed)
        self.rows.begin(self.cluster, INFO)

    def published(self) -> dict[str, VipRow]:
        """The rows of VIPs once the feed has followed all changes."""
        for change in self.changes:
            self.rows.changed(change)
        self.changes.clear()
        return self.feed.vips()

    def vip_writes(self) -> list[list[str]]:
        """Keys of VIPs in each write so far; `-` before those that were removed."""
        writes = [
            ["-" * (r.value is None) + r.key for r in one.records if r.key.startswith("vip/")]
            for one in self.stored
        ]
        return [keys for keys in writes if keys]

    def registry(self) -> RegistryImage:
        """What the next master reads."""
        held = {}
        for one in self.stored:
            for record in one.records:
                held[record.key] = (record.key, record.value, record.schema)
        return read_registry((k, v, schema) for k, v, schema in held.values() if v is not None)

    def launch(self, framework_id: str, agent_id: str, task_id: str, *labels: str) -> None:
        """Launch a task whose port has such labels."""
        self.allocate()
        one = task(task_id, agent_id, "cpus:0.1;mem:32", discovery=port(labels))
        self.accept(framework_id, one, refuse_s=0.0)
        assert task_id in self.cluster.frameworks[FrameworkId(framework_id)].tasks


def port(values: Sequence[str]) -> types.DiscoveryInfo:
    labels = tuple(types.Label(f"VIP_{n}", value) for n, value in enumerate(values))
    one = types.Port(80, "http", "tcp", labels=types.Labels(labels))
    return types.DiscoveryInfo("FRAMEWORK", ports=types.Ports((one,)))


@pytest.fixture
def rig() -> VipRig:
    return VipRig()


def test_a_name_is_recorded_before_it_is_told(rig: VipRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework("marathon")
    rig.hold_writes = True
    rig.launch(framework_id, agent_id, "t1", "/nginxdocker:80")
    assert rig.published() == {}
    assert rig.cluster.vips.storing == {"nginxdocker.marathon"}
    rig.write()
    assert rig.vip_writes() == [["vip/nginxdocker.marathon"]]
    assert rig.published() == {"nginxdocker.marathon": VipRow("nginxdocker.marathon", *NGINX)}
    assert rig.registry().vips == {"nginxdocker.marathon": NGINX}


def test_a_known_name_costs_no_write_and_many_names_cost_one(rig: VipRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework("marathon")
    rig.launch(framework_id, agent_id, "t1", "/b:80", "/a:80", "1.2.3.4:80", "/a:81", "odd")
    rig.launch(framework_id, agent_id, "t2", "/a:82", "B:80")
    assert rig.vip_writes() == [["vip/a.marathon", "vip/b.marathon"]]
    rig.allocate()
    some = [
        task(f"u{n}", agent_id, "cpus:0.1;mem:32", discovery=port([f"/u{n}:80"])) for n in range(20)
    ]
    rig.accept(framework_id, *some)
    assert len(rig.vip_writes()) == 2
    assert len(rig.published()) == 22


def test_task_labels_ask_for_names_as_well(rig: VipRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework("marathon")
    rig.allocate()
    labels = types.Labels((types.Label("vip_PORT0", "tcp://web:80"), types.Label("VIP_0", "x:1")))
    rig.accept(framework_id, task("t1", agent_id, labels=labels))
    assert set(rig.published()) == {"web.marathon"}


def test_an_idle_name_keeps_its_address_for_a_week(rig: VipRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework("marathon", failover_timeout=1e9)
    rig.launch(framework_id, agent_id, "t1", "/nginxdocker:80", "/other:80")
    rig.update(1, framework_id, "t1", TaskState.FINISHED)
    acknowledge(rig, framework_id, agent_id, "t1")
    assert set(rig.cluster.vips.idle) == {"nginxdocker.marathon", "other.marathon"}
    rig.pass_time(6 * DAY_S)
    assert len(rig.published()) == 2
    rig.hold_writes = True
    rig.pass_time(DAY_S + 1)
    assert len(rig.published()) == 2, "not before it is written"
    rig.write()
    assert rig.published() == {}
    assert rig.registry().vips == {}
    assert rig.vip_writes()[-1] == ["-vip/nginxdocker.marathon", "-vip/other.marathon"]
    assert rig.cluster.vips.timer is None


def test_a_name_that_is_asked_for_again_is_not_idle(rig: VipRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework("marathon", failover_timeout=1e9)
    rig.launch(framework_id, agent_id, "t1", "/web:80")
    rig.update(1, framework_id, "t1", TaskState.FINISHED)
    acknowledge(rig, framework_id, agent_id, "t1")
    rig.launch(framework_id, agent_id, "t2", "/web:80")
    assert rig.cluster.vips.idle == {}
    assert rig.vip_writes() == [["vip/web.marathon"]]


def acknowledge(rig: VipRig, framework_id: str, agent_id: str, task_id: str) -> None:
    uuid = TaskState.FINISHED.encode().ljust(16)[-16:]
    body = scheduler_api.Acknowledge(types.AgentID(agent_id), types.TaskID(task_id), uuid)
    rig.call(framework_id, "ACKNOWLEDGE", acknowledge=body)


def test_a_name_that_is_asked_for_while_it_is_forgotten_gets_an_address() -> None:
    rig = VipRig(RegistryImage(vips={"web.marathon": Given("10.9.9.9", "")}), vip_release_s=60.0)
    agent_id, framework_id = rig.agent(), rig.framework("marathon")
    rig.hold_writes = True
    rig.pass_time(61.0)
    assert rig.cluster.vips.leaving == {"web.marathon"}
    rig.launch(framework_id, agent_id, "t1", "/web:80")
    assert set(rig.published()) == {"web.marathon"}
    rig.write()
    assert rig.vip_writes() == [["-vip/web.marathon"], ["vip/web.marathon"]]
    assert rig.published()["web.marathon"].ipv4 != "10.9.9.9"
    assert rig.registry().vips["web.marathon"].ipv4 == rig.published()["web.marathon"].ipv4


def test_the_next_master_keeps_addresses_and_begins_their_time_anew() -> None:
    known = {"web.marathon": Given("10.9.9.9", ""), "old.marathon": Given("11.0.0.7", "fd01:c::7")}
    rig = VipRig(RegistryImage(vips=known))
    assert rig.published() == {name: VipRow(name, *given) for name, given in known.items()}
    rig.pass_time(6.9 * DAY_S)
    agent_id, framework_id = rig.agent(), rig.framework("marathon")
    rig.launch(framework_id, agent_id, "t1", "/web:80")
    rig.pass_time(0.2 * DAY_S)
    assert set(rig.published()) == {"web.marathon"}
    assert rig.vip_writes() == [["-vip/old.marathon"]]


def test_tasks_of_returning_agents_ask_for_their_names() -> None:
    rig = VipRig()
    agent_id, framework_id = rig.agent(), rig.framework("marathon")
    rig.launch(framework_id, agent_id, "t1", "/web:80")
    described = rig.cluster.frameworks[FrameworkId(framework_id)].tasks["t1"].describe()
    info = rig.cluster.frameworks[FrameworkId(framework_id)].info
    heir = VipRig(rig.registry())
    hello = heir.hello(1, agent_id=agent_id)
    heir.say(1, hello)
    heir.say(1, agent_api.Inventory((info,), (), (described,), last=True))
    assert heir.cluster.vips.uses == {"web.marathon": 1}
    assert heir.cluster.vips.idle == {}
    assert heir.vip_writes() == []


def test_records_that_contradict_each_other_harm_nobody() -> None:
    vips = {"a.m": Given("11.0.0.1", ""), "b.m": Given("11.0.0.1", ""), "c.m": Given("odd", "")}
    rig = VipRig(RegistryImage(vips=vips))
    assert set(rig.published()) == {"a.m"}
    assert rig.cluster.counts["master/vips_conflicting"] == 2
    agent_id, framework_id = rig.agent(), rig.framework("m")
    rig.launch(framework_id, agent_id, "t1", "b:1", "c:1")
    assert len(rig.published()) == 3


def test_a_framework_that_is_renamed_renames_its_vips(rig: VipRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework("old", failover_timeout=100.0)
    rig.launch(framework_id, agent_id, "t1", "/web:80")
    info = rig.cluster.frameworks[FrameworkId(framework_id)].info
    renamed = msgspec.structs.replace(info, name="new")
    rig.subscribe("again", scheduler_api.Subscribe(renamed))
    assert set(rig.cluster.vips.uses) == {"web.new"}
    assert set(rig.cluster.vips.idle) == {"web.old"}
    assert set(rig.published()) == {"web.new", "web.old"}


def test_what_is_refused_is_told_and_gets_its_turn() -> None:
    rig = VipRig(max_vips=2, vip_release_s=60.0)
    agent_id, framework_id = rig.agent(), rig.framework("m")
    rig.launch(framework_id, agent_id, "t1", "a:1", "b:1")
    rig.launch(framework_id, agent_id, "t2", "c:1", "d:1")
    rig.launch(framework_id, agent_id, "t3", "c:1")
    refusals = [change for change in rig.changes if isinstance(change, VipsRefused)]
    assert refusals == [VipsRefused(2, "c.m", "there are 2 names already")]
    assert rig.cluster.counts["master/vips_refused"] == 2
    assert set(rig.published()) == {"a.m", "b.m"}
    rig.update(1, framework_id, "t1", TaskState.FINISHED)
    acknowledge(rig, framework_id, agent_id, "t1")
    for _ in range(3):
        rig.say(1, agent_api.Pong())
        rig.pass_time(30.0)
    assert set(rig.published()) == {"c.m", "d.m"}
    assert rig.cluster.vips.refused == {}


def test_one_framework_does_not_take_all_names() -> None:
    rig = VipRig(max_vips=40, max_vips_of_framework=8)
    agent_id, greedy = rig.agent(), rig.framework("greedy", failover_timeout=1e9)
    rig.launch(greedy, agent_id, "t1", *(f"n{n}:1" for n in range(12)))
    assert len(rig.cluster.vips.addresses) == 8
    (refused,) = [change for change in rig.changes if isinstance(change, VipsRefused)]
    assert refused == VipsRefused(4, "n6.greedy", f"framework {greedy!r} has 8 names already")
    # names that nobody asks for count as well, or it would take one after the other
    rig.update(1, greedy, "t1", TaskState.FINISHED)
    acknowledge(rig, greedy, agent_id, "t1")
    rig.launch(greedy, agent_id, "t2", "/late:1")
    assert set(rig.cluster.vips.refused) == {"late.greedy"}
    # others have room, and its name, where they have the same one
    other = rig.framework("Greedy")
    rig.launch(other, agent_id, "t3", "/late:1", "/more:1")
    assert not rig.cluster.vips.refused
    assert {"late.greedy", "more.greedy"} <= rig.published().keys()


def test_the_last_names_are_for_frameworks_that_have_few() -> None:
    rig = VipRig(max_vips=40, max_vips_of_framework=8)
    agent_id = rig.agent()
    for n in range(4):
        rig.launch(rig.framework(f"f{n}"), agent_id, f"t{n}", *(f"n{m}:1" for m in range(8)))
    assert len(rig.cluster.vips.addresses) == 30
    rig.launch(rig.framework("late"), agent_id, "last", *(f"n{m}:1" for m in range(8)))
    assert sum(name.endswith(".late") for name in rig.cluster.vips.addresses) == 2


def test_after_a_change_of_masters_names_count_for_who_asks_for_them() -> None:
    known = {f"n{n}.m": Given(f"11.0.0.{n}", "") for n in range(4)}
    rig = VipRig(RegistryImage(vips=known), max_vips_of_framework=4)
    agent_id, framework_id = rig.agent(), rig.framework("m")
    rig.launch(framework_id, agent_id, "t1", *(f"n{n}:1" for n in range(4)))
    rig.launch(framework_id, agent_id, "t2", "/new:1")
    assert set(rig.cluster.vips.refused) == {"new.m"}
    assert len(rig.published()) == 4


def test_a_range_that_is_used_up_is_told() -> None:
    span = AddressRange("11.0.0.0", "11.0.0.2", "nfq")
    rig = VipRig(vip_ipv4=span, vip_ipv6=None)
    agent_id, framework_id = rig.agent(), rig.framework("m")
    rig.launch(framework_id, agent_id, "t1", *(f"n{n}:1" for n in range(5)))
    (refused,) = [change for change in rig.changes if isinstance(change, VipsRefused)]
    assert refused.count >= 3
    assert "11.0.0.0 to 11.0.0.2" in refused.reason
    numbers = Tally().numbers(rig.cluster, leads=True, wall=rig.wall)
    assert numbers["master/vips"] == 5 - refused.count
    assert numbers["master/vips_without_address"] == refused.count
    assert numbers["master/vips_refused"] == refused.count


def test_the_feed_has_what_a_balancer_needs_of_a_task(rig: VipRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework("marathon")
    rig.allocate()
    docker = DockerInfo("nginx", "BRIDGE", (PortMapping(31000, 80, "tcp"),))
    whole = task(
        "t1", agent_id,
        container=ContainerInfo("DOCKER", docker=docker),
        health_check=HealthCheck(type="TCP", tcp=HealthCheckTcp(80)),
        labels=types.Labels((types.Label("vip_PORT0", "tcp://web:80"), types.Label("a", "b"))),
        discovery=port(["/nginx:80"]),
    )  # fmt: skip
    rig.accept(framework_id, whole)
    rig.published()
    row = decode_row("task/", rig.feed.rows[f"task/{framework_id}/t1"])
    record = rig.cluster.frameworks[FrameworkId(framework_id)].tasks["t1"]
    assert row == task_row(record.describe()), "the short way gives the row of the long one"
    assert isinstance(row, TaskRow)
    assert row.docker_ports == ((31000, 80, "tcp"),)
    assert row.vip_labels == (("vip_PORT0", "tcp://web:80"),)
    assert row.health_checked


TEXT = st.text(max_size=30)


@given(
    st.lists(st.tuples(TEXT | st.just("VIP_0") | st.just("vip_PORT0"), TEXT), max_size=4),
    st.lists(
        st.tuples(TEXT | st.just("Vip_1"), TEXT | st.builds("{}:80".format, TEXT)), max_size=4
    ),
    TEXT,
)
def test_whatever_is_in_labels_gives_names_or_nothing(
    own: list[tuple[str, str]], of_port: list[tuple[str, str]], framework: str
) -> None:
    def labels(pairs: list[tuple[str, str]]) -> types.Labels:
        return types.Labels(tuple(types.Label(key, value) for key, value in pairs))

    one = types.Port(80, labels=labels(of_port))
    static = StaticTask(
        "t", types.TaskID("t"), types.FrameworkID("F"), types.AgentID("S"),
        labels=labels(own), discovery=types.DiscoveryInfo("FRAMEWORK", ports=types.Ports((one,))),
    )  # fmt: skip
    names = names_of(msgspec.json.encode(static), framework)
    whole = TaskRow(
        "t", "t", "F", "S", "", discovery_ports=discovery_ports(static.discovery),
        vip_labels=vip_labels(static.labels.labels if static.labels is not None else ()),
    )  # fmt: skip
    expected: dict[str, None] = {}
    for vip in declared(whole).vips:
        with contextlib.suppress(BadName):
            expected[full_name(vip.label, framework)] = None
    assert names == tuple(expected), "the short way finds what the long one does"
    assert len(set(names)) == len(names)
    asked = [key for key, _ in own + of_port if key[:3].lower() == "vip"]
    assert asked or not names


def test_changes_are_told_in_order(rig: VipRig) -> None:
    agent_id, framework_id = rig.agent(), rig.framework("marathon")
    rig.launch(framework_id, agent_id, "t1", "/nginxdocker:80")
    told = [change for change in rig.changes if isinstance(change, VipChanged)]
    assert told == [VipChanged("nginxdocker.marathon", NGINX, Change.ADDED)]
