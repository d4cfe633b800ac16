"""The fetcher: what a URI means, the cache's books, downloads, and archives that mean harm."""

import asyncio
import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.agent.containerizer.errors import LaunchFailed
from cairn_core.agent.fetcher import Cache, FetchError, Kind, understand
from cairn_core.agent.io_fetcher import Fetcher, FetcherSettings
from cairn_core.extensions import ContainerConfig
from cairn_core.mesos.containers import URI
from cairn_core.testing.requires import requires


@pytest.mark.parametrize(
    ("uri", "name", "kind"),
    [
        (URI("http://h/a/b.tgz?x=1"), "b.tgz", Kind.TAR),
        (URI("http://h/a%20b.ZIP"), "a b.ZIP", Kind.ZIP),
        (URI("https://h/x.json.gz"), "x.json.gz", Kind.GZIP),
        (URI("http://h/b.tgz", executable=True), "b.tgz", Kind.NONE),
        (URI("http://h/b.tgz", extract=False), "b.tgz", Kind.NONE),
        (URI("http://h/b", output_file="in/side"), "in/side", Kind.NONE),
        (URI("file:///srv/files/x.tar.xz"), "x.tar.xz", Kind.TAR),
        (URI("/srv/files/x"), "x", Kind.NONE),
    ],
)
def test_a_uri_is_understood(uri: URI, name: str, kind: Kind) -> None:
    item = understand(uri, ["/srv/files"])
    assert (item.name, item.kind) == (name, kind)


def test_a_relative_path_starts_at_the_home_of_frameworks() -> None:
    assert understand(URI("a/b"), [], "/srv/home").path == "/srv/home/a/b"
    with pytest.raises(FetchError, match="not below a directory"):
        understand(URI("../b"), [], "/srv/home")


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        (URI("ftp://h/x"), "scheme 'ftp' is not supported"),
        (URI("file:///etc/shadow"), "not below a directory"),
        (URI("/srv/files/../../etc/shadow"), "not below a directory"),
        (URI("/srv/files-secret/x"), "not below a directory"),
        (URI("relative"), "not an absolute path"),
        (URI("file://other/srv/files/x"), "file on another host"),
        (URI("http://h/"), "no usable file name"),
        (URI("http:///x"), "no host"),
        (URI("http://h/x", output_file="../x"), "leads out of the sandbox"),
        (URI("http://h/x", output_file="/x"), "no usable file name"),
        (URI("http://[h/x"), "Invalid IPv6"),
    ],
    ids=lambda v: v.value if isinstance(v, URI) else "",
)
def test_a_uri_is_refused_with_the_cause(uri: URI, cause: str) -> None:
    with pytest.raises(FetchError, match=cause):
        understand(uri, ["/srv/files"])


def test_the_cache_gives_up_what_was_used_longest_ago() -> None:
    cache = Cache(100)
    for name in "ab":
        assert cache.reserve(("u", name), 40) == []
        cache.release(("u", name))
    assert cache.take(("u", "a"))
    cache.release(("u", "a"))
    assert cache.reserve(("u", "c"), 50) == [("u", "b")]
    assert cache.reserve(("u", "d"), 60) is None  # c is in use, a alone does not suffice
    assert cache.used() == 90


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.booleans()), max_size=40))
def test_the_cache_never_holds_more_than_it_may(steps: list[tuple[int, int, bool]]) -> None:
    cache = Cache(100)
    for name, size, keep in steps:
        key = ("u", str(name))
        if (cache.take(key) or cache.reserve(key, size) is not None) and not keep:
            cache.release(key)
        assert cache.used() <= 100


class Site:
    """A web server with files, and a fetcher."""

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        self.url = f"http://127.0.0.1:{port}"
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.fetcher = Fetcher(self.settings())
        self.fetcher.prepare()

    def settings(self) -> FetcherSettings:
        root = self.root
        return FetcherSettings(str(root / "fetch"), (str(root / "allowed"),), cache_bytes=1000)

    async def fetch(self, *uris: URI, user: str | None = None) -> Path:
        sandbox = self.root / f"sandbox{len(list(self.root.glob('sandbox*')))}"
        sandbox.mkdir()
        if user:
            os.chown(sandbox, 65534, 65534)
        config = ContainerConfig(sandbox=str(sandbox), argv=("x",), uris=uris, user=user)
        await self.fetcher.fetch("cid", config)
        return sandbox


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async def answer(request: web.Request) -> web.StreamResponse:
        found.asked.append(request.path)
        if request.path == "/moved":
            raise web.HTTPFound("/file")
        if request.path == "/stall":
            response = web.StreamResponse(headers={"Content-Length": "10"})
            await response.prepare(request)
            await asyncio.Event().wait()
        if request.path not in found.files:
            raise web.HTTPNotFound
        return web.Response(body=found.files[request.path])

    application = web.Application()
    application.router.add_route("GET", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    found = Site(tmp_path, runner.addresses[0][1])
    yield found
    await runner.cleanup()


def tar(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as archive:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o6755
    return info


async def test_files_come_into_the_sandbox(site: Site) -> None:
    site.files["/file"] = b"content"
    sandbox = await site.fetch(
        URI(f"{site.url}/file", executable=True),
        URI(f"{site.url}/moved", output_file="in/side"),
    )
    assert (sandbox / "file").read_bytes() == (sandbox / "in/side").read_bytes() == b"content"
    assert os.access(sandbox / "file", os.X_OK)
    assert not os.access(sandbox / "in/side", os.X_OK) or os.geteuid() == 0
    assert list((site.root / "fetch").iterdir()) == []


async def test_archives_are_unpacked(site: Site) -> None:
    link = member("d/link", tarfile.SYMTYPE, "../f")
    members = ((member("f"), b"1"), (link, b""), (member("d/g"), b"2"))
    for suffix, mode in (
        (".tgz", "w:gz"),
        (".tar.bz2", "w:bz2"),
        (".tar.xz", "w:xz"),
        (".tar", "w"),
    ):
        site.files[f"/a{suffix}"] = tar(*members, mode=mode)
        sandbox = await site.fetch(URI(f"{site.url}/a{suffix}"))
        assert (sandbox / "d/link").read_bytes() == b"1"
        assert (sandbox / "d/g").read_bytes() == b"2"
        assert (sandbox / f"a{suffix}").exists()
        assert (sandbox / "f").stat().st_mode & 0o7777 == 0o755
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("x/y", b"3")
    site.files["/a.zip"], site.files["/b.txt.gz"] = raw.getvalue(), gzip.compress(b"4")
    sandbox = await site.fetch(URI(f"{site.url}/a.zip"), URI(f"{site.url}/b.txt.gz"))
    assert ((sandbox / "x/y").read_bytes(), (sandbox / "b.txt").read_bytes()) == (b"3", b"4")


HARM = {
    "a name above": [(member("../out"), b"x")],
    "an absolute name": [(member("/tmp/cairn-out"), b"x")],
    "a link out": [(member("l", tarfile.SYMTYPE, "../out"), b"")],
    "an absolute link": [(member("l", tarfile.SYMTYPE, "/etc"), b"")],
    "a link through a link": [
        (member("d", tarfile.DIRTYPE), b""),
        (member("d/x", tarfile.SYMTYPE, ".."), b""),
        (member("y", tarfile.SYMTYPE, "d/x/../out"), b""),
    ],
    "a hard link out": [(member("l", tarfile.LNKTYPE, "../out"), b"")],
    "a device": [(member("null", tarfile.CHRTYPE), b"")],
    "a pipe": [(member("pipe", tarfile.FIFOTYPE), b"")],
}


@pytest.mark.parametrize("members", HARM.values(), ids=HARM.keys())
async def test_archives_that_lead_out_are_refused(
    site: Site, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    site.files["/a.tgz"] = tar(*members)
    with pytest.raises(LaunchFailed, match=r"a\.tgz: .*(out of the sandbox|neither file)"):
        await site.fetch(URI(f"{site.url}/a.tgz"))
    assert not (site.root / "out").exists()
    assert not Path("/tmp/cairn-out").exists()


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/missing", "answered 404 Not Found"),
        ("/stall", "no byte for 0.2 s"),
        ("/large", "more than the 50000 allowed"),
        ("/bomb.tgz", "unpacks to more than is allowed"),
        ("/damaged.tgz", "damaged archive"),
    ],
)
async def test_failures_name_the_uri_and_the_cause(site: Site, path: str, cause: str) -> None:
    site.files["/large"] = b"x" * 60_000
    site.files["/bomb.tgz"] = tar((member("f"), bytes(500_000)))
    site.files["/damaged.tgz"] = b"no archive"
    site.fetcher = Fetcher(
        replace(
            site.settings(),
            stall_timeout_s=0.2,
            max_download_bytes=50_000,
            max_unpacked_bytes=100_000,
        )
    )
    with pytest.raises(LaunchFailed, match=f"Failed to fetch all URIs .*{path}: .*{cause}"):
        await site.fetch(URI(f"{site.url}{path}"))


async def test_the_cache_saves_downloads_and_is_per_user(site: Site) -> None:
    site.files["/file"] = b"x" * 600
    uri = URI(f"{site.url}/file", cache=True)
    await asyncio.gather(site.fetch(uri), site.fetch(uri))
    sandbox = await site.fetch(uri)
    assert (sandbox / "file").stat().st_size == 600
    assert len(site.asked) == 1
    site.files["/other"] = b"y" * 600
    await site.fetch(URI(f"{site.url}/other", cache=True))
    await site.fetch(uri)
    assert site.asked == ["/file", "/other", "/file"]
    assert sum(p.stat().st_size for p in (site.root / "fetch").iterdir()) <= 1000


async def test_local_files_only_from_where_they_may_come(site: Site) -> None:
    allowed = site.root / "allowed"
    allowed.mkdir()
    (allowed / "file").write_text("x")
    (allowed / "link").symlink_to("/etc/hostname")
    os.mkfifo(allowed / "pipe")
    sandbox = await site.fetch(URI(f"file://{allowed}/file"))
    assert (sandbox / "file").read_text() == "x"
    with pytest.raises(LaunchFailed, match="not in an allowed directory"):
        await site.fetch(URI(f"{allowed}/link"))
    with pytest.raises(LaunchFailed, match="not a regular file"):
        await site.fetch(URI(f"{allowed}/pipe"))


@pytest.mark.netns
async def test_what_is_unpacked_belongs_to_the_user(site: Site) -> None:
    requires("root")
    site.files["/a.tgz"] = tar((member("d/f"), b"1"))
    sandbox = await site.fetch(URI(f"{site.url}/a.tgz"), user="nobody")
    assert {path.owner() for path in sandbox.rglob("*")} == {"nobody"}
