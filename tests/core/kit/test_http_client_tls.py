"""The client and TLS: whom it believes, and how it proves who it is."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from cairn_core.kit.http_client import CannotConnect, HttpClient
from cairn_core.testing.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def served(context: ssl.SSLContext) -> AsyncIterator[str]:
    """A server that says hello, and redirects `/away` as a master does."""

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def away(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"//{request.host}/"})

    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/away", away)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"https://{host}:{port}"
    finally:
        await runner.cleanup()


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.ca_file)


async def test_a_server_of_a_trusted_authority_is_talked_to(authority: Authority) -> None:
    async with (
        served(authority.server("127.0.0.1")) as url,
        HttpClient(ssl=trusting(authority)) as http,
    ):
        assert (await http.request("GET", url)).body == b"hello"
        reply = await http.request("GET", f"{url}/away")
        assert (reply.body, reply.url) == (b"hello", f"{url}/")


async def test_servers_that_cannot_be_verified_are_not(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "another authority")
    async with served(authority.server("127.0.0.1")) as url:
        for context in (None, trusting(other)):
            async with HttpClient(ssl=context) as http:
                with pytest.raises(CannotConnect, match=r"(?i)certificate"):
                    await http.request("GET", url)
    async with (
        served(authority.server("127.0.0.9")) as url,
        HttpClient(ssl=trusting(authority)) as http,
    ):
        with pytest.raises(CannotConnect, match=r"(?i)certificate"):
            await http.request("GET", url)


async def test_a_client_shows_its_certificate(authority: Authority) -> None:
    context = trusting(authority)
    async with served(authority.server("127.0.0.1", clients=True)) as url:
        async with HttpClient(ssl=context) as http:
            with pytest.raises(CannotConnect):
                await http.request("GET", url)
        context.load_cert_chain(*authority.issue("client.example"))
        async with HttpClient(ssl=context) as http:
            assert (await http.request("GET", url)).body == b"hello"
