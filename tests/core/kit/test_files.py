"""Files beneath a directory, and /files over HTTP."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.kit import sandbox_files
from cairn_core.kit.http_client import HttpClient
from cairn_core.kit.http_files import MAX_READ_BYTES, VirtualPaths, add_file_routes
from cairn_core.kit.http_server import Handler, HttpServer, Router
from cairn_core.kit.sandbox_files import OutsideSandbox, open_beneath
from cairn_core.testing.requires import lacking


@pytest.fixture(params=["openat2", "walk"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with the kernel's check and with our own."""
    if request.param == "openat2" and not sandbox_files._probe():
        lacking("a kernel with openat2")
    monkeypatch.setattr(sandbox_files, "_known", [request.param == "openat2"])
    return str(request.param)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A sandbox full of traps beside a secret."""
    (tmp_path / "secret").write_text("secret")
    box = tmp_path / "box"
    (box / "dir").mkdir(parents=True)
    (box / "dir" / "file").write_text("inside")
    (box / "up").symlink_to("../secret")
    (box / "absolute").symlink_to(tmp_path / "secret")
    (box / "updir").symlink_to("..")
    (box / "proc").symlink_to("/proc/self/root")
    (box / "inner").symlink_to("dir")
    os.mkfifo(box / "pipe")
    return box


def content(root: Path, path: str) -> bytes:
    descriptor = open_beneath(root, path)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("path", ["dir/file", "/dir/file", "dir//file", "./dir/./file"])
def test_what_is_inside_opens(either: str, box: Path, path: str) -> None:
    assert content(box, path) == b"inside"


@pytest.mark.parametrize(
    "path",
    ["../secret", "dir/../../secret", "up", "absolute", "updir/secret", "proc/etc/passwd", "a\0b"],
)
def test_what_leads_out_does_not(either: str, box: Path, path: str) -> None:
    with pytest.raises(OutsideSandbox, match="leads out"):
        content(box, path)


def test_links_that_stay_inside_are_followed_by_the_kernel_only(either: str, box: Path) -> None:
    if either == "openat2":
        assert content(box, "inner/file") == b"inside"
    else:
        with pytest.raises(OutsideSandbox):
            content(box, "inner/file")


def test_files_are_made_beneath_too(either: str, box: Path) -> None:
    descriptor = open_beneath(box, "dir/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(descriptor)
    assert (box / "dir" / "new").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError):
        content(box, "no/such")
    with pytest.raises(NotADirectoryError):
        content(box, "dir/file/x")


@given(st.lists(st.sampled_from(["a", "b", "..", ".", "", "c"]), max_size=6))
def test_the_table_never_gives_a_way_up(parts: list[str]) -> None:
    paths = VirtualPaths()
    paths.attach("/a", Path("/real/a"))
    paths.attach("/a/b/", Path("/real/b"))
    virtual = "/".join(parts)
    if ".." in parts:
        with pytest.raises(OutsideSandbox):
            paths.resolve(virtual)
        return
    clean = [part for part in parts if part not in ("", ".")]
    found = paths.resolve(virtual)
    if clean[:2] == ["a", "b"]:
        assert found == (Path("/real/b"), "/".join(clean[2:]))
    elif clean[:1] == ["a"]:
        assert found == (Path("/real/a"), "/".join(clean[1:]))
    else:
        assert found is None


async def test_files_over_http(box: Path) -> None:
    log = box / "dir" / "log"
    log.write_bytes(b"x" * 100_000)
    (box / "dir" / "odd").write_bytes(b"a\xffb")
    paths = VirtualPaths()
    paths.attach("/sandbox", box)
    paths.attach("/master/log", log)
    paths.attach("/hidden", box)
    router: Router[Handler] = Router()
    add_file_routes(router, paths, allowed=lambda principal, path: not path.startswith("/hidden"))
    server = HttpServer(router)
    await server.start(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{server.port}/files"
    async with HttpClient() as http:

        async def get(target: str) -> tuple[int, Any]:
            reply = await http.request("GET", f"{base}/{target}")
            return reply.status, json.loads(reply.body) if reply.ok else reply.body

        status, entries = await get("browse?path=/sandbox/dir/")
        assert status == 200
        assert [entry["path"] for entry in entries] == [
            "/sandbox/dir/file", "/sandbox/dir/log", "/sandbox/dir/odd",
        ]  # fmt: skip
        assert {**entries[0], "mtime": 0.0} == {
            "path": "/sandbox/dir/file", "nlink": 1, "size": 6, "mtime": 0.0, "mode": "-rw-r--r--",
            "uid": entries[0]["uid"], "gid": entries[0]["gid"],
        }  # fmt: skip
        assert await get("read.json?path=/master/log&offset=-1") == (
            200, {"data": "", "offset": 100_000},
        )  # fmt: skip
        assert (await get("read?path=/master/log"))[1]["offset"] == 100_000
        status, piece = await get("read?path=/master/log&offset=10&length=99999")
        assert (len(piece["data"]), piece["offset"]) == (MAX_READ_BYTES, 10)
        assert (await get("read?path=/master/log&offset=0&length=0"))[1]["data"] == ""
        assert (await get("read?path=/sandbox/dir/odd&offset=0"))[1]["data"] == "a\ufffdb"
        assert (await get("debug"))[1] == {"/master/log": str(log), "/sandbox": str(box)}
        for target, code in [
            ("read", 400),
            ("read?path=/master/log&offset=-2", 400),
            ("read?path=/master/log&offset=x", 400),
            ("read?path=/master/log&offset=0&length=-5", 400),
            ("read?path=/sandbox&offset=0", 400),
            ("read?path=/sandbox/up&offset=0", 404),
            ("read?path=/sandbox/../secret&offset=0", 404),
            ("read?path=/sandbox/pipe&offset=0", 500),
            ("read?path=/hidden/dir/file&offset=0", 403),
            ("browse?path=/nothing", 404),
            ("browse?path=/sandbox/updir", 404),
            ("browse?path=/master/log", 404),
            ("download?path=/sandbox/absolute", 404),
        ]:
            assert (await get(target))[0] == code, target
        reply = await http.request("GET", f"{base}/download?path=/sandbox/dir/log")
        assert reply.body == log.read_bytes()
        assert reply.headers["Content-Type"] == "application/octet-stream"
        assert reply.headers["Content-Disposition"] == "attachment; filename*=UTF-8''log"
        reply = await http.request("GET", f"{base}/read?path=/master/log&offset=-1&jsonp=f")
        assert reply.body == b'f({"data":"","offset":100000});'
    await server.drain()
