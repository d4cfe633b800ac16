"""The SQLite engine against crashes, full disks, damaged files and second owners."""

import asyncio
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cairn_core.errors import Unavailable
from cairn_core.replog.cli import log as log_command
from cairn_core.replog.interface import Corrupt, Entry, Fenced, Record, Unknown
from cairn_core.replog.io_sqlite import SqliteLog
from cairn_core.replog.io_sqlite_file import FILE_NAME, Append, SqliteFile

# Appends without end; writes the number of each append that was acknowledged to stdout.
CHILD = """
import asyncio, sys
from pathlib import Path
from cairn_core.replog.interface import Record
from cairn_core.replog.io_sqlite import SqliteLog

async def main():
    log = await SqliteLog.start(Path(sys.argv[1]))
    writer = await log.open("x")
    async def lane(lane):
        n = 0
        while True:
            await writer.append([Record(f"{lane}/a", b"%d" % n), Record(f"{lane}/b", b"%d" % n)])
            sys.stdout.write(f"{lane} {n}\\n")
            sys.stdout.flush()
            n += 1
    await asyncio.gather(*(lane(i) for i in range(4)))

asyncio.run(main())
"""


def filled(directory: Path, count: int) -> None:
    file = SqliteFile(directory)
    epoch = file.take_epoch("x")
    for i in range(count):
        file.append([Append("x", epoch, [Record(f"k{i}", b"%d" % i * 50)], f"w{i}")])
    # Leave the journal as a crash would: closing would fold it into the main file.
    shutil.copytree(directory, directory.with_name("crashed"))
    file.close()


def everything(directory: Path) -> list[Entry]:
    file = SqliteFile(directory)
    try:
        bounds = file.bounds("x")
        return file.read("x", None, bounds.end, 1 << 30)
    finally:
        file.close()


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 37, 400, 1500])
def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path, lines: int) -> None:
    acknowledged: dict[str, int] = {}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child, child.stdout as stdout:
        for count, line in enumerate(stdout, 1):
            lane, n = line.split()
            acknowledged[lane] = int(n)
            if count == lines:
                child.kill()  # what was written before it died is still read to the end
    state = {e.record.key: int(e.record.value or b"-1") for e in everything(tmp_path)}
    for lane, last in acknowledged.items():
        # Both records of an append or none; at most the one in flight is newer.
        assert state[f"{lane}/a"] == state[f"{lane}/b"]
        assert last <= state[f"{lane}/a"] <= last + 1


@pytest.mark.parametrize("seed", range(8))
def test_a_torn_journal_leaves_a_prefix_of_the_appends(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    filled(tmp_path / "log", 60)
    crashed = tmp_path / "crashed"
    journal = crashed / f"{FILE_NAME}-wal"
    data = bytearray(journal.read_bytes())
    cut = rng.randrange(len(data) // 2, len(data))
    if seed % 2:
        data = data[:cut]
    else:
        data[cut] ^= 0xFF
    journal.write_bytes(data)
    got = everything(crashed)
    assert 0 < len(got) < 60
    assert [e.write_id for e in got] == [f"w{i}" for i in range(len(got))]
    file = SqliteFile(crashed)
    epoch = file.take_epoch("x")
    assert file.append([Append("x", epoch, [Record("after", b"")], "w")]) == [len(got) + 1]
    file.close()


def test_damage_in_the_main_file_is_told_with_its_name(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path)
    epoch = file.take_epoch("x")
    file.append([Append("x", epoch, [Record("k", b"needle" * 20)], "w")])
    file.close()
    path = tmp_path / FILE_NAME
    data = path.read_bytes()
    path.write_bytes(data.replace(b"needleneedle", b"needlfneedle", 1))
    with pytest.raises(Corrupt, match=r"log\.sqlite is damaged: .* wrong checksum at 0"):
        everything(tmp_path)
    path.write_bytes(b"not a database at all " * 500)
    with pytest.raises(Corrupt, match=r"log\.sqlite is damaged"):
        SqliteFile(tmp_path)


def test_a_full_disk_refuses_cleanly_and_recovers(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path, max_bytes=400_000)
    epoch = file.take_epoch("x")
    big = Record("big", b"x" * 150_000)
    end = file.append([Append("x", epoch, [big], "w")])[0]
    assert end == 1
    refused = [file.append([Append("x", epoch, [Record(f"b{i}", big.value)], "w")])[0]
               for i in range(3)]  # fmt: skip
    assert isinstance(refused[-1], Unavailable)
    assert "full" in str(refused[-1])
    before = file.bounds("x").end
    assert file.append([Append("x", epoch, [Record("small", b"s")], "w")]) == [before + 1]
    file.close()


class FailingDisk:
    """A connection whose commits fail as after a failed fsync."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return self._connection.execute(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def test_after_a_failed_commit_the_outcome_is_unknown_and_nothing_more_is_written(
    tmp_path: Path,
) -> None:
    file = SqliteFile(tmp_path)
    epoch = file.take_epoch("x")
    assert file.append([Append("x", epoch, [Record("a", b"1")], "w1")]) == [1]
    file._connection = FailingDisk(file._connection)  # type: ignore[assignment]  # a stand-in
    [unknown] = file.append([Append("x", epoch, [Record("a", b"2")], "w2")])
    assert isinstance(unknown, Unknown)
    assert (unknown.position, unknown.write_id) == (1, "w2")
    [refused] = file.append([Append("x", epoch, [Record("a", b"3")], "w3")])
    assert isinstance(refused, Unavailable)
    with pytest.raises(Unavailable, match="disk I/O error"):
        file.bounds("x")
    file.close()
    assert everything(tmp_path)[0].write_id == "w1"


async def test_a_second_owner_of_the_directory_is_refused(tmp_path: Path) -> None:
    log = await SqliteLog.start(tmp_path)
    with pytest.raises(Unavailable, match="in use by another process"):
        await SqliteLog.start(tmp_path)
    await log.close()
    await log.close()
    with pytest.raises(Unavailable, match="closed"):
        await log.open("x")
    again = await SqliteLog.start(tmp_path)
    await again.close()


async def test_epochs_grow_over_restarts(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        log = await SqliteLog.start(tmp_path)
        writer = await log.open("x")
        assert (writer.epoch, writer.end) == (epoch, epoch - 1)
        await writer.append([Record("k", b"%d" % epoch)])
        await log.close()


async def test_one_refused_append_does_not_hinder_its_group(tmp_path: Path) -> None:
    log = await SqliteLog.start(tmp_path)
    old, new = await log.open("x"), await log.open("x")
    results = await asyncio.gather(
        old.append([Record("a", b"1")]), new.append([Record("b", b"2")]), return_exceptions=True
    )
    assert isinstance(results[0], Fenced)
    assert results[1] == 1
    await log.close()


def test_a_dump_restores_to_the_same_log_with_a_newer_epoch(tmp_path: Path) -> None:
    source, target = tmp_path / "log", tmp_path / "new"
    filled(source, 20)
    target.mkdir()
    runner = CliRunner()
    dumped = runner.invoke(log_command, ["dump", str(source), "x"])
    assert dumped.exit_code == 0
    assert json.loads(dumped.stdout.splitlines()[0])["end"] == 20
    for arguments, code in ([], 0), ([], 1), (["--replace"], 0):
        restored = runner.invoke(
            log_command, ["restore", str(target), *arguments], input=dumped.stdout
        )
        assert restored.exit_code == code, restored.output
    assert everything(target) == everything(source)
    told = runner.invoke(log_command, ["info", str(target)])
    assert told.stdout == "x: positions 0-20, 20 entries, epoch 3\n"
    cut = "\n".join(dumped.stdout.splitlines()[:-1])
    refused = runner.invoke(log_command, ["restore", str(target), "--replace"], input=cut)
    assert refused.exit_code == 1
    assert "entries end at 19, expected 20" in refused.output
    assert len(everything(target)) == 20
