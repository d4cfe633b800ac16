"""The daemon as a process on loopback, between independent clients and servers that misbehave."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from cairn_core.errors import Unavailable
from cairn_core.kit.http_client import HttpClient, Reply
from cairn_core.kit.http_server import Answer, Handler, HttpServer, Request, Response, Router

pytestmark = pytest.mark.slow


def free_port() -> int:
    """A port that is free for UDP and TCP on the addresses that tests use."""
    for _ in range(50):
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"):
                    udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                    udp.bind((address, port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


Behaviour = Callable[[dns.message.Message, "FakeServer"], Iterator[bytes]]


def good(message: dns.message.Message, server: "FakeServer") -> Iterator[bytes]:
    """Answers A with the server's value."""
    reply = dns.message.make_response(message)
    reply.flags |= dns.flags.AA
    name = message.question[0].name
    reply.answer.append(dns.rrset.from_text(name, server.ttl, "IN", "A", server.value))
    yield reply.to_wire()


def lying_id(message: dns.message.Message, server: "FakeServer") -> Iterator[bytes]:
    """First a reply under another id with another value, then a good one."""
    [wire] = good(message, server)
    evil = wire.replace(socket.inet_aton(server.value), socket.inet_aton("127.6.6.6"))
    yield bytes([wire[0] ^ 1]) + evil[1:]
    yield wire


def wrong_question(message: dns.message.Message, server: "FakeServer") -> Iterator[bytes]:
    """First a reply to another question, then a good one."""
    other = dns.message.make_query("evil.example", "A")
    other.id = message.id
    reply = dns.message.make_response(other)
    reply.answer.append(dns.rrset.from_text("evil.example.", 60, "IN", "A", "127.6.6.6"))
    yield reply.to_wire()
    yield from good(message, server)


def truncated(message: dns.message.Message, server: "FakeServer") -> Iterator[bytes]:
    """Everything is too long."""
    reply = dns.message.make_response(message)
    reply.flags |= dns.flags.TC
    yield reply.to_wire()


def silent(message: dns.message.Message, server: "FakeServer") -> Iterator[bytes]:
    """Nothing at all."""
    yield from ()


def failing(message: dns.message.Message, server: "FakeServer") -> Iterator[bytes]:
    """SERVFAIL."""
    reply = dns.message.make_response(message)
    reply.set_rcode(dns.rcode.SERVFAIL)
    yield reply.to_wire()


def garbage(message: dns.message.Message, server: "FakeServer") -> Iterator[bytes]:
    """The right head, and then anything."""
    [wire] = good(message, server)
    end = 12 + len(message.question[0].name.to_wire() or b"") + 4
    yield wire[:6] + b"\xff\xff\xff\xff\xff\xff" + wire[12:end] + os.urandom(40)


class FakeServer(asyncio.DatagramProtocol):
    """A DNS server over UDP and TCP that does what `behaviour` says."""

    def __init__(self, address: str, port: int, value: str) -> None:
        self.address, self.port, self.value = address, port, value
        self.ttl = 60
        self.behaviour: Behaviour = good
        self.asked: list[str] = []
        self.stray: socket.socket | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, client: Any) -> None:
        for reply in self._replies(data):
            self.transport.sendto(reply, client)

    def _replies(self, data: bytes) -> list[bytes]:
        message = dns.message.from_wire(data)
        self.asked.append(str(message.question[0].name))
        return list(self.behaviour(message, self))

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                (size,) = struct.unpack("!H", await reader.readexactly(2))
                for reply in self._replies(await reader.readexactly(size)):
                    writer.write(struct.pack("!H", len(reply)) + reply)
        writer.close()

    @asynccontextmanager
    async def running(self, *, tcp: bool = True) -> AsyncIterator["FakeServer"]:
        loop = asyncio.get_running_loop()
        place = (self.address, self.port)
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=place)
        server = await asyncio.start_server(self._stream, *place) if tcp else None
        try:
            yield self
        finally:
            transport.close()
            if server is not None:
                server.close()
                await server.wait_closed()


class Proxy:
    """A running cairn-dns-proxy."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.port, self.http_port = free_port(), free_port()
        self.folder = folder
        self.socket = folder / "s.sock"
        self.config = folder / "config.json"
        self.settings: dict[str, Any] = {
            "proxy_addresses": [],
            "bind_ips": ["127.0.0.1", "::1"],
            "udp_port": self.port,
            "tcp_port": self.port,
            "http_port": self.http_port,
            "control_socket": str(self.socket),
            "state_dir": str(folder / "state"),
            "private_ip": "10.9.0.1",
            "server_timeout": 1.0,
            "forward_timeout": 1.5,
        } | settings
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.config.write_text(json.dumps(self.settings))
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cairn_dns.proxy", "--config", str(self.config), stderr=log
            )
        await self.until(self._is_ready)

    async def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, (self.folder / "log").read_text()
        try:
            return (await self.get("/ready")).status == 200
        except Unavailable:
            return False

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not await condition():  # noqa: ASYNC110 - the answer is the event
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            return await self.process.wait()

    async def get(self, path: str) -> Reply:
        async with HttpClient(total_s=10) as http:
            return await http.request("GET", f"http://127.0.0.1:{self.http_port}{path}")

    async def control(self, method: str, path: str, json: object = None) -> Reply:
        async with HttpClient(total_s=30, unix_socket=self.socket) as http:
            return await http.request(method, f"http://proxy{path}", json=json)

    async def ask(
        self,
        name: str,
        kind: str = "A",
        *,
        tcp: bool = False,
        where: str = "127.0.0.1",
        **more: Any,
    ) -> dns.message.Message:
        query = dns.message.make_query(name, kind, **more)
        ask = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
        return await ask(query, where, port=self.port, timeout=8)

    async def values(self, name: str, kind: str = "A", **how: Any) -> list[str]:
        return values(await self.ask(name, kind, **how))


def values(message: dns.message.Message) -> list[str]:
    return [data.to_text() for rrset in message.answer for data in rrset]


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Proxy]:
    proxy = Proxy(folder, **settings)
    await proxy.start()
    try:
        yield proxy
    finally:
        assert await proxy.stop() == 0, (folder / "log").read_text()
        log = (folder / "log").read_text()
        assert "Traceback" not in log, log


@contextmanager
def servers(*addresses: str) -> Iterator[list[FakeServer]]:
    port = free_port()
    yield [FakeServer(address, port, f"10.0.0.{n}") for n, address in enumerate(addresses, 1)]


async def test_local_names_are_answered_on_every_address_and_transport(tmp_path: Path) -> None:
    async with running(tmp_path, masters=["127.0.0.2", "127.0.0.3"]) as proxy:
        for where in ("127.0.0.1", "::1"):
            for tcp in (False, True):
                assert await proxy.values("ready.spartan", tcp=tcp, where=where) == ["127.0.0.1"]
        assert await proxy.values("zk-3.zk") == ["127.0.0.2"]
        assert await proxy.values("localhost", "AAAA") == ["::1"]
        assert await proxy.values("thisnode.thisdcos.directory") == ["10.9.0.1"]
        message = await proxy.ask("nobody.spartan")
        assert message.rcode() == dns.rcode.NXDOMAIN
        [soa] = message.authority
        assert soa.to_text().startswith("spartan. 1 IN SOA ns.spartan. support.mesosphere.com. ")
        assert soa.to_text().endswith(" 60 180 86400 1")
        message = await proxy.ask("ready.spartan", "AAAA")
        assert (message.rcode(), message.answer) == (dns.rcode.NOERROR, [])
        message = await proxy.ask("nobody.thisdcos.directory")
        assert message.rcode() == dns.rcode.NXDOMAIN
        assert (await proxy.ask("www.example")).rcode() == dns.rcode.REFUSED


async def test_names_of_the_cluster_come_from_the_masters(tmp_path: Path) -> None:
    with servers("127.0.0.2") as [master]:
        async with (
            master.running(),
            running(
                tmp_path,
                masters=[f"127.0.0.2:{master.port}"],
                cluster_id="yj5",
                zones={
                    "component.thisdcos.directory": [
                        {
                            "name": "registry",
                            "type": "cname",
                            "value": "master.mesos.thisdcos.directory",
                        }
                    ]
                },
            ) as proxy,
        ):
            assert await proxy.values("web.mesos") == ["10.0.0.1"]
            assert await proxy.values("web.mesos", tcp=True) == ["10.0.0.1"]
            message = await proxy.ask("Web.mesos.thisdcos.directory")
            assert message.answer[0].to_text() == "Web.mesos.thisdcos.directory. 5 IN A 10.0.0.1"
            assert await proxy.values("web.mesos.yj5.dcos.directory") == ["10.0.0.1"]
            assert await proxy.values("registry.component.thisdcos.directory") == [
                "master.mesos.thisdcos.directory.", "10.0.0.1",
            ]  # fmt: skip
            assert "master.mesos." in master.asked
            hosts = (await proxy.get("/v1/hosts/web.mesos")).json(object)
            assert hosts == [{"host": "web.mesos", "ip": "10.0.0.1"}]
            told = (await proxy.get("/v1/explain/web.mesos")).json(dict[str, Any])
            assert told["route"]["kind"] == "masters"
            assert told["servers"][0]["replies"] >= 1


@pytest.mark.parametrize("behaviour", [lying_id, wrong_question])
async def test_a_forged_answer_is_not_taken(tmp_path: Path, behaviour: Behaviour) -> None:
    with servers("127.0.0.2") as [upstream]:
        upstream.behaviour = behaviour
        async with (
            upstream.running(),
            running(tmp_path, upstream_resolvers=[f"127.0.0.2:{upstream.port}"]) as proxy,
        ):
            assert await proxy.values("www.example") == ["10.0.0.1"]


@pytest.mark.parametrize("behaviour", [silent, failing, garbage, None])
async def test_one_bad_server_of_two_costs_little(
    tmp_path: Path, behaviour: Behaviour | None
) -> None:
    with servers("127.0.0.2", "127.0.0.3") as [bad, fine]:
        async with contextlib.AsyncExitStack() as stack:
            if behaviour is not None:
                bad.behaviour = behaviour
                await stack.enter_async_context(bad.running())
            await stack.enter_async_context(fine.running())
            proxy = await stack.enter_async_context(
                running(tmp_path, masters=[f"{s.address}:{s.port}" for s in (bad, fine)])
            )
            for number in range(8):
                message = await proxy.ask(f"w{number}.mesos")
                assert values(message) == ["10.0.0.2"]


async def test_a_truncated_answer_is_passed_on(tmp_path: Path) -> None:
    with servers("127.0.0.2") as [upstream]:
        upstream.behaviour = truncated
        async with (
            upstream.running(),
            running(tmp_path, upstream_resolvers=[f"127.0.0.2:{upstream.port}"]) as proxy,
        ):
            assert (await proxy.ask("www.example")).flags & dns.flags.TC


async def test_known_names_go_on_without_masters_and_unknown_ones_fail(tmp_path: Path) -> None:
    with servers("127.0.0.2") as [master]:
        async with running(tmp_path, masters=[f"127.0.0.2:{master.port}"]) as proxy:
            async with master.running():
                assert await proxy.values("web.mesos") == ["10.0.0.1"]
            message = await proxy.ask("web.mesos")
            assert values(message) == ["10.0.0.1"]
            assert message.flags & dns.flags.QR
            message = await proxy.ask("other.mesos")
            assert message.rcode() == dns.rcode.SERVFAIL
            master.value = "10.0.0.77"
            async with master.running():

                async def followed() -> bool:
                    return await proxy.values("web.mesos") == ["10.0.0.77"]

                await proxy.until(followed)


async def test_stale_answers_outlive_a_new_zone_and_a_reload(tmp_path: Path) -> None:
    with servers("127.0.0.2") as [master]:
        async with running(tmp_path, masters=[f"127.0.0.2:{master.port}"]) as proxy:
            async with master.running():
                assert await proxy.values("web.mesos") == ["10.0.0.1"]
            assert await proxy.values("web.mesos") == ["10.0.0.1"]
            zone = {"generation": 1, "records": [{"name": "a", "type": "A", "value": "11.0.0.1"}]}
            assert (await proxy.control("PUT", "/v1/zones/corp.test", zone)).status == 200
            assert await proxy.values("a.corp.test") == ["11.0.0.1"]
            assert await proxy.values("web.mesos") == ["10.0.0.1"]
            proxy.settings["public_ips"] = ["203.0.113.9"]
            proxy.config.write_text(json.dumps(proxy.settings))
            assert proxy.process is not None
            proxy.process.send_signal(signal.SIGHUP)

            async def taken() -> bool:
                return await proxy.values("public.thisnode.thisdcos.directory") == ["203.0.113.9"]

            await proxy.until(taken)
            assert await proxy.values("web.mesos") == ["10.0.0.1"]


async def test_hosts_are_told_by_masters_that_speak_udp_only(tmp_path: Path) -> None:
    with servers("127.0.0.2") as [master]:
        async with (
            master.running(tcp=False),
            running(tmp_path, masters=[f"127.0.0.2:{master.port}"]) as proxy,
        ):
            hosts = (await proxy.get("/v1/hosts/web.mesos")).json(object)
            assert hosts == [{"host": "web.mesos", "ip": "10.0.0.1"}]


VIPS = "/v1/zones/l4lb.thisdcos.directory"


def vips(generation: int, *names: str) -> dict[str, Any]:
    records = [{"name": name, "type": "A", "value": f"11.0.0.{n}"} for n, name in enumerate(names)]
    return {"generation": generation, "records": records}


async def test_pushed_zones_are_answered_and_survive_a_kill(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    await proxy.start()
    try:
        name = "web.marathon.l4lb.thisdcos.directory"
        assert (await proxy.ask(name)).rcode() == dns.rcode.NXDOMAIN
        assert (await proxy.control("PUT", VIPS, vips(5, "web.marathon", "b"))).status == 200
        assert await proxy.values(name) == ["11.0.0.0"]
        assert await proxy.values("b.dclb.thisdcos.global") == ["11.0.0.1"]
        assert (await proxy.control("PUT", VIPS, vips(5, "web.marathon", "b"))).status == 200
        assert (await proxy.control("PUT", VIPS, vips(5, "b"))).status == 409
        refused = await proxy.control("PUT", VIPS, vips(4, "b"))
        assert refused.status == 409
        assert refused.json(object) == {"message": "generation: 4 is older than 5"}
        wrong = await proxy.control("PUT", VIPS, vips(6, "b..c"))
        assert wrong.status == 400
        assert "records[0].name" in wrong.body.decode()
        await proxy.kill()
        await proxy.start()
        assert await proxy.values(name) == ["11.0.0.0"]
        assert (await proxy.control("GET", VIPS)).json(dict[str, Any])["generation"] == 5
        assert (await proxy.control("PUT", VIPS, vips(6, "b"))).status == 200
        assert (await proxy.ask(name)).rcode() == dns.rcode.NXDOMAIN
        assert (await proxy.control("DELETE", VIPS)).status == 200
        assert (await proxy.ask("b.l4lb.thisdcos.directory")).rcode() == dns.rcode.NXDOMAIN
        for zone in ("mesos", "thisdcos.directory", "dcos.thisdcos.directory", "spartan"):
            assert (await proxy.control("PUT", f"/v1/zones/{zone}", vips(1))).status == 400
    finally:
        await proxy.stop()


async def test_a_large_zone_holds_nobody_up(tmp_path: Path) -> None:
    async with running(tmp_path) as proxy:
        body = vips(1, *(f"v{number}.marathon" for number in range(250)))
        body["records"] = [
            {
                "name": f"v{n}.marathon",
                "type": "A",
                "value": f"11.{n >> 16}.{n >> 8 & 255}.{n & 255}",
            }
            for n in range(8_000)
        ]
        push = asyncio.create_task(proxy.control("PUT", VIPS, body))
        while not push.done():
            assert await proxy.values("ready.spartan") == ["127.0.0.1"]
        assert (await push).status == 200
        assert await proxy.values("v7999.marathon.l4lb.thisdcos.directory") == ["11.0.31.63"]
        records = (await proxy.get("/v1/records")).json(list[Any])
        assert len([one for one in records if "l4lb" in one["name"]]) == 8_000


def many(count: int) -> dict[str, Any]:
    records = [{"name": "m", "type": "A", "value": f"11.1.0.{n}"} for n in range(count)]
    return {"generation": count, "records": records}


@pytest.mark.parametrize(
    ("loadbalance", "turning"), [("round_robin", True), ("random", True), ("disabled", False)]
)
async def test_answers_turn_as_the_setting_says(
    tmp_path: Path, loadbalance: str, turning: bool
) -> None:
    name = "m.l4lb.thisdcos.directory"
    async with running(tmp_path, loadbalance=loadbalance) as proxy:
        await proxy.control("PUT", VIPS, many(16))
        answers = [await proxy.values(name) for _ in range(128)]
        assert {len(set(answer)) for answer in answers} == {16}
        firsts = {answer[0] for answer in answers}
        assert len(firsts) == (16 if turning else 1)


async def test_what_does_not_fit_a_datagram_comes_over_tcp(tmp_path: Path) -> None:
    name = "m.l4lb.thisdcos.directory"
    async with running(tmp_path) as proxy:
        await proxy.control("PUT", VIPS, many(128))
        message = await proxy.ask(name)
        assert message.flags & dns.flags.TC
        assert len(values(message)) < 128
        assert len(await proxy.values(name, tcp=True)) == 128


async def test_another_daemon_serves_a_path_of_the_http_interface(tmp_path: Path) -> None:
    async def answer(request: Request) -> Answer:
        return Response.json({"path": request.path, "q": request.query.get("q")})

    router: Router[Handler] = Router()
    router.add("/v1/vips", answer)
    router.add("/v1/metrics/l4lb", answer)
    other = HttpServer(router)
    path = tmp_path / "other.sock"
    # Only the folder of the daemons may hold mounted sockets.
    async with running(tmp_path) as proxy:
        refused = await proxy.control(
            "PUT", "/v1/mounts", {"prefix": "/v1/vips", "socket": str(path)}
        )
        assert refused.status == 400
        own = {"prefix": "/v1/hosts", "socket": "/run/cairn/x.sock"}
        assert (await proxy.control("PUT", "/v1/mounts", own)).status == 400
        mount = {"prefix": "/v1/vips", "socket": f"/run/cairn/t-{os.getpid()}.sock"}
        assert (await proxy.control("PUT", "/v1/mounts", mount)).status == 200
        away = await proxy.get("/v1/vips/a")
        assert (away.status, "does not answer" in away.body.decode()) == (502, True)
        assert (await proxy.get("/v1/others")).status == 404
        mounted = Path(mount["socket"])
        if os.access(mounted.parent, os.W_OK):
            await other.start(mounted)
            try:
                found = (await proxy.get("/v1/vips/a?q=1%202")).json(object)
                assert found == {"path": "/v1/vips/a", "q": "1 2"}
                assert (await proxy.get("/v1/metrics/l4lb")).status == 404
                registry = mount | {"prefix": "/v1/metrics/l4lb"}
                assert (await proxy.control("PUT", "/v1/mounts", registry)).status == 200
                found = (await proxy.get("/v1/metrics/l4lb")).json(object)
                assert found == {"path": "/v1/metrics/l4lb", "q": None}
            finally:
                await other.drain(0)


async def test_the_http_interface_has_the_shapes_of_the_original(tmp_path: Path) -> None:
    async with running(tmp_path) as proxy:
        assert (await proxy.get("/v1/version")).body == (
            b'{"Service":"dcos-dns","Version":"0.0.1"}'
        )
        for path in ("/v1/config", "/v1/enumerate", "/lashup/key", "/lashup/kv/a"):
            assert (await proxy.get(path)).status == 501
        assert (await proxy.get("/v1/hosts/nobody.spartan")).body == b"[]"
        assert (await proxy.get("/v1/services/nobody.spartan")).body == b"[]"
        srv = [
            {"name": "a", "type": "A", "value": "11.0.0.1"},
            {"name": "_a._tcp", "type": "SRV", "value": "a.l4lb.thisdcos.directory:80"},
            {"name": "_a._tcp", "type": "SRV", "value": "gone.l4lb.thisdcos.directory:81"},
        ]
        await proxy.control("PUT", VIPS, {"generation": 1, "records": srv})
        service = "_a._tcp.l4lb.thisdcos.directory"
        found = (await proxy.get(f"/v1/services/{service}")).json(list[dict[str, Any]])
        assert sorted(found, key=lambda row: row["port"]) == [
            {"service": service, "host": "a.l4lb.thisdcos.directory", "port": 80, "ip": "11.0.0.1"},
            {"service": service, "host": "gone.l4lb.thisdcos.directory", "port": 81},
        ]
        text = (await proxy.get("/v1/metrics/dns")).body.decode()
        assert 'zone_records{zone="spartan."} 2.0' in text
        assert (await proxy.get("/v1/metrics/nothing")).status == 404
        assert (await proxy.get("/v1/nodes")).status == 503
        assert (await proxy.get("/health")).status == 200


async def test_settings_are_taken_while_running(tmp_path: Path) -> None:
    with servers("127.0.0.2") as [upstream]:
        async with upstream.running(), running(tmp_path) as proxy:
            assert (await proxy.ask("www.example")).rcode() == dns.rcode.REFUSED
            proxy.settings["upstream_resolvers"] = [f"127.0.0.2:{upstream.port}"]
            proxy.settings["zones"] = {
                "c.thisdcos.directory": [{"name": "a", "type": "a", "value": "10.7.7.7"}]
            }
            proxy.config.write_text(json.dumps(proxy.settings))
            assert proxy.process is not None
            proxy.process.send_signal(signal.SIGHUP)

            async def taken() -> bool:
                return await proxy.values("a.c.thisdcos.directory") == ["10.7.7.7"]

            await proxy.until(taken)
            assert await proxy.values("www.example") == ["10.0.0.1"]


async def test_nonsense_over_udp_and_tcp_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, upstream_resolvers=["127.0.0.2:1"]) as proxy:
        valid = dns.message.make_query("www.example", "A", use_edns=0).to_wire()
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for number in range(300):
                noise = bytearray(valid if number % 2 else os.urandom(number % 90))
                if noise:
                    noise[os.urandom(1)[0] % len(noise)] ^= os.urandom(1)[0]
                sock.sendto(noise, ("127.0.0.1", proxy.port))
        for data in (b"\0\5hello", b"\xff\xff", b"\0\0", valid, os.urandom(100)):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(data)
            writer.close()
            del reader
        assert await proxy.values("ready.spartan") == ["127.0.0.1"]
        assert await proxy.values("ready.spartan", tcp=True) == ["127.0.0.1"]
