"""Names of VIPs on their way to the DNS proxy, whose real control interface is asked."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from cairn_core.testing.requires import requires
from cairn_core.vips.names import ZONE
from cairn_dns.proxy import http_control
from cairn_dns.proxy.http_control import Control
from cairn_dns.proxy.io_store import Mount, Store
from cairn_dns.proxy.io_zones import Zones
from cairn_l4lb import io_names
from cairn_l4lb.io_names import Names, forget
from cairn_l4lb.zones import MAX_RECORDS, records, with_name_server

NAMES = {"web.marathon": ("11.0.0.1", "fd01:c::1"), "db.marathon": ("11.0.0.2", "")}


class Proxy:
    """A proxy's control socket; what it knows is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.zones = Zones(self.store, lambda names: None)
        self.control = Control(self.zones, self.store, lambda: [], str(folder))

    def records(self) -> set[tuple[str, str, str]]:
        """What the zone holds."""
        spec = self.zones.pushed.get(ZONE)
        return {(one.name, one.type, one.value) for one in spec.records} if spec else set()

    @property
    def generation(self) -> int:
        return self.zones.pushed[ZONE].generation


@asynccontextmanager
async def proxy(folder: Path) -> AsyncIterator[Proxy]:
    requires("root")  # the socket is for root only
    made = Proxy(folder)
    await made.zones.restore([])
    server = made.control.server()
    await server.start(folder / "proxy.sock")
    try:
        yield made
    finally:
        await server.drain(0)


@asynccontextmanager
async def pushing(folder: Path) -> AsyncIterator[Names]:
    names = Names(folder / "proxy.sock", folder / "l4lb.sock", folder / "generation", Random(1))
    stop = asyncio.Event()
    running = asyncio.create_task(names.run(stop))
    try:
        yield names
    finally:
        stop.set()
        await running


async def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_records_are_sorted_and_of_both_families() -> None:
    found, left_out = records(NAMES)
    assert [(one.name, one.type, one.value) for one in found] == [
        ("db.marathon", "A", "11.0.0.2"),
        ("web.marathon", "A", "11.0.0.1"),
        ("web.marathon", "AAAA", "fd01:c::1"),
    ]
    assert left_out == 0


def test_a_full_zone_leaves_names_out() -> None:
    many = {f"n{number}.marathon": ("11.0.0.1", "fd01:c::1") for number in range(MAX_RECORDS // 2)}
    found, left_out = records(many)
    assert not left_out
    assert len(with_name_server(found, ("198.51.100.1", "fd01:d::1"))) == 100_000
    found, left_out = records({**many, "zz.marathon": ("11.0.0.1", "")})
    assert (len(found), left_out) == (MAX_RECORDS, 1)


async def test_names_are_pushed_and_the_socket_is_mounted(tmp_path: Path) -> None:
    async with proxy(tmp_path) as there, pushing(tmp_path) as names:
        names.set(NAMES)
        await until(lambda: names.in_step)
        assert ("web.marathon", "AAAA", "fd01:c::1") in there.records()
        assert ("ns", "A", "198.51.100.1") in there.records()
        assert there.control.mounts == dict.fromkeys(
            ("/v1/vips", "/v1/metrics/l4lb"), str(tmp_path / "l4lb.sock")
        )
        first = there.generation
        names.set(dict(NAMES))
        assert names.in_step  # nothing changed
        names.set({})
        await until(lambda: names.in_step)
        assert there.records() == {("ns", "A", "198.51.100.1")}
        assert there.generation > first


async def test_generations_grow_over_restarts_and_lost_disks(tmp_path: Path) -> None:
    async with proxy(tmp_path) as there:
        seen = []
        for lost in (False, True):
            async with pushing(tmp_path) as names:
                names.set(NAMES)
                await until(lambda names=names: names.in_step)  # type: ignore[misc]
                seen.append(there.generation)
            if lost:
                (tmp_path / "generation").unlink()
        async with pushing(tmp_path) as names:
            names.set({})
            await until(lambda: names.in_step)
            seen.append(there.generation)
    assert seen == sorted(set(seen))


async def test_a_proxy_that_comes_late_or_lost_its_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_names, "CHECK_S", 0.05)
    async with pushing(tmp_path) as names:
        names.set(NAMES)
        await until(lambda: names.problem is not None)
        async with proxy(tmp_path) as there:
            await until(lambda: names.in_step)
            assert names.problem is None
            await there.zones.drop(ZONE)
            there.control.mounts.clear()
            await until(lambda: bool(there.records()) and bool(there.control.mounts))


async def test_a_mount_that_an_older_proxy_refuses_is_that_mounts_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(io_names, "CHECK_S", 0.05)
    registries = http_control.OWN_REGISTRIES
    monkeypatch.setattr(http_control, "OWN_REGISTRIES", registries | {"l4lb"})
    async with proxy(tmp_path) as there, pushing(tmp_path) as names:
        names.set(NAMES)
        await until(lambda: names.in_step)
        assert names.problem is None
        assert list(there.control.mounts) == ["/v1/vips"]
        assert list(names.refused) == ["/v1/metrics/l4lb"]
        assert "status 400" in names.refused["/v1/metrics/l4lb"]
        monkeypatch.setattr(http_control, "OWN_REGISTRIES", registries)
        await until(lambda: not names.refused)
        assert len(there.control.mounts) == 2
        assert caplog.text.count("mount refused") == 1


async def test_all_is_taken_away_at_uninstall(tmp_path: Path) -> None:
    async with proxy(tmp_path) as there:
        async with pushing(tmp_path) as names:
            names.set(NAMES)
            await until(lambda: names.in_step)
        await forget(tmp_path / "proxy.sock")
        assert there.records() == set()
        assert there.store.mounts() == list[Mount]()
        await forget(tmp_path / "proxy.sock")
