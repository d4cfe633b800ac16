"""`/state` and operator events with odd parts: one is left out and counted, the rest stays."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_core.clusterview.io_decode import read_subscribed
from cairn_core.clusterview.operator_events import BadEvent, OperatorTables, read_event
from cairn_core.clusterview.state_json import BadState, parse_ranges, read_state, split_pid
from cairn_core.errors import RemoteError
from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    NetworkRow,
    PortRow,
    Row,
    TaskRow,
    encode_row,
)

STATE: dict[str, Any] = {
    "id": "m1", "pid": "master@10.0.0.1:5050", "leader": "master@10.0.0.1:5050", "hostname": "h",
    "leader_info": {"id": "m1", "hostname": "h", "pid": "master@10.0.0.1:5050", "port": 5050},
    "slaves": [
        {"id": "S0", "hostname": "a0", "pid": "slave(1)@10.0.0.2:5051", "active": True},
        {"id": "S1", "hostname": "a1", "pid": "slave(1)@10.0.0.3:5051", "active": True},
    ],
    "frameworks": [{
        "id": "F", "name": "marathon", "hostname": "h", "pid": "s@10.0.0.4:1", "active": True,
        "tasks": [
            {"id": "web.1", "name": "web", "slave_id": "S0", "state": "TASK_RUNNING",
             "resources": {"cpus": 1.0, "ports": "[31000-31001]"},
             "statuses": [{"state": "TASK_RUNNING", "timestamp": 1.0, "container_status": {
                 "network_infos": [{"ip_addresses": [{"ip_address": "9.0.0.1"}]}]}}],
             "discovery": {"name": "web", "visibility": "CLUSTER", "ports": {"ports": [
                 {"number": 80, "name": "http", "protocol": "tcp"},
                 {"number": 81, "name": "admin"}]}},
             "labels": [{"key": "vip_PORT0", "value": "tcp://1.2.3.4:80"},
                        {"key": "owner", "value": "me"}, {"key": "VIP_0"}],
             "container": {"type": "DOCKER", "docker": {"image": "x", "port_mappings": [
                 {"host_port": 31000, "container_port": 80, "protocol": "tcp"},
                 {"host_port": 31001, "container_port": 81}]}},
             "health_check": {"http": {"port": 80}}},
            {"id": "db.1", "name": "db", "slave_id": "S1", "state": "TASK_RUNNING"},
        ],
    }],
}  # fmt: skip
MASTER = MasterRow("m1", "h", "10.0.0.1", 5050, leads=True)
AGENTS: list[Row] = [AgentRow("S0", "a0", "10.0.0.2"), AgentRow("S1", "a1", "10.0.0.3")]
FRAMEWORK = FrameworkRow("F", "marathon", "h", "s@10.0.0.4:1")
WEB = TaskRow(
    "web.1", "web", "F", "S0", "TASK_RUNNING", (NetworkRow("", ("9.0.0.1",)),), (),
    ((31000, 31001),), "web", (PortRow(80, "http", "tcp"), PortRow(81, "admin")),
    vip_labels=(("vip_PORT0", "tcp://1.2.3.4:80"), ("VIP_0", "")),
    docker_ports=((31000, 80, "tcp"), (31001, 81, "")), health_checked=True,
)  # fmt: skip
DB = TaskRow("db.1", "db", "F", "S1", "TASK_RUNNING")
ALL = [MASTER, *AGENTS, FRAMEWORK, WEB, DB]


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    state = copy.deepcopy(STATE)
    change(state)
    return msgspec.json.encode(state)


def test_a_state_gives_all_rows() -> None:
    told = read_state(msgspec.json.encode(STATE))
    assert told.rows == ALL
    assert (told.master_id, told.leader, told.led) == ("m1", ("10.0.0.1", 5050), True)
    assert not told.skipped


def web(state: dict[str, Any]) -> Any:
    return state["frameworks"][0]["tasks"][0]


def ports(state: dict[str, Any]) -> Any:
    return web(state)["discovery"]["ports"]["ports"]


@pytest.mark.parametrize(
    ("change", "rows", "skipped"),
    [
        pytest.param(
            lambda s: s["frameworks"][0].update(pid=None),
            [MASTER, *AGENTS, FrameworkRow("F", "marathon", "h"), WEB, DB], {},
            id="framework pid null",
        ),
        pytest.param(
            lambda s: s["frameworks"][0].update(pid=""),
            [MASTER, *AGENTS, FrameworkRow("F", "marathon", "h"), WEB, DB], {},
            id="framework pid empty",
        ),
        pytest.param(
            lambda s: s["frameworks"][0].update(pid=7),
            [MASTER, *AGENTS, FrameworkRow("F", "marathon", "h"), WEB, DB], {"framework.pid": 1},
            id="framework pid a number",
        ),
        pytest.param(
            lambda s: s["slaves"][0].pop("pid"),
            [MASTER, AgentRow("S0", "a0"), AGENTS[1], FRAMEWORK, WEB, DB], {},
            id="agent without pid",
        ),
        pytest.param(
            lambda s: s["slaves"].append({"hostname": "x"}), ALL, {"agent": 1},
            id="agent without id",
        ),
        pytest.param(
            lambda s: s["slaves"].extend([1, None, [], "x"]), ALL, {"agent": 4},
            id="agents that are none",
        ),
        pytest.param(
            lambda s: s["frameworks"].append({"id": "G", "tasks": []}), ALL, {"framework": 1},
            id="framework without name",
        ),
        pytest.param(
            lambda s: s["frameworks"][0]["tasks"].append({"id": {}}), ALL, {"task": 1},
            id="task that is none",
        ),
        pytest.param(lambda s: ports(s)[0].update(number="80"), ALL, {}, id="port a text"),
        pytest.param(
            lambda s: ports(s).append({"number": "http"}), ALL, {"port": 1}, id="port a word"
        ),
        pytest.param(lambda s: ports(s).append({}), ALL, {"port": 1}, id="port without number"),
        pytest.param(
            lambda s: ports(s).extend([{"number": 65536}, {"number": -1}, {"number": 10**30}]),
            ALL, {"port": 3}, id="ports out of range",
        ),
        pytest.param(
            lambda s: web(s)["resources"].update(ports="31000-31001"), ALL, {},
            id="ranges without brackets",
        ),
        pytest.param(
            lambda s: web(s)["resources"].update(ports="[31000-31001, 99999, 7-x, " + "9" * 5000),
            ALL, {}, id="ranges that are none",
        ),
        pytest.param(
            lambda s: web(s)["statuses"].append({"timestamp": "x"}), ALL, {"status": 1},
            id="status that is none",
        ),
        pytest.param(
            lambda s: s["frameworks"][0]["tasks"][1].update(statuses=None), ALL, {},
            id="statuses null",
        ),
        pytest.param(
            lambda s: s["frameworks"][0]["tasks"][1].update(discovery="x"), ALL,
            {"task.discovery": 1}, id="discovery a text",
        ),
        pytest.param(
            lambda s: s.update(leader="master@host.example:5050"), ALL, {}, id="leader a name"
        ),
    ],
)  # fmt: skip
def test_an_odd_part_takes_nothing_else_with_it(
    change: Callable[[dict[str, Any]], object], rows: list[Row], skipped: dict[str, int]
) -> None:
    told = read_state(changed(change))
    assert told.rows == rows
    assert told.skipped == skipped


def test_what_is_no_port_mapping_and_too_many_labels_are_left_out() -> None:
    def spoil(state: dict[str, Any]) -> None:
        mappings = web(state)["container"]["docker"]["port_mappings"]
        mappings[1]["host_port"] = 65536
        mappings.append({"host_port": 1})
        web(state)["labels"] = [{"key": f"VIP_{n}", "value": "a:1"} for n in range(300)]
        web(state)["health_check"] = None

    told = read_state(changed(spoil))
    row = next(row for row in told.rows if isinstance(row, TaskRow) and row.id == "web.1")
    assert row.docker_ports == ((31000, 80, "tcp"),)
    assert len(row.vip_labels) == 256
    assert not row.health_checked
    assert told.skipped == {"portmapping": 2, "label": 44}


@pytest.mark.parametrize(
    ("written", "name", "skipped"),
    [
        (r"a\ud800b", "a\ufffdb", 1),
        (r"a\uDFFF", "a\ufffd", 1),
        (r"\ud800\uD83D\uDE00\udc00", "\ufffd\U0001f600\ufffd", 2),
        (r"\ud800\ud800\u0041", "\ufffd\ufffdA", 2),
        (r"\\ud800 \\\ud800", "\\ud800 \\\ufffd", 1),
        (r"\"\ud800\n", '"\ufffd\n', 1),
    ],
)
def test_half_a_surrogate_pair_costs_a_character(written: str, name: str, skipped: int) -> None:
    body = changed(lambda s: s["frameworks"][0].update(name="NAME"))
    told = read_state(body.replace(b"NAME", written.encode()))
    assert told.rows == [
        MASTER, *AGENTS, msgspec.structs.replace(FRAMEWORK, name=name), WEB, DB,
    ]  # fmt: skip
    assert told.skipped == {"surrogate": skipped}


def test_what_is_nested_too_deep_is_refused_in_words() -> None:
    deep = b'{"x":' + b"[" * 3000 + b"]" * 3000 + b","
    with pytest.raises(BadState, match="state of a master: nested too deep"):
        read_state(deep + msgspec.json.encode(STATE)[1:])
    with pytest.raises(BadEvent, match="event: nested too deep"):
        read_event(deep + b'"type":"HEARTBEAT"}', Counter())


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(changed(lambda s: s.pop("leader")), id="no leader"),
        pytest.param(changed(lambda s: s.update(leader=None)), id="leader null"),
        pytest.param(changed(lambda s: s.update(leader="")), id="leader empty"),
        pytest.param(changed(lambda s: s.pop("frameworks")), id="no frameworks"),
        pytest.param(changed(lambda s: s.update(frameworks=None)), id="frameworks null"),
        pytest.param(changed(lambda s: s.update(slaves={})), id="agents no list"),
        pytest.param(changed(lambda s: s.pop("id")), id="no id"),
        pytest.param(b'{"message":"go away"}', id="another object"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html>busy</html>", id="no JSON"),
        pytest.param(msgspec.json.encode(STATE)[:-1], id="cut off"),
        pytest.param(b'{"id":' + b"[" * 100_000, id="deep"),
        pytest.param(b'{"id":"\xff","leader":"x","slaves":[],"frameworks":[]}', id="no UTF-8"),
    ],
)
def test_what_is_no_state_is_refused(body: bytes) -> None:
    with pytest.raises(BadState, match="state of a master"):
        read_state(body)


def test_the_leader_is_told_by_its_information_where_it_is_a_name() -> None:
    told = read_state(changed(lambda s: s.update(leader="m@host:5050", leader_info=None)))
    assert told.leader == ("host", 5050)
    assert not told.led


def test_an_address_of_old_masters_is_read() -> None:
    info = {"network_infos": [{"ip_address": "9.0.0.9"}]}
    told = read_state(changed(lambda s: web(s)["statuses"][0].update(container_status=info)))
    assert told.rows[4] == msgspec.structs.replace(WEB, networks=(NetworkRow("", ("9.0.0.9",)),))


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("[31000]", ((31000, 31000),)),
        ("[31000-31001, 31005-31005]", ((31000, 31001), (31005, 31005))),
        ("1-2,x,-,3-", ((1, 2), (3, 3))),
        ("", ()),
        ("[]", ()),
    ],
)
def test_ranges(text: str, ranges: tuple[tuple[int, int], ...]) -> None:
    assert parse_ranges(text) == ranges


@pytest.mark.parametrize(
    ("pid", "place"),
    [
        ("master@10.0.0.1:5050", ("10.0.0.1", 5050)),
        ("slave(1)@[fd00::1]:5051", ("fd00::1", 5051)),
        ("", ("", 0)), ("@", ("", 0)), ("1@", ("", 0)), ("@2", ("", 0)), ("3@4", ("", 0)),
        ("a@b:99999", ("", 0)), ("a@b:" + "1" * 5000, ("", 0)), ("a@b:٣", ("", 0)),
    ],
)  # fmt: skip
def test_pids(pid: str, place: tuple[str, int]) -> None:
    assert split_pid(pid) == place


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*at, key))
        if isinstance(inner, dict | list):
            found += places(inner, (*at, key))
    return found


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(places(STATE)), JSON)
def test_any_value_anywhere_breaks_at_most_what_it_is_in(place: tuple[Any, ...], odd: Any) -> None:
    state = copy.deepcopy(STATE)
    inner: Any = state
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = odd
    try:
        told = read_state(msgspec.json.encode(state))
    except BadState:
        assert place[0] in ("id", "leader", "slaves", "frameworks")
        assert len(place) == 1
        return
    for row in told.rows:
        encode_row(row)
    if place[0] == "frameworks" and len(place) > 4 and place[3] == 0:
        assert [*told.rows[:4], told.rows[-1]] == [MASTER, *AGENTS, FRAMEWORK, DB]


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    for read in (read_state, read_subscribed):
        with pytest.raises(RemoteError):
            read(data)


TASK: dict[str, Any] = {
    "name": "web", "task_id": {"value": "web.1"}, "framework_id": {"value": "F"},
    "agent_id": {"value": "S0"}, "state": "TASK_RUNNING",
}  # fmt: skip


def event(kind: str, **body: Any) -> bytes:
    return msgspec.json.encode({"type": kind, kind.lower(): body})


def test_an_event_that_makes_no_sense_is_skipped_and_counted() -> None:
    tables = OperatorTables()
    tables.begin([])
    row = TaskRow("web.1", "web", "F", "S0", "TASK_RUNNING")
    assert tables.record(event("TASK_ADDED", task=TASK)) == {row.key: row}
    for odd in (b"", b"\xff", b"[]", b'{"type":7}', b'{"type":"TASK_ADDED","task_added":'):
        assert tables.record(odd) == {}
    assert tables.skipped["event"] == 5
    half = event("TASK_ADDED", task=TASK | {"name": "NAME"}).replace(b"NAME", rb"a\ud800b")
    assert tables.record(half) == {row.key: msgspec.structs.replace(row, name="a\ufffdb")}
    assert tables.skipped["surrogate"] == 1
    assert tables.record(event("TASK_ADDED", task=TASK | {"state": "TASK_NEW"})) == {}
    assert tables.skipped["event.task_added"] == 1
    discovery = {"visibility": "CLUSTER", "ports": {"ports": [{"number": []}, {"number": 1}]}}
    assert tables.record(event("TASK_ADDED", task=TASK | {"discovery": discovery})) == {
        row.key: msgspec.structs.replace(row, discovery_name="", discovery_ports=(PortRow(1),))
    }
    assert tables.skipped["port"] == 1
    tables.begin([row], Counter(task=3))
    assert tables.skipped == {"task": 3}


def test_a_snapshot_with_odd_parts_is_read_without_them() -> None:
    state = {"get_tasks": {"tasks": [TASK, TASK | {"agent_id": None}, 7]}}
    told = read_subscribed(event("SUBSCRIBED", get_state=state))
    assert told.rows == [TaskRow("web.1", "web", "F", "S0", "TASK_RUNNING")]
    assert told.skipped == {"task": 2}
    for odd in (event("SUBSCRIBED"), event("TASK_ADDED", task=TASK), b'{"type":"SUBSCRIBED",'):
        with pytest.raises(BadEvent):
            read_subscribed(odd)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(places(TASK)), JSON)
def test_any_value_in_an_event_raises_nothing(place: tuple[Any, ...], odd: Any) -> None:
    task = copy.deepcopy(TASK)
    inner: Any = task
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = odd
    tables = OperatorTables()
    for row in tables.record(event("TASK_ADDED", task=task)).values():
        assert row is not None
        encode_row(row)
    read_event(event("TASK_ADDED", task=task), Counter())


def test_removing_a_framework_looks_at_its_tasks_only() -> None:
    tables = OperatorTables()
    tables.begin([TaskRow(f"t{i}", "t", f"F{i % 2}", "S0", "TASK_RUNNING") for i in range(6)])
    gone = tables.record(
        event("FRAMEWORK_REMOVED", framework_info={"id": {"value": "F0"}, "user": "u", "name": "n"})
    )
    assert gone == {f"task/F0/t{i}": None for i in (0, 2, 4)} | {"framework/F0": None}
    assert set(tables.rows) == {f"task/F1/t{i}" for i in (1, 3, 5)}
