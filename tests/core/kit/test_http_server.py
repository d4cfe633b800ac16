"""The HTTP server over real sockets on 127.0.0.1."""

import asyncio
import base64
import contextlib
import gzip
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from cairn_core.errors import LocalError, Unavailable
from cairn_core.kit.http_auth import BasicAuth, check_basic, parse_credentials
from cairn_core.kit.http_client import BadReply, HttpClient
from cairn_core.kit.http_server import (
    Answer,
    Handler,
    HttpServer,
    Limits,
    Options,
    Refused,
    Request,
    Response,
    Router,
    Stream,
    Upgrade,
    sse,
)


async def until(condition: Any, seconds: float = 5.0) -> None:
    """Wait until `condition()` holds, giving the loop its turns."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of any kind are waited for
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def serving(router: Router[Handler], **options: Any) -> AsyncIterator[tuple[HttpServer, str]]:
    server = HttpServer(router, **options)
    await server.start(("127.0.0.1", 0))
    try:
        yield server, f"http://127.0.0.1:{server.port}"
    finally:
        await server.drain(1.0)


async def exchange(port: int, sent: bytes) -> bytes:
    """What a raw client gets back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(5):
        data = await reader.read(-1)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return data


async def echo(request: Request) -> Answer:
    return Response.json(
        {
            "method": request.method,
            "path": request.path,
            "rest": request.rest,
            "query": list(request.query.items()),
            "size": len(request.body),
            "principal": request.principal,
            "uid": request.peer.uid,
        }
    )


def routes() -> Router[Handler]:
    router: Router[Handler] = Router(twins=("/master",))
    small = Options(max_body_bytes=1000, jsonp=True, timeout_s=5)
    router.add("/echo", echo, ("GET", "POST"), options=small)
    return router


async def test_a_request_reaches_its_handler_and_back() -> None:
    async with serving(routes()) as (_, base), HttpClient() as http:
        reply = await http.request("POST", f"{base}/master/echo/a/b?x=1&x=2&y", body=b"hello")
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "application/json"
        assert json.loads(reply.body) == {
            "method": "POST",
            "path": "/master/echo/a/b",
            "rest": "a/b",
            "query": [["x", "1"], ["x", "2"], ["y", ""]],
            "size": 5,
            "principal": None,
            "uid": None,
        }


async def test_a_large_body_arrives_whole() -> None:
    router: Router[Handler] = Router()
    router.add("/echo", echo, ("POST",), options=Options(max_body_bytes=4_000_000))
    async with serving(router) as (_, base), HttpClient() as http:
        reply = await http.request("POST", f"{base}/echo", body=b"x" * 3_000_000)
        assert json.loads(reply.body)["size"] == 3_000_000


async def test_unknown_paths_and_methods_get_json_answers() -> None:
    async with serving(routes()) as (_, base), HttpClient() as http:
        reply = await http.request("GET", f"{base}/nowhere")
        assert (reply.status, json.loads(reply.body)) == (
            404,
            {"message": "no such path: /nowhere"},
        )
        reply = await http.request("PUT", f"{base}/echo")
        assert (reply.status, reply.headers["Allow"]) == (405, "GET, POST")
        reply = await http.request("HEAD", f"{base}/echo")
        assert (reply.status, reply.body) == (200, b"")
        assert int(reply.headers["Content-Length"]) > 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_above_the_limit_gets_413(chunked: bool) -> None:
    async with serving(routes()) as (server, _):
        if chunked:
            body = b"Transfer-Encoding: chunked\r\n\r\n" + b"1F4\r\n" + b"x" * 500 + b"\r\n"
            body += b"1F5\r\n" + b"x" * 501 + b"\r\n0\r\n\r\n"
        else:
            body = b"Content-Length: 1001\r\n\r\n" + b"x" * 1001
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        assert (await exchange(server.port, head + body)).startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_unpacks_above_the_limit_gets_413() -> None:
    async with serving(routes()) as (_, base), HttpClient() as http:
        packed = gzip.compress(b" " * 100_000)
        headers = {"Content-Encoding": "gzip"}
        reply = await http.request("POST", f"{base}/echo", body=packed, headers=headers)
        assert reply.status == 413
        reply = await http.request("POST", f"{base}/echo", body=b"no gzip", headers=headers)
        assert reply.status == 400


async def test_deep_json_gets_400_and_other_types_pass() -> None:
    async with serving(routes()) as (_, base), HttpClient() as http:
        body = b"[" * 65 + b"]" * 65
        assert (await http.request("POST", f"{base}/echo", body=body)).status == 200
        typed = {"Content-Type": "application/json; charset=utf-8"}
        reply = await http.request("POST", f"{base}/echo", body=body, headers=typed)
        assert (reply.status, b"nested deeper than 64" in reply.body) == (400, True)


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    async with serving(routes()) as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        async with asyncio.timeout(5):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"hi")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


async def test_gzip_only_for_those_who_ask_and_only_above_a_size() -> None:
    large = b"[" + b"1234567890," * 30_000 + b"0]"
    router: Router[Handler] = Router()

    async def big(request: Request) -> Answer:
        return Response(body=large)

    async def pieces(request: Request) -> Answer:
        return Response(body=[large[:100], large[100:]])

    async def small(request: Request) -> Answer:
        return Response(body=b"{}")

    router.add("/big", big)
    router.add("/pieces", pieces)
    router.add("/small", small)
    async with serving(router) as (server, _):
        for path, accept, packed in [
            ("big", b"gzip, deflate", True),
            ("pieces", b"*;q=0.5", True),
            ("pieces", b"identity", False),
            ("big", b"gzip;q=0", False),
            ("small", b"gzip", False),
        ]:
            raw = await exchange(
                server.port,
                b"GET /%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept-Encoding: %b\r\n\r\n"
                % (path.encode(), accept),
            )
            head, _, body = raw.partition(b"\r\n\r\n")
            assert (b"Content-Encoding: gzip" in head) == packed
            assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
            if packed:
                assert gzip.decompress(body) == large


async def test_jsonp_wraps_for_plain_names_only() -> None:
    async with serving(routes()) as (_, base), HttpClient() as http:
        reply = await http.request("GET", f"{base}/echo?jsonp=angular.callbacks._0")
        assert reply.body.startswith(b"angular.callbacks._0({")
        assert reply.body.endswith(b"});")
        assert reply.headers["Content-Type"] == "text/javascript"
        for callback in ["alert(1)", "a;b", "", "a" * 200, "%3Cscript%3E"]:
            assert (await http.request("GET", f"{base}/echo?jsonp={callback}")).status == 400


async def test_failing_slow_and_refusing_handlers_get_their_statuses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    router: Router[Handler] = Router()

    async def broken(request: Request) -> Answer:
        raise KeyError("secret detail")

    async def never(request: Request) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async def refusing(request: Request) -> Answer:
        raise Refused(409, "version conflict", headers={"X-Why": "test"})

    async def busy(request: Request) -> Answer:
        raise Unavailable("reading the log", retry_after_s=3.2)

    router.add("/broken", broken)
    router.add("/never", never, options=Options(timeout_s=0.05))
    router.add("/refusing", refusing)
    router.add("/busy", busy)
    async with serving(router) as (server, base), HttpClient() as http:
        reply = await http.request("GET", f"{base}/broken")
        assert (reply.status, reply.body) == (500, b'{"message":"internal error"}')
        assert (await http.request("GET", f"{base}/never")).status == 503
        reply = await http.request("GET", f"{base}/refusing")
        assert (reply.status, reply.headers["X-Why"]) == (409, "test")
        reply = await http.request("GET", f"{base}/busy")
        assert (reply.status, reply.headers["Retry-After"]) == (503, "3")
        assert server.stats.errors == 2
    assert "handler failed method=GET path=/broken" in caplog.text


async def test_filters_see_everything_from_outside_in() -> None:
    seen: list[str] = []

    def tracing(name: str) -> Any:
        async def trace(request: Request, handler: Handler) -> Answer:
            seen.append(name)
            return await handler(request)

        return trace

    options: dict[str, Any] = {
        "filters": [tracing("outer"), tracing("inner")],
        "headers": {"X-Frame-Options": "DENY"},
    }
    async with serving(routes(), **options) as (_, base), HttpClient() as http:
        reply = await http.request("GET", f"{base}/nowhere")
        assert (reply.status, reply.headers["X-Frame-Options"]) == (404, "DENY")
        assert seen == ["outer", "inner"]


async def test_basic_authentication_admits_the_right_secret_only() -> None:
    auth = BasicAuth({"ops": "s3cret", "empty": ""}, "cairn", frozenset({"/health"}))
    async with serving(routes(), filters=[auth]) as (_, base), HttpClient() as http:
        for plain, status in [
            (b"ops:s3cret", 200), (b"ops:wrong", 401), (b"who:s3cret", 401), (b"who:", 401),
            (b"ops", 401), (b"empty:", 200), (b"\xff:", 401),
        ]:  # fmt: skip
            header = {"Authorization": "Basic " + base64.b64encode(plain).decode()}
            reply = await http.request("GET", f"{base}/echo", headers=header)
            assert reply.status == status, plain
        reply = await http.request("GET", f"{base}/echo")
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Basic realm="cairn"')
        assert (await http.request("GET", f"{base}/health")).status == 404
        assert (await http.request("GET", f"{base}/healthy")).status == 401


@pytest.mark.parametrize("header", [None, "", "Basic", "Basic !", "Bearer b3BzOng=", "Basic é"])
def test_what_is_not_basic_proves_nobody(header: str | None) -> None:
    assert check_basic(header, {"ops": "x"}) is None


def test_a_credentials_file_gives_a_table() -> None:
    text = b'{"credentials": [{"principal": "a", "secret": "x"}, {"principal": "b"}]}'
    assert parse_credentials(text) == {"a": "x", "b": ""}
    with pytest.raises(LocalError, match="credentials: "):
        parse_credentials(b'{"credentials": [{"secret": "hidden"}]}')


def streaming(streams: list[Stream], **options: Any) -> Router[Handler]:
    router: Router[Handler] = Router()

    async def subscribe(request: Request) -> Answer:
        stream = Stream(**options)
        stream.send(b"5\nfirst")
        streams.append(stream)
        return stream

    router.add("/stream", subscribe)
    return router


async def test_a_stream_is_chunked_and_ends_when_closed() -> None:
    streams: list[Stream] = []
    async with serving(streaming(streams)) as (server, base), HttpClient() as http:
        async with http.stream("GET", f"{base}/stream") as reply:
            assert reply.headers["Transfer-Encoding"] == "chunked"
            records = reply.records()
            assert await anext(records) == b"first"
            assert server.stats.open_streams == 1
            streams[0].send(b"6\nsecond5\nthird")
            streams[0].close()
            assert [record async for record in records] == [b"second", b"third"]
        await until(lambda: server.stats.open_streams == 0)
        assert not streams[0].send(b"late")


async def test_a_stream_learns_that_its_client_left() -> None:
    streams: list[Stream] = []
    reasons: list[str] = []
    async with serving(streaming(streams, on_close=reasons.append)) as (server, base):
        async with HttpClient() as http, http.stream("GET", f"{base}/stream") as reply:
            assert await anext(reply.records()) == b"first"
        await until(lambda: reasons)
        assert reasons == ["connection lost"]
        assert server.stats.open_streams == 0


async def test_a_slow_subscriber_is_cut_off_and_others_are_not() -> None:
    streams: list[Stream] = []
    reasons: list[str] = []
    router = streaming(streams, on_close=reasons.append, limit_bytes=1_000_000)
    async with serving(router) as (server, base), HttpClient() as http:
        slow = socket.create_connection(("127.0.0.1", server.port))
        slow.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(streams) == 1)
        async with http.stream("GET", f"{base}/stream") as reply:
            pieces = reply.chunks()
            await anext(pieces)
            block = b"x" * 500_000
            async with asyncio.timeout(20):
                while not streams[0].closed:
                    streams[0].send(block)
                    streams[1].send(block)
                    got = 0
                    while got < len(block):
                        got += len(await anext(pieces))
            assert streams[0].close_reason == "slow subscriber"
            assert reasons == ["slow subscriber"]
            assert not streams[1].closed
        slow.close()
        await until(lambda: server.stats.slow_streams == 1)


async def test_draining_ends_streams_and_finishes_requests() -> None:
    streams: list[Stream] = []
    router = streaming(streams)
    entered, go = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Answer:
        entered.set()
        await go.wait()
        return Response.text("done")

    router.add("/slow", slow)
    server = HttpServer(router)
    await server.start(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{server.port}"
    async with HttpClient() as http, http.stream("GET", f"{base}/stream") as reply:
        records = reply.records()
        await anext(records)
        running = asyncio.ensure_future(http.request("GET", f"{base}/slow"))
        await entered.wait()
        draining = asyncio.ensure_future(server.drain(5.0))
        assert [record async for record in records] == []
        go.set()
        assert (await running).body == b"done"
        await draining


async def test_upgrade_hands_over_the_connection() -> None:
    class Shout(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)

        def data_received(self, data: bytes) -> None:
            self.transport.write(data.upper())
            if data.endswith(b"."):
                self.transport.close()

    router: Router[Handler] = Router()

    async def link(request: Request) -> Answer:
        def connected(transport: asyncio.Transport) -> None:
            protocol = Shout()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)

        return Upgrade("shout/1", connected, {"X-Hello": "there"})

    router.add("/link", link, ("GET", "POST"))
    async with serving(router) as (server, base), HttpClient() as http:
        head = b"POST /link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: shout/1\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head)
        async with asyncio.timeout(5):
            status = await reader.readuntil(b"\r\n\r\n")
            assert status.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
            assert b"X-Hello: there" in status
            writer.write(b"hello.")
            assert await reader.read(-1) == b"HELLO."
        writer.close()
        await until(lambda: server.stats.connections == 0)
        reply = await http.request("GET", f"{base}/link")
        assert (reply.status, reply.headers["Upgrade"]) == (426, "shout/1")


async def test_a_unix_socket_tells_who_asks(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    for _ in range(2):  # the second finds the first one's socket file left behind
        server = HttpServer(routes())
        await server.start(path)
        async with HttpClient(unix_socket=path) as http:
            reply = await http.request("GET", "http://local/echo")
            assert json.loads(reply.body)["uid"] == os.getuid()
        assert path.stat().st_mode & 0o777 == 0o660
        await server.drain()
        assert not path.exists()
        leftover = socket.socket(socket.AF_UNIX)
        leftover.bind(str(path))
        leftover.close()


async def test_an_inherited_socket_is_served() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    server = HttpServer(routes())
    await server.start(sock)
    async with HttpClient() as http:
        assert (await http.request("GET", f"http://127.0.0.1:{port}/echo")).ok
    await server.drain()


async def test_an_address_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{port}: Address alr"):
            await HttpServer(routes()).start(("127.0.0.1", port))


async def test_connections_above_the_limit_are_closed() -> None:
    async with serving(routes(), limits=Limits(max_connections=1)) as (server, base):
        async with HttpClient() as http:
            assert (await http.request("GET", f"{base}/echo")).ok
            with contextlib.suppress(ConnectionError):
                assert await exchange(server.port, b"") == b""
            assert (await http.request("GET", f"{base}/echo")).ok
        assert server.stats.refused_connections == 1


async def test_redirects_keep_method_body_and_headers() -> None:
    router = routes()
    followers: Router[Handler] = Router()
    async with serving(router) as (leader, _):

        async def redirect(request: Request) -> Answer:
            location = f"//127.0.0.1:{leader.port}{request.path}?x=1"
            return Response.empty(307, {"Location": location})

        async def circle(request: Request) -> Answer:
            return Response.empty(307, {"Location": "/circle"})

        followers.add("/echo", redirect, ("GET", "POST"))
        followers.add("/circle", circle)
        async with serving(followers) as (_, base), HttpClient() as http:
            reply = await http.request("POST", f"{base}/echo", body=b"four")
            answer = json.loads(reply.body)
            assert (answer["method"], answer["size"], answer["query"]) == ("POST", 4, [["x", "1"]])
            assert reply.url == f"http://127.0.0.1:{leader.port}/echo?x=1"
            assert (await http.request("POST", f"{base}/echo", redirects=0)).status == 307
            with pytest.raises(BadReply, match="more than 5 redirects"):
                await http.request("GET", f"{base}/circle")


async def test_nobody_listening_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    async with HttpClient() as http:
        with pytest.raises(Unavailable, match=f"no answer from http://127.0.0.1:{port}/"):
            await http.request("GET", f"http://127.0.0.1:{port}/")


async def test_replies_above_the_limit_are_refused() -> None:
    async with serving(routes()) as (_, base), HttpClient() as http:
        with pytest.raises(BadReply, match="above 10 bytes"):
            await http.request("GET", f"{base}/echo", limit=10)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET\r\n\r\n",
        b"GET /echo HTTP/9.9\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /%zz%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
async def test_garbage_ends_in_an_answer_4xx_and_the_server_lives(sent: bytes) -> None:
    async with serving(routes()) as (server, base), HttpClient() as http:
        status, code, *_ = (await exchange(server.port, sent)).split(b" ")
        assert (status[:7], code[:1]) == (b"HTTP/1.", b"4")
        assert (await http.request("GET", f"{base}/echo")).ok


def test_sse_frames_every_line() -> None:
    assert sse(b"a\nb", event="x", id="7") == b"id: 7\nevent: x\ndata: a\ndata: b\n\n"


@pytest.mark.parametrize(
    "scenario",
    [
        test_upgrade_hands_over_the_connection,
        test_a_slow_subscriber_is_cut_off_and_others_are_not,
        test_a_stream_learns_that_its_client_left,
        test_draining_ends_streams_and_finishes_requests,
        test_an_inherited_socket_is_served,
    ],
)
def test_it_holds_on_the_loop_of_the_daemons(scenario: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
