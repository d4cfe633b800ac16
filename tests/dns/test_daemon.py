"""The whole daemon on loopback, asked by an independent client."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from cairn_core.clusterview.io_source import load
from cairn_core.errors import LocalError, Unavailable
from cairn_core.kit.config import settings_table
from cairn_core.kit.daemon import Daemon
from cairn_core.kit.feed import FeedPublisher
from cairn_core.kit.http_client import HttpClient
from cairn_core.kit.http_server import Answer, Handler, HttpServer, Request, Response, Router
from cairn_core.kit.io_feed import FEED_PATH, FeedServer
from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    Row,
    TaskRow,
    encode_row,
)
from cairn_dns.cli import main
from cairn_dns.config import DnsConfig, split_place
from cairn_dns.daemon import build
from cairn_dns.io_forward import Forwarder

STATE = (Path(__file__).parent / "state.json").read_bytes()
README = Path(__file__).parents[2] / "dns" / "README.md"
ROWS: list[Row] = [
    MasterRow("m1", "master1", "127.0.0.1", 5050, leads=True),
    AgentRow("c-S0", "agent1", "10.0.0.11"),
    FrameworkRow("F", "marathon", "10.0.0.21"),
    TaskRow("web.1", "web", "F", "c-S0", "TASK_RUNNING", ports=((31000, 31000),)),
]


class Master:
    """A master with a feed, or with nothing but its state."""

    def __init__(self, *, feed: bool) -> None:
        self.state = STATE
        self.feed = FeedServer(FeedPublisher(1))
        router: Router[Handler] = Router(twins=("/master",))
        router.add("/state", self._state)
        if feed:
            router.add(FEED_PATH, self.feed.answer)
        self._http = HttpServer(router)
        self._stop = asyncio.Event()

    async def _state(self, request: Request) -> Answer:
        return Response(body=self.state)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        await self._http.start(("127.0.0.1", 0))
        sending = asyncio.create_task(self.feed.run(self._stop))
        try:
            yield f"127.0.0.1:{self._http.port}"
        finally:
            self._stop.set()
            await sending
            await self._http.drain(0)


def free_port() -> int:
    """A port that is free for UDP and TCP now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
        tcp.bind(("127.0.0.1", 0))
        port = int(tcp.getsockname()[1])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", port))
        return port


class Server:
    """A running cairn-dns."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        ask = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
        return await ask(query, "127.0.0.1", port=self.port, timeout=5)

    async def values(self, name: str, kind: str = "A") -> set[str]:
        message = await self.ask(name, kind)
        return {data.to_text() for rrset in message.answer for data in rrset}

    async def until(self, name: str, wanted: Callable[[set[str]], bool]) -> None:
        async with asyncio.timeout(20):
            while not wanted(await self.values(name)):  # noqa: ASYNC110 - the answer is the event
                await asyncio.sleep(0)


@asynccontextmanager
async def running(daemon: Daemon[DnsConfig], port: int) -> AsyncIterator[Server]:
    stop = asyncio.Event()
    running = asyncio.gather(*(service(stop) for service in daemon.services))
    try:
        yield Server(port)
    finally:
        stop.set()
        await running


async def is_ready(http: HttpClient, url: str) -> bool:
    try:
        return (await http.request("GET", f"{url}/ready")).status == 200
    except Unavailable:
        return False


def config(tmp_path: Path, *masters: str, **fields: object) -> DnsConfig:
    settings: dict[str, object] = {
        "masters": list(masters),
        "listener": "127.0.0.1",
        "port": free_port(),
        "http_port": 0,
        "state_dir": str(tmp_path),
        **fields,
    }
    return DnsConfig(**settings)  # type: ignore[arg-type]  # fields are passed through


async def test_names_follow_the_feed(tmp_path: Path) -> None:
    master = Master(feed=True)
    for row in ROWS:
        master.feed.put(row.key, encode_row(row))
    async with master.running() as address:
        settings = config(tmp_path, address)
        async with running(await build(settings), settings.port) as server:
            await server.until("web.marathon.mesos", lambda got: got == {"10.0.0.11"})
            assert await server.values("leader.mesos") == {"127.0.0.1"}
            assert await server.values("_web._tcp.marathon.mesos", "SRV") == {
                "0 1 31000 web-e844k-s0.marathon.slave.mesos."
            }
            whole = await server.ask("web.marathon.mesos", tcp=True)
            assert whole.rcode() == dns.rcode.NOERROR
            assert (await server.ask("example.com")).rcode() == dns.rcode.REFUSED
            master.feed.delete(ROWS[-1].key)
            await server.until("web.marathon.mesos", lambda got: not got)
            assert (await server.ask("web.marathon.mesos")).rcode() == dns.rcode.NXDOMAIN


async def test_a_master_without_a_feed_is_polled(tmp_path: Path) -> None:
    master = Master(feed=False)
    async with master.running() as address:
        settings = config(tmp_path, address, refresh_s=0.05)
        async with running(await build(settings), settings.port) as server:
            await server.until("web.shop.marathon.mesos", bool)
            assert await server.values("master.mesos") == {"127.0.0.1"}
            master.state = STATE.replace(b"web.shop", b"new.shop")
            await server.until("new.shop.marathon.mesos", bool)
            assert await server.values("web.shop.marathon.mesos") == set()


async def test_what_was_known_is_served_while_no_master_answers(tmp_path: Path) -> None:
    master = Master(feed=True)
    for row in ROWS:
        master.feed.put(row.key, encode_row(row))
    async with master.running() as address:
        settings = config(tmp_path, address)
        async with running(await build(settings), settings.port) as server:
            await server.until("web.marathon.mesos", bool)
    kept = load(tmp_path / "cluster.msgpack")
    assert kept is not None
    assert set(kept[0]) == set(ROWS)
    async with running(await build(settings), settings.port) as server:
        assert await server.values("web.marathon.mesos") == {"10.0.0.11"}
    (tmp_path / "cluster.msgpack").write_bytes(b"garbage")
    async with running(await build(settings), settings.port) as server:
        assert (await server.ask("web.marathon.mesos")).rcode() == dns.rcode.SERVFAIL


async def test_other_names_are_forwarded(tmp_path: Path) -> None:
    upstream = Master(feed=True)
    for row in ROWS:
        upstream.feed.put(row.key, encode_row(row))
    async with upstream.running() as address:
        first = config(tmp_path / "a", address, domain="example", soa_mname="ns1.example")
        dead = free_port()
        async with running(await build(first), first.port) as server:
            await server.until("web.marathon.example", bool)
            second = config(
                tmp_path / "b",
                address,
                resolvers=[f"127.0.0.1:{dead}", f"127.0.0.1:{first.port}"],
            )
            async with running(await build(second), second.port) as front:
                assert await front.values("web.marathon.example") == {"10.0.0.11"}
                over_tcp = await front.ask("web.marathon.example", tcp=True)
                assert len(over_tcp.answer) == 1


async def test_status_pages_tell_how_things_are(tmp_path: Path) -> None:
    master = Master(feed=True)
    async with master.running() as address, HttpClient() as http:
        settings = config(tmp_path, address, http_port=free_port(), http_listener="127.0.0.1")
        url = f"http://127.0.0.1:{settings.http_port}"
        async with running(await build(settings), settings.port) as _:
            async with asyncio.timeout(20):
                while not await is_ready(http, url):  # noqa: ASYNC110 - the page is the event
                    await asyncio.sleep(0)
            assert (await http.request("GET", f"{url}/health")).status == 200
            text = (await http.request("GET", f"{url}/metrics")).body
            assert b"cairn_dns_state_age_seconds" in text
            state = (await http.request("GET", f"{url}/debug/state")).json(dict)
            assert state["in_step"] is True


async def test_a_busy_port_is_told(tmp_path: Path) -> None:
    settings = config(tmp_path, "127.0.0.1:1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as busy:
        busy.bind(("127.0.0.1", settings.port))
        with pytest.raises(Unavailable, match=f"port {settings.port}"):
            await build(settings)


async def test_only_known_clients_are_forwarded_for() -> None:
    forwarder = Forwarder([("127.0.0.1", 1)], ["127.0.0.0/8", "fe80::/10"], 1.0)
    assert forwarder.serves("127.0.0.9")
    assert forwarder.serves("fe80::1%eth0")
    assert not forwarder.serves("203.0.113.5")
    assert not forwarder.serves("nonsense")
    assert not Forwarder([], ["0.0.0.0/0"], 1.0).serves("127.0.0.1")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"masters": []}, "masters"),
        ({"listener": "here"}, "listener"),
        ({"ip_sources": ["netinfo", "autoip"]}, "IPSources"),
        ({"ip_sources": []}, "IPSources"),
        ({"domain": "a..b"}, "domain"),
        ({"resolvers": ["1.2.3.4:0"]}, "1.2.3.4:0"),
        ({"forward_clients": ["10.0.0.1/8"]}, "forward_clients"),
    ],
)
async def test_wrong_settings_are_told(
    tmp_path: Path, fields: dict[str, object], problem: str
) -> None:
    with pytest.raises(LocalError, match=problem):
        await build(config(tmp_path, **{"masters": ["127.0.0.1:1"], **fields}))


def test_places() -> None:
    assert split_place("10.0.0.1") == ("10.0.0.1", 53)
    assert split_place("10.0.0.1:5353") == ("10.0.0.1", 5353)
    assert split_place("[fd00::1]:5353") == ("fd00::1", 5353)
    assert split_place("fd00::1") == split_place("[fd00::1]") == ("fd00::1", 53)


def test_the_configuration_file_is_spelled_as_in_mesos_dns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dns.json"
    file.write_text('{"masters": ["127.0.0.1:5050"], "refreshSeconds": 5, "IPSources": ["host"]}')
    assert main(["--config", str(file), "--check-config"]) == 0
    file.write_text('{"masters": ["127.0.0.1:5050"], "ttl": "soon"}')
    assert main(["--config", str(file), "--check-config"]) == 1
    assert "ttl" in capsys.readouterr().err


def test_the_table_of_settings_is_up_to_date() -> None:
    assert settings_table(DnsConfig).strip() in README.read_text()
