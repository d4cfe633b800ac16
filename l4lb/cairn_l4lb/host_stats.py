"""What /proc says about connection tracking and packet queues: pure."""

from collections.abc import Iterable


def conntrack(text: str) -> dict[str, int]:
    """Counters of /proc/net/stat/nf_conntrack, summed over processors; {} for another text.

    Its columns differ between kernels, so they are found by their names.
    """
    names, *rows = [line.split() for line in text.splitlines() if line.strip()] or [[]]
    result: dict[str, int] = {}
    for row in rows:
        for name, value in zip(names, row, strict=False):
            try:
                result[name] = result.get(name, 0) + int(value, 16)
            except ValueError:
                return {}
    return result


def queues(text: str, numbers: Iterable[int]) -> dict[str, int]:
    """Of /proc/net/netfilter/nfnetlink_queue, summed over the queues of these numbers:
    `queue_waiting` packets, `queue_dropped` for a full queue, `queue_user_dropped` for a reader
    with a full socket."""
    wanted = set(numbers)
    result = {"queue_waiting": 0, "queue_dropped": 0, "queue_user_dropped": 0}
    for line in text.splitlines():
        words = line.split()
        # number, port of the reader, waiting, copy mode, copy range, dropped, dropped by the reader
        if len(words) < 7 or not all(word.isdecimal() for word in words[:7]):
            continue
        if int(words[0]) in wanted:
            for name, word in zip(result, (words[2], words[5], words[6]), strict=True):
                result[name] += int(word)
    return result
