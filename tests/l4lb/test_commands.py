"""The commands against a daemon that knows a little, and against none."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cairn_core.errors import CairnError
from cairn_core.kit.http_server import (
    Answer,
    Handler,
    HttpServer,
    Request,
    Response,
    Router,
    Stream,
    sse,
)
from cairn_core.testing.requires import requires
from cairn_l4lb.commands import l4lb
from cairn_l4lb.drains import Drains
from cairn_l4lb.http_control import Control
from cairn_l4lb.io_ask import base_url

BACKEND = {
    "backend": "10.0.0.1:31000", "state": "closed", "closed_for_s": 12.2, "weight": 1, "slot": 1,
    "task": "web.[red]1", "picks": 7, "failures": 5, "pending": 2, "p50_ms": 0.31, "p99_ms": None,
}  # fmt: skip
TABLE = {
    "index": 3,
    "source": {"kind": "feed", "master": "10.0.0.9:5050", "age_s": 0.2},
    "vips": [
        {
            "vip": "11.0.0.1:80", "protocol": "tcp",
            "name": "web.marathon.l4lb.thisdcos.directory:80",
            "options": {"policy": "p2c", "sticky_s": 0.0}, "decided_by": "daemon", "rate": 2.5,
            "picks": 7, "refused": 1, "backends": [BACKEND, {**BACKEND, "state": "open"}],
        },
        {"vip": "1.2.3.4:53", "protocol": "udp", "name": None, "backends": []},
    ],
}  # fmt: skip
EXPLAINED = {
    "explained": [
        {
            "vip": "11.0.0.1:80", "protocol": "tcp", "backend": "10.0.0.1:31000",
            "reasons": ["p2c: 10.0.0.1:31000 (0 pending) before 10.0.0.2:31000 (1 pending)"],
            "recent": [["10.0.0.7:4000", "10.0.0.1:31000", "p2c", 1.5]],
        }
    ],
}  # fmt: skip


async def table(request: Request) -> Answer:
    if request.query.get("vip", "web") not in ("web", "web.marathon:80"):
        return Response.error(404, "no such VIP: 'nobody'")
    return Response.json(TABLE)


async def explain(request: Request) -> Answer:
    return Response.json(EXPLAINED)


async def watch(request: Request) -> Answer:
    stream = Stream("text/event-stream")
    data = {"at": 1.0, "vips": [{**TABLE["vips"][0], "backends": [BACKEND]}]}  # type: ignore[index]
    stream.send(b": hello\n\n" + sse(json.dumps(data).encode(), event="rates"))
    stream.close()
    return stream


@asynccontextmanager
async def daemon() -> AsyncIterator[str]:
    router: Router[Handler] = Router()
    for path, handler in (("/v1/table", table), ("/explain", explain), ("/v1/watch", watch)):
        router.add(path, handler)
    server = HttpServer(router)
    await server.start(("127.0.0.1", 0))
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.drain(0)


async def run(*arguments: str) -> Result:
    """What a command does, in a thread, for it waits for our own loop."""
    return await asyncio.to_thread(
        CliRunner().invoke, l4lb, arguments, catch_exceptions=True, env={"COLUMNS": "160"}
    )


async def told(*arguments: str) -> str:
    found = await run(*arguments)
    assert found.exit_code == 0, found.exception or found.output
    return found.output


async def test_list_and_show() -> None:
    async with daemon() as url:
        text = await told("list", "--url", url)
        assert "11.0.0.1:80" in text
        assert "1/2 open" in text
        assert "udp/1.2.3.4:53" in text
        assert "known by feed of 10.0.0.9:5050, 0.2 s old" in text
        text = await told("show", "web.marathon:80", "--url", url)
        assert "closed 12 s" in text
        assert "web.[red]1" in text  # not taken for a colour
        assert "no backend: connections are refused" in text
        assert json.loads(await told("list", "--json", "--url", url)) == TABLE


async def test_explain() -> None:
    async with daemon() as url:
        text = await told("explain", "web", "--client", "10.0.0.7", "--url", url)
        assert "a new connection goes to 10.0.0.1:31000" in text
        assert "0 pending" in text
        assert "10.0.0.7:4000" in text


async def test_watch_ends_when_the_daemon_does() -> None:
    async with daemon() as url:
        found = await run("watch", "--url", url)
        assert "10.0.0.1:31000" in found.output
        assert isinstance(found.exception, CairnError)
        assert "ended the stream" in str(found.exception)
        event = json.loads(await told("watch", "--json", "--url", url))
        assert event["event"] == "rates"


async def test_errors_say_what_to_do() -> None:
    async with daemon() as url:
        found = await run("show", "nobody", "--url", url)
        assert str(found.exception) == "no such VIP: 'nobody'"
        found = await run("watch", "nobody", "--url", url)
        assert str(found.exception) == "no such VIP: 'nobody'"
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"127.0.0.1:{sock.getsockname()[1]}"
    found = await run("list", "--url", url)
    assert "is it running?" in str(found.exception)
    found = await run("list", "--url", "ftp://x")
    assert "not http://host:port" in str(found.exception)
    found = await run("drain", "--socket", "/nowhere/at.all")
    assert "is it running?" in str(found.exception)


@pytest.mark.parametrize(
    ("host", "url", "base"),
    [
        ("", "", "http://127.0.0.1:61421"),
        ("agent1", "", "http://agent1:61421"),
        ("agent1:8000", "", "http://agent1:8000"),
        ("fd00::1", "", "http://[fd00::1]:61421"),
        ("[fd00::1]:8000", "", "http://[fd00::1]:8000"),
        ("", "10.0.0.1:5", "http://10.0.0.1:5"),
        ("x", "https://h/", "https://h"),
    ],
)
def test_where_is_asked(host: str, url: str, base: str) -> None:
    assert base_url(host, url) == base


async def test_drain_and_uninstall_by_the_socket(tmp_path: Path) -> None:
    requires("root")
    seen: list[Any] = []

    async def changed(drains: Drains) -> None:
        seen.append(drains.drained)

    async def uninstall() -> list[str]:
        seen.append("uninstall")
        return ["set minuteman"]

    server = Control(None, changed, uninstall).server()
    place = tmp_path / "c.sock"
    await server.start(place)
    try:
        assert "nothing is drained" in await told("drain", "--socket", str(place))
        text = await told("drain", "10.0.0.1:80", "--socket", str(place))
        assert text == "drained: 10.0.0.1:80\n"
        await told("undrain", "10.0.0.1:80", "--socket", str(place))
        found = await run("undrain", "10.0.0.1:80", "--socket", str(place))
        assert str(found.exception) == "target: not drained: '10.0.0.1:80'"
        found = await run("uninstall", "--socket", str(place))
        assert found.exit_code == 1  # it asks, and nobody answers
        text = await told("uninstall", "--yes", "--socket", str(place))
        assert "removed set minuteman" in text
        assert "a restart of it brings all back" in text
    finally:
        await server.drain(0)
    assert seen == [("10.0.0.1:80",), (), "uninstall"]


@pytest.mark.parametrize("command", ["", *sorted(l4lb.commands)])
def test_help_fits_a_screen(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    text = CliRunner().invoke(l4lb, arguments).output
    lines = text.splitlines()
    assert 5 <= len(lines) <= 24
    assert max(map(len, lines)) <= 80
