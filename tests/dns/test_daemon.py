"""The whole daemon as a process on loopback, asked by an independent client."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import pytest

from cairn_core.errors import CairnError
from cairn_core.kit.feed import FeedPublisher
from cairn_core.kit.http_client import HttpClient
from cairn_core.kit.http_server import (
    Answer,
    Handler,
    HttpServer,
    Request,
    Response,
    Router,
    Stream,
)
from cairn_core.kit.io_feed import FEED_PATH, FeedServer
from cairn_core.mesos import recordio
from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    Row,
    TaskRow,
    encode_row,
)

STATE = (Path(__file__).parent / "state.json").read_bytes()
DEADLINE_S = 30.0
#: One question whose answer is awaited again and again; nobody may listen yet.
ASK_S = 0.3
ROWS: list[Row] = [
    MasterRow("m1", "master1", "127.0.0.1", 5050, leads=True),
    AgentRow("c-S0", "agent1", "10.0.0.11"),
    FrameworkRow("F", "marathon", "10.0.0.21"),
    TaskRow("web.1", "web", "F", "c-S0", "TASK_RUNNING", ports=((31000, 31000),)),
]
WEB = ROWS[-1]

# -- masters -------------------------------------------------------------------------------------


class Master:
    """A master that has a feed, an event stream, or nothing but its state."""

    def __init__(self, kind: str, rows: Sequence[Row] = ROWS) -> None:
        self.state = STATE
        self.feed = FeedServer(FeedPublisher(1))
        for row in rows:
            self.feed.put(row.key, encode_row(row))
        self.stream: Stream | None = None
        router: Router[Handler] = Router(twins=("/master",))
        if kind == "feed":
            router.add(FEED_PATH, self.feed.answer)
        if kind == "stream":
            router.add("/api/v1", self._subscribe, ("POST",))
        router.add("/state", self._state)
        self._http = HttpServer(router)
        self._stop = asyncio.Event()

    async def _state(self, request: Request) -> Answer:
        return Response(body=self.state)

    async def _subscribe(self, request: Request) -> Answer:
        info = {"id": "m1", "ip": 0, "port": 5050, "hostname": "m", "address": LOOPBACK}
        if b"GET_MASTER" in request.body:
            return Response.json({"type": "GET_MASTER", "get_master": {"master_info": info}})
        self.stream = Stream("application/json")
        self.send(
            {
                "type": "SUBSCRIBED",
                "subscribed": {"get_state": OPERATOR_STATE, "heartbeat_interval_seconds": 15.0},
            }
        )
        return self.stream

    def send(self, event: dict[str, Any]) -> None:
        """An event for whoever is subscribed."""
        assert self.stream is not None
        self.stream.send(recordio.encode(json.dumps(event).encode()))

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


LOOPBACK = {"ip": "127.0.0.1", "port": 5050}
STATUS = {"task_id": {"value": "web.1"}, "state": "TASK_RUNNING", "timestamp": 1.0}
OPERATOR_STATE = {
    "get_agents": {
        "agents": [
            {
                "agent_info": {"id": {"value": "c-S0"}, "hostname": "agent1", "port": 5051},
                "active": True,
                "version": "1.12",
                "pid": "slave(1)@10.0.0.11:5051",
            }
        ]
    },
    "get_frameworks": {
        "frameworks": [
            {
                "framework_info": {
                    "id": {"value": "F"}, "user": "u", "name": "marathon", "hostname": "10.0.0.21",
                },
                "active": True, "connected": True, "recovered": False,
            }
        ]
    },
    "get_tasks": {
        "tasks": [
            {
                "name": "web", "task_id": {"value": "web.1"}, "framework_id": {"value": "F"},
                "agent_id": {"value": "c-S0"}, "state": "TASK_RUNNING", "statuses": [STATUS],
            }
        ]
    },
}  # fmt: skip

# -- the daemon ----------------------------------------------------------------------------------


def free_port() -> int:
    """A port that is free for UDP and TCP now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
        tcp.bind(("127.0.0.1", 0))
        port = int(tcp.getsockname()[1])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", port))
        return port


class Dns:
    """A process of cairn-dns and its configuration."""

    def __init__(self, folder: Path, masters: Sequence[str], settings: dict[str, Any]) -> None:
        self.file, self.log = folder / "dns.json", folder / "dns.log"
        self.settings: dict[str, Any] = {
            "masters": list(masters), "listener": ["127.0.0.1", "::1"], "port": free_port(),
            "httpListener": "127.0.0.1", "httpport": free_port(),
            "state_dir": str(folder / "state"), "processes": 2, **settings,
        }  # fmt: skip
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings['httpport']}"

    def configure(self, **settings: Any) -> None:
        self.settings.update(settings)
        self.file.write_text(json.dumps(self.settings))

    async def start(self, *prefix: str, **options: Any) -> None:
        self.configure()
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *prefix, sys.executable, "-m", "cairn_dns", "--config", str(self.file),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, **options,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def servers(self) -> list[int]:
        """Process ids of the serving processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def ended(self) -> int:
        assert self.process is not None
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            assert await self.ended() == 0, self.log.read_text()

    async def ask(
        self,
        name: str,
        kind: str = "A",
        *,
        tcp: bool = False,
        server: str = "127.0.0.1",
        timeout_s: float = 5.0,
    ) -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        ask = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
        return await ask(query, server, port=self.settings["port"], timeout=timeout_s)

    async def values(self, name: str, kind: str = "A", **how: Any) -> set[str]:
        message = await self.ask(name, kind, **how)
        return {data.to_text() for rrset in message.answer for data in rrset}

    async def until(self, name: str, wanted: Callable[[set[str]], object], kind: str = "A") -> None:
        """Wait until all serving processes say so; which one is asked the kernel draws by lot."""

        async def holds() -> bool:
            with suppress(OSError, dns.exception.Timeout):
                for _ in range(20):
                    if not wanted(await self.values(name, kind, timeout_s=ASK_S)):
                        return False
                return True
            return False

        await eventually(holds, self)

    async def get(self, path: str) -> Any:
        async with HttpClient() as http:
            return (await http.request("GET", self.url + path)).json(object)

    async def healthy(self) -> bool:
        return await self.status("/health") == 200

    async def status(self, path: str) -> int:
        async with HttpClient() as http:
            try:
                return (await http.request("GET", self.url + path)).status
            except CairnError:
                return 0


async def eventually(holds: Callable[[], Awaitable[object]], server: Dns) -> None:
    """Wait until a condition holds."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not await holds():
                assert server.process is not None
                assert server.process.returncode is None, server.log.read_text()
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"not within {DEADLINE_S} s; log:\n{server.log.read_text()}")


@asynccontextmanager
async def serving(folder: Path, *masters: str, **settings: Any) -> AsyncIterator[Dns]:
    folder.mkdir(exist_ok=True)
    server = Dns(folder, masters, settings)
    await server.start()
    await eventually(server.healthy, server)
    try:
        yield server
    finally:
        await server.stop()


# -- tests ---------------------------------------------------------------------------------------


async def test_names_follow_the_feed(tmp_path: Path) -> None:
    master = Master("feed")
    async with master.running() as address, serving(tmp_path, address) as server:
        await server.until("web.marathon.mesos", lambda got: got == {"10.0.0.11"})
        assert await server.values("leader.mesos") == {"127.0.0.1"}
        assert await server.values("_web._tcp.marathon.mesos", "SRV") == {
            "0 1 31000 web-e844k-s0.marathon.slave.mesos."
        }
        for how in ({"tcp": True}, {"server": "::1"}, {"server": "::1", "tcp": True}):
            assert await server.values("Web.marathon.mesos", **how) == {"10.0.0.11"}
        assert (await server.ask("example.com")).rcode() == dns.rcode.REFUSED
        before = (await server.get("/v1/axfr"))["Serial"]
        master.feed.delete(WEB.key)
        await server.until("web.marathon.mesos", lambda got: not got)
        assert (await server.ask("web.marathon.mesos")).rcode() == dns.rcode.NXDOMAIN
        soa = await server.values("mesos", "SOA")
        assert int(next(iter(soa)).split()[2]) == (await server.get("/v1/axfr"))["Serial"] > before


async def test_a_master_without_a_feed_is_followed_by_its_stream(tmp_path: Path) -> None:
    master = Master("stream")
    async with master.running() as address, serving(tmp_path, address) as server:
        await server.until("web.marathon.mesos", lambda got: got == {"10.0.0.11"})
        assert (await server.get("/v1/explain/web.marathon.mesos"))["source"]["kind"] == "stream"
        updated = {"framework_id": {"value": "F"}, "state": "TASK_KILLED"}
        status = {**STATUS, "state": "TASK_KILLED"}
        master.send({"type": "TASK_UPDATED", "task_updated": {**updated, "status": status}})
        await server.until("web.marathon.mesos", lambda got: not got)


async def test_a_master_that_has_neither_is_polled(tmp_path: Path) -> None:
    master = Master("poll")
    settings = {"refreshSeconds": 0.05}
    async with master.running() as address, serving(tmp_path, address, **settings) as server:
        await server.until("web.shop.marathon.mesos", bool)
        assert await server.values("master.mesos") == {"127.0.0.1"}
        master.state = STATE.replace(b"web.shop", b"new.shop")
        await server.until("new.shop.marathon.mesos", bool)
        await server.until("web.shop.marathon.mesos", lambda got: not got)


async def test_what_was_known_is_served_while_no_master_answers(tmp_path: Path) -> None:
    async with Master("feed").running() as address, serving(tmp_path, address) as server:
        await server.until("web.marathon.mesos", bool)
        serial = (await server.get("/v1/axfr"))["Serial"]
    async with serving(tmp_path, "127.0.0.1:1") as server:
        await server.until("web.marathon.mesos", lambda got: got == {"10.0.0.11"})
        told = await server.get("/v1/explain/web.marathon.mesos")
        assert told["source"]["kind"] == "disk"
        assert told["source"]["age_s"] < 60
        assert (await server.get("/v1/axfr"))["Serial"] >= serial


async def test_nothing_is_said_of_a_cluster_that_is_not_known(tmp_path: Path) -> None:
    async with serving(tmp_path, "127.0.0.1:1", zkDetectionTimeout=0.01) as server:

        async def fails() -> bool:
            with suppress(OSError, dns.exception.Timeout):
                reply = await server.ask("web.marathon.mesos", timeout_s=ASK_S)
                return reply.rcode() == dns.rcode.SERVFAIL
            return False

        await eventually(fails, server)

        assert await server.status("/ready") == 503
        told = await server.get("/v1/explain/web.marathon.mesos")
        assert told["reason"] == "no state of the cluster is known yet"


async def test_other_names_are_forwarded(tmp_path: Path) -> None:
    async with Master("feed").running() as address:
        far = {"domain": "example", "SOAMname": "ns1.example"}
        async with serving(tmp_path / "far", address, **far) as upstream:
            await upstream.until("web.marathon.example", bool)
            places = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{upstream.settings['port']}"]
            async with serving(tmp_path / "near", address, resolvers=places) as server:
                await server.until("web.marathon.mesos", bool)
                assert await server.values("web.marathon.example") == {"10.0.0.11"}
                assert await server.values("web.marathon.example", tcp=True) == {"10.0.0.11"}


async def test_settings_are_read_again(tmp_path: Path) -> None:
    async with Master("feed").running() as address, serving(tmp_path, address) as server:
        await server.until("web.marathon.mesos", bool)
        server.configure(domain="other", ttl=7, EnumerationOn=False)
        server.signal(signal.SIGHUP)
        await server.until("web.marathon.other", bool)
        assert (await server.ask("web.marathon.other")).answer[0].ttl == 7
        assert (await server.ask("web.marathon.mesos")).rcode() == dns.rcode.REFUSED
        assert await server.status("/v1/axfr") == 404
        # wrong settings change nothing, and those that need a restart are named
        server.configure(ttl="soon")
        server.signal(signal.SIGHUP)
        await logged(server, "reload refused")
        server.configure(ttl=9, port=free_port())
        server.signal(signal.SIGHUP)
        await logged(server, "needs a restart")
        assert "settings=port" in server.log.read_text()


async def logged(server: Dns, text: str) -> None:
    async def found() -> bool:
        return text in server.log.read_text()

    await eventually(found, server)


@pytest.mark.parametrize("processes", [1, 2])
async def test_answers_go_on_when_a_serving_process_dies(tmp_path: Path, processes: int) -> None:
    master = Master("feed")
    settings = {"processes": processes}
    async with master.running() as address, serving(tmp_path, address, **settings) as server:
        await server.until("web.marathon.mesos", bool)
        before = server.servers()
        assert len(before) == processes
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        # what waits in the sockets meanwhile is answered by the next process
        await server.until("web.marathon.mesos", bool)
        assert not set(server.servers()) & set(before)
        master.feed.delete(WEB.key)
        await server.until("web.marathon.mesos", lambda got: not got)
        restarts = [
            line
            for line in (await text_of(server, "/metrics")).splitlines()
            if line.startswith("cairn_dns_worker_restarts_total ")
        ]
        assert float(restarts[0].split()[1]) == processes


async def text_of(server: Dns, path: str) -> str:
    async with HttpClient() as http:
        return (await http.request("GET", server.url + path)).body.decode()


async def test_serving_processes_end_with_the_daemon(tmp_path: Path) -> None:
    async with Master("feed").running() as address, serving(tmp_path, address) as server:
        await server.until("web.marathon.mesos", bool)
        orphans = server.servers()
        server.signal(signal.SIGKILL)
        assert await server.ended() == -signal.SIGKILL
        await server.start()

        async def gone() -> bool:
            return not any(Path(f"/proc/{pid}").exists() for pid in orphans)

        await eventually(gone, server)
        await server.until("web.marathon.mesos", bool)
        assert server.servers()


async def test_status_pages_tell_how_things_are(tmp_path: Path) -> None:
    async with Master("feed").running() as address, serving(tmp_path, address) as server:
        await server.until("web.marathon.mesos", bool)
        await server.ask("nope.marathon.mesos", tcp=True)

        async def ready() -> bool:
            return await server.status("/ready") == 200

        await eventually(ready, server)

        async def counted() -> bool:
            text = await text_of(server, "/metrics")
            return 'rcode="NXDOMAIN"' in text and 'transport="tcp"' in text

        await eventually(counted, server)
        text = await text_of(server, "/metrics")
        for name in (
            "cairn_dns_queries_total", "cairn_dns_records_count", "cairn_dns_data_age_seconds",
            "cairn_dns_skipped_count", "cairn_dns_table_changes_total",
            "cairn_dns_change_to_sent_seconds_bucket", "cairn_dns_answer_seconds_bucket",
            'cairn_dns_source_info{kind="feed"} 1.0', "cairn_dns_http_requests_total",
        ):  # fmt: skip
            assert name in text
        state = await server.get("/debug/state")
        assert state["source"]["kind"] == "feed"
        told = await server.get("/v1/explain/web.marathon.mesos")
        assert told["exists"] is True
        assert told["records"][0]["value"] == "10.0.0.11"
        assert told["records"][0]["by"][0]["id"] == "web.1"
        missing = await server.get("/v1/explain/wob.marathon.mesos")
        assert missing["exists"] is False
        assert missing["nearest"] == ["web.marathon.mesos"]


async def test_a_busy_port_is_told(tmp_path: Path) -> None:
    server = Dns(tmp_path, ["127.0.0.1:1"], {})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as busy:
        busy.bind(("127.0.0.1", server.settings["port"]))
        await server.start()
        assert await server.ended() == 1
    assert f"{server.settings['port']}" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


async def test_a_directory_belongs_to_one_daemon(tmp_path: Path) -> None:
    async with serving(tmp_path, "127.0.0.1:1") as first:
        (tmp_path / "second").mkdir()
        state = {"state_dir": first.settings["state_dir"]}
        second = Dns(tmp_path / "second", ["127.0.0.1:1"], state)
        await second.start()
        assert await second.ended() == 1
        assert f"is used by process {first.pid}" in second.log.read_text()


async def test_the_http_api_alone(tmp_path: Path) -> None:
    settings = {"dnson": False}
    async with (
        Master("feed").running() as address,
        serving(tmp_path, address, **settings) as server,
    ):

        async def known() -> bool:
            hosts = await server.get("/v1/hosts/web.marathon.mesos")
            return bool(hosts[0]["ip"] == "10.0.0.11")

        await eventually(known, server)
        assert server.servers() == []
        assert await server.status("/ready") == 200


#: Makes sockets the way a supervisor does and becomes the daemon.
SUPERVISOR = """
import fcntl, os, socket, sys
made = []
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", int(sys.argv[1])))
    if kind == socket.SOCK_STREAM:
        sock.listen(100)
    made.append(fcntl.fcntl(sock.detach(), fcntl.F_DUPFD, 10))
for place, number in enumerate(made, 3):
    os.dup2(number, place, inheritable=True)
os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), "2"
os.execv(sys.argv[2], sys.argv[2:])
"""


async def test_sockets_of_the_supervisor_are_used(tmp_path: Path) -> None:
    async with Master("feed").running() as address:
        server = Dns(tmp_path, [address], {})
        await server.start(sys.executable, "-c", SUPERVISOR, str(server.settings["port"]))
        try:
            await server.until("web.marathon.mesos", bool)
            assert await server.values("web.marathon.mesos", tcp=True) == {"10.0.0.11"}
            # they are the only ones: the other listener is the supervisor's business
            with pytest.raises((OSError, dns.exception.Timeout)):
                await server.ask("web.marathon.mesos", tcp=True, server="::1")
        finally:
            await server.stop()
        await server.start(sys.executable, "-c", SUPERVISOR, str(free_port()))
        assert await server.ended() == 1
        assert f"port: {server.settings['port']} is set" in server.log.read_text()


async def test_the_supervisor_is_told_when_answers_are_given(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        path = str(tmp_path / "notify")
        told.bind(path)
        told.setblocking(False)
        async with Master("feed").running() as address:
            server = Dns(tmp_path, [address], {})
            await server.start(env={**os.environ, "NOTIFY_SOCKET": path})
            try:
                async with asyncio.timeout(DEADLINE_S):
                    loop = asyncio.get_running_loop()
                    assert await loop.sock_recv(told, 100) == b"READY=1"
                rcode = (await server.ask("web.marathon.mesos")).rcode()
                assert rcode in (dns.rcode.NOERROR, dns.rcode.SERVFAIL)
            finally:
                await server.stop()
