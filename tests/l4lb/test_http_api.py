"""The HTTP API over the wire: the originals' shapes, and ours."""

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cairn_core.clusterview.view import ClusterView, Snapshot
from cairn_core.errors import Unavailable
from cairn_core.kit.http_client import HttpClient, Reply
from cairn_core.kit.http_server import Handler, HttpServer, Router
from cairn_core.mesos.feed_rows import AgentRow, MasterRow, Row
from cairn_core.testing.requires import requires
from cairn_l4lb.channel import LATENCY_BOUNDS_S, BackendReport, Report, VipReport
from cairn_l4lb.drains import Drains
from cairn_l4lb.exometer import LastMinute
from cairn_l4lb.http_api import HttpApi
from cairn_l4lb.http_control import Control, read
from cairn_l4lb.http_state import left_out
from cairn_l4lb.http_watch import Watchers
from cairn_l4lb.metrics import L4lbMetrics
from cairn_l4lb.model import Backend, Options, Service, Vip
from cairn_l4lb.stats import Stats

WEB = Vip("tcp", "11.112.175.214", 80)
ROWS: list[Row] = [
    MasterRow("m1", "master1", "10.0.0.2", leads=True),
    MasterRow("m2", "master2", "10.0.0.3"),
    AgentRow("S0", "agent1", "10.0.1.78"),
    AgentRow("S1", "agent2", "10.0.1.79", active=False),
]
SERVICES = [
    Service(
        WEB, "nginxdocker.marathon",
        (Backend("10.0.1.78", 4989, task_id="a<b", slot=1), Backend("10.0.1.78", 27003, slot=2)),
        Options(policy="maglev"),
    ),
    Service(Vip("tcp", "fd01:c::1", 80), "nginxdocker.marathon", (Backend("fd00::5", 80),)),
    Service(
        Vip("udp", "11.0.0.9", 53), "dns.marathon",
        (Backend("10.0.1.79", 53, weight=0, why="unhealthy"),),
    ),
    Service(Vip("tcp", "1.2.3.4", 5000)),
]  # fmt: skip


class Fake:
    """A daemon that knows a little."""

    def __init__(self) -> None:
        self.services = {one.vip: one for one in SERVICES}
        self.stats = Stats()
        counts = tuple(9 if at == 2 else 0 for at in range(len(LATENCY_BOUNDS_S) + 1))
        self.stats.absorb(
            Report(
                [
                    BackendReport(
                        ("tcp", "10.0.1.78", 27003), 12, 9, 3, 3, 2, open=False,
                        closed_for_s=12.5, ewma_ns=1e6, latency=counts, latency_sum_s=0.0036,
                    )
                ],
                [VipReport(WEB, 12, 1, 0, 3.5)],
                {"successes": 9, "open_backend": 4, "hedges": 2, "entries_failed": 3},
            ),
            100.0,
        )  # fmt: skip
        self.minute = LastMinute()
        self.minute.look({"open_backend": 1}, 90.0)
        self.index = 1
        self.alarm: str | None = None
        self.changes = asyncio.Event()
        view = ClusterView()
        view.apply({row.key: row for row in ROWS})
        self.snapshot: Snapshot = view.snapshot

    def now(self) -> float:
        return 101.0

    def uptime_s(self) -> float:
        return 5.0

    def served(self) -> dict[str, Any]:
        return {"policy": "p2c", "mode": "auto"}

    def source(self) -> dict[str, Any]:
        return {"kind": "feed", "master": "10.0.0.2:5050", "age_s": 0.25}

    async def explain(self, service: Service, client: str, port: int) -> dict[str, Any]:
        if service.vip.protocol == "udp":
            raise Unavailable("the steering process does not answer")
        return {"vip": service.vip.text, "backend": "10.0.1.78:4989", "reasons": [client]}

    async def changed(self, index: int) -> None:
        while self.index == index:
            await self.changes.wait()

    def problems(self) -> tuple[int, list[dict[str, str]]]:
        return 1, [{"task": "web.1", "reason": "label 'VIP_0': no port"}]

    def unreachable_nodes(self) -> int:
        return 1

    def local_tasks(self) -> tuple[int, int]:
        return 3, 2

    def reconciled(self) -> dict[str, int]:
        return {"ipset_entries": 4, "routes": 0}

    def own_addresses(self) -> frozenset[str]:
        return frozenset({"10.0.1.78"})

    def gauges(self) -> dict[str, tuple[float, str]]:
        return {"steering_up_count": (1.0, "x")}

    def counts(self) -> dict[str, tuple[float, str]]:
        return {"steering_deaths_total": (2.0, "x")}


class Api:
    """The API on a port, and who asks it."""

    def __init__(self, known: Fake, watchers: Watchers, http: HttpClient, base: str) -> None:
        self.known, self.watchers, self.http, self.base = known, watchers, http, base

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.http.request("GET", self.base + path, headers=headers)

    async def json(self, path: str, **headers: str) -> Any:
        return json.loads((await self.get(path, **headers)).expect(200).body)


@asynccontextmanager
async def serving() -> AsyncIterator[Api]:
    known = Fake()
    watchers = Watchers(lambda: known.services, known.stats, known.now)
    metrics = L4lbMetrics()
    metrics.watch(known)
    metrics.metrics.watch_source(lambda: "feed", lambda: 0.5)
    router: Router[Handler] = Router()
    HttpApi(known, watchers, metrics, "agent1").add_routes(
        router, lambda: None, lambda: {"alarms": []}
    )
    server = HttpServer(router)
    await server.start(("127.0.0.1", 0))
    stop = asyncio.Event()
    running = asyncio.create_task(watchers.run(stop))
    try:
        async with HttpClient() as http:
            yield Api(known, watchers, http, f"http://127.0.0.1:{server.port}")
    finally:
        stop.set()
        await running
        await server.drain(0)


async def test_vips_are_shown_as_the_original_shows_them() -> None:
    async with serving() as api:
        vips = (await api.json("/vips/"))["vips"]
        assert set(vips) == {"11.112.175.214:80", "[fd01:c::1]:80", "11.0.0.9:53", "1.2.3.4:5000"}
        backend = vips["11.112.175.214:80"]["10.0.1.78:27003"]
        latency = backend.pop("latency_last_60s")
        assert backend == {
            "is_healthy": False, "pending_connections": 2, "total_failures": 3,
            "total_sucesses": 9, "ewma_cost": 3_000_000,
        }  # fmt: skip
        assert latency["n"] == 9
        assert latency["mean"] == 400_000
        assert 200_000 <= latency["median"] <= latency["999"] <= 500_000
        assert vips["1.2.3.4:5000"] == {}
        assert vips["11.112.175.214:80"]["10.0.1.78:4989"]["latency_last_60s"] == {}


async def test_one_vip_and_one_backend_and_what_is_none() -> None:
    async with serving() as api:
        assert set(await api.json("/vip/11.112.175.214:80")) == {
            "10.0.1.78:4989", "10.0.1.78:27003",
        }  # fmt: skip
        assert set(await api.json("/vip/11.0.0.9:53")) == {"10.0.1.79:53"}
        for path in ("/vip/9.9.9.9:80", "/vip/1.2.3.4:5000"):
            assert await api.json(path) == {"error": "no_backends"}
        for path in ("/vip/nonsense", "/vip/1.2.3.4"):
            assert await api.json(path) == {"error": "invalid_vip"}
        assert (await api.json("/backend/10.0.1.78:27003"))["total_failures"] == 3
        assert (await api.json("/backend/10.9.9.9:1"))["is_healthy"] is True
        assert await api.json("/backend/x") == {"error": "invalid_backend"}


async def test_metrics_are_the_originals_and_prometheus_where_asked() -> None:
    async with serving() as api:
        found = await api.json("/metrics")
        assert found["successes_counter"] == {
            "value": 9, "ms_since_reset": 5000, "type": "counter",
        }  # fmt: skip
        assert found["open_backend_spiral"] == {"count": 4, "one": 3, "type": "spiral"}
        assert found["probabilistic_backend_picker_spiral"]["count"] == 4
        assert found["connect_latency_histogram"]["n"] == 9
        assert found["ct_failure_spiral"]["count"] == 3
        assert found["backend_10.0.1.78:27003_failures_counter"]["value"] == 3
        for path, accept in (
            ("/metrics", "text/plain;version=0.0.4"),
            ("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"),
            ("/metrics/prometheus", "*/*"),
        ):
            text = (await api.get(path, Accept=accept)).expect(200).body.decode()
            assert "l4lb_vips 4.0\n" in text
            assert "l4lb_unreachable_nodes 1.0\n" in text
            assert "cairn_l4lb_drained_backends_count 1.0\n" in text
            assert "cairn_l4lb_successes_total 9.0\n" in text
            assert 'cairn_l4lb_connect_seconds_bucket{le="0.0005"} 9.0' in text
            assert "cairn_l4lb_steering_deaths_total 2.0\n" in text
            assert (
                'cairn_l4lb_vip_picks_total{name="nginxdocker.marathon.l4lb.thisdcos.directory:80",'
                'protocol="tcp",vip="11.112.175.214:80"} 12.0' in text
            )


async def test_gossip_is_what_the_master_knows() -> None:
    async with serving() as api:
        members = await api.json("/lashup/gm")
        assert {one["node"]: one["reachable"] for one in members} == {
            "minuteman@10.0.1.78": True, "minuteman@10.0.1.79": False,
            "minuteman@10.0.0.2": True, "minuteman@10.0.0.3": True,
        }  # fmt: skip
        assert members[0]["metadata"]["ips"] == ["10.0.1.78"]
        assert await api.json("/lashup/active_view") == ["minuteman@10.0.0.2"]
        assert await api.json("/lashup/passive_view") == ["minuteman@10.0.0.3"]
        assert (await api.get("/lashup/add_node")).status == 503
        assert (await api.get("/lashup/add_node?node=a@b")).status == 501
        assert (await api.get("/lashup/kv/x")).status == 404


async def test_vips_of_dcos_net_and_their_etag() -> None:
    async with serving() as api:
        reply = (await api.get("/v1/vips")).expect(200)
        assert reply.json(list[dict[str, Any]]) == [
            {
                "vip": "dns.marathon.l4lb.thisdcos.directory:53",
                "protocol": "udp",
                "backend": [{"ip": "10.0.1.79", "port": 53}],
            },
            {
                "vip": "nginxdocker.marathon.l4lb.thisdcos.directory:80",
                "protocol": "tcp",
                "backend": [
                    {"ip": "10.0.1.78", "port": 4989},
                    {"ip": "10.0.1.78", "port": 27003},
                    {"ip": "fd00::5", "port": 80},
                ],
            },
        ]
        tag = reply.headers["ETag"]
        assert len(b64decode(tag.strip('"'))) == 20
        assert (await api.get("/v1/vips", **{"If-None-Match": tag})).status == 304
        del api.known.services[WEB]
        api.known.index = 2
        assert (await api.get("/v1/vips", **{"If-None-Match": tag})).status == 200


async def test_the_home_page_is_for_browsers_and_escapes() -> None:
    async with serving() as api:
        page = (await api.get("/", Accept="text/html,*/*")).expect(200)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        text = page.body.decode()
        assert "a&lt;b" in text
        assert "a<b" not in text
        assert "nginxdocker.marathon.l4lb.thisdcos.directory:80" in text
        assert "no backend: connections are refused" in text
        assert "/vips" in (await api.get("/")).body.decode()
        api.known.services.clear()
        api.known.index = 2
        assert "no VIP yet" in (await api.get("/", Accept="text/html")).body.decode()


async def test_the_table_tells_everything_of_a_vip() -> None:
    async with serving() as api:
        told = await api.json("/v1/table?vip=nginxdocker.marathon:80")
        one = next(vip for vip in told["vips"] if vip["vip"] == WEB.text)
        assert one["options"] == {"policy": "maglev", "mode": "auto"}
        assert (one["rate"], one["picks"], one["refused"]) == (3.5, 12, 1)
        assert [each["state"] for each in one["backends"]] == ["open", "closed"]
        assert one["backends"][1]["closed_for_s"] == 12.5
        assert 0.2 <= one["backends"][1]["p50_ms"] <= 0.5
        assert len((await api.json("/v1/table"))["vips"]) == 4
        assert told["problems"] == 1
        assert await api.json("/v1/problems") == {
            "count": 1, "problems": [{"task": "web.1", "reason": "label 'VIP_0': no port"}],
        }  # fmt: skip
        drained = (await api.json("/v1/table?vip=dns.marathon"))["vips"][0]["backends"][0]
        assert (drained["state"], drained["why"]) == ("drained", "unhealthy")
        assert (await api.get("/v1/table?vip=nobody:1")).status == 404
        assert (await api.get("/v1/table?vip=a:b")).status == 400


async def test_a_name_that_nobody_has_is_told_with_those_like_it() -> None:
    async with serving() as api:
        for asked in ("nginxdocker", "nginxdoker.marathon:80", "nginxdoker:80"):
            reply = await api.get(f"/v1/table?vip={asked}")
            assert reply.status == 404
            assert "; did you mean nginxdocker.marathon:80?" in reply.body.decode(), asked
        assert "did you mean" not in (await api.get("/v1/table?vip=1.1.1.1")).body.decode()
        told = await api.json("/v1/table?vip=/nginxdocker:80")  # as the label has it
        assert len(told["vips"]) == 2


async def test_vips_come_in_one_order_whatever_became_known_first() -> None:
    wanted = ["11.0.0.9:53", "11.112.175.214:80", "[fd01:c::1]:80", "1.2.3.4:5000"]
    async with serving() as api:
        for index, services in enumerate((SERVICES, SERVICES[::-1])):
            api.known.services = {one.vip: one for one in services}
            api.known.index = index
            assert [one["vip"] for one in (await api.json("/v1/table"))["vips"]] == wanted
            assert list((await api.json("/vips"))["vips"]) == wanted
            page = (await api.get("/", Accept="text/html")).body.decode()
            assert sorted(wanted, key=page.index) == wanted


async def test_the_registry_of_dcos_net_has_its_names() -> None:
    async with serving() as api:
        lines = (await api.get("/v1/metrics/l4lb")).expect(200).body.decode().splitlines()
        for line in (
            "vips 4.0", "local_tasks 3.0", "local_running_tasks 2.0",
            "reconciled_ipset_entries_total 4.0", "vips_duration_seconds_count 0.0",
            "# TYPE unreachable_nodes gauge",
        ):  # fmt: skip
            assert line in lines
        names = {line.split("{")[0].split()[0] for line in lines if not line.startswith("#")}
        assert not any(name.startswith(("l4lb_", "cairn_", "process_")) for name in names)
        text = (await api.get("/metrics/prometheus")).body.decode()
        assert "l4lb_local_tasks 3.0\n" in text
        assert "l4lb_reconciled_routes_total 0.0\n" in text


async def test_a_question_waits_until_the_table_is_another_one() -> None:
    async with serving() as api:
        assert (await api.json("/v1/table?index=7"))["index"] == 1
        assert (await api.json("/vips?index=1&wait_s=0"))["vips"]
        asking = asyncio.create_task(api.json("/v1/table?index=1&wait_s=30"))
        await asyncio.sleep(0)
        api.known.index = 2
        api.known.changes.set()
        assert (await asking)["index"] == 2


async def test_explanations_come_from_the_steering_process() -> None:
    async with serving() as api:
        told = await api.json("/explain?vip=nginxdocker.marathon:80&client=10.0.0.77&port=5")
        assert [one["backend"] for one in told["explained"]] == ["10.0.1.78:4989"] * 2
        assert told["explained"][0]["reasons"] == ["10.0.0.77"]
        for path in ("/explain", "/explain?vip=x:1&client=me", "/explain?vip=x:1&port=-4"):
            assert (await api.get(path)).status == 400
        assert (await api.get("/explain?vip=nobody:1")).status == 404
        assert (await api.get("/explain?vip=dns.marathon")).status == 503


def test_backends_that_are_left_out_are_told_by_the_reason() -> None:
    assert left_out(SERVICES[0]) == []
    many = tuple(Backend("10.0.1.79", port, weight=0, why="killing") for port in range(1, 8))
    one = Backend("10.0.1.79", 99, weight=0, why="unhealthy")
    assert left_out(Service(WEB, "web.marathon", (*many, one))) == [
        "killing: " + ", ".join(f"10.0.1.79:{port}" for port in range(1, 6)) + " and 2 more",
        "unhealthy: 10.0.1.79:99",
    ]


async def test_standard_paths() -> None:
    async with serving() as api:
        assert (await api.get("/health")).status == 200
        assert (await api.json("/ready"))["ready"] is True
        assert await api.json("/debug/state") == {"alarms": []}


async def test_who_watches_sees_rates_and_changes() -> None:
    async with serving() as api, api.http.stream("GET", f"{api.base}/v1/watch") as reply:
        pieces = reply.chunks()
        text = ""

        async def until(word: str) -> None:
            nonlocal text
            while word not in text:
                text += (await anext(pieces)).decode()

        async with asyncio.timeout(10):
            await until("event: rates")
            await until('"backend":"10.0.1.78:27003"')
            api.watchers.table_changed(7, [WEB], [])
            await until('"index":7')
        assert "event: table" in text
        assert WEB.text in text


async def test_a_wrong_name_cannot_be_watched() -> None:
    async with serving() as api:
        assert (await api.get("/v1/watch?vip=a:b")).status == 400


# -- the control socket -------------------------------------------------------------------------


@asynccontextmanager
async def controlling(folder: Path) -> AsyncIterator[tuple[HttpClient, list[Drains]]]:
    requires("root")
    told: list[Drains] = []

    async def changed(drains: Drains) -> None:
        told.append(drains)

    async def uninstall() -> list[str]:
        return ["set minuteman"]

    def matches(target: str) -> int:
        return 2 if target.startswith("10.") else 0

    server = Control(folder / "drains.json", changed, uninstall, matches).server()
    await server.start(folder / "control.sock")
    try:
        async with HttpClient(unix_socket=folder / "control.sock") as http:
            yield http, told
    finally:
        await server.drain(0)


async def test_drains_are_kept_and_told(tmp_path: Path) -> None:
    async with controlling(tmp_path) as (http, told):
        body = {"target": "10.0.0.1:31000"}
        reply = await http.request("PUT", "http://x/v1/drains", json=body)
        told_of = {"drained": ["10.0.0.1:31000"], "matches": 2}
        assert reply.expect(200).json(dict[str, Any]) == told_of
        await http.request("PUT", "http://x/v1/drains", json=body)
        assert told == [Drains(("10.0.0.1:31000",))]
        assert read(tmp_path / "drains.json") == told[0]
    async with controlling(tmp_path) as (http, told):
        reply = await http.request("GET", "http://x/v1/drains")
        assert reply.json(Drains).drained == ("10.0.0.1:31000",)
        reply = await http.request("DELETE", "http://x/v1/drains", json=body)
        assert reply.expect(200).json(Drains).drained == ()
        assert (await http.request("DELETE", "http://x/v1/drains", json=body)).status == 404
        for wrong in (
            {"target": "a/b"}, {"target": ""}, {}, {"target": "a", "more": 1},
            {"target": "10.0.0.1:99999"}, {"target": "10.0.0.300"}, {"target": "99999"},
        ):  # fmt: skip
            reply = await http.request("PUT", "http://x/v1/drains", json=wrong)
            assert reply.status == 400, wrong
        reply = await http.request("PUT", "http://x/v1/drains", json={"target": "nobody"})
        assert reply.expect(200).json(dict[str, Any])["matches"] == 0
        reply = await http.request("POST", "http://x/v1/uninstall")
        assert reply.json(dict[str, list[str]]) == {"removed": ["set minuteman"]}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"drained": 7}'])
def test_damaged_drains_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "drains.json").write_text(text)
    assert read(tmp_path / "drains.json") == Drains()
    assert read(tmp_path / "nothing") == Drains()
    assert read(None) == Drains()
