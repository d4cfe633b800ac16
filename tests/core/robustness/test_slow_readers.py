"""Subscribers that do not read: they lose their stream, and nobody else notices."""

import asyncio
import json
import socket
from typing import Any

import pytest

from cairn_core.kit import http_server
from cairn_core.master import http_legacy
from cairn_core.mesos import agent_api, types
from cairn_core.mesos.recordio import Decoder

INFO = {"user": "u", "name": "stuck", "failover_timeout": 1000.0}
SUBSCRIBE = json.dumps({"type": "SUBSCRIBE", "subscribe": {"framework_info": INFO}}).encode()


def deaf(port: int, path: str, body: bytes) -> socket.socket:
    """A client that sends a request and never reads the answer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    method = b"POST" if body else b"GET"
    sock.sendall(
        b"%s %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (method, path.encode(), len(body), body)
    )
    return sock


def test_a_deaf_framework_loses_its_stream_and_no_one_waits(victim: Any) -> None:
    async def attack() -> None:
        master = victim.assembly.master
        sock = deaf(victim.port, "/api/v1/scheduler", SUBSCRIBE)
        other = await victim.client.post(
            f"{victim.url}/api/v1/scheduler",
            json={"type": "SUBSCRIBE", "subscribe": {"framework_info": INFO | {"name": "well"}}},
        )
        frameworks = master.cluster.frameworks
        await victim.until(lambda: len(frameworks) == 2)
        by_name = {framework.info.name: framework for framework in frameworks.values()}
        stuck, well = by_name["stuck"], by_name["well"]
        agent = victim.agents.agents[0]
        data = b"x" * 400_000
        executor_id = types.ExecutorID("e")
        for _ in range(200):
            if not stuck.connected:
                break
            agent.client.channel.send(
                agent_api.FromExecutor(types.FrameworkID(stuck.framework_id), executor_id, data)
            )
            headers = {"Mesos-Stream-Id": other.headers["Mesos-Stream-Id"]}
            call = {"type": "REVIVE", "framework_id": {"value": well.framework_id}}
            async with (
                asyncio.timeout(5),
                victim.client.post(
                    f"{victim.url}/api/v1/scheduler", json=call, headers=headers
                ) as answer,
            ):
                assert answer.status == 202
            link = agent.client.channel.link
            await victim.until(lambda: link.outstanding_bytes < 1_000_000)  # noqa: B023
        assert not stuck.connected
        assert well.connected
        assert victim.assembly.http.stats.slow_streams == 1
        decoder, kinds = Decoder(), set[str]()
        while not {"SUBSCRIBED", "OFFERS"} <= kinds:
            received = await other.content.readany()
            kinds |= {json.loads(record)["type"] for record in decoder.feed(received)}
        other.close()
        sock.close()
        await victim.unharmed()

    victim.run(attack())


def test_deaf_readers_of_state_stop_neither_each_other_nor_the_rest(victim: Any) -> None:
    async def attack() -> None:
        socks = [deaf(victim.port, "/state", b"") for _ in range(20)]
        socks += [deaf(victim.port, "/cairn/v1/feed", b"") for _ in range(20)]
        socks += [deaf(victim.port, "/api/v1", b'{"type":"SUBSCRIBE"}') for _ in range(20)]
        socks += [deaf(victim.port, "/api/v1", b'{"type":"GET_STATE"}') for _ in range(20)]
        await victim.until(lambda: victim.assembly.http.stats.open_streams >= 40)
        for path in ("/state-summary", "/metrics/snapshot", "/roles", "/ready", "/slaves"):
            async with asyncio.timeout(5), victim.client.get(victim.url + path) as answer:
                assert answer.status == 200, path
        for sock in socks:
            sock.close()
        await victim.until(lambda: victim.assembly.http.stats.open_streams == 0)
        await victim.unharmed()

    victim.run(attack())


def test_a_large_read_that_nobody_takes_frees_its_place(
    victim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def attack() -> None:
        big = [b" " * 1_000_000] * 40

        async def rendered(*_: Any) -> list[bytes]:
            return big

        monkeypatch.setattr(http_legacy.Reader, "_rendered", rendered)
        monkeypatch.setattr(http_server, "STUCK_S", 1.0)
        socks = [deaf(victim.port, "/state", b"") for _ in range(2 * http_legacy.MAX_FULL_READS)]

        async def status() -> int:
            async with victim.client.get(f"{victim.url}/state") as answer:
                return int(answer.status)

        async with asyncio.timeout(20):
            while await status() != 503:
                pass
        async with asyncio.timeout(20):
            while await status() != 200:
                pass
        for sock in socks:
            sock.close()
        await victim.unharmed()

    victim.run(attack())
