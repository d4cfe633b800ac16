"""Long reads in slices: others get their turn of the event loop every few milliseconds.

A generator does one small piece of work a step. Between two slices the tables may change, so it
iterates over copies and looks records up anew.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

#: How long a read may hold the loop, seconds.
SLICE_S = 0.005
#: Aimed-at size of a block.
BLOCK_BYTES = 64 * 1024


async def in_slices(steps: Iterator[T]) -> list[T]:
    """What the steps yield."""
    found: list[T] = []
    ends = time.monotonic() + SLICE_S
    for step in steps:
        found.append(step)
        if time.monotonic() >= ends:
            await asyncio.sleep(0)
            ends = time.monotonic() + SLICE_S
    return found


async def in_blocks(pieces: Iterator[bytes]) -> list[bytes]:
    """The pieces, joined to blocks, which cost less to send than many small ones."""
    found: list[bytes] = []
    block: list[bytes] = []
    size = 0
    ends = time.monotonic() + SLICE_S
    for piece in pieces:
        block.append(piece)
        size += len(piece)
        if size >= BLOCK_BYTES:
            found.append(b"".join(block))
            block, size = [], 0
        if time.monotonic() >= ends:
            await asyncio.sleep(0)
            ends = time.monotonic() + SLICE_S
    found.append(b"".join(block))
    return found
