"""Probes against real ports: TCP, HTTP, HTTPS without verification, IPv4 and IPv6, time-outs."""

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cairn_core.executor.checks import Probe, Result
from cairn_core.executor.probes import Running
from cairn_core.testing.requires import requires


@contextmanager
def server(
    answer: bytes | None, address: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> Iterator[int]:
    """A port that answers every request with the same bytes; None: accepts and says nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((address, 0))
        sock.listen()

        def serve() -> None:
            while True:
                try:
                    conn, _ = sock.accept()
                except OSError:
                    return
                with conn:
                    if context is not None:
                        with context.wrap_socket(conn, server_side=True) as secure:
                            secure.recv(4096)
                            secure.sendall(answer or b"")
                    else:
                        conn.recv(4096)
                        if answer is not None:
                            conn.sendall(answer)
                        else:
                            conn.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield sock.getsockname()[1]
        sock.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()


def probe(kind: str, timeout_s: float = 10.0, **what: Any) -> Result:
    """Make one probe to its end."""
    running = Running(Probe(True, kind, what, timeout_s), os.environ, time.monotonic())
    if timeout_s < 1:
        assert running.deadline is not None
        running.expire(now=running.deadline)
    _, status = os.waitpid(running.pid, 0)
    return running.result(status)


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def test_tcp() -> None:
    with server(b"") as port:
        assert probe("TCP", port=port) == Result(1)
    refused = probe("TCP", port=closed_port())
    assert refused.value == 0
    assert "Connection refused" in refused.message


def test_tcp_over_ipv6() -> None:
    requires("path:/proc/net/if_inet6")
    with server(b"", "::1") as port:
        assert probe("TCP", port=port, protocol="IPv6").value == 1


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.0 503 No\r\n\r\n", 503),
        (b"SSH-2\r\n", None),
    ],
)
def test_http(answer: bytes, value: int | None) -> None:
    with server(answer) as port:
        assert probe("HTTP", port=port, path="/health").value == value


def test_https_is_not_verified(tmp_path: Path) -> None:
    requires("openssl")
    key, cert = str(tmp_path / "key"), str(tmp_path / "cert")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", cert, "-subj", "/CN=elsewhere", "-days", "1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with server(b"HTTP/1.1 200 OK\r\n\r\n", context=context) as port:
        assert probe("HTTP", port=port, scheme="https").value == 200


def test_what_hangs_is_ended() -> None:
    with server(None) as port:
        result = probe("HTTP", timeout_s=0.05, port=port)
    assert result == Result(None, "check timed out after 0.05 seconds")
    result = probe("COMMAND", timeout_s=0.05, value="sleep 1234")
    assert result == Result(None, "check timed out after 0.05 seconds")


def test_commands() -> None:
    assert probe("COMMAND", value="exit 0") == Result(0)
    assert probe("COMMAND", value="exit 7").value == 7
    assert probe("COMMAND", value="kill -9 $$").value is None
    with pytest.raises(OSError, match="cannot execute"):
        probe("COMMAND", shell=False, value="/nonexistent")
