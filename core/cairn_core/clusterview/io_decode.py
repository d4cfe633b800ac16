"""Decodes what a master tells about the whole cluster, without stopping the event loop.

A large answer is decoded by a process of its own, which is given the bytes as they come and gives
back rows in small portions: decoding 50,000 tasks takes a second in one piece, during which a
thread would keep all others waiting too, and memory that is free again when the process ends.
Run as a program this module is that process.
"""

import asyncio
import contextlib
import gc
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from cairn_core.errors import RemoteError, Unavailable, cause, shorten
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, Row, TaskRow

from .operator_events import SUBSCRIBED, BadEvent, read_event, snapshot_rows
from .state_json import BadState, Told, read_state

log = logging.getLogger(__name__)

#: Smaller answers are decoded in place, which takes some milliseconds, bytes.
IN_PLACE_BYTES = 512 * 1024
#: Larger answers are refused, bytes.
MAX_BYTES = 512 * 1024 * 1024
#: Rows in one portion; reading it takes some half a millisecond.
PORTION_ROWS = 200
#: Bytes of one portion that are accepted.
MAX_PORTION_BYTES = 64 * 1024 * 1024
#: Answering queries comes before decoding.
NICENESS = 5


class _Head(Struct, array_like=True):
    """First portion; `problem` is empty when all went well."""

    problem: str
    master_id: str = ""
    leader: tuple[str, int] = ("", 0)
    led: bool = True
    skipped: dict[str, int] = {}


class _Portion(Struct, array_like=True):
    """Some rows."""

    masters: list[MasterRow] = []
    agents: list[AgentRow] = []
    frameworks: list[FrameworkRow] = []
    tasks: list[TaskRow] = []


_encoder = msgspec.msgpack.Encoder()
_head_decoder = msgspec.msgpack.Decoder(_Head)
_portion_decoder = msgspec.msgpack.Decoder(_Portion)


def read_subscribed(record: bytes) -> Told:
    """The snapshot that begins an event stream, which does not say who sends it.

    Raises BadEvent.
    """
    skipped: Counter[str] = Counter()
    event = read_event(record, skipped)
    state = event.subscribed.get_state if event.subscribed is not None else None
    if event.type != SUBSCRIBED or state is None:
        raise BadEvent(f"event: the stream begins with {shorten(event.type)!r} and no state")
    return Told("", snapshot_rows(state, skipped), skipped=skipped)


_READERS: dict[str, Callable[[bytes], Told]] = {"state": read_state, "subscribed": read_subscribed}


async def decode_told(kind: str, pieces: AsyncIterator[bytes]) -> Told:
    """What an answer tells.

    kind: `state` or `subscribed`. pieces: the answer as it comes.
    Raises BadState, BadEvent, and whatever reading the pieces raises.
    """
    first = bytearray()
    async for piece in pieces:
        first += piece
        if len(first) > IN_PLACE_BYTES:
            return await _decode_elsewhere(kind, bytes(first), pieces)
    return _READERS[kind](bytes(first))


async def pieces_of(data: bytes, size: int = 256 * 1024) -> AsyncIterator[bytes]:
    """What is here already, in pieces."""
    view = memoryview(data)
    for at in range(0, len(data), size):
        yield bytes(view[at : at + size])


async def _decode_elsewhere(kind: str, first: bytes, pieces: AsyncIterator[bytes]) -> Told:
    # -P: modules come from where we are installed, never from the working directory.
    command = (sys.executable, "-P", "-m", __spec__.name if __spec__ else __name__, kind)
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    except OSError as error:
        raise Unavailable(f"cannot start a process that decodes: {cause(error)}") from None
    try:
        await _feed(process, first, pieces)
        return await _told(process)
    except (asyncio.IncompleteReadError, msgspec.MsgspecError, ConnectionError) as error:
        raise Unavailable(f"the process that decodes failed: {cause(error)}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _feed(process: Process, first: bytes, pieces: AsyncIterator[bytes]) -> None:
    assert process.stdin is not None
    sent = len(first)
    process.stdin.write(first)
    await process.stdin.drain()
    async for piece in pieces:
        sent += len(piece)
        if sent > MAX_BYTES:
            raise BadState(f"state of a master: is above {MAX_BYTES} bytes")
        process.stdin.write(piece)
        await process.stdin.drain()
    process.stdin.close()


async def _told(process: Process) -> Told:
    head = _head_decoder.decode(await _portion(process))
    if head.problem:
        raise BadState(head.problem)
    rows: list[Row] = []
    while portion := await _portion(process):
        some = _portion_decoder.decode(portion)
        rows += [*some.masters, *some.agents, *some.frameworks, *some.tasks]
        await asyncio.sleep(0)
    return Told(head.master_id, rows, head.leader, head.led, Counter(head.skipped))


async def _portion(process: Process) -> bytes:
    assert process.stdout is not None
    size = int.from_bytes(await process.stdout.readexactly(4), "big")
    if size > MAX_PORTION_BYTES:
        raise Unavailable(f"the process that decodes sends {size} bytes at once")
    return await process.stdout.readexactly(size)


def _write(out: BinaryIO, portion: Any) -> None:
    data = b"" if portion is None else _encoder.encode(portion)
    out.write(len(data).to_bytes(4, "big") + data)


def main(kind: str, source: BinaryIO, out: BinaryIO) -> None:
    """Decode what `source` gives and write portions; an empty one is the end."""
    try:
        told = _READERS[kind](source.read())
    except RemoteError as error:
        _write(out, _Head(str(error)))
        return
    _write(out, _Head("", told.master_id, told.leader, told.led, dict(told.skipped)))
    for at in range(0, len(told.rows), PORTION_ROWS):
        portion = _Portion([], [], [], [])
        for row in told.rows[at : at + PORTION_ROWS]:
            match row:
                case MasterRow():
                    portion.masters.append(row)
                case AgentRow():
                    portion.agents.append(row)
                case FrameworkRow():
                    portion.frameworks.append(row)
                case TaskRow():
                    portion.tasks.append(row)
        _write(out, portion)
    _write(out, None)


if __name__ == "__main__":
    os.nice(NICENESS)
    gc.disable()  # everything lives until the end
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
        sys.stdout.buffer.flush()
