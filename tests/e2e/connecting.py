"""Clients of a service that never stop: new connections at a steady rate, and some that stay.

    python connecting.py HOST PORT [RATE [KEPT]]

Says `connected` after the first answer. When its input ends it says, as one line of JSON, how many
requests were answered by whom, what failed and how, and the slowest connect. A kept connection asks
ten times a second; when the service closes it between two requests it is opened again, which is no
failure.
"""

import asyncio
import collections
import json
import sys
import time

#: Longer than a second repetition of a SYN, seconds.
TIMEOUT_S = 5.0


class Counts:
    """What happened to all."""

    def __init__(self) -> None:
        self.answers: collections.Counter[str] = collections.Counter()
        self.failures: list[dict[str, object]] = []
        self.kept_answers = self.kept_again = 0
        self.slowest_s = 0.0

    def failed(self, peer: str | None, began: float, error: BaseException) -> None:
        """peer: of a kept connection, who answered last; None for a new one."""
        took_s = time.monotonic() - began
        self.failures.append(
            {"peer": peer, "began": time.time() - took_s, "took_s": took_s, "error": repr(error)}
        )


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, bool]:
    """One request: who answered, and whether the connection stays open."""
    writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 200"):
        raise OSError(head.split(b"\r\n")[0].decode())
    return body.decode().strip(), b"connection: close" not in head.lower()


async def once(counts: Counts) -> None:
    began = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(HOST, PORT)
            counts.slowest_s = max(counts.slowest_s, time.monotonic() - began)
            who, _ = await ask(reader, writer)
            writer.close()
        counts.answers[who] += 1
    except (OSError, EOFError, IndexError) as error:
        counts.failed(None, began, error)


async def kept(counts: Counts, stop: asyncio.Event) -> None:
    while not stop.is_set():
        began = time.monotonic()
        peer = "nobody"
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(HOST, PORT), TIMEOUT_S)
            stays = True
            while stays and not stop.is_set():
                if reader.at_eof():  # closed between two requests
                    break
                async with asyncio.timeout(TIMEOUT_S):
                    peer, stays = await ask(reader, writer)
                counts.kept_answers += 1
                await asyncio.sleep(0.1)
            writer.close()
        except (OSError, EOFError, IndexError) as error:
            counts.failed(peer, began, error)
        counts.kept_again += 1


async def main() -> None:
    counts, stop = Counts(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), stop.set)
    await once(counts)
    print("connected", flush=True)
    tasks = [asyncio.create_task(kept(counts, stop)) for _ in range(KEPT)]
    asked: set[asyncio.Task[None]] = set()
    due = loop.time()
    while not stop.is_set():
        due += 1 / RATE
        await asyncio.sleep(max(0.0, due - loop.time()))
        task = asyncio.create_task(once(counts))
        asked.add(task)
        task.add_done_callback(asked.discard)
    await asyncio.gather(*tasks, *asked)
    print(json.dumps(vars(counts)))


HOST, PORT = sys.argv[1], int(sys.argv[2])
RATE, KEPT = [int(word) for word in [*sys.argv[3:], *("50", "5")[len(sys.argv) - 3 :]]][:2]
if __name__ == "__main__":
    asyncio.run(main())
