"""The commands against a daemon that knows a little, and against none."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

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
from cairn_l4lb import commands
from cairn_l4lb.commands import l4lb
from cairn_l4lb.commands_show import explained, listed, rates, shown
from cairn_l4lb.drains import Drains
from cairn_l4lb.http_control import Control
from cairn_l4lb.io_ask import base_url

BACKEND = {
    "backend": "10.0.0.1:31000", "state": "closed", "closed_for_s": 12.2, "weight": 1, "slot": 1,
    "task": "web.[red]1", "picks": 7, "failures": 5, "pending": 2, "p50_ms": 0.31, "p99_ms": None,
}  # fmt: skip
TABLE = {
    "index": 3,
    "problems": 1,
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
    for path, handler in (
        ("/v1/table", table), ("/explain", explain), ("/v1/watch", watch),
        ("/v1/problems", problems),
    ):  # fmt: skip
        router.add(path, handler)
    server = HttpServer(router)
    await server.start(("127.0.0.1", 0))
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.drain(0)


async def problems(request: Request) -> Answer:
    return Response.json(
        {"count": 1, "problems": [{"task": "web.1", "reason": "label 'VIP_0': no port"}]}
    )


async def run(*arguments: str, columns: int = 160) -> Result:
    """What a command does, in a thread, for it waits for our own loop."""
    return await asyncio.to_thread(
        CliRunner().invoke, l4lb, arguments, catch_exceptions=True, env={"COLUMNS": str(columns)}
    )


async def told(*arguments: str, columns: int = 160) -> str:
    found = await run(*arguments, columns=columns)
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


#: As long as what clusters have.
LONG = {
    **BACKEND, "backend": "10.100.200.111:31000", "p99_ms": 1234.5, "state": "closed",
    "task": "web.instance-54f6ed44-2f3b-11ee-8c99-0242ac110002._app.1",
}  # fmt: skip
SIX = {
    "vip": "[fd01:c::b3f4:b:9d02]:80", "protocol": "tcp", "decided_by": "kernel", "picks": 5000,
    "name": "web.marathon.l4lb.thisdcos.directory:80", "rate": 12.5, "refused": 0,
    "options": {"policy": "p2c"},
    "backends": [
        LONG, {**LONG, "backend": "[fd00::b:1]:80", "state": "drained", "why": "unhealthy"},
    ],
}  # fmt: skip


def printed(parts: Iterable[Any], columns: int) -> list[str]:
    """Lines on a screen of so many columns."""
    with StringIO() as file:
        console = Console(file=file, width=columns, highlight=False, emoji=False)
        for part in parts:
            console.print(part)
        return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_nothing_that_matters_is_lost_on_a_narrow_screen(columns: int) -> None:
    lines = printed(listed({"vips": [SIX], "problems": 2}), columns)
    assert lines[1].split()[:3] == ["[fd01:c::b3f4:b:9d02]:80", "web.marathon:80", "0/2"]
    assert "~5000" in lines[1]
    assert lines[2] == "labels of 2 tasks or VIPs are wrong: see 'cairn l4lb problems'"
    lines = printed(shown({"vips": [SIX]}), columns)
    text = "\n".join(lines)
    for word in (
        LONG["task"],
        "10.100.200.111:31000",
        "[fd00::b:1]:80",
        "closed 12 s",
        "unhealthy",
    ):
        assert str(word) in text
    assert "PICKS to p99 are a backend's" in text
    text = "\n".join(printed([rates({"vips": [SIX]})], columns))
    for word in ("web.marathon:80", "10.100.200.111:31000", "[fd00::b:1]:80", "closed 12 s", "~"):
        assert word in text
    assert max(map(len, [*lines, *text.splitlines()])) <= columns


async def test_an_address_is_no_emoji(monkeypatch: pytest.MonkeyPatch) -> None:
    six = {**BACKEND, "backend": "[fd00::b:1]:80", "state": "open"}
    vips = [{"vip": "[fd01::a:b:1]:80", "protocol": "tcp", "backends": [six]}]
    monkeypatch.setitem(TABLE, "vips", vips)
    async with daemon() as url:
        for command in (["list"], ["show", "web"]):
            assert "[fd01::a:b:1]:80" in await told(*command, "--url", url)
        assert "[fd00::b:1]:80" in await told("show", "web", "--url", url)


async def test_problems() -> None:
    async with daemon() as url:
        assert "labels of 1 task or VIP are wrong" in await told("list", "--url", url)
        assert await told("problems", "--url", url) == "task web.1: label 'VIP_0': no port\n"


def test_nobody_is_named_where_nobody_can_say() -> None:
    one = {**EXPLAINED["explained"][0], "backend": None, "left_out": ["unhealthy: 10.0.0.3:80"]}
    one["reasons"] = ["open: 10.0.0.1:31000", "depends on the client"]
    assert printed(explained({"explained": [one]}), 80)[1:4] == [
        "depends on the client",
        "  open: 10.0.0.1:31000",
        "  no new connections for what is unhealthy: 10.0.0.3:80",
    ]


async def test_explain() -> None:
    async with daemon() as url:
        text = await told("explain", "web", "--client", "10.0.0.7", "--url", url)
        assert "a new connection goes to 10.0.0.1:31000" in text
        assert "0 pending" in text
        assert "10.0.0.7:4000" in text


def interrupted(*_: object) -> Iterator[tuple[str, Any]]:
    raise KeyboardInterrupt
    yield


async def test_watch_ends_when_the_daemon_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async with daemon() as url:
        found = await run("watch", "--url", url)
        # a line for each backend and second, for it is no terminal
        assert found.output.splitlines()[0].split()[1:5] == [
            "web.marathon:80", "10.0.0.1:31000", "state=closed", "new/s=-",
        ]  # fmt: skip
        assert isinstance(found.exception, CairnError)
        assert "ended the stream" in str(found.exception)
        monkeypatch.setattr(commands, "follow", interrupted)
        assert await told("watch", "--url", url) == "\n"  # Ctrl-C
        monkeypatch.undo()
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
    assert "with --host" in str(found.exception)
    found = await run("list", "--url", "ftp://x")
    assert "not http://host:port" in str(found.exception)
    found = await run("drain", "--socket", "/nowhere/at.all")
    assert "does not answer at /nowhere/at.all; is it running?" in str(found.exception)
    assert "with --socket" in str(found.exception)


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

    server = Control(None, changed, uninstall, lambda target: 0).server()
    place = tmp_path / "c.sock"
    await server.start(place)
    try:
        assert "nothing is drained" in await told("drain", "--socket", str(place))
        text = await told("drain", "10.0.0.1:80", "--socket", str(place))
        assert text.startswith("drained: 10.0.0.1:80\nit matches nothing now")
        found = await run("drain", "10.0.0.1:99999", "--socket", str(place))
        assert str(found.exception) == "target: port: not 1 to 65535: '10.0.0.1:99999'"
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
