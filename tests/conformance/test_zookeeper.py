"""Masters found through a real ZooKeeper: they come, change, go, and so does ZooKeeper itself."""

import asyncio
import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl

from cairn_core.clusterview import io_zookeeper, masters
from cairn_core.clusterview.io_zookeeper import ZooKeeperMasters
from cairn_core.clusterview.masters import parse_ensemble
from cairn_core.testing.requires import requires

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

JARS = ("zookeeper", "zookeeper-jute", "slf4j-api", "slf4j-simple")
#: One for the server to start on a busy machine, seconds.
START_S = 60.0


class Server:
    """A ZooKeeper of one server on a port of its own; data survives a restart."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = int(sock.getsockname()[1])
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "zoo.cfg").write_text(
            f"tickTime=500\nmaxSessionTimeout=60000\ndataDir={folder}/data\n"
            f"clientPort={self.port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n"
            "4lw.commands.whitelist=ruok\n"
        )

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        process = self._spawn()
        async with asyncio.timeout(START_S):
            while not await self._is_up():
                assert process.poll() is None, (self._folder / "out").read_text()
                await asyncio.sleep(0.1)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        paths = ":".join(f"/usr/share/java/{jar}.jar" for jar in JARS)
        options = ("-Xmx64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", paths)
        with (self._folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                ("java", *options, "org.apache.zookeeper.server.quorum.QuorumPeerMain", "zoo.cfg"),
                cwd=self._folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        return self._process

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def _is_up(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(b"ruok")
            async with asyncio.timeout(5):
                return await reader.read(4) == b"imok"
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    requires("java", *(f"path:/usr/share/java/{jar}.jar" for jar in JARS))
    made = Server(tmp_path)
    yield made
    made.stop()


def info(ip: str) -> bytes:
    return json.dumps(
        {"id": ip, "ip": 1, "port": 5050, "address": {"ip": ip, "port": 5050}}
    ).encode()


#: `MasterInfo` in protobuf: id, ip 10.0.0.1, port 5051.
OLD_INFO = bytes.fromhex("0a016d108a80800818bb27")


class Ensemble:
    """The side of the masters: writes and removes their nodes."""

    def __init__(self, server: Server, **options: Any) -> None:
        self._client = KazooClient(server.place, timeout=60.0, **options)

    async def __aenter__(self) -> "Ensemble":
        await asyncio.to_thread(self._client.start, 30)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._client.stop)
        self._client.close()

    async def add(self, data: bytes, prefix: str = "json.info_", **options: Any) -> str:
        """A node that stays when we go; returns its path."""
        path: str = await asyncio.to_thread(
            self._client.create, f"/mesos/{prefix}", data, sequence=True, makepath=True, **options
        )
        return path

    async def remove(self, path: str, *, tree: bool = False) -> None:
        await asyncio.to_thread(self._client.delete, path, recursive=tree)

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self._client, name), *args, **options)


class Found:
    """Masters as they are found."""

    def __init__(self, url: str) -> None:
        self.masters = ZooKeeperMasters(parse_ensemble(url))
        self.changes = 0
        self._event = asyncio.Event()
        self.masters.watch(self._changed)

    def _changed(self) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.changes += 1
        self._event.set()

    async def until(self, condition: Callable[[ZooKeeperMasters], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition(self.masters):
                self._event.clear()
                await self._event.wait()

    async def are(self, *places: str) -> None:
        """The first of these leads."""
        await self.until(lambda m: m.current == places and m.leader == places[0])

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Found"]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.masters.run(stop))
        try:
            yield self
        finally:
            stop.set()
            async with asyncio.timeout(20):
                await task


async def test_masters_appear_change_and_go(server: Server) -> None:
    await server.start()
    async with Ensemble(server) as ensemble, Found(f"zk://{server.place}/mesos").running() as found:
        # The path is not even there yet.
        first = await ensemble.add(info("10.0.0.1"))
        await found.are("10.0.0.1:5050")
        second = await ensemble.add(info("10.0.0.2"))
        await ensemble.add(b"nonsense")
        await ensemble.add(OLD_INFO, "info_")
        await ensemble.add(b"", "log_replicas")
        await found.are("10.0.0.1:5050", "10.0.0.2:5050")
        await ensemble.remove(first)
        await found.are("10.0.0.2:5050")
        await ensemble.remove(second)
        # Only one that makes no sense is left: nobody leads, and what was known stays.
        await found.until(lambda m: m.leader is None)
        assert found.masters.current == ("10.0.0.2:5050",)
        await ensemble.remove("/mesos", tree=True)
        await ensemble.add(OLD_INFO, "info_")
        await found.are("10.0.0.1:5051")


async def test_changes_are_told_once_a_second_at_most(server: Server) -> None:
    await server.start()
    async with Ensemble(server) as ensemble, Found(f"zk://{server.place}/mesos").running() as found:
        loop = asyncio.get_running_loop()
        await ensemble.add(info("10.0.0.1"))
        await found.are("10.0.0.1:5050")
        began, before = loop.time(), found.changes
        for number in range(2, 30):
            await ensemble.add(info(f"10.0.0.{number}"))
        await found.until(lambda m: len(m.current) == 29)
        assert found.changes - before <= 1 + (loop.time() - began) / io_zookeeper.EVERY_S


async def test_zookeeper_may_be_away_at_the_start_and_later(server: Server) -> None:
    found = Found(f"zk://{server.place}/mesos")
    async with found.running():
        await server.start()
        async with Ensemble(server) as ensemble:
            first = await ensemble.add(info("10.0.0.1"))
            await ensemble.add(info("10.0.0.2"))
        await found.are("10.0.0.1:5050", "10.0.0.2:5050")
        before = found.changes
        server.stop()
        await server.start()
        assert found.masters.leader == "10.0.0.1:5050"
        assert found.changes == before
        async with Ensemble(server) as ensemble:
            await ensemble.remove(first)
        await found.are("10.0.0.2:5050")
    # To end takes no ZooKeeper either.
    server.stop()
    async with Found(f"zk://{server.place}/mesos").running() as found:
        await asyncio.sleep(0)
    assert found.masters.current == ()


async def test_a_client_that_stays_away_is_replaced(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_zookeeper, "GIVE_UP_S", 0.2)
    monkeypatch.setattr(io_zookeeper, "ANSWER_S", 0.1)
    made = 0
    make = io_zookeeper._client

    def counted(ensemble: masters.Ensemble) -> Any:
        nonlocal made
        made += 1
        return make(ensemble)

    monkeypatch.setattr(io_zookeeper, "_client", counted)
    async with Found(f"zk://{server.place}/mesos").running() as found:
        async with asyncio.timeout(60):
            while made < 3:  # noqa: ASYNC110 - what we wait for has no event of its own
                await asyncio.sleep(0.01)
        monkeypatch.setattr(io_zookeeper, "GIVE_UP_S", 60.0)
        monkeypatch.setattr(io_zookeeper, "ANSWER_S", 10.0)
        await server.start()
        async with Ensemble(server) as ensemble:
            await ensemble.add(info("10.0.0.1"))
        await found.are("10.0.0.1:5050")


async def test_one_server_that_answers_is_enough(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_zookeeper, "EXCHANGE_S", 0.5)
    await server.start()
    with socket.create_server(("127.0.0.2", 0)) as silent:
        port = silent.getsockname()[1]
        hosts = ["127.0.0.1:1", "127.0.0.2:1", "host.invalid:1", f"127.0.0.2:{port}", server.place]
        async with Ensemble(server) as ensemble:
            await ensemble.add(info("10.0.0.1"))
            async with Found(f"zk://{','.join(hosts)}/mesos").running() as found:
                await found.are("10.0.0.1:5050")


async def test_user_and_password_open_a_closed_path(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await server.start()
    acl = [make_digest_acl("cairn", "sword:fish", all=True)]
    async with Ensemble(server, auth_data=[("digest", "cairn:sword:fish")]) as ensemble:
        await ensemble.call("create", "/mesos", b"", acl=acl)
        await ensemble.add(info("10.0.0.1"), acl=acl)
        async with Found(f"zk://{server.place}/mesos").running() as stranger:
            async with Found(f"zk://cairn:sword:fish@{server.place}/mesos").running() as found:
                await found.are("10.0.0.1:5050")
            assert stranger.masters.current == ()
    assert "sword" not in caplog.text
