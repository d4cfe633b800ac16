"""Making checks, each in a process of its own that may hang or crash without harm.

HTTP and TCP go to the task's port on the loopback address, for executor and task share their
network. HTTPS is not verified and redirections are followed, as curl does for the original.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from typing import Any

from cairn_core.executor import tasks
from cairn_core.executor.checks import Probe, Result
from cairn_core.executor.settings import task_environment

MAX_REDIRECTS = 5
LOOPBACK = {"IPv4": (socket.AF_INET, "127.0.0.1"), "IPv6": (socket.AF_INET6, "::1")}


class Running:
    """A probe under way."""

    def __init__(self, probe: Probe, environment: Mapping[str, str], now: float) -> None:
        self.probe = probe
        self.deadline = now + probe.timeout_s if probe.timeout_s > 0 else None
        self.timed_out = False
        self._read, write = os.pipe()
        try:
            if probe.kind == "COMMAND":
                self.pid = tasks.spawn(probe.what, task_environment(environment, probe.what))
            else:
                self.pid = os.fork()
                if self.pid == 0:
                    _child(probe, write)
        except BaseException:
            os.close(self._read)
            raise
        finally:
            os.close(write)

    def expire(self, *, now: float) -> None:
        """Kill it when it has used up its time."""
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            self.timed_out = True
            tasks.signal_tree(self.pid, signal.SIGKILL)

    def result(self, status: int) -> Result:
        """What came of it, once its process has ended with this wait status."""
        with open(self._read, "rb") as pipe:
            said = b"" if self.probe.kind == "COMMAND" else pipe.read(1000)
        if self.timed_out:
            return Result(None, f"check timed out after {self.probe.timeout_s:g} seconds")
        if self.probe.kind == "COMMAND":
            if os.WIFSIGNALED(status):
                return Result(None, f"check command killed by signal {os.WTERMSIG(status)}")
            code = os.WEXITSTATUS(status)
            return Result(code, f"check command exited with status {code}" if code else "")
        value, _, message = said.decode(errors="replace").partition(" ")
        return Result(int(value), message) if value.isdigit() else Result(None, message)


def _child(probe: Probe, write: int) -> None:
    try:
        os.setsid()
        tasks.reset_signals()
        # The parent kills us in time; this is for the case that it no longer can.
        signal.alarm(int(probe.timeout_s) + 60)
        port = int(probe.what.get("port", 0))
        protocol = str(probe.what.get("protocol") or "IPv4")
        said = _tcp(protocol, port) if probe.kind == "TCP" else _http(protocol, port, probe.what)
        os.write(write, said.encode()[:1000])
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(write, f"- {error}".encode()[:1000])
    finally:
        os._exit(0)


def _tcp(protocol: str, port: int) -> str:
    family, address = LOOPBACK.get(protocol, LOOPBACK["IPv4"])
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        code = sock.connect_ex((address, port))
    return "1 " if code == 0 else f"0 connect to {address}:{port}: {os.strerror(code)}"


def _http(protocol: str, port: int, what: Mapping[str, Any]) -> str:
    scheme = str(what.get("scheme") or "http")
    path = str(what.get("path") or "/")
    _, host = LOOPBACK.get(protocol, LOOPBACK["IPv4"])
    for _ in range(MAX_REDIRECTS + 1):
        status, location = _get(scheme, host, port, path)
        if status not in (301, 302, 303, 307, 308) or not location:
            break
        scheme, host, port, path = _follow(location, scheme, host, port)
    return f"{status} {scheme}://{host}:{port}{path} answered {status}"


def _get(scheme: str, host: str, port: int, path: str) -> tuple[int, str]:
    """Status and Location of one request."""
    sock = socket.create_connection((host, port))
    with contextlib.ExitStack() as stack:
        stack.callback(sock.close)
        if scheme == "https":
            import ssl  # a task without HTTPS checks need not load it

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            sock = context.wrap_socket(sock, server_hostname=host)
            stack.callback(sock.close)
        name = f"[{host}]" if ":" in host else host
        lines = (f"GET {path} HTTP/1.1", f"Host: {name}:{port}", "User-Agent: cairn-executor")
        sock.sendall("\r\n".join((*lines, "Accept: */*", "Connection: close", "", "")).encode())
        data = b""
        while b"\r\n\r\n" not in data and len(data) < 65536:
            more = sock.recv(4096)
            if not more:
                break
            data += more
    first, *headers = data.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        raise OSError(f"port {port} does not answer in HTTP")
    for line in headers:
        key, _, value = line.partition(":")
        if key.lower() == "location":
            return int(words[1]), value.strip()
    return int(words[1]), ""


def _follow(location: str, scheme: str, host: str, port: int) -> tuple[str, str, int, str]:
    """Where a redirection leads."""
    if "://" not in location:
        return scheme, host, port, location if location.startswith("/") else f"/{location}"
    scheme, _, rest = location.partition("://")
    authority, slash, path = rest.partition("/")
    name, colon, number = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        name, number = authority, "443" if scheme == "https" else "80"
    return scheme.lower(), name.strip("[]"), int(number), slash + path or "/"
