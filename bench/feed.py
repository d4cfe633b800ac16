"""The node feed: publishing rows, and readers that take them in.

Cases:

    put          a row set in the publisher's table, with its frame and digest
    read         a reader that takes the whole table and proves it
    catch-up     what a reader that missed 100 changes of N rows costs the publisher
"""

from collections.abc import Iterator

from bench.report import Result, as_in_a_daemon, median_s, timed
from cairn_core.clusterview.feed import FeedReader
from cairn_core.kit.feed import FeedPublisher, decode, encode
from cairn_core.mesos.feed_rows import TaskRow, encode_row


def read(publisher: FeedPublisher, reader: FeedReader) -> int:
    """Bring a reader up to date; returns the bytes it took."""
    backlog = publisher.frames_since(*reader.subscribe())
    taken = 0
    for data in (encode(backlog.hello), *backlog.messages()):
        taken += len(data)
        reader.received(decode(data))
    return taken


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    count = 20_000 if quick else 200_000
    rows = [
        TaskRow(f"app-{i}", "app", "F", f"c-S{i % 1000}", "TASK_RUNNING", ports=((31000, 31000),))
        for i in range(count)
    ]
    values = [(row.key, encode_row(row)) for row in rows]
    publisher, reader = FeedPublisher(1), FeedReader()
    with as_in_a_daemon():
        put_s, _ = timed(lambda: [publisher.put(key, value) for key, value in values])
        yield Result("feed", "put", "row_us", put_s / count * 1e6, "us", count)
        read_s, taken = timed(lambda: read(publisher, reader))
        assert len(reader.values) == count
        yield Result("feed", "read", "row_us", read_s / count * 1e6, "us", count)
        yield Result("feed", "read", "row_bytes", taken / count, "bytes", count)
        for key, _ in values[:100]:
            publisher.put(key, b"\x90")
        spent = median_s(
            lambda: list(publisher.frames_since(reader.epoch, reader.seq).messages()), 9
        )
        yield Result("feed", f"catch-up-{count}", "make_ms", spent * 1000, "ms", 9)
