"""Updates are kept, repeated and ordered until they are acknowledged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.agent.status_updates import (
    COMPACT_AFTER,
    RETRY_MAX_S,
    UpdateRecord,
    UpdateStreams,
    read_records,
    record_ack,
    record_update,
    without_torn,
)
from cairn_core.mesos.types import TaskID, TaskState, TaskStatus


def status(number: int, state: TaskState = TaskState.RUNNING) -> TaskStatus:
    return TaskStatus(task_id=TaskID("t"), state=state, uuid=number.to_bytes(16, "big"))


@pytest.fixture
def streams() -> UpdateStreams:
    made = UpdateStreams()
    assert made.resume(now=0.0) == []
    return made


def test_only_the_head_is_on_its_way_and_carries_the_newest_state(streams: UpdateStreams) -> None:
    (first,) = streams.add("f", status(1, TaskState.STARTING), now=0.0)
    assert (first.status, first.latest_state) == (status(1, TaskState.STARTING), "TASK_STARTING")
    assert streams.add("f", status(2), now=1.0) == []
    assert streams.add("f", status(3, TaskState.FINISHED), now=2.0) == []
    acknowledged, (second,) = streams.acknowledge("f", "t", status(1).uuid or b"", now=3.0)
    assert acknowledged == status(1, TaskState.STARTING)
    assert (second.status, second.latest_state) == (status(2), TaskState.FINISHED)
    assert not streams.is_open("f", "t")


def test_the_head_is_repeated_after_ten_seconds_then_twice_as_long_up_to_ten_minutes(
    streams: UpdateStreams,
) -> None:
    streams.add("f", status(1), now=0.0)
    now, waits = 0.0, []
    for _ in range(9):
        due = streams.next_deadline()
        assert due is not None
        assert streams.repeat(now=due - 0.01) == []
        assert len(streams.repeat(now=due)) == 1
        waits.append(due - now)
        now = due
    assert waits == [10, 20, 40, 80, 160, 320, RETRY_MAX_S, RETRY_MAX_S, RETRY_MAX_S]


def test_an_acknowledgement_of_anything_but_the_head_is_ignored(streams: UpdateStreams) -> None:
    streams.add("f", status(1), now=0.0)
    streams.add("f", status(2), now=0.0)
    for uuid in (status(2).uuid or b"", b"", b"unknown"):
        assert streams.acknowledge("f", "t", uuid, now=1.0) == (None, [])
    assert streams.acknowledge("g", "t", status(1).uuid or b"", now=1.0) == (None, [])
    assert streams.head("f", "t") == status(1)


def test_nothing_leaves_without_a_master_and_every_head_leaves_with_the_next(
    streams: UpdateStreams,
) -> None:
    streams.add("f", status(1), now=0.0)
    streams.pause()
    assert streams.next_deadline() is None
    assert streams.add("g", status(1), now=1.0) == []
    assert streams.repeat(now=1000.0) == []
    assert [f.framework_id for f in streams.resume(now=1001.0)] == ["f", "g"]


def test_a_finished_stream_is_gone(streams: UpdateStreams) -> None:
    streams.add("f", status(1, TaskState.FINISHED), now=0.0)
    streams.acknowledge("f", "t", status(1).uuid or b"", now=0.0)
    assert len(streams) == 0
    assert streams.next_deadline() is None


@given(cut=st.integers(0, 1000))
def test_a_torn_file_is_read_up_to_the_tear(cut: int) -> None:
    records = [
        record_update(status(1)),
        record_ack(status(1).uuid or b""),
        record_update(status(2)),
    ]
    data = b"".join(records)
    found, problem = read_records(data[: min(cut, len(data))])
    assert problem is None
    ends = [sum(map(len, records[: i + 1])) for i in range(3)]
    assert len(found) == sum(end <= cut for end in ends)


@given(cut=st.integers(0, 1000))
def test_what_is_appended_after_a_tear_can_be_read(cut: int) -> None:
    data = record_update(status(1)) + record_ack(status(1).uuid or b"")
    torn = data[: min(cut, len(data))]
    whole = without_torn(torn)
    before, _ = read_records(torn)
    assert (whole is None) == (cut == 0 or cut >= len(data) or torn == record_update(status(1)))
    again, problem = read_records((torn if whole is None else whole) + record_update(status(2)))
    assert problem is None
    assert again[:-1] == before
    assert again[-1] == UpdateRecord(status(2))


@pytest.mark.parametrize("garbage", [b"x\n", b"2\n{}", b'9\n{"type":1}', b"99999999999999\n"])
def test_garbage_in_a_file_is_a_problem_and_what_stands_before_it_is_kept(garbage: bytes) -> None:
    found, problem = read_records(record_update(status(1)) + garbage)
    assert problem is not None
    assert len(found) <= 1


def test_a_replayed_stream_goes_on_where_it_was() -> None:
    written, _ = read_records(
        record_update(status(1, TaskState.STARTING))
        + record_ack(status(1).uuid or b"")
        + record_update(status(2))
        + record_update(status(2))
    )
    streams = UpdateStreams()
    history = streams.replay("f", "t", written)
    assert [s.state for s in history] == [TaskState.STARTING, TaskState.RUNNING]
    assert [f.status for f in streams.resume(now=0.0)] == [status(2)]
    assert streams.knows("f", "t", status(1).uuid or b"")


def test_a_long_file_is_written_anew_and_says_the_same(streams: UpdateStreams) -> None:
    for number in range(COMPACT_AFTER):
        streams.add("f", status(number), now=0.0)
        streams.acknowledge("f", "t", status(number).uuid or b"", now=0.0)
    streams.add("f", status(COMPACT_AFTER), now=0.0)
    data = streams.compacted("f", "t", [status(COMPACT_AFTER - 1)])
    assert data is not None
    assert streams.compacted("f", "t", []) is None
    again = UpdateStreams()
    written, problem = read_records(data)
    assert problem is None
    assert again.replay("f", "t", written) == [status(COMPACT_AFTER - 1), status(COMPACT_AFTER)]
    assert again.head("f", "t") == status(COMPACT_AFTER)
