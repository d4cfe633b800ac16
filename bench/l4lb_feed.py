"""What the table of VIPs costs on its way to the nodes: bytes, and the master's time per node.

The real feed of a master and real connections over loopback; readers are in a process of their
own. Cases `VIPs x backends`, and `N-nodes` for so many readers of that table:

    rows, whole_bytes      what a node gets that knows nothing
    task_bytes, vip_bytes  one row of each kind as a frame
    change_bytes           what a node gets when one task changes: frame, digest, framing
    digest_bytes           the digest's part of that
    burst_bytes            per change, of 100 that go out together
    publish_us             the master's time for a change, whoever reads
    node_us                its time for a change and node, the system's included
    last_ms                from a change until the last node has it; changes wait 30 ms first
    anew_ms                what a reader needs for a whole table of another master that says what
                           it knows already, and to find that
    whole_ms               the master's time for a node that knows nothing
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

from bench.l4lb_cluster import agent_addresses, large, task_row
from bench.l4lb_net import ROOT
from bench.report import CannotRun, Result, median_s
from cairn_core.clusterview.feed import FeedReader
from cairn_core.kit.feed import Backlog, FeedPublisher, decode, encode
from cairn_core.kit.http_server import Handler, HttpServer, Router
from cairn_core.kit.io_feed import FEED_PATH, FeedServer
from cairn_core.mesos import recordio
from cairn_core.mesos.feed_rows import TASK, VIP, TaskRow, encode_row

BENCH = "l4lb_feed"
BACKENDS = 10
#: A reader notes when it has seen this and the number after it.
MARK = b"MARK"
#: So long a reader may take, seconds.
PATIENCE_S = 120.0


def changed(number: int) -> TaskRow:
    """A task that is another one each time, with a number that readers look for."""
    return task_row(0, number % 1000, agent_addresses(1)[0], 20000, {"X": f"MARK{number:08d}"})


def wire_bytes(backlog: Backlog) -> int:
    """What these messages are on the wire, but for HTTP's chunks (6 bytes each) and TCP."""
    return sum(len(recordio.encode(data)) for data in backlog.messages())


def anew(publisher: FeedPublisher) -> None:
    """Another master, or a relay's reading of it: all rows are sent, and none of them is news."""
    backlog, reader = publisher.frames_since(0, 0), FeedReader()
    for data in (encode(backlog.hello), *backlog.messages()):
        reader.received(decode(data))
    before = publisher.seq
    for key, value in reader.values.items():
        publisher.put(key, value)
    assert publisher.seq == before, "a row that is the same is no change"


def sizes(publisher: FeedPublisher, case: str) -> Iterator[Result]:
    """Bytes of rows and changes."""

    def result(metric: str, value: float, unit: str, n: int = 1) -> Result:
        return Result(BENCH, case, metric, value, unit, n)

    yield result("rows", len(publisher), "rows")
    whole = publisher.frames_since(0, 0)
    yield result("whole_bytes", wire_bytes(whole), "B")
    for metric, prefix in (("task_bytes", TASK), ("vip_bytes", VIP)):
        found = [frame for frame in whole.frames if prefix.encode() in bytes(frame)[:24]]
        yield result(metric, median(len(bytes(frame)) for frame in found), "B", len(found))
    for metric, count in (("change_bytes", 1), ("burst_bytes", 100)):
        before = publisher.seq
        for number in range(count):
            row = changed(before + number)
            publisher.put(row.key, encode_row(row))
        size = wire_bytes(publisher.frames_since(publisher.epoch, before))
        yield result(metric, size / count, "B", count)
    yield result("digest_bytes", len(recordio.encode(publisher.digest())), "B")
    yield result("anew_ms", median_s(lambda: anew(publisher), 3) * 1e3, "ms", 3)
    numbers = iter(range(100_000_000))

    def publish() -> None:
        for _ in range(1000):
            row = changed(next(numbers))
            publisher.put(row.key, encode_row(row))

    yield result("publish_us", median_s(publish, 9) * 1000, "us", 9000)


@dataclass(slots=True)
class Readers:
    """So many nodes, in a process of their own."""

    process: asyncio.subprocess.Process

    async def read(self) -> float:
        """When the last one had what was awaited (CLOCK_MONOTONIC)."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_S)
        if not line:
            raise CannotRun("the readers of the feed have ended")
        return float(json.loads(line))


@asynccontextmanager
async def readers(port: int, count: int) -> AsyncIterator[Readers]:
    """Subscribe; they have the whole table at first."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.l4lb_feed", str(port), str(count), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Readers(process)
    finally:
        process.kill()
        await process.wait()


async def nodes(publisher: FeedPublisher, count: int, changes: int) -> list[Result]:
    """What readers cost, this process being the master."""
    feed = FeedServer(publisher)
    router: Router[Handler] = Router()
    router.add(FEED_PATH, feed.answer)
    http = HttpServer(router)
    await http.start(("127.0.0.1", 0))
    stop = asyncio.Event()
    running = asyncio.create_task(feed.run(stop))
    case = f"{count}-nodes"
    found: list[Result] = []

    def result(metric: str, value: float, unit: str, n: int) -> None:
        found.append(Result(BENCH, case, metric, value, unit, n))

    try:
        number = publisher.seq * 1000
        row = changed(number)
        feed.put(row.key, encode_row(row))
        spent = time.process_time()
        async with readers(http.port, count) as there:
            await there.read()
            result("whole_ms", (time.process_time() - spent) * 1e3 / count, "ms", count)
            took, used = [], []
            for _ in range(changes):
                number += 1
                row = changed(number)
                spent, start = time.process_time(), time.monotonic()
                feed.put(row.key, encode_row(row))
                took.append(await there.read() - start)
                used.append((time.process_time() - spent) / count)
            result("node_us", median(used) * 1e6, "us", changes)
            result("last_ms", median(took) * 1e3, "ms", changes)
    finally:
        stop.set()
        await running
        await http.drain(0)
    return found


def _many_sockets() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    _many_sockets()
    for vips in (500,) if quick else (1000, 5000):
        publisher = FeedPublisher(1)
        for row in large(vips, BACKENDS):
            publisher.put(row.key, encode_row(row))
        yield from sizes(publisher, f"{vips}x{BACKENDS}")
    # The cost of the whole grows with the table, that of a change with the number of nodes.
    for count in (50,) if quick else (100, 400, 1600):
        publisher = FeedPublisher(1)
        for row in large(500 if quick or count > 100 else 5000, BACKENDS):
            publisher.put(row.key, encode_row(row))
        yield from asyncio.run(nodes(publisher, count, 5 if quick else 20))


# -- the process of the readers ----------------------------------------------------------------


class _Reader(asyncio.Protocol):
    """One node: it looks for marks and forgets everything else."""

    def __init__(self, seen: "asyncio.Queue[None]") -> None:
        self._seen = seen
        self._tail = b""
        self._last = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"GET {FEED_PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        text = self._tail + data
        at = text.rfind(MARK)
        if at >= 0 and len(mark := text[at : at + 12]) == 12 and mark > self._last:
            self._last = mark
            self._seen.put_nowait(None)
        self._tail = text[-11:]


async def _read_all(port: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    seen: asyncio.Queue[None] = asyncio.Queue()
    kept = [
        await loop.create_connection(lambda: _Reader(seen), "127.0.0.1", port) for _ in range(count)
    ]
    while kept:
        for _ in range(count):
            await seen.get()
        print(json.dumps(time.monotonic()), flush=True)


if __name__ == "__main__":
    _many_sockets()
    asyncio.run(_read_all(int(sys.argv[1]), int(sys.argv[2])))
