"""Appends to the replicated log on SQLite, and opening it again.

Records of 1,500 bytes, in the directory for temporary files (TMPDIR: choose the disk). Cases:

    alone        one append after the other
    together     many appends in flight, which share commits
    open         a log of that many live records: taking an epoch, and reading it to its end
"""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles
from time import perf_counter

from bench.report import Result
from cairn_core.replog.interface import Record
from cairn_core.replog.io_sqlite import SqliteLog
from cairn_core.replog.state import KeyedStore

VALUE = b"x" * 1500


async def appends(directory: Path, alone: int, together: int) -> list[Result]:
    """The two ways to append."""
    log = await SqliteLog.start(directory)
    writer = await log.open("bench")
    spent = []
    for i in range(alone):
        start = perf_counter()
        await writer.append([Record(f"k{i % 100}", VALUE)])
        spent.append((perf_counter() - start) * 1000)
    percentiles = quantiles(spent, n=100)
    start = perf_counter()
    await asyncio.gather(*(writer.append([Record(f"k{i}", VALUE)]) for i in range(together)))
    rate = together / (perf_counter() - start)
    await log.close()
    return [
        Result("log", "alone", "append_p50", percentiles[49], "ms", alone),
        Result("log", "alone", "append_p99", percentiles[98], "ms", alone),
        Result("log", "together", "appends", rate, "1/s", together),
    ]


async def opening(directory: Path, records: int) -> list[Result]:
    """From nothing to a store that knows everything."""
    start = perf_counter()
    log = await SqliteLog.start(directory)
    store = await KeyedStore.open(log, "bench")
    spent = perf_counter() - start
    assert len(store) == records
    await log.close()
    return [Result("log", f"open-{records}", "open_s", spent, "s")]


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    together = 5000 if quick else 50_000
    with tempfile.TemporaryDirectory() as name:
        yield from asyncio.run(appends(Path(name), 300 if quick else 3000, together))
        yield from asyncio.run(opening(Path(name), together))
