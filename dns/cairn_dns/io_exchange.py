"""One question to another server and its answer, over UDP or TCP.

What comes back counts only when it comes from the server, to the port that asked, with the id, and
has the question.  Over UDP questions share sockets, for to make one costs more than to ask: each
has a port that the kernel chose, carries few questions at a time, and is given up after a while.
So who guesses has to find one of as many pairs of port and id as with a socket for each question.
"""

import asyncio
import os
import socket
import struct
from typing import TypeAlias

from .wire import HEADER_BYTES, question_end

#: Address and port of a server.
Server: TypeAlias = tuple[str, int]
#: Larger answers over UDP are cut.
MAX_REPLY_BYTES = 65_535
#: Questions that one socket carries at a time, and in all; seconds until it is given up.
AT_A_TIME, IN_ALL, OLD_S = 16, 256, 2.0
#: Replies that one socket takes before others have their turn.
REPLIES = 16


async def exchange(query: bytes, server: Server, tcp: bool, timeout_s: float) -> bytes:
    """The answer of a server, with the id of `query`.

    query: well-formed. An answer that says it was cut (TC) is given as it is.
    Raises TimeoutError; OSError when the server cannot be reached or there are no ports left;
    EOFError when it closes the connection.
    """
    if tcp:
        reply = await _over_tcp(_ids.take() + query[2:], server, timeout_s)
    else:
        reply = await _over_udp(query, server, timeout_s)
    return query[:2] + reply[2:]


def answers(query: bytes, reply: bytes) -> bool:
    """Whether a message can be the answer to a query: id, QR, opcode, and the same question.

    The question is compared with its case, which makes it harder to guess (0x20).  A server that
    refuses or fails may leave the question out.
    """
    if len(reply) < HEADER_BYTES or reply[:2] != query[:2] or not reply[2] & 0x80:
        return False
    if (reply[2] ^ query[2]) & 0x78:
        return False
    if reply[4:6] == b"\0\0":
        return reply[3] & 0x0F != 0 and reply[6:8] == b"\0\0"
    end = question_end(query)
    return reply[4:6] == b"\0\1" and end is not None and reply[12:end] == query[12:end]


class _Ids:
    """Ids that nobody can guess, from the kernel by the block."""

    def __init__(self) -> None:
        self._block, self._at = b"", 0

    def take(self) -> bytes:
        """Two bytes."""
        if self._at >= len(self._block):
            self._block, self._at = os.urandom(1024), 0
        self._at += 2
        return self._block[self._at - 2 : self._at]


_ids = _Ids()


class _Channel:
    """A socket to one server.  Invariant: it is open while somebody waits or it may be asked on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self.loop, self.left, self.retired = loop, IN_ALL, False
        #: Queries by id, and who waits for their answers.
        self.waiting: dict[bytes, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._socket = socket.socket(family, kind)
        try:
            # connected: only this server is heard, and that it is gone is told at once
            self._socket.connect(server)
        except OSError:
            self._socket.close()
            raise
        loop.add_reader(self._socket.fileno(), self._readable)

    @property
    def free(self) -> bool:
        """Whether it takes another question."""
        return len(self.waiting) < AT_A_TIME and not self.retired

    def ask(self, query: bytes) -> tuple[bytes, "asyncio.Future[bytes]"]:
        """Send a query under an id of ours; the id, and the answer to come.  Raises OSError."""
        number = _ids.take()
        while number in self.waiting:
            number = _ids.take()
        sent = number + query[2:]
        try:
            self._socket.send(sent)
        except OSError as error:
            # what was refused is an earlier question, and nobody is told of it again
            self._failed(error)
            raise
        answer: asyncio.Future[bytes] = self.loop.create_future()
        self.waiting[number] = (sent, answer)
        self.left -= 1
        if not self.left:
            self.retired = True
        return number, answer

    def forget(self, number: bytes) -> None:
        """Nobody waits for an answer any longer."""
        self.waiting.pop(number, None)
        if self.retired and not self.waiting:
            self.close()

    def close(self) -> None:
        """Be asked no more, and listen no more."""
        self.retired = True
        if self._socket.fileno() >= 0:
            self.loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _readable(self) -> None:
        for _ in range(REPLIES):
            try:
                reply = self._socket.recv(MAX_REPLY_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return
            sent, answer = self.waiting.get(reply[:2], (b"", None))
            if answer is not None and not answer.done() and answers(sent, reply):
                answer.set_result(reply)

    def _failed(self, error: OSError) -> None:
        """The server is not there: that concerns all that was sent."""
        for _, answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(error)


class _Channels:
    """The sockets to each server that may be asked on; none is older than `OLD_S`."""

    def __init__(self) -> None:
        self._open: dict[Server, list[_Channel]] = {}

    def take(self, server: Server) -> _Channel:
        """One that takes a question.  Raises OSError."""
        loop = asyncio.get_running_loop()
        channels = self._open.setdefault(server, [])
        for channel in channels:
            if channel.free and channel.loop is loop:
                return channel
        channel = _Channel(loop, server)
        # the last one comes first: it most likely takes more
        channels.insert(0, channel)
        loop.call_later(OLD_S, self._retire, server, channel)
        return channel

    def _retire(self, server: Server, channel: _Channel) -> None:
        channels = self._open[server]
        channels.remove(channel)
        if not channels:
            del self._open[server]
        channel.retired = True
        if not channel.waiting:
            channel.close()


_channels = _Channels()


async def _over_udp(query: bytes, server: Server, timeout_s: float) -> bytes:
    channel = _channels.take(server)
    number, answer = channel.ask(query)
    timer = channel.loop.call_later(timeout_s, _late, answer, server)
    try:
        return await answer
    finally:
        timer.cancel()
        channel.forget(number)


def _late(answer: "asyncio.Future[bytes]", server: Server) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError(f"no answer from {server[0]} port {server[1]}"))


async def _over_tcp(query: bytes, server: Server, timeout_s: float) -> bytes:
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(*server)
            writer.write(struct.pack("!H", len(query)) + query)
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            reply = await reader.readexactly(size)
    finally:
        if writer is not None:
            writer.transport.abort()
    if not answers(query, reply):
        raise ConnectionResetError(f"answer to another question from {server[0]}")
    return reply
