"""The work directory under many hands: checkpoints of many tasks at once, and the pruner."""

import asyncio
import os
from pathlib import Path

import pytest

from cairn_core.agent.effects import Append, Put, Write
from cairn_core.agent.io_checkpoint import Store
from cairn_core.agent.io_disk import DiskUse


def test_a_batch_of_many_tasks_is_on_disk_whole(tmp_path: Path) -> None:
    groups: list[list[Write]] = [
        [Put(f"tasks/{n}/task.info", b"%d" % n), Append(f"tasks/{n}/task.updates", b"u%d" % n)]
        for n in range(300)
    ]
    assert Store(tmp_path).apply(groups) == [None] * 300
    for n in range(300):
        folder = tmp_path / "meta" / "tasks" / str(n)
        assert (folder / "task.info").read_bytes() == b"%d" % n
        assert (folder / "task.updates").read_bytes() == b"u%d" % n
        assert sorted(os.listdir(folder)) == ["task.info", "task.updates"]


def test_a_file_that_the_disk_refuses_fails_its_own_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def refuse(fd: int) -> None:
        if "/3/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(5, "Input/output error")
        sync(fd)

    monkeypatch.setattr(os, "fsync", refuse)
    groups = [[Put(f"tasks/{n}/task.info", b"x")] for n in range(30)]
    results = Store(tmp_path).apply(groups)
    assert [n for n, result in enumerate(results) if result is not None] == [3]
    left = sorted(int(path.parent.name) for path in tmp_path.rglob("task.info*"))
    assert left == [n for n in range(30) if n != 3]


async def test_makers_do_not_wait_for_each_other() -> None:
    disk = DiskUse()
    async with disk.making(), asyncio.timeout(5), disk.making():
        pass


async def test_a_pruner_is_alone() -> None:
    disk, order = DiskUse(), list[str]()

    async def prune() -> None:
        async with disk.pruning():
            order.append("pruning")
            await asyncio.sleep(0)
            order.append("pruned")

    async def make() -> None:
        async with disk.making():
            order.append("made")

    async with asyncio.TaskGroup() as group, disk.making():
        group.create_task(prune())
        await asyncio.sleep(0)
        group.create_task(make())
        await asyncio.sleep(0)
        order.append("first left")
    assert order == ["first left", "pruning", "pruned", "made"]
