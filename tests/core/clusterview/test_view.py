"""Snapshots share what did not change, and hold what a new master cannot know yet."""

from collections.abc import Iterable, Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.clusterview.view import ClusterView, Replacement
from cairn_core.mesos.codec import decode
from cairn_core.mesos.feed_rows import (
    AgentRow,
    BadRow,
    FrameworkRow,
    MasterRow,
    NetworkRow,
    PortRow,
    Row,
    TaskRow,
    VipRow,
    decode_row,
    encode_row,
    task_row,
)
from cairn_core.mesos.types import Task

MASTER = MasterRow("m1", "master1", "127.0.0.1", leads=True)
AGENT = AgentRow("S0", "agent1", "127.0.0.2")
FRAMEWORK = FrameworkRow("F", "marathon")
TASK = TaskRow("web.1", "web", "F", "S0", "TASK_RUNNING", ports=((31000, 31001),))
ADDRESS = VipRow("web.marathon", "11.0.0.1", "fd01:c::1")
EVERYTHING: list[Row] = [MASTER, AGENT, FRAMEWORK, TASK]


@pytest.fixture
def view() -> ClusterView:
    made = ClusterView()
    made.replace(EVERYTHING)
    return made


def test_a_snapshot_shows_the_rows_and_is_not_changed_later(view: ClusterView) -> None:
    before = view.snapshot
    assert dict(before.rows()) == {row.key: row for row in EVERYTHING}
    assert before.leader == MASTER
    assert before.agent("S0") == AGENT
    assert before.framework("F") == FRAMEWORK
    failed = msgspec.structs.replace(TASK, state="TASK_FAILED")
    changes = view.apply({TASK.key: failed, "task/F/other": None, AGENT.key: AGENT})
    assert changes is not None
    assert changes.rows == {TASK.key: (TASK, failed)}
    assert changes.before is before
    assert before.tasks[TASK.key] is TASK
    assert view.snapshot.agents is before.agents
    assert view.snapshot.version == before.version + 1
    assert view.apply({TASK.key: failed}) is None


def test_addresses_of_names_come_and_go(view: ClusterView) -> None:
    view.apply({ADDRESS.key: ADDRESS})
    assert view.snapshot.vip("web.marathon") == ADDRESS
    assert view.snapshot.vip("db.marathon") is None
    assert view.snapshot.row(ADDRESS.key) == ADDRESS
    assert dict(view.snapshot.rows()) == {row.key: row for row in [*EVERYTHING, ADDRESS]}
    assert view.snapshot.size == 5
    # The registry outlives a master: what the new one does not have is gone.
    changes = view.replace(EVERYTHING, new_epoch=True)
    assert changes is not None
    assert changes.rows == {ADDRESS.key: (ADDRESS, None)}


def test_tasks_of_agents_that_are_awaited_are_held_after_a_failover(view: ClusterView) -> None:
    awaited = msgspec.structs.replace(AGENT, recovering=True)
    changes = view.replace([MASTER, awaited], new_epoch=True)
    assert changes is not None
    assert set(changes.rows) == {AGENT.key}
    assert dict(view.snapshot.tasks) == {TASK.key: TASK}
    assert view.snapshot.framework("F") == FRAMEWORK
    assert view.held == 2
    # It is back, without the task.
    changes = view.apply({AGENT.key: AGENT})
    assert changes is not None
    assert changes.rows[TASK.key] == (TASK, None)
    assert dict(view.snapshot.tasks) == {}
    assert dict(view.snapshot.frameworks) == {}
    assert view.held == 0


def test_an_awaited_agent_keeps_its_address(view: ClusterView) -> None:
    view.replace([MASTER, AgentRow("S0", "agent1", active=False, recovering=True)], new_epoch=True)
    agent = view.snapshot.agent("S0")
    assert agent == AgentRow("S0", "agent1", "127.0.0.2", active=False, recovering=True)


def test_a_held_task_that_comes_back_changes_nothing(view: ClusterView) -> None:
    awaited = msgspec.structs.replace(AGENT, recovering=True)
    view.replace([MASTER, awaited], new_epoch=True)
    changes = view.apply({AGENT.key: AGENT, TASK.key: TASK, FRAMEWORK.key: FRAMEWORK})
    assert changes is not None
    assert set(changes.rows) == {AGENT.key}
    assert view.held == 0


def test_tasks_of_agents_that_the_new_master_has_or_gave_up_go_at_once(view: ClusterView) -> None:
    view.replace([MASTER, AGENT, FRAMEWORK], new_epoch=True)
    assert dict(view.snapshot.tasks) == {}
    view.replace(EVERYTHING)
    view.replace([MASTER], new_epoch=True)
    assert dict(view.snapshot.rows()) == {MASTER.key: MASTER}


def test_within_an_epoch_nothing_is_held(view: ClusterView) -> None:
    view.apply({AGENT.key: msgspec.structs.replace(AGENT, recovering=True)})
    view.apply({TASK.key: None})
    assert dict(view.snapshot.tasks) == {}


@pytest.mark.parametrize("row", EVERYTHING, ids=lambda row: type(row).__name__)
def test_rows_survive_the_wire(row: Row) -> None:
    assert decode_row(row.key, encode_row(row)) == row


def test_rows_of_newer_versions_are_read_and_bad_ones_left_out(view: ClusterView) -> None:
    longer = msgspec.msgpack.encode(["S1", "agent9", "127.0.0.9", 1, True, False, "", "", "more"])
    assert decode_row("agent/S1", longer) == AgentRow("S1", "agent9", "127.0.0.9", 1)
    assert decode_row("moon/1", b"\xc0") is None
    with pytest.raises(BadRow, match="task/F/x"):
        decode_row("task/F/x", b"\x92\x01\x02")
    view.apply_values({"task/F/x": b"\x92\x01\x02", AGENT.key: None})
    assert view.skipped == {"task": 1}
    assert dict(view.snapshot.agents) == {}


def test_the_row_of_a_task_comes_from_its_newest_running_status() -> None:
    task = decode(
        Task,
        b"""{"name":"web","task_id":{"value":"web.1"},"framework_id":{"value":"F"},
        "agent_id":{"value":"S0"},"state":"TASK_RUNNING",
        "resources":[{"name":"ports","type":"RANGES",
          "ranges":{"range":[{"begin":31000,"end":31001}]}}],
        "discovery":{"visibility":"CLUSTER","name":"web.shop","ports":{"ports":[
          {"number":80,"name":"http","protocol":"tcp",
           "labels":{"labels":[{"key":"VIP_0","value":"/web:80"}]}}]}},
        "statuses":[
          {"task_id":{"value":"web.1"},"state":"TASK_STAGING","timestamp":9},
          {"task_id":{"value":"web.1"},"state":"TASK_RUNNING","timestamp":5,"healthy":true,
           "labels":{"labels":[{"key":"Docker.NetworkSettings.IPAddress","value":"10.0.0.9"}]},
           "container_status":{"network_infos":[{"name":"dcos",
             "ip_addresses":[{"ip_address":"9.0.0.1"},{"protocol":"IPv6","ip_address":"fd01::1"}],
             "port_mappings":[{"host_port":31000,"container_port":80,"protocol":"tcp"}]}]}},
          {"task_id":{"value":"web.1"},"state":"TASK_RUNNING","timestamp":4}]}""",
    )
    assert task_row(task) == TaskRow(
        "web.1",
        "web",
        "F",
        "S0",
        "TASK_RUNNING",
        (NetworkRow("dcos", ("9.0.0.1", "fd01::1"), ((31000, 80, "tcp"),)),),
        (("docker", "10.0.0.9"),),
        ((31000, 31001),),
        "web.shop",
        (PortRow(80, "http", "tcp", (("VIP_0", "/web:80"),)),),
        True,
    )


class SlowView:
    """The same rules in the plainest form: everything is looked at with each change."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.held: dict[str, TaskRow | FrameworkRow] = {}

    def apply(self, rows: Mapping[str, Row | None], *, new_epoch: bool) -> None:
        for key, row in rows.items():
            old = self.rows.pop(key, None)
            if row is not None:
                self.rows[key] = row
                self.held.pop(key, None)
            elif new_epoch and isinstance(old, TaskRow | FrameworkRow):
                self.held[key] = old
        self.held = {
            key: row
            for key, row in self.held.items()
            if isinstance(row, TaskRow) and self.awaits(row.agent_id)
        } | {
            key: row
            for key, row in self.held.items()
            if isinstance(row, FrameworkRow)
            and any(
                isinstance(one, TaskRow)
                and one.framework_id == row.id
                and self.awaits(one.agent_id)
                for one in self.held.values()
            )
        }

    def replace(self, rows: Iterable[Row], *, new_epoch: bool) -> None:
        self.apply(dict.fromkeys(self.rows) | {row.key: row for row in rows}, new_epoch=new_epoch)

    def awaits(self, agent_id: str) -> bool:
        agent = self.rows.get(f"agent/{agent_id}")
        return isinstance(agent, AgentRow) and agent.recovering

    def shown(self) -> dict[str, Row]:
        return self.held | self.rows


ROWS = st.one_of(
    st.builds(lambda n, up: AgentRow(n, "h", "10.0.0.1", recovering=up),
              st.sampled_from(["S0", "S1"]), st.booleans()),
    st.builds(lambda n, active: FrameworkRow(n, "f", active=active),
              st.sampled_from(["F0", "F1"]), st.booleans()),
    st.builds(lambda n, f, a, s: TaskRow(n, n, f, a, s), st.sampled_from(["t0", "t1", "t2"]),
              st.sampled_from(["F0", "F1"]), st.sampled_from(["S0", "S1"]),
              st.sampled_from(["TASK_STAGING", "TASK_RUNNING"])),
    st.builds(lambda leads: MasterRow("m", "m", "10.0.0.9", leads=leads), st.booleans()),
)  # fmt: skip
STEPS = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.lists(st.tuples(ROWS, st.booleans()), max_size=8)),
    max_size=12,
)


@given(STEPS)
def test_whatever_happens_the_view_shows_what_plain_rules_say(
    steps: list[tuple[bool, bool, list[tuple[Row, bool]]]],
) -> None:
    view, slow = ClusterView(), SlowView()
    shown: dict[str, Row] = {}
    for whole, new_epoch, rows in steps:
        if whole:
            table = {row.key: row for row, _ in rows}.values()
            changes = view.replace(table, new_epoch=new_epoch)
            slow.replace(table, new_epoch=new_epoch)
        else:
            some = {row.key: row if there else None for row, there in rows}
            changes = view.apply(some, new_epoch=new_epoch)
            slow.apply(some, new_epoch=new_epoch)
        for key, (before, after) in (changes.rows if changes is not None else {}).items():
            assert shown.get(key) == before != after
            if after is None:
                del shown[key]
            else:
                shown[key] = after
        assert shown == dict(view.snapshot.rows()) == slow.shown()
        assert view.held == len(slow.held)


def test_a_change_does_not_copy_what_stays() -> None:
    view = ClusterView()
    view.replace([msgspec.structs.replace(TASK, id=f"t{i}") for i in range(5000)])
    before = view.snapshot
    changes = view.apply({TASK.key: TASK})
    assert changes is not None
    assert changes.rows == {TASK.key: (None, TASK)}
    assert before.row(TASK.key) is None
    assert view.snapshot.row(TASK.key) is TASK
    assert view.snapshot.agents is before.agents
    assert view.snapshot.size == before.size + 1


def test_a_table_is_compared_in_steps(view: ClusterView) -> None:
    table: list[Row] = [
        MASTER,
        AGENT,
        *(msgspec.structs.replace(TASK, id=str(i)) for i in range(1200)),
    ]
    replacement = Replacement(view, table)
    assert sum(1 for _ in replacement.steps()) == 2
    changes = replacement.finish()
    assert changes is not None
    assert len(changes.rows) == 1200 + 2
    assert dict(view.snapshot.rows()) == {row.key: row for row in table}


def test_a_table_compared_with_a_view_that_changed_meanwhile_still_replaces_it(
    view: ClusterView,
) -> None:
    replacement = Replacement(view, EVERYTHING)
    for _ in replacement.steps():
        pass
    view.apply({"task/F/other": msgspec.structs.replace(TASK, id="other"), AGENT.key: None})
    replacement.finish()
    assert dict(view.snapshot.rows()) == {row.key: row for row in EVERYTHING}
