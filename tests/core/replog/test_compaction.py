"""Rolling compaction never changes what a replay means, and keeps the log short."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_core.replog.compaction import GARBAGE_FACTOR, SLACK, replay
from cairn_core.replog.image import LogImage
from cairn_core.replog.interface import MAX_APPEND_BYTES, Entry, Record, Truncated

KEYS = st.sampled_from([f"k{i}" for i in range(12)])
RECORDS = st.builds(Record, KEYS, st.one_of(st.none(), st.binary(max_size=3)))
APPENDS = st.lists(st.lists(RECORDS, min_size=1, max_size=4), max_size=60)


def meaning(entries: list[Entry]) -> dict[str, bytes]:
    return replay((e.record.key, e.record.value) for e in entries)


@settings(max_examples=60, deadline=None)
@given(APPENDS, st.integers(0, 40))
def test_a_replay_from_begin_equals_the_whole_history(
    appends: list[list[Record]], rounds: int
) -> None:
    image = LogImage("x")
    epoch = image.take_epoch()
    history: list[Record] = []
    # Enough repetitions that the log outgrows the slack and carries.
    for records in appends * (1 + rounds):
        image.append(epoch, records, "w")
        history += records
        image.compaction.check()
    live = replay((r.key, r.value) for r in history)
    assert meaning(image.read(None, 1 << 30)) == live
    assert len(image.compaction) == len(live)


def test_a_log_stays_within_its_bound_while_few_keys_change_and_many_rest() -> None:
    image = LogImage("x")
    epoch = image.take_epoch()
    for i in range(3000):
        image.append(epoch, [Record(f"rest{i}", b"r")], "w")
    longest = 0
    for i in range(30_000):
        image.append(epoch, [Record("busy", b"%d" % i)], "w")
        longest = max(longest, image.bounds.end - image.bounds.begin)
    assert image.bounds.begin > 3000
    assert longest <= GARBAGE_FACTOR * 3001 + SLACK + 3001 // 4 + 8
    assert len(meaning(image.read(None, 1 << 30))) == 3001


def test_carried_records_leave_room_for_the_append() -> None:
    image = LogImage("x")
    epoch = image.take_epoch()
    image.append(epoch, [Record("big", b"x" * 500_000)], "w")
    for _ in range(600):
        image.append(epoch, [Record("busy", b"")], "w")
    begin = image.bounds.begin
    image.append(epoch, [Record("a", b"y" * 450_000), Record("b", b"y" * 400_000)], "w")
    # `big` was carried before and is not carried together with what would exceed the limit.
    carried = [e for e in image.read(None, 1 << 30) if e.carried and e.record.key == "big"]
    assert begin > 0
    assert carried
    by_append = sum(e.record.size_bytes for e in image.read(image.bounds.end - 2, 9))
    assert by_append <= MAX_APPEND_BYTES


def test_reading_before_begin_is_refused() -> None:
    image = LogImage("x")
    epoch = image.take_epoch()
    for _ in range(600):
        image.append(epoch, [Record("busy", b"")], "w")
    with pytest.raises(Truncated) as caught:
        image.read(0, 1)
    assert caught.value.begin == image.bounds.begin
