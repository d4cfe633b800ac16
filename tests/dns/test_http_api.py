"""The HTTP API over the wire: paths, errors, large answers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from cairn_core.clusterview.view import ClusterView, Snapshot
from cairn_core.errors import Unavailable
from cairn_core.kit.http_client import HttpClient, Reply
from cairn_core.kit.http_server import (
    Answer,
    Handler,
    HttpServer,
    Peer,
    Request,
    Response,
    Router,
)
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, Row, TaskRow
from cairn_dns import http_api
from cairn_dns.config import DnsConfig
from cairn_dns.http_api import MAX_LARGE, HttpApi, as_the_original
from cairn_dns.http_records import Enumerated
from cairn_dns.wire import SRV, A
from cairn_dns.zone import RecordSet

ROWS: list[Row] = [
    MasterRow("m1", "master1", "10.0.0.1", leads=True),
    AgentRow("c-S0", "agent1", "10.0.0.11"),
    FrameworkRow("F", "marathon"),
    FrameworkRow("E", "idle"),
    TaskRow("web.1", "web", "F", "c-S0", "TASK_RUNNING"),
    TaskRow("new.1", "new", "F", "c-S0", "TASK_STAGING"),
]


class FakeKnown:
    """A zone of two names."""

    serial = 7
    heard = 0.0

    def __init__(self) -> None:
        view = ClusterView()
        view.replace(ROWS)
        self.snapshot: Snapshot = view.snapshot
        self.records = RecordSet()
        self.records.change(
            (),
            [
                ("web.marathon.mesos", A, b"\x0a\x00\x00\x0b"),
                ("_web._tcp.marathon.mesos", SRV, ("web.marathon.mesos", 80)),
            ],
            now=0.0,
        )

    def enumerate_task(self, task: TaskRow) -> Sequence[Enumerated]:
        if task.state != "TASK_RUNNING":
            return ()
        return [Enumerated(f"{task.name}.marathon.mesos.", "10.0.0.11", "A")]

    def explain(self, name: str) -> dict[str, Any]:
        return {"name": name}


class Client:
    """Asks one server."""

    def __init__(self, http: HttpClient, base: str, known: FakeKnown, api: HttpApi) -> None:
        self.http, self.base, self.known, self.api = http, base, known, api

    async def get(self, path: str, method: str = "GET", accept: str = "*/*") -> Reply:
        return await self.http.request(method, self.base + path, headers={"Accept": accept})


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Client]:
    config = DnsConfig(masters=["127.0.0.1:5050"], **settings)
    router: Router[Handler] = Router()
    known = FakeKnown()
    api = HttpApi(known, lambda: config, version="dev", file="/etc/x.json")
    api.add_routes(router)
    server = HttpServer(router, filters=[as_the_original])
    await server.start(("127.0.0.1", 0))
    try:
        async with HttpClient() as http:
            yield Client(http, f"http://127.0.0.1:{server.port}", known, api)
    finally:
        await server.drain(0)


async def test_what_the_original_answers() -> None:
    async with serving() as client:
        for path in (
            "/v1/version", "/v1/config", "/v1/hosts/WEB.marathon.mesos.", "/v1/enumerate",
            "/v1/axfr", "/v1/services/_web._tcp.marathon.mesos", "/v1/version/",
        ):  # fmt: skip
            reply = await client.get(path)
            assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json"), path
            assert reply.body.startswith((b"{\n  ", b"[\n  "))
            assert reply.body.endswith((b"\n }", b"\n ]"))
        assert (await client.get("/v1/hosts/nope")).json(object) == [{"host": "", "ip": ""}]
        enumerated = (await client.get("/v1/enumerate")).json(dict[str, Any])
        assert [f["name"] for f in enumerated["frameworks"]] == ["idle", "marathon"]
        assert [t["id"] for t in enumerated["frameworks"][1]["tasks"]] == ["web.1"]


@pytest.mark.parametrize(
    ("method", "path", "accept", "status", "text"),
    [
        ("GET", "/nothing", "*/*", 404, "404: Page Not Found"),
        ("GET", "/v1", "*/*", 404, "404: Page Not Found"),
        ("GET", "/v1/hosts", "*/*", 404, "404: Page Not Found"),
        ("GET", "/v1/version/x", "*/*", 404, "404: Page Not Found"),
        ("POST", "/nothing", "*/*", 404, "404: Page Not Found"),
        ("POST", "/v1/version", "*/*", 405, "405: Method Not Allowed"),
        ("GET", "/v1/version", "text/plain", 406, "406: Not Acceptable"),
        ("GET", "/v1/version", "application/*", 406, "406: Not Acceptable"),
        ("GET", "/v1/hosts/x/ports", "*/*", 501, "To be implemented..."),
    ],
)
async def test_what_it_refuses(method: str, path: str, accept: str, status: int, text: str) -> None:
    async with serving() as client:
        reply = await client.get(path, method, accept)
        assert (reply.status, reply.body.decode()) == (status, text)
        assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
        accepted = await client.get("/v1/version", accept="text/html, application/json;q=0.5")
        assert accepted.status == 200


async def test_lists_may_be_switched_off() -> None:
    async with serving(enumeration_on=False) as client:
        for path in ("/v1/enumerate", "/v1/axfr", "/v1/records"):
            reply = await client.get(path)
            assert (reply.status, reply.body) == (404, b"404: Page Not Found")
        assert (await client.get("/v1/config")).status == 200


async def test_shapes_of_dcos_net_when_told_so() -> None:
    async with serving(api="dcos-net") as client:
        assert (await client.get("/v1/hosts/nope")).body == b"[]"
        assert (await client.get("/v1/hosts/web.marathon.mesos.")).json(object) == [
            {"host": "web.marathon.mesos", "ip": "10.0.0.11"}
        ]
        assert (await client.get("/v1/services/_web._tcp.marathon.mesos")).json(object) == [
            {
                "service": "_web._tcp.marathon.mesos",
                "host": "web.marathon.mesos",
                "ip": "10.0.0.11",
                "port": 80,
            }
        ]


async def test_records_nodes_and_explanations() -> None:
    async with serving() as client:
        assert (await client.get("/v1/records")).json(object) == [
            {"name": "web.marathon.mesos", "host": "10.0.0.11", "rtype": "A"},
            {"name": "_web._tcp.marathon.mesos", "host": "web.marathon.mesos:80", "rtype": "SRV"},
        ]
        assert (await client.get("/v1/nodes?force")).json(object) == [
            {
                "private_ip": ip,
                "public_ips": [],
                "hostname": hostname,
                "updated": "1970-01-01T00:00:00.000Z",
            }
            for ip, hostname in (("10.0.0.1", "master1"), ("10.0.0.11", "agent1"))
        ]
        assert (await client.get("/v1/explain/Web.marathon.mesos.")).json(object) == {
            "name": "web.marathon.mesos"
        }


MANY = [(f"n{i}.mesos", A, bytes([10, 0, i >> 8, i & 255])) for i in range(40_000)]


def large(known: FakeKnown) -> None:
    known.records.change((), MANY, now=0.0)


def request_of(address: str) -> Request:
    return Request.make("GET", "/v1/axfr", peer=Peer(address, 1))


def pieces(answer: Answer) -> AsyncIterator[bytes]:
    assert isinstance(answer, Response)
    assert isinstance(answer.body, AsyncIterator)
    return answer.body


async def test_only_so_many_large_answers_at_once() -> None:
    async with serving() as client:
        large(client.known)
        answers = [await client.api.axfr(request_of(f"10.0.0.{n}")) for n in range(MAX_LARGE)]
        sizes = [len(await anext(pieces(answer))) for answer in answers]
        refused = await client.get("/v1/axfr")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        # others are not held up
        assert (await client.get("/v1/hosts/n5.mesos")).status == 200
        for n, answer in enumerate(answers):
            sizes[n] += sum([len(piece) async for piece in pieces(answer)])
        assert len(set(sizes)) == 1
        whole = (await client.get("/v1/axfr")).body
        assert len(whole) == sizes[0]
        assert len(msgspec.json.decode(whole)["Records"]["As"]) > 40_000


async def test_one_client_takes_one_place() -> None:
    async with serving() as client:
        large(client.known)
        api = client.api
        first = await api.axfr(request_of("10.0.0.1"))
        for other in (api.axfr, api.all_records, api.all_tasks):
            with pytest.raises(Unavailable, match="to this client"):
                await other(request_of("10.0.0.1"))
        assert api._large.free == MAX_LARGE - 1
        await api.axfr(request_of("10.0.0.2"))  # forgotten at once
        del first
        await api.axfr(request_of("10.0.0.1"))
        assert (api._large.free, api._large.clients) == (MAX_LARGE, set())


async def test_who_takes_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as client:
        large(client.known)
        answer = await client.api.axfr(request_of("10.0.0.1"))
        await anext(pieces(answer))
        monkeypatch.setattr(http_api, "LARGE_S", 0.0)
        assert await anext(pieces(answer))  # has begun before
        for path in ("/v1/axfr", "/v1/records", "/v1/enumerate"):
            with pytest.raises(Unavailable):
                await client.get(path)
        assert client.api._large.free == MAX_LARGE - 1
        assert (await client.get("/v1/version")).status == 200


async def test_a_client_that_leaves_gives_its_place_back() -> None:
    async with serving() as client:
        large(client.known)
        async with asyncio.timeout(20):
            for _ in range(3 * MAX_LARGE):
                async with client.http.stream("GET", f"{client.base}/v1/axfr") as reply:
                    await anext(reply.chunks())
                while client.api._large.free < MAX_LARGE:  # noqa: ASYNC110 - has no event
                    await asyncio.sleep(0.001)
        assert (await client.get("/v1/axfr")).status == 200
