"""JSON rules of the wire: what is printed, what is accepted, what is refused."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.mesos import agent_api, codec, executor_api, scheduler_api
from cairn_core.mesos.types import (
    AgentID,
    CommandInfo,
    FrameworkInfo,
    Resource,
    Scalar,
    TaskID,
    TaskInfo,
    TaskState,
    TaskStatus,
)


def test_unset_fields_are_left_out_and_explicit_defaults_are_printed() -> None:
    info = FrameworkInfo(user="root", name="test")
    assert json.loads(codec.encode(info)) == {
        "user": "root",
        "name": "test",
        "failover_timeout": 0.0,
        "checkpoint": False,
    }


def test_bytes_are_base64() -> None:
    status = TaskStatus(task_id=TaskID("t"), state=TaskState.RUNNING, uuid=b"\x00\x01\x02")
    assert json.loads(codec.encode(status))["uuid"] == "AAEC"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"value":"1.5"}', 1.5, id="number as text"),
        pytest.param(b'{"value":2}', 2.0, id="integer for a double"),
        pytest.param(b'{"value":2.5,"unknown":[1,{}]}', 2.5, id="unknown fields are ignored"),
    ],
)
def test_numbers_are_accepted_in_every_form(body: bytes, expected: float) -> None:
    assert codec.decode(Scalar, body).value == expected


def test_null_means_unset_also_for_lists_and_defaults() -> None:
    body = b'{"user":"u","name":"n","roles":null,"failover_timeout":null,"id":null,"role":null}'
    assert codec.decode(FrameworkInfo, body) == FrameworkInfo(user="u", name="n")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{", "malformed JSON"),
        (b"", "malformed JSON"),
        (b"\xff", "malformed JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"task_id":"x"}', "task_id"),
        (b'{"name":"n","agent_id":{"value":"a"}}', "missing required field `task_id`"),
        (
            b'{"name":"n","agent_id":{"value":null},"task_id":{"value":"t"}}',
            "missing required field `value`",
        ),
    ],
)
def test_what_is_not_such_a_message_is_refused_by_name(body: bytes, problem: str) -> None:
    with pytest.raises(codec.DecodeError) as caught:
        codec.decode(TaskInfo, body)
    assert problem in caught.value.problem


def test_other_media_types_are_refused() -> None:
    with pytest.raises(codec.UnsupportedMediaType):
        codec.decode(TaskInfo, b"", codec.PROTOBUF)
    with pytest.raises(codec.UnsupportedMediaType):
        codec.encode(Scalar(value=1.0), "text/html")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_decode_error(body: bytes) -> None:
    with contextlib.suppress(codec.DecodeError):
        codec.decode(scheduler_api.Call, body)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=4)
                    | st.dictionaries(st.sampled_from(["type", "accept", "offer_ids", "value"]),
                                      inner, max_size=4), max_leaves=12))  # fmt: skip
def test_any_json_is_a_message_or_a_decode_error(value: object) -> None:
    with contextlib.suppress(codec.DecodeError):
        codec.decode(scheduler_api.Call, json.dumps(value).encode())


def test_json_that_is_malformed_behind_a_null_is_refused() -> None:
    with pytest.raises(codec.DecodeError):
        codec.decode(scheduler_api.Call, b"[null, Infinity]")


def test_deeply_nested_json_is_refused_not_fatal() -> None:
    with pytest.raises(codec.DecodeError):
        codec.decode(scheduler_api.Call, b'{"request":' + b"[" * 100_000)


def test_offers_event_nests_twice() -> None:
    event = scheduler_api.Event(type="OFFERS", offers=scheduler_api.Offers())
    assert json.loads(codec.encode(event)) == {"type": "OFFERS", "offers": {}}


def test_heartbeats_are_ordinary_events() -> None:
    assert codec.encode(scheduler_api.HEARTBEAT) == b'{"type":"HEARTBEAT"}'
    assert codec.encode(executor_api.SHUTDOWN) == b'{"type":"SHUTDOWN"}'


def test_link_messages_keep_their_kind_in_msgpack() -> None:
    sent: agent_api.MasterMessage = agent_api.RunTask(
        epoch=3,
        operation_id="o1",
        framework=FrameworkInfo(user="u", name="n"),
        task=TaskInfo(
            name="t",
            task_id=TaskID("t"),
            agent_id=AgentID("a"),
            command=CommandInfo(value="true"),
            resources=(Resource(name="cpus", type="SCALAR", scalar=Scalar(value=1.0)),),
        ),
    )
    body = msgspec.msgpack.encode(sent)
    assert msgspec.msgpack.decode(body, type=agent_api.MasterMessage) == sent
