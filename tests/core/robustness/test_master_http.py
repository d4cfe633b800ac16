"""Every route of the master with requests that nobody should send."""

import asyncio
from typing import Any

import pytest

JSON = "application/json"
DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
BODIES: list[tuple[str, bytes]] = [
    (JSON, b""),
    (JSON, b"{"),
    (JSON, b"null"),
    (JSON, b"[]"),
    (JSON, b"{}"),
    (JSON, b'"text"'),
    (JSON, b"17"),
    (JSON, b"[" * 100_000),
    (JSON, DEEP),
    (JSON, b"\xff\xfe\x00"),
    (JSON, b'{"type":5}'),
    (JSON, b'{"type":["GET_STATE"]}'),
    (JSON, b'{"type":"' + b"x" * 10_000 + b'"}'),
    (JSON, b'{"type":"GET_STATE","type":"TEARDOWN"}'),
    (JSON, b'{"type":"\\ud800"}'),
    (JSON, b'{"role":"a/b","guarantee":[],"force":1}'),
    (JSON, b'[{"role":"x","weight":1e999}]'),
    (JSON, b'[{"role":"x","weight":"NaN"}]'),
    (JSON, b'[{"role":"../..","weight":1}]'),
    (JSON, b'[{"role":"\\u0000","weight":1}]'),
    ("application/x-www-form-urlencoded", b"frameworkId=%00%ff&frameworkId=x"),
    ("application/x-www-form-urlencoded", b"frameworkId=" + b"y" * 10_000),
    ("application/x-www-form-urlencoded", b"=&&==%zz"),
    ("text/plain", b"\x00" * 1000),
    ("", b"x"),
    ("application/json; charset=\x01", b"{}"),
    ("multipart/form-data", b"--x\r\n"),
]
QUERIES = [
    "", "?limit=-1&offset=999999999999999999999&order=asc", "?limit=x", "?limit=1e9",
    "?order=%00", "?jsonp=alert(1)//", "?jsonp=" + "a" * 5000, "?framework_id=%2F..%2F%00",
    "?slave_id=" + "z" * 4000, "?path=/../../etc/passwd&offset=-5", "?path=%00", "?%ff=%fe&&&=",
    "?epoch=-1&seq=x", "?pretty=maybe",
]  # fmt: skip
#: Routes whose answer never ends.
STREAMS = {"GET /cairn/v1/feed"}


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_every_route_refuses_a_hostile_body(victim: Any, number: int) -> None:
    kind, body = BODIES[number]

    async def attack() -> None:
        for route in victim.assembly.http.router.paths():
            method, path = route.split(" ")
            if method == "GET" or path.startswith("/master/"):
                continue
            headers = {"Content-Type": kind.replace("\x01", "x")}
            async with victim.client.request(
                method, victim.url + path.replace("{id}", "x"), data=body, headers=headers
            ) as answer:
                text = await answer.text()
                assert answer.status in {200, 202, 400, 401, 403, 404, 405, 406, 413, 415, 501}, (
                    route, answer.status, text,
                )  # fmt: skip
                assert answer.status < 400 or text, route
                assert len(text) < 2000, route
        await victim.unharmed()

    victim.run(attack())


@pytest.mark.parametrize("query", QUERIES)
def test_every_read_stands_hostile_queries_and_paths(victim: Any, query: str) -> None:
    async def attack() -> None:
        for route in victim.assembly.http.router.paths():
            method, path = route.split(" ")
            if method != "GET" or path.startswith("/master/"):
                continue
            for tail in ("", "/..%2f..%2f", "/%00", "/" + "p" * 3000):
                if route in STREAMS and "epoch=-1" not in query:
                    continue
                status, body = await victim.raw(
                    f"GET {path.replace('{id}', '%2e%2e%00')}{tail}{query} HTTP/1.1"
                )
                assert status not in (500, 503), (route, tail, status)
                assert status < 400 or body, (route, tail)
        await victim.unharmed()

    victim.run(attack())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /state HTTP/1.1\r\nX: " + "y" * 20_000, 400),
        ("GET " + "/a" * 10_000 + " HTTP/1.1", 400),
        ("GET /state HTTP/9.9", 400),
        ("BREW /state HTTP/1.1", 400),
        ("PURGE /state HTTP/1.1", 405),
        ("GARBAGE", 400),
        ("POST /api/v1 HTTP/1.1\r\nContent-Length: -1", 400),
        ("POST /api/v1 HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6", 400),
        ("POST /api/v1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        ("POST /api/v1 HTTP/1.1\r\nContent-Type: text/json\r\nContent-Length: 99999999", 413),
        ("POST /api/v1 HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", 400),
        ("GET /cairn/v1/agent HTTP/1.1", 426),
        ("GET /cairn/v1/agent HTTP/1.1\r\nConnection: Upgrade, close\r\nUpgrade: websocket", 426),
    ],
)  # fmt: skip
def test_malformed_heads_are_answered(victim: Any, head: str, status: int) -> None:
    async def attack() -> None:
        got, body = await victim.raw(head)
        assert got == status, body
        assert body
        await victim.unharmed()

    victim.run(attack())


def test_an_endless_chunked_body_ends_with_413(victim: Any) -> None:
    async def attack() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", victim.port)
        writer.write(
            b"POST /api/v1/scheduler HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"%x\r\n%s\r\n" % (1 << 20, b" " * (1 << 20))
        answer = asyncio.create_task(reader.readline())
        sent = 0
        while not answer.done() and sent < 64:
            writer.write(chunk)
            sent += 1
            try:
                await writer.drain()
            except ConnectionError:
                break
        assert b"413" in await answer
        assert sent <= 40
        writer.close()
        await victim.unharmed()

    victim.run(attack())


def test_half_open_connections_keep_nobody_waiting(victim: Any) -> None:
    async def attack() -> None:
        held = []
        for head in (b"", b"GET /st", b"POST /api/v1 HTTP/1.1\r\nContent-Length: 500\r\n\r\n{"):
            for _ in range(60):
                _, writer = await asyncio.open_connection("127.0.0.1", victim.port)
                writer.write(head)
                held.append(writer)
        await victim.unharmed()
        async with victim.client.get(f"{victim.url}/state") as answer:
            assert answer.status == 200
        for writer in held:
            writer.transport.abort()
        await victim.unharmed()

    victim.run(attack())


IDS = ["", "a/b", "..", "\0", "\x1f", "é", "x" * 10_000, "a\nb", "<script>", "{}", "%2e"]


@pytest.mark.parametrize("text", IDS)
def test_ids_of_all_kinds_are_refused_with_a_reason(victim: Any, text: str) -> None:
    async def attack() -> None:
        value = {"value": text}
        for call in (
            {"type": "TEARDOWN", "teardown": {"framework_id": value}},
            {"type": "MARK_AGENT_GONE", "mark_agent_gone": {"agent_id": value}},
            {"type": "READ_FILE", "read_file": {"path": text, "offset": 0}},
            {"type": "LIST_FILES", "list_files": {"path": text}},
            {"type": "UPDATE_QUOTA", "update_quota": {"quota_configs": [{"role": text + "//"}]}},
        ):
            async with victim.client.post(f"{victim.url}/api/v1", json=call) as answer:
                said = await answer.text()
                assert answer.status in (400, 404, 501), (call["type"], said)
                assert 0 < len(said) < 1500
        await victim.unharmed()

    victim.run(attack())
