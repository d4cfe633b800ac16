"""Asking a daemon, for the commands: one question, or events as they come."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from cairn_core.errors import CairnError, RemoteError, Unavailable, cause, shorten

PORT = 61421
URL = f"http://127.0.0.1:{PORT}"
SOCKET = Path("/run/cairn/l4lb-control.sock")
TIMEOUT_S = 15.0
#: Events come each second; silence for longer means that nobody is there.
SILENT_S = 30.0
MAX_BYTES = 256 * 1024 * 1024


class NotRunning(Unavailable):
    """Nobody listens there."""


def base_url(host: str, url: str) -> str:
    """Where to ask: `url`, else the daemon of `host` (name, address, `host:port`), else ours."""
    if url:
        return (url if "://" in url else f"http://{url}").rstrip("/")
    if not host:
        return URL
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"
    return f"http://{host}" if host.rpartition(":")[2].isdigit() else f"http://{host}:{PORT}"


def get(base: str, path: str, query: Mapping[str, str] | None = None) -> Any:
    """The JSON answer.  Raises NotRunning, Unavailable and RemoteError, saying what to do."""
    connection = _connect(base, TIMEOUT_S)
    try:
        return _ask(connection, base, "GET", _path(path, query), None)
    finally:
        connection.close()


def control(place: Path, method: str, path: str, body: object = None) -> Any:
    """The JSON answer of a control socket.  Raises likewise."""
    connection = _UnixConnection(place)
    try:
        return _ask(connection, str(place), method, path, body)
    except PermissionError:
        raise CairnError(f"{place}: for root only; try it with sudo") from None
    finally:
        connection.close()


def follow(base: str, path: str, query: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Server-sent events: name and data.  Ends when the daemon does; raises as `get`."""
    connection = _connect(base, SILENT_S)
    try:
        reply = _send(connection, base, "GET", _path(path, query), None)
        if reply.status != 200:
            _refuse(reply, base)
        name, lines = "message", list[bytes]()
        while line := reply.readline(MAX_BYTES):
            line = line.rstrip(b"\r\n")
            if line.startswith(b"event: "):
                name = line[7:].decode()
            elif line.startswith(b"data: "):
                lines.append(line[6:])
            elif not line and lines:
                yield name, _decoded(b"\n".join(lines), base)
                name, lines = "message", []
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{base} went away: {cause(error)}") from None
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, place: Path) -> None:
        super().__init__("localhost", timeout=120.0)  # a change of the kernel may take its time
        self._place = place

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._place))


def _connect(base: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(base)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme not in ("http", "https") or not host:
        raise CairnError(f"--url: not http://host:port: {shorten(base, 80)!r}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=timeout_s)


def _path(path: str, query: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(query, quote_via=quote)}" if query else path


def _send(
    connection: http.client.HTTPConnection, base: str, method: str, path: str, body: object
) -> http.client.HTTPResponse:
    data = None if body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        return connection.getresponse()
    except (ConnectionRefusedError, FileNotFoundError):
        other = "another host with --host"
        if isinstance(connection, _UnixConnection):
            other = "its control socket with --socket"
        raise NotRunning(
            f"cairn-l4lb does not answer at {base}; is it running? see 'systemctl status "
            f"cairn-l4lb', or name {other}"
        ) from None
    except PermissionError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"no answer from {base}: {cause(error)}") from None


def _ask(
    connection: http.client.HTTPConnection, base: str, method: str, path: str, body: object
) -> Any:
    reply = _send(connection, base, method, path, body)
    if reply.status != 200:
        _refuse(reply, base)
    try:
        return _decoded(reply.read(MAX_BYTES), base)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"no whole answer from {base}: {cause(error)}") from None


def _refuse(reply: http.client.HTTPResponse, base: str) -> None:
    text = reply.read(64 * 1024)
    try:
        message = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        message = f"status {reply.status} {text[:200].decode(errors='replace')}"
    kind = Unavailable if reply.status == 503 else RemoteError
    raise kind(shorten(str(message)) if reply.status < 500 else f"{base}: {shorten(str(message))}")


def _decoded(data: bytes, base: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise RemoteError(f"{base} did not answer with JSON: is it cairn-l4lb?") from None
