"""Sockets to listen on, and who is at the other end of a connection.

A listener is an address, a path, or a socket that somebody else bound (a supervisor that keeps it
open over our restarts, a test).
"""

import asyncio
import contextlib
import os
import socket
import stat
import struct
from pathlib import Path
from typing import TypeAlias

from cairn_core.errors import Unavailable
from cairn_core.kit.http_types import Peer

#: (host, port), a path of a Unix socket, or a socket that is bound already (and may listen).
Listener: TypeAlias = tuple[str, int] | Path | socket.socket

_UCRED = struct.Struct("3i")


def peer_of(transport: asyncio.BaseTransport | None) -> Peer:
    if transport is None:
        return Peer()
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        pid, uid, gid = _UCRED.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        return Peer(uid=uid, gid=gid, pid=pid)
    name = transport.get_extra_info("peername")
    return Peer(str(name[0]), int(name[1])) if isinstance(name, tuple) else Peer()


def bind(listener: Listener) -> list[socket.socket]:
    """Listening sockets for one listener; a host name may stand for several addresses."""
    if isinstance(listener, socket.socket):
        listener.setblocking(False)
        return [listener]
    if isinstance(listener, Path):
        return [_bind_unix(listener)]
    host, port = listener
    made: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            sock = socket.socket(family, kind, proto)
            made.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            sock.bind(address)
    except OSError as error:
        for sock in made:
            sock.close()
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return made


def _bind_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            # left behind by a daemon that was killed; anything but a socket is not ours
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        sock.setblocking(False)
        sock.bind(str(path))
        os.chmod(path, 0o660)
    except OSError as error:
        sock.close()
        raise Unavailable(f"cannot listen on {path}: {error.strerror or error}") from None
    return sock


def name_of(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
