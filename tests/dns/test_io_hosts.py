"""Addresses that the system knows."""

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest

from cairn_dns import io_hosts
from cairn_dns.io_hosts import HostTable, own_addresses, resolv_conf_servers

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
Local:
     |-- 10.0.0.9
        /32 host LOCAL
     |-- 10.0.0.255
        /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 169.254.1.1
        /32 host LOCAL
"""
IF_INET6 = """00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000009 02 40 00 80     eth0
fe800000000000000000000000000009 02 40 20 80     eth0
"""


def texts(addresses: tuple[bytes, ...]) -> list[str]:
    return [str(ip_address(address)) for address in addresses]


def test_our_own_addresses(tmp_path: Path) -> None:
    assert texts(own_addresses(["127.0.0.1", "::1"], tmp_path)) == ["127.0.0.1", "::1"]
    assert own_addresses(["0.0.0.0"], tmp_path) == ()
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    (tmp_path / "if_inet6").write_text(IF_INET6)
    assert texts(own_addresses(["0.0.0.0", "10.0.0.9"], tmp_path)) == ["10.0.0.9", "fd00::9"]


def test_servers_of_this_host(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    servers = ("203.0.113.53", "127.0.0.1", "x", "")
    file.write_text("# x\n" + "".join(f"nameserver {server}\n" for server in servers))
    assert resolv_conf_servers(file) == ["203.0.113.53"]
    assert resolv_conf_servers(tmp_path / "none") == []


async def test_hosts_are_resolved_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    changed = asyncio.Event()
    table = HostTable(changed.set)

    async def look_up(name: str, port: None, **_: object) -> list[tuple[object, ...]]:
        asked.append(name)
        if name == "silent":
            await asyncio.Event().wait()
        if name == "gone":
            raise OSError("no such host")
        return [(0, 0, 0, "", ("10.0.0.7", 0)), (0, 0, 0, "", ("fe80::1%eth0", 0))]

    monkeypatch.setattr(io_hosts, "TIMEOUT_S", 0.01)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    stop = asyncio.Event()
    table.want({"here", "gone", "silent"})
    running = asyncio.create_task(table.run(stop))
    async with asyncio.timeout(10):
        await changed.wait()
        while len(table.addresses) < 3:  # noqa: ASYNC110 - the table is the event
            await asyncio.sleep(0)
    assert {name: texts(found) for name, found in table.addresses.items()} == {
        "here": ["10.0.0.7", "fe80::1"],
        "gone": [],
        "silent": [],
    }
    table.want({"here"})
    assert set(table.addresses) == {"here"}
    table.want({"here", "other"})
    async with asyncio.timeout(10):
        while "other" not in table.addresses:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0)
    stop.set()
    async with asyncio.timeout(10):
        await running
