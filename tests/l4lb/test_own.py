"""This host's own addresses: read, followed while the daemon runs, and never those of VIPs."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, PortRow, Row, TaskRow
from cairn_core.testing.feed_master import FeedMaster
from cairn_core.testing.requires import requires
from cairn_l4lb import io_own
from cairn_l4lb.testing import Namespace

DEADLINE_S = 30.0

pytestmark = pytest.mark.netns


@pytest.fixture
def host() -> Iterator[Namespace]:
    requires("root", "ip", "nft", "iptables")
    made = Namespace()
    try:
        made.ip("link set lo up\nlink add eth0 type bridge\naddr add 203.0.113.5/24 dev eth0")
        made.ip("link set eth0 up")
        yield made
    finally:
        made.close()


def test_addresses_come_and_go(host: Namespace) -> None:
    with host.inside():
        own = io_own.read()
        assert own is not None
        assert (own.addresses, own.networks) == (["203.0.113.5"], ["203.0.113.0/24"])
        assert own.first(4) == "203.0.113.5"
        # one that is alone, and one that is on two links
        host.ip("addr add 198.51.100.9/32 dev eth0\nlink add br0 type bridge")
        host.ip("addr add 10.77.0.1/24 dev br0\naddr add 198.51.100.9/32 dev br0")
        more = io_own.read()
        assert more is not None
        assert sorted(more.everything) == ["10.77.0.0/24", "198.51.100.9", "203.0.113.0/24"]
        host.ip("link del br0\naddr del 198.51.100.9/32 dev eth0")
        assert io_own.read() == own


@contextmanager
def daemon(
    folder: Path, host: Namespace, master: FeedMaster, **more: Any
) -> Iterator[tuple[Callable[[str], Any], subprocess.Popen[str]]]:
    """A daemon that touches nothing of the kernel, and how to ask it."""
    with host.inside(), socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    config = {
        "masters": [master.address], "source": "feed", "enable_networking": False,
        "api_listen_ip": "127.0.0.1", "api_listen_port": port, "proxy_socket": "",
        "vips_socket": "", "control_socket": "", "agent_polling_enabled": False,
        "state_dir": str(folder / "state"), "run_dir": str(folder), **more,
    }  # fmt: skip
    file = folder / "l4lb.json"
    file.write_text(json.dumps(config))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CAIRN")}
    with host.inside():
        process = subprocess.Popen(
            [sys.executable, "-m", "cairn_l4lb", "--config", str(file)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def get(path: str) -> Any:
        with host.inside():
            try:
                sock = socket.create_connection(("127.0.0.1", port), 10)
            except OSError:
                return {}
        with sock:
            sock.sendall(f"GET {path} HTTP/1.0\r\nAccept: application/json\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    try:
        yield get, process
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)


def until(done: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        if time.monotonic() > deadline:
            pytest.fail(f"not {what}")
        time.sleep(0.02)  # another process: there is nothing to wait on


def test_a_vip_gives_way_to_a_link_that_comes_later(host: Namespace, tmp_path: Path) -> None:
    labels = (("VIP_0", "10.77.0.1:80"), ("VIP_1", "1.2.3.4:80"))
    rows: list[Row] = [
        FrameworkRow("F", "marathon"),
        AgentRow("S", "agent", "203.0.113.9"),
        TaskRow(
            "t", "web", "F", "S", "TASK_RUNNING",
            discovery_ports=(PortRow(31000, "http", "tcp", labels),),
        ),
    ]  # fmt: skip
    with host.inside():
        listener = socket.create_server(("127.0.0.1", 0))
    with FeedMaster(rows, listener) as master, daemon(tmp_path, host, master) as (get, _):

        def vips() -> set[str]:
            return set(get("/vips").get("vips", {}))

        until(lambda: vips() == {"10.77.0.1:80", "1.2.3.4:80"}, "both there")
        host.ip("link add br0 type bridge\naddr add 10.77.0.1/24 dev br0")
        until(lambda: vips() == {"1.2.3.4:80"}, "given way")
        (problem,) = get("/v1/problems")["problems"]
        assert problem["reason"] == "address 10.77.0.1 is that of this host"
        host.ip("link del br0")
        until(lambda: vips() == {"10.77.0.1:80", "1.2.3.4:80"}, "back")


def test_names_that_would_cut_off_the_host_are_refused(host: Namespace, tmp_path: Path) -> None:
    span = {"min_named_ip": "203.0.113.0", "max_named_ip": "203.0.113.255"}
    with host.inside():
        listener = socket.create_server(("127.0.0.1", 0))
    with (
        FeedMaster([], listener) as master,
        daemon(tmp_path, host, master, enable_networking=True, **span) as (_, process),
    ):
        assert process.wait(DEADLINE_S) != 0
        assert process.stderr is not None
        assert (
            "min_named_ip, max_named_ip: 203.0.113.0 to 203.0.113.255 has addresses that are "
            "of this host (203.0.113.0/24)"
        ) in process.stderr.read()
        assert "cairn_l4lb" not in host.run("nft", "list", "tables")
