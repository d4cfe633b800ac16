"""Masters behind TLS and authentication: what is sent, what is verified, what is never shown."""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web

from cairn_core.clusterview.io_access import MasterAccess, master_access
from cairn_core.clusterview.io_iam import IamLogin, read_iam_file
from cairn_core.clusterview.io_source import ClusterSource
from cairn_core.clusterview.view import Changes
from cairn_core.errors import LocalError, RemoteError
from cairn_core.kit.http_client import CannotConnect
from cairn_core.testing.certificates import Authority, private_pem, rsa_key

KEY = rsa_key()
SECRET = "swordfish"


class Doors:
    """A master behind a door that wants credentials, and the identity service that gives them."""

    def __init__(self) -> None:
        self.logins = 0
        self.accepts = "token=never"
        self.asked: list[tuple[str, str | None]] = []
        self.reply: Callable[[], Any] = lambda: {"token": self.token()}

    def token(self, life_s: float = 3600.0) -> str:
        """A token that the door accepts from now on."""
        claims = {"uid": "dns", "n": self.logins, "exp": int(time.time() + life_s)}
        token = jwt.encode(claims, "k" * 32, algorithm="HS256")
        self.accepts = f"token={token}"
        return token

    async def login(self, request: web.Request) -> web.Response:
        self.logins += 1
        sent = await request.json()
        claims = jwt.decode(sent["token"], KEY.public_key(), algorithms=["RS256"])
        assert claims["uid"] == sent["uid"] == "dns"
        assert 3500 < claims["exp"] - time.time() <= 3600
        return web.json_response(self.reply())

    async def state(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers.get("Authorization")))
        if request.headers.get("Authorization") != self.accepts:
            return web.Response(status=401)
        if request.path != "/master/state":
            return web.Response(status=404)
        assert request.headers["User-Agent"] == "Mesos-DNS"
        assert request.headers["Accept-Encoding"] == "gzip"
        return web.json_response({
            "id": "m", "leader": "master@127.0.0.1:5050", "pid": "master@127.0.0.1:5050",
            "slaves": [], "frameworks": [{"id": "F", "name": "marathon"}],
        })  # fmt: skip

    @asynccontextmanager
    async def open(self, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/login", self.login)
        app.router.add_route("*", "/{path:.*}", self.state)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        try:
            yield f"127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def account(tmp_path: Path, endpoint: str, **other: Any) -> str:
    file = tmp_path / "account.json"
    fields = {"scheme": "RS256", "uid": "dns", "login_endpoint": endpoint}
    fields |= {"private_key": private_pem(KEY).decode()} | other
    file.write_text(json.dumps(fields))
    return str(file)


async def follow(place: str, access: MasterAccess) -> ClusterSource:
    """Follow a master until it told something."""
    told, stop = asyncio.Event(), asyncio.Event()

    def changed(_: Changes) -> None:
        told.set()

    source = ClusterSource([place], changed, access=access, period_s=0.01)
    running = asyncio.create_task(source.run(stop))
    async with asyncio.timeout(20):
        await told.wait()
    stop.set()
    await running
    return source


async def test_a_master_behind_tls_and_basic_authentication_is_polled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    authority, doors = Authority(tmp_path), Doors()
    doors.accepts = "Basic ZG5zOnN3b3JkZmlzaA=="
    cert_file, key_file = authority.issue("client.example")
    access = master_access(
        https=True, ca_file=str(authority.ca_file), cert_file=str(cert_file),
        key_file=str(key_file), authentication="basic", principal="dns", secret=SECRET,
    )  # fmt: skip
    async with doors.open(authority.server("127.0.0.1", clients=True)) as place:
        source = await follow(place, access)
    assert source.kind == "poll"
    assert source.view.snapshot.framework("F") is not None
    # The better sources were asked for first, and with the same credentials.
    paths = [path for path, _ in doors.asked]
    assert paths[:3] == ["/cairn/v1/feed", "/api/v1", "/master/state"]
    assert SECRET not in caplog.text
    assert doors.accepts not in caplog.text


async def test_without_a_file_of_authorities_nothing_is_verified(tmp_path: Path) -> None:
    doors = Doors()
    doors.accepts = "Basic ZG5zOg=="
    access = master_access(https=True, authentication="basic", principal="dns")
    async with doors.open(Authority(tmp_path).server("127.0.0.9")) as place:
        assert (await follow(place, access)).kind == "poll"


async def test_a_master_of_another_authority_is_refused(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "another authority")
    access = master_access(https=True, ca_file=str(other.ca_file))
    async with Doors().open(authority.server("127.0.0.1")) as place, access.client() as http:
        with pytest.raises(CannotConnect, match=r"(?i)certificate"):
            await http.request("GET", access.url(place))


async def test_a_service_account_logs_in_once_and_again_when_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    doors = Doors()
    async with doors.open() as place:
        file = account(tmp_path, f"http://{place}/login")
        access = master_access(authentication="iam", iam_file=file)
        assert (await follow(place, access)).kind == "poll"
        assert doors.logins == 1
        # The master forgets the token; after one refusal there is another.
        doors.accepts = "token=never"
        assert (await follow(place, access)).kind == "poll"
        assert doors.logins == 2
    assert "PRIVATE" not in caplog.text
    assert doors.accepts.removeprefix("token=") not in caplog.text


async def test_a_token_is_renewed_before_it_ends(tmp_path: Path) -> None:
    doors = Doors()
    async with doors.open() as place:
        login = IamLogin(read_iam_file(Path(account(tmp_path, f"http://{place}/login"))))
        first = await asyncio.gather(*(login.authorization() for _ in range(5)))
        assert len(set(first)) == doors.logins == 1
        login.refused()
        doors.reply = lambda: {"token": doors.token(life_s=61.0)}
        await login.authorization()
        async with asyncio.timeout(20):
            while doors.logins < 3:
                await login.authorization()
        doors.reply = lambda: {"token": "opaque"}
        login.refused()
        assert await login.authorization() == await login.authorization() == "token=opaque"


@pytest.mark.parametrize(
    "reply", [{}, {"token": 7}, {"token": ""}, {"token": "a\r\nX: b"}, {"token": "x" * 20_000}, []]
)
async def test_answers_of_the_identity_service_that_are_no_token(
    tmp_path: Path, reply: Any
) -> None:
    doors = Doors()
    doors.reply = lambda: reply
    async with doors.open() as place:
        login = IamLogin(read_iam_file(Path(account(tmp_path, f"http://{place}/login"))))
        with pytest.raises(RemoteError, match="no token"):
            await login.authorization()
        login = IamLogin(read_iam_file(Path(account(tmp_path, f"http://{place}/other"))))
        with pytest.raises(RemoteError, match="answers 401"):
            await login.authorization()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"cert_file": "x"}, "certFile and keyFile"),
        ({"key_file": "x"}, "certFile and keyFile"),
        ({"ca_file": "/does/not/exist"}, "caCertFile: /does/not/exist: No such file"),
        ({"cert_file": "/a", "key_file": "/b"}, "certFile: /a: No such file"),
        ({"ca_file": __file__}, "(?i)caCertFile: .*certificate"),
        ({"authentication": "kerberos"}, "mesosAuthentication: 'kerberos'"),
        ({"authentication": "basic"}, "mesosCredentials"),
        ({"authentication": "basic", "principal": "a:b"}, "mesosCredentials"),
        ({"authentication": "iam"}, "iamConfigFile"),
        ({"authentication": "iam", "iam_file": "/does/not/exist"}, "iamConfigFile: .*No such file"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(LocalError, match=problem):
        master_access(**settings)


@pytest.mark.parametrize(
    "other",
    [
        {"private_key": SECRET},
        {"private_key": None},
        {"scheme": "HS256"},
        {"uid": 7},
        {"login_endpoint": "gopher://x"},
    ],
)
def test_accounts_that_cannot_be_are_refused_without_showing_a_key(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    with pytest.raises(LocalError, match="iamConfigFile") as caught:
        read_iam_file(Path(account(tmp_path, "http://127.0.0.1/login", **other)))
    assert SECRET not in str(caught.value)
    assert "PRIVATE" not in repr(read_iam_file(Path(account(tmp_path, "http://127.0.0.1/login"))))


def test_a_place_becomes_a_url() -> None:
    assert MasterAccess().url("a:1") == "http://a:1"
    assert master_access(https=True).url("a:1") == "https://a:1"
    assert MasterAccess().url("http://a:1/") == "http://a:1"
