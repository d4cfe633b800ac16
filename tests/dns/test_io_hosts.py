"""Addresses that the system knows."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from cairn_dns import io_hosts
from cairn_dns.addresses import Address
from cairn_dns.io_hosts import (
    AGAIN_AT_ONCE,
    AT_ONCE,
    MAX_NAMES,
    HostTable,
    look_up,
    own_addresses,
    resolv_conf_servers,
)

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
    servers = ("203.0.113.54", "203.0.113.53", "127.0.0.1", "x", "", "203.0.113.54")
    file.write_text("# x\n" + "".join(f"nameserver {server}\n" for server in servers))
    assert resolv_conf_servers(file) == ["203.0.113.54", "203.0.113.53"]
    assert resolv_conf_servers(tmp_path / "none") == []


class System:
    """Finds 10.0.0.7 for all names; nothing for `gone...`, and is silent about `silent...`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.silence = asyncio.Event()

    async def look_up(self, name: str) -> tuple[Address, ...]:
        self.asked.append(name)
        if name.startswith("silent"):
            await self.silence.wait()
        if name.startswith(("gone", "silent")):
            raise OSError("no such host")
        return (bytes([10, 0, 0, 7]),)


@contextlib.asynccontextmanager
async def running(table: HostTable) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(table.run(stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the table is the event
            await asyncio.sleep(0)


async def test_hosts_are_resolved_and_forgotten() -> None:
    system, changes = System(), list[None]()
    table = HostTable(lambda: changes.append(None), system.look_up)
    table.want({"here", "gone", "silent"})
    async with running(table):
        await until(lambda: len(table.addresses) == 2)
        assert table.addresses == {"here": (b"\x0a\x00\x00\x07",), "gone": ()}
        assert len(changes) == 1
        system.silence.set()
        await until(lambda: "silent" in table.addresses)
        table.want({"here"})
        assert set(table.addresses) == {"here"}
        table.want({"here", "other"})
        await until(lambda: "other" in table.addresses)
        assert sorted(system.asked) == ["gone", "here", "other", "silent"]


async def test_silent_names_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io_hosts, "AGAIN_S", 0.0)
    system = System()
    table = HostTable(lambda: None, system.look_up)
    silent = {f"silent{n}" for n in range(AT_ONCE - 1)}
    table.want(silent)
    async with running(table):
        await until(lambda: len(system.asked) == len(silent))
        table.want(silent | {"new"})
        await until(lambda: "new" in table.addresses)
        # known to be silent they leave most places, even where they are more than those
        system.silence.set()
        silent |= {f"silent0{n}" for n in range(AT_ONCE)}
        table.want(silent)
        await until(lambda: len(table.addresses) == len(silent))
        system.silence.clear()
        asked = -1
        while asked != len(system.asked):
            asked = len(system.asked)
            for _ in range(100):
                await asyncio.sleep(0)
        assert len(table._looking) <= AGAIN_AT_ONCE
        table.want(silent | {"another"})
        await until(lambda: "another" in table.addresses)


async def test_a_look_up_that_nobody_waits_for_any_more_leaves_nothing() -> None:
    system = System()
    table = HostTable(lambda: None, system.look_up)
    table.want({"silent"})
    async with running(table):
        await until(lambda: system.asked == ["silent"])
        table.want({"here"})
        system.silence.set()
        await until(lambda: set(table._tasks) == {"here"} and "here" in table.addresses)
        assert set(table.addresses) == {"here"}
        # wanted, not wanted and wanted again at once
        table.want({"silent"})
        table.want(())
        table.want({"silent"})
        await until(lambda: table.addresses == {"silent": ()})


def test_names_wanted_before_come_first() -> None:
    table = HostTable(lambda: None)
    before = {f"m{n}" for n in range(MAX_NAMES - 1)}
    table.want(before)
    table.want(before | {f"a{n}" for n in range(MAX_NAMES)})
    assert table._wanted == before | {"a0"}
    table.want({"z"})
    assert table._wanted == {"z"}


async def test_the_system_is_asked() -> None:
    assert await look_up("127.0.0.1") == (b"\x7f\x00\x00\x01",)
    with pytest.raises(OSError):
        await look_up("")
    with pytest.raises(UnicodeError):
        await look_up("x" * 64 + ".example")
    await until(lambda: all(thread.name != "hosts" for thread in threading.enumerate()))
