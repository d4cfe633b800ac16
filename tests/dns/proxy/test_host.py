"""Addresses and resolv.conf, on a host of namespaces of its own."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn_core.testing.requires import requires
from cairn_dns.proxy.io_host import ResolvConf
from cairn_dns.proxy.resolvconf import is_ours, saved_name

ORIGINAL = "nameserver 203.0.113.53\nsearch example\n"


def keeper(path: Path, answering: set[str]) -> ResolvConf:
    async def answers(address: str) -> bool:
        return address in answering

    saved = path.parent / "state" / "resolv.conf.saved"
    return ResolvConf(path, saved, ["198.51.100.1", "198.51.100.2"], ["mesos"], answers)


async def test_the_file_names_addresses_that_answer_and_the_original_comes_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(ORIGINAL)
    answering = {"198.51.100.1", "198.51.100.2"}
    conf = keeper(path, answering)
    await conf.check()
    assert path.read_text().count("nameserver 198.51.100.") == 2
    answering.discard("198.51.100.1")
    await conf.check()
    assert "198.51.100.1" not in path.read_text()
    conf.restore()
    assert path.read_text() == ORIGINAL
    assert not conf.saved.exists()
    assert {one.name for one in tmp_path.iterdir()} == {"resolv.conf", "state"}


async def test_nothing_is_written_when_nothing_changed_or_nobody_answers(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(ORIGINAL)
    conf = keeper(path, set())
    await conf.check()
    assert path.read_text() == ORIGINAL
    conf = keeper(path, {"198.51.100.1"})
    await conf.check()
    before = path.stat().st_ino
    await conf.check()
    assert (path.stat().st_ino, conf.writes) == (before, 1)


async def test_after_a_kill_the_next_process_still_knows_the_original(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(ORIGINAL)
    await keeper(path, {"198.51.100.1"}).check()
    fresh = keeper(path, {"198.51.100.1"})
    await fresh.check()
    assert fresh.writes == 0
    fresh.restore()
    assert path.read_text() == ORIGINAL


async def test_what_somebody_else_wrote_meanwhile_is_the_new_original(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(ORIGINAL)
    conf = keeper(path, {"198.51.100.1"})
    await conf.check()
    path.write_text("nameserver 203.0.113.99\n")
    await conf.check()
    assert is_ours(path.read_text())
    conf.restore()
    assert path.read_text() == "nameserver 203.0.113.99\n"


async def test_a_file_that_is_no_longer_ours_is_left_alone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(ORIGINAL)
    conf = keeper(path, {"198.51.100.1"})
    await conf.check()
    path.write_text("nameserver 203.0.113.99\n")
    conf.restore()
    assert path.read_text() == "nameserver 203.0.113.99\n"


async def test_a_link_comes_back_as_a_link(tmp_path: Path) -> None:
    target = tmp_path / "stub.conf"
    target.write_text(ORIGINAL)
    path = tmp_path / "resolv.conf"
    path.symlink_to("stub.conf")
    conf = keeper(path, {"198.51.100.1"})
    await conf.check()
    assert not path.is_symlink()
    assert target.read_text() == ORIGINAL
    conf.restore()
    assert os.readlink(path) == "stub.conf"


async def test_a_host_without_the_file_gets_one_and_has_none_again(tmp_path: Path) -> None:
    conf = keeper(tmp_path / "resolv.conf", {"198.51.100.1"})
    await conf.check()
    assert is_ours(conf.path.read_text())
    conf.restore()
    assert {one.name for one in tmp_path.iterdir()} == {"state"}
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
async def test_the_mode_of_the_file_stays(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(ORIGINAL)
    path.chmod(mode)
    conf = keeper(path, {"198.51.100.1"})
    await conf.check()
    assert path.stat().st_mode & 0o7777 == mode
    assert conf.saved.stat().st_mode & 0o7777 == 0o600
    conf.restore()
    assert (path.stat().st_mode & 0o7777, path.read_text()) == (mode, ORIGINAL)


async def test_what_lies_beside_the_file_is_not_written_through(tmp_path: Path) -> None:
    path, victim = tmp_path / "resolv.conf", tmp_path / "victim"
    path.write_text(ORIGINAL)
    victim.write_text("whole")
    (tmp_path / ".resolv.conf.cairn").symlink_to(victim)
    await keeper(path, {"198.51.100.1"}).check()
    assert is_ours(path.read_text())
    assert victim.read_text() == "whole"


async def test_another_file_has_its_original_elsewhere(tmp_path: Path) -> None:
    async def yes(address: str) -> bool:
        return True

    def of(name: str) -> ResolvConf:
        path = tmp_path / name
        return ResolvConf(path, tmp_path / "state" / saved_name(str(path)), ["127.0.0.1"], [], yes)

    for name in ("one", "two"):
        (tmp_path / name).write_text(f"{ORIGINAL}# {name}\n")
        await of(name).check()  # and is killed
    for name in ("one", "two"):
        of(name).restore()
        assert (tmp_path / name).read_text() == f"{ORIGINAL}# {name}\n"


@pytest.fixture
def netns() -> Iterator[str]:
    requires("root", "ip", "unshare")
    name = f"t-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def inside(netns: str, code: str) -> str:
    """Run Python in the network namespace, with mounts of its own."""
    done = subprocess.run(
        ["ip", "netns", "exec", netns, "unshare", "--mount", sys.executable, "-c", code],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def shown(netns: str) -> dict[str, list[str]]:
    out = subprocess.run(
        ["ip", "-n", netns, "-j", "addr", "show"], check=True, capture_output=True, text=True
    ).stdout
    return {link["ifname"]: [a["local"] for a in link["addr_info"]] for link in json.loads(out)}


OURS = ["198.51.100.1", "198.51.100.2", "198.51.100.3", "fd01:d::c633:6401"]


@pytest.mark.netns
def test_the_addresses_are_put_there_once_and_taken_away(netns: str) -> None:
    code = f"""
import asyncio
from cairn_dns.proxy.io_host import Addresses
async def main():
    addresses = Addresses({OURS!r}, "spartan")
    await addresses.add()
    await addresses.add()
    assert addresses.problem is None, addresses.problem
asyncio.run(main())
"""
    inside(netns, code)
    found = [one for addresses in shown(netns).values() for one in addresses]
    assert [one for one in found if one in OURS] == OURS
    inside(netns, code.replace("await addresses.add()", "await addresses.remove()"))
    after = shown(netns)
    assert not any(one in OURS for addresses in after.values() for one in addresses)
    assert "spartan" not in after
    assert "127.0.0.1" in after["lo"]


@pytest.mark.netns
@pytest.mark.parametrize("link", [False, True])
def test_a_mounted_file_is_written_in_place(netns: str, tmp_path: Path, link: bool) -> None:
    (tmp_path / "mine").write_text(ORIGINAL)
    (tmp_path / "real" if link else tmp_path / "resolv.conf").write_text("")
    if link:
        (tmp_path / "resolv.conf").symlink_to("real")
    code = f"""
import asyncio, subprocess
from pathlib import Path
from cairn_dns.proxy.io_host import ResolvConf
path = Path({str(tmp_path / "resolv.conf")!r})
subprocess.run(["mount", "--bind", {str(tmp_path / "mine")!r}, str(path)], check=True)
async def yes(address):
    return True
async def main():
    conf = ResolvConf(path, path.parent / "state" / "saved", {OURS[:1]!r}, [], yes)
    await conf.check()
    print(path.read_text())
    conf.restore()
asyncio.run(main())
"""
    assert "nameserver 198.51.100.1" in inside(netns, code)
    assert (tmp_path / "mine").read_text() == ORIGINAL
    # nothing of it shows where the file is not mounted
    assert (tmp_path / "resolv.conf").read_text() == ""
    assert (tmp_path / "resolv.conf").is_symlink() == link


WHOLE = """
import os, signal, socket, subprocess, sys, time
from pathlib import Path
import dns.exception, dns.message, dns.query

folder = Path(sys.argv[1])
path = folder / "resolv.conf"
subprocess.run(["mount", "--bind", folder / "mine", path], check=True)
listeners = []
if sys.argv[2] == "inherited":
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        sock = socket.socket(socket.AF_INET, kind)
        sock.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
        sock.bind(("198.51.100.1", 53))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        listeners.append(sock)

def start():
    child = os.fork()
    if child:
        return child
    for number, sock in enumerate(listeners):
        os.dup2(sock.fileno(), 100 + number)
    for number in range(len(listeners)):
        os.dup2(100 + number, 3 + number)
    if listeners:
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(listeners))}
    command = [sys.executable, "-m", "cairn_dns.proxy", "--config", folder / "c.json"]
    os.execv(sys.executable, command)

def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, path.read_text()
        time.sleep(0.02)

def ours():
    return path.read_text().count("nameserver 198.51.100.") == 3

child = start()
until(ours)
query = dns.message.make_query("ready.spartan", "A")
for where in ("198.51.100.1", "198.51.100.3", "fd01:d::c633:6401"):
    for ask in (dns.query.udp, dns.query.tcp):
        assert ask(query, where, timeout=5).answer, (where, ask)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
assert ours()
child = start()
until(lambda: b"198.51.100.1" in subprocess.run(["ip", "addr"], capture_output=True).stdout)

def answers():
    try:
        return bool(dns.query.udp(query, "198.51.100.2", timeout=1).answer)
    except (OSError, dns.exception.Timeout):
        return False

until(answers)
os.kill(child, signal.SIGTERM)
assert os.waitpid(child, 0)[1] == 0
assert b"198.51.100" not in subprocess.run(["ip", "addr"], capture_output=True).stdout
"""


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.parametrize("sockets", ["own", "inherited"])
def test_a_whole_host_uses_its_proxy_until_it_is_stopped(
    netns: str, tmp_path: Path, sockets: str
) -> None:
    (tmp_path / "resolv.conf").write_text("")
    (tmp_path / "mine").write_text(ORIGINAL)
    settings = {
        "resolv_conf": str(tmp_path / "resolv.conf"),
        "state_dir": str(tmp_path / "state"),
        "control_socket": str(tmp_path / "s.sock"),
        "search": ["mesos"],
    }
    (tmp_path / "c.json").write_text(json.dumps(settings))
    done = subprocess.run(
        ["ip", "netns", "exec", netns, "unshare", "--mount", sys.executable, "-c", WHOLE,
         str(tmp_path), sockets],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine").read_text() == ORIGINAL
