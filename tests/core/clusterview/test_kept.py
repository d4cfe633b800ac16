"""The file of the last known cluster: whatever happens to it, what it gives was true once."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cairn_core.clusterview import io_kept, journal
from cairn_core.clusterview.io_kept import KeptFile
from cairn_core.clusterview.journal import MAGIC, encode_batch, read_kept
from cairn_core.clusterview.view import ClusterView, Snapshot
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, Row, TaskRow, encode_row

FRAMEWORK = FrameworkRow("F", "marathon")
AGENT = AgentRow("S0", "agent1", "127.0.0.2")


def task(number: int, state: str = "TASK_RUNNING") -> TaskRow:
    return TaskRow(f"web.{number}", "web", "F", "S0", state)


class Cluster:
    """A view and the file that keeps it."""

    def __init__(self, path: Path) -> None:
        self.view = ClusterView()
        self.file = KeptFile(path)

    def change(self, *rows: Row, gone: tuple[Row, ...] = (), wall: float = 1.0) -> None:
        changed: dict[str, Row | None] = {row.key: row for row in rows}
        changed |= {row.key: None for row in gone}
        self.view.apply(changed)
        self.file.write(changed, self.view.snapshot, wall)


def shown(path: Path) -> dict[str, Row] | None:
    kept = KeptFile(path).load()
    return None if kept is None else {row.key: row for row in kept[0]}


def table(snapshot: Snapshot) -> dict[str, Row]:
    return dict(snapshot.rows())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "cluster"


def test_changes_are_appended_and_come_back(path: Path) -> None:
    cluster = Cluster(path)
    cluster.change(FRAMEWORK, AGENT, *map(task, range(1200)), wall=10.0)
    base = path.stat().st_size
    cluster.change(task(1, "TASK_FAILED"), gone=(task(2),), wall=20.0)
    assert base < path.stat().st_size < base + 200
    kept = KeptFile(path).load()
    assert kept is not None
    assert {row.key: row for row in kept[0]} == table(cluster.view.snapshot)
    assert kept[1] == 20.0
    # Another process goes on where this one stopped.
    again = Cluster(path)
    assert again.file.load() is not None
    again.view.replace(kept[0])
    again.change(gone=(task(3),), wall=30.0)
    assert shown(path) == table(again.view.snapshot)
    assert path.stat().st_size < base + 300


def test_what_was_appended_is_folded_in_when_it_outgrows_the_rest(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_kept, "MIN_JOURNAL_BYTES", 1000)
    cluster = Cluster(path)
    cluster.change(*map(task, range(10)))
    for number in range(400):
        cluster.change(task(number % 10, f"state {number}"))
        assert path.stat().st_size < 5000
    assert shown(path) == table(cluster.view.snapshot)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def batches() -> tuple[bytes, list[tuple[int, dict[str, bytes]]]]:
    """A file, and what it says up to the ends of its batches."""
    data, states, rows = bytearray(MAGIC), [], dict[str, bytes]()
    changes: list[dict[str, bytes | None]] = [
        {f"task/{i}": b"x" * (i % 7) for i in range(1100)},
        {"task/1": b"new", "task/2": None},
        {"agent/1": b"a", "task/3": None},
        {},
        {f"task/{i}": None for i in range(600)},
    ]
    for number, change in enumerate(changes):
        data += b"".join(encode_batch(change.items(), float(number + 1)))
        for key, value in change.items():
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        states.append((len(data), dict(rows)))
    return bytes(data), states


DATA, STATES = batches()


@settings(max_examples=300)
@given(st.integers(0, len(DATA)))
@example(0)
@example(len(DATA))
@example(STATES[0][0])
def test_a_file_that_was_cut_off_anywhere_gives_its_last_whole_batch(length: int) -> None:
    kept = read_kept(DATA[:length])
    whole = [(end, rows) for end, rows in STATES if end <= length]
    if not whole:
        assert kept is None
        return
    assert kept is not None
    assert (kept.good, kept.rows) == whole[-1]
    assert kept.base == STATES[0][0]
    assert kept.wall == len(whole)


@settings(max_examples=300)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_damaged_file_gives_the_last_batch_before_the_damage(at: int, bits: int) -> None:
    damaged = bytearray(DATA)
    damaged[at] ^= bits
    kept = read_kept(bytes(damaged))
    whole = [(end, rows) for end, rows in STATES if end <= at]
    if not whole:
        assert kept is None
    else:
        assert kept is not None
        assert (kept.good, kept.rows) == whole[-1]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    read_kept(data)
    assert read_kept(MAGIC + data) is None


def test_a_torn_end_is_cut_off_before_anything_is_appended(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(path)
    cluster.change(FRAMEWORK, task(1))
    cluster.change(task(2))
    whole = path.read_bytes()
    path.write_bytes(whole + b"\x00\x00\x00\x40torn")
    again = Cluster(path)
    kept = again.file.load()
    assert kept is not None
    assert "torn" in caplog.text
    again.view.replace(kept[0])
    again.change(task(3))
    assert path.read_bytes().startswith(whole)
    assert shown(path) == table(again.view.snapshot)


@pytest.mark.parametrize("data", [b"", b"\x93\x02\x01\x90", b"nonsense", MAGIC, MAGIC + b"\0" * 9])
def test_a_file_without_a_whole_table_is_not_used_and_replaced(path: Path, data: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(data)
    cluster = Cluster(path)
    assert cluster.file.load() is None
    cluster.change(task(1))
    assert shown(path) == table(cluster.view.snapshot)


def test_a_pipe_in_place_of_the_file_holds_nobody_up(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    os.mkfifo(path.with_name(path.name + ".new"))
    cluster = Cluster(path)
    assert cluster.file.load() is None
    assert "not a regular file" in caplog.text
    cluster.change(task(1))
    assert shown(path) == table(cluster.view.snapshot)


def test_a_file_of_the_former_version_is_read(path: Path) -> None:
    path.parent.mkdir()
    rows = [(row.key, encode_row(row)) for row in (FRAMEWORK, task(1))]
    path.write_bytes(msgspec.msgpack.encode([1, 5.0, [*rows, ("task/F/x", b"\xc1")]]))
    assert KeptFile(path).load() == ([FRAMEWORK, task(1)], 5.0)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        patch.setattr(os, "fsync", full)
        yield patch


def test_a_full_disk_is_told_once_and_made_up_for(
    path: Path, full_disk: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cluster = Cluster(path)
    cluster.change(task(1))
    cluster.change(task(2))
    assert caplog.text.count("No space left on device") == 1
    assert list(path.parent.iterdir()) == []
    full_disk.undo()
    cluster.change(task(3))
    assert shown(path) == table(cluster.view.snapshot)
    assert "kept again" in caplog.text


def test_what_a_full_disk_refused_is_appended_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(path)
    cluster.change(task(1))
    size = path.stat().st_size

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        cluster.change(task(2), gone=(task(1),))
    assert path.stat().st_size == size
    cluster.change(task(3))
    assert shown(path) == table(cluster.view.snapshot)


def test_a_file_that_vanished_or_was_cut_off_is_written_anew(path: Path) -> None:
    cluster = Cluster(path)
    cluster.change(task(1))
    path.unlink()
    cluster.change(task(2))
    assert shown(path) == table(cluster.view.snapshot)
    os.truncate(path, 20)
    cluster.change(task(3))
    assert shown(path) == table(cluster.view.snapshot)


def test_batches_are_as_large_as_they_are_told_to_be() -> None:
    frames = list(encode_batch(((f"task/{i}", b"") for i in range(1000)), 1.0))
    assert len(frames) == 1000 / journal.FRAME_ROWS
    assert len(list(encode_batch((), 1.0))) == 1
