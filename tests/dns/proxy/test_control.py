"""Who may push and mount what, without a server; and where masters are found."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cairn_core.errors import LocalError
from cairn_core.kit.http_server import (
    Answer,
    Handler,
    HttpServer,
    Peer,
    Refused,
    Request,
    Response,
    Router,
)
from cairn_dns.proxy import io_zones
from cairn_dns.proxy.config import ProxyConfig
from cairn_dns.proxy.http_api import Api
from cairn_dns.proxy.http_control import MAX_MOUNTS, Control, only_root
from cairn_dns.proxy.io_masters import MasterList
from cairn_dns.proxy.io_store import Mount, Store
from cairn_dns.proxy.io_zones import Zones
from cairn_dns.proxy.routes import Server
from cairn_dns.proxy.zones import RecordSpec, ZoneSpec

ROOT = Peer(uid=0, gid=0, pid=1)
SPEC = ZoneSpec(3, [RecordSpec("a", "A", "11.0.0.1")])


def control(folder: Path) -> Control:
    store = Store(folder)
    return Control(Zones(store, lambda names: None), store, lambda: ["mesos"])


async def call(handler: Handler, body: object, **params: str) -> Any:
    request = Request.make("PUT", "/", json.dumps(body).encode(), params=params, peer=ROOT)
    answer = await handler(request)
    assert isinstance(answer, Response)
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


async def refused(handler: Handler, body: object, **params: str) -> tuple[int, str]:
    with pytest.raises(Refused) as told:
        await call(handler, body, **params)
    return told.value.status, told.value.message


@pytest.mark.parametrize("peer", [Peer(uid=1000, gid=0, pid=1), Peer("127.0.0.1", 1)])
async def test_others_than_root_are_refused(peer: Peer) -> None:
    async def handler(request: Request) -> Answer:
        raise AssertionError

    with pytest.raises(Refused) as told:
        await only_root(Request.make("GET", "/v1/zones", peer=peer), handler)
    assert told.value.status == 403


async def test_a_mount_is_kept_and_can_be_taken_back(tmp_path: Path) -> None:
    one = control(tmp_path)
    await call(one.put_mount, {"prefix": "/v1/vips", "socket": "/run/cairn/l4lb.sock"})
    assert control(tmp_path).mounts == {"/v1/vips": "/run/cairn/l4lb.sock"}
    await call(one.delete_mount, {"prefix": "/v1/vips"})
    assert not control(tmp_path).mounts
    assert (await refused(one.delete_mount, {"prefix": "/v1/vips"}))[0] == 404


@pytest.mark.parametrize(
    ("prefix", "socket", "field"),
    [
        ("/v1/hosts", "/run/cairn/x.sock", "prefix"),
        ("/v1/zones", "/run/cairn/x.sock", "prefix"),
        ("/v1/metrics", "/run/cairn/x.sock", "prefix"),
        ("/v1/metrics/dns", "/run/cairn/x.sock", "prefix"),
        ("/v1/vips/a", "/run/cairn/x.sock", "prefix"),
        ("/metrics", "/run/cairn/x.sock", "prefix"),
        ("/v1/..", "/run/cairn/x.sock", "prefix"),
        ("/v1/vips", "/run/cairn/../x.sock", "socket"),
        ("/v1/vips", "/run/cairn/a/x.sock", "socket"),
        ("/v1/vips", "/etc/passwd", "socket"),
        ("/v1/vips", "x.sock", "socket"),
    ],
)
async def test_a_mount_elsewhere_is_refused(
    tmp_path: Path, prefix: str, socket: str, field: str
) -> None:
    status, message = await refused(
        control(tmp_path).put_mount, {"prefix": prefix, "socket": socket}
    )
    assert (status, message.partition(":")[0]) == (400, field)


async def test_the_socket_of_the_proxy_itself_is_no_mount(tmp_path: Path) -> None:
    own = tmp_path / "dns-proxy.sock"
    (tmp_path / "other.sock").symlink_to(own)
    store = Store(tmp_path / "state")
    store.keep_mounts([Mount("/v1/old", str(own)), Mount("/v1/vips", str(tmp_path / "a.sock"))])
    zones = Zones(store, lambda names: None)
    one = Control(zones, store, list, f"{tmp_path}/", str(own))
    assert set(one.mounts) == {"/v1/vips"}
    for socket in (own, tmp_path / "other.sock"):
        told = await refused(one.put_mount, {"prefix": "/v1/x", "socket": str(socket)})
        assert told == (400, f"socket: the proxy's own: {str(socket)!r}")


@pytest.mark.parametrize(
    "path",
    ["/v1/vips/../admin", "/v1/vips/%2e%2e/admin", "/v1/vips/.%2E/a", "/v1/vips/a%2F..%2Fb",
     "/v1/vips/%252e%252e/a", "/v1/vips/..%5ca", "/v1/vips/./a", "/v1/vips/.."],
)  # fmt: skip
async def test_a_mounted_path_cannot_be_left(path: str) -> None:
    api = Api(None, None, None, None, {"/v1/vips": "/nowhere.sock"}, {})  # type: ignore[arg-type]
    request = Request.make("GET", path, params={"name": "vips"})
    with pytest.raises(Refused) as told:
        await api.mounted(request)
    assert (told.value.status, told.value.message[:15]) == (400, "path: leads up:")


@pytest.mark.parametrize("path", ["/v1/vips/a..b", "/v1/vips/...", "/v1/vips/.a"])
async def test_other_dots_are_names(path: str) -> None:
    api = Api(None, None, None, None, {"/v1/vips": "/nowhere.sock"}, {})  # type: ignore[arg-type]
    with pytest.raises(Refused) as told:
        await api.mounted(Request.make("GET", path, params={"name": "vips"}))
    assert told.value.status == 502


async def test_mounts_are_bounded(tmp_path: Path) -> None:
    one = control(tmp_path)
    for number in range(MAX_MOUNTS):
        await call(one.put_mount, {"prefix": f"/v1/x{number}", "socket": "/run/cairn/x.sock"})
    more = {"prefix": "/v1/y", "socket": "/run/cairn/x.sock"}
    assert (await refused(one.put_mount, more))[0] == 409


async def test_records_of_all_pushed_zones_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_zones, "MAX_PUSHED_RECORDS", 3)
    one = control(tmp_path)

    def body(generation: int, count: int) -> dict[str, object]:
        records = [{"name": f"n{n}", "type": "A", "value": "11.0.0.1"} for n in range(count)]
        return {"generation": generation, "records": records}

    await call(one.put_zone, body(1, 2), zone="a.test")
    await call(one.put_zone, body(1, 1), zone="b.test")
    await call(one.put_zone, body(2, 2), zone="a.test")
    assert await refused(one.put_zone, body(2, 2), zone="b.test") == (
        409, "records: pushed zones have 3 at most, and others have 2 already",
    )  # fmt: skip


async def test_earlier_tables_are_freed(tmp_path: Path) -> None:
    zones = Zones(Store(tmp_path), lambda names: None)
    for ttl in (1, 2, 3):
        spec = ZoneSpec(ttl, [RecordSpec("a", "A", "11.0.0.1")], ttl)
        await zones.push("a.test", spec)
    assert not zones.tables.near.table.free(0)


async def test_pushes_side_by_side_end_with_the_newest(tmp_path: Path) -> None:
    one = control(tmp_path)

    async def push(generation: int) -> None:
        body = {
            "generation": generation,
            "records": [{"name": f"g{generation}", "type": "A", "value": "11.0.0.1"}],
        }
        with suppress(Refused):
            await call(one.put_zone, body, zone="l4lb.thisdcos.directory")

    await asyncio.gather(*(push(generation) for generation in (3, 1, 7, 2, 7, 5)))
    [(name, spec)] = Store(tmp_path).zones()
    assert (name, spec.generation) == ("l4lb.thisdcos.directory", 7)


def test_what_is_kept_but_makes_no_sense_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_zone("l4lb.thisdcos.directory", SPEC)
    store.keep_mounts([Mount("/v1/vips", "/run/cairn/l4lb.sock")])
    (tmp_path / "zones" / "broken.json").write_bytes(b'{"generation": 1')
    (tmp_path / "zones" / "l4lb.json.new").write_bytes(b"half")
    assert [name for name, _ in store.zones()] == ["l4lb.thisdcos.directory"]
    (tmp_path / "mounts.json").write_bytes(b"[[[")
    assert store.mounts() == []
    store.drop_zone("l4lb.thisdcos.directory")
    store.drop_zone("l4lb.thisdcos.directory")


async def test_a_kept_zone_that_others_own_by_now_is_not_served(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_zone("corp.test", SPEC)
    zones = Zones(store, lambda names: None)
    await zones.restore(["corp.test"])
    assert not zones.pushed
    await zones.restore(["mesos"])
    assert set(zones.pushed) == {"corp.test"}


def test_masters_of_the_file_of_the_original(tmp_path: Path) -> None:
    path = tmp_path / "master_list"
    path.write_text('["10.0.0.1", "10.0.0.2"]')
    environ = {"MASTER_SOURCE": "master_list"}
    found = MasterList(ProxyConfig(), environ, lambda servers: None, path)
    assert found.servers == [("10.0.0.1", 61053), ("10.0.0.2", 61053)]
    own = MasterList(ProxyConfig(masters=["10.0.0.9"]), environ, lambda servers: None, path)
    assert own.servers == [("10.0.0.9", 61053)]
    path.write_text('["master1"]')
    with pytest.raises(LocalError, match="not an address: 'master1'"):
        MasterList(ProxyConfig(), environ, lambda servers: None, path)


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"MASTER_SOURCE": "guess"}, "MASTER_SOURCE: not exhibitor, exhibitor_uri or master_list"),
        ({"MASTER_SOURCE": "exhibitor"}, "EXHIBITOR_ADDRESS: missing"),
        ({"MASTER_SOURCE": "exhibitor_uri"}, "EXHIBITOR_URI: missing"),
    ],
)
def test_a_source_that_makes_no_sense_is_told(environ: dict[str, str], problem: str) -> None:
    with pytest.raises(LocalError, match=problem):
        MasterList(ProxyConfig(), environ, lambda servers: None)


async def test_exhibitor_names_the_masters() -> None:
    async def status(request: Request) -> Answer:
        return Response.json([{"hostname": "10.0.0.1", "isLeader": True}, {"hostname": "bad host"}])

    router: Router[Handler] = Router()
    router.add("/exhibitor/v1/cluster/status", status)
    http = HttpServer(router)
    await http.start(("127.0.0.1", 0))
    changed: list[list[Server]] = []
    stop = asyncio.Event()

    def on_change(servers: list[Server]) -> None:
        changed.append(servers)
        stop.set()

    environ = {"MASTER_SOURCE": "exhibitor_uri", "EXHIBITOR_URI": f"http://127.0.0.1:{http.port}"}
    try:
        async with asyncio.timeout(10):
            await MasterList(ProxyConfig(), environ, on_change).run(stop)
    finally:
        await http.drain(0)
    assert changed == [[("10.0.0.1", 61053)]]
