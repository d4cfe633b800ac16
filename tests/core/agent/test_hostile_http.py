"""What the agent answers to requests that nobody should send."""

import asyncio
from typing import Any

import aiohttp

from cairn_core.agent.daemon import Agent

BODIES: list[tuple[str, bytes]] = [
    ("application/json", body)
    for body in (
        b"", b"{", b"null", b"[]", b"{}", b'"text"', b"[" * 100_000, b"\xff\xfe\x00",
        b'{"type":5}', b'{"type":"' + b"x" * 10_000 + b'"}', b'{"type":"\\ud800"}',
        b'{"type":"READ_FILE","read_file":{"path":"../../etc/passwd","offset":-1}}',
        b'{"type":"READ_FILE","read_file":{"path":"\\u0000","offset":1e999}}',
        b'{"type":"LIST_FILES","list_files":{"path":"' + b"/.." * 2000 + b'"}}',
        b'{"type":"UPDATE","executor_id":{"value":"a/b"},"framework_id":{"value":".."}}',
        b'{"type":"SUBSCRIBE","executor_id":{"value":"\\u0000"},"framework_id":{"value":""}}',
    )
] + [("text/plain", b"\0" * 100), ("", b"x")]  # fmt: skip
READS = [
    "/state", "/flags", "/version", "/containers", "/monitor/statistics", "/metrics/snapshot",
    "/files/browse", "/files/read", "/files/download", "/files/debug", "/debug/state", "/health",
]  # fmt: skip
TAILS = [
    "?path=/../../etc/passwd", "?path=%00", "?path=" + "a/" * 2000, "?offset=-5&length=x&path=/",
    "?offset=99999999999999999999&path=x", "?jsonp=alert(1)//", "/%2e%2e/%00", "?%ff=%fe&&=",
]  # fmt: skip
REFUSALS = {400, 401, 403, 404, 405, 406, 413, 415, 501}


async def test_hostile_requests_are_refused_and_the_agent_lives(start_agent: Any) -> None:
    async with start_agent() as agent, aiohttp.ClientSession() as session:
        assert isinstance(agent, Agent)
        url = f"http://127.0.0.1:{agent.port}"
        async with asyncio.timeout(60):
            for path in ("/api/v1", "/slave(1)/api/v1", "/api/v1/executor", "/state"):
                for kind, body in BODIES:
                    async with session.post(
                        url + path, data=body, headers={"Content-Type": kind}
                    ) as answer:
                        text = await answer.text()
                        assert answer.status in REFUSALS, (path, body[:80], answer.status, text)
                        assert 0 < len(text) < 2000, (path, body[:80])
            for path in READS:
                for tail in TAILS:
                    async with session.get(url + path + tail) as answer:
                        text = await answer.text()
                        assert answer.status in REFUSALS | {200}, (path, tail, answer.status)
                        assert "root:" not in text
            async with session.get(url + "/health") as answer:
                assert answer.status == 200
        assert agent.state.master.registered
