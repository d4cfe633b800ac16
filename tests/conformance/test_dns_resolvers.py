"""What programs use without knowing it: glibc's resolver, and a caching resolver in front."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from cairn_core.testing.requires import requires
from cairn_lab import inside

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

WEB = {"9.0.0.5", "9.0.0.6"}
WEB6 = {"fd00::5", "fd00::6"}


class Host:
    """Network and mount namespaces in which /etc/resolv.conf names 127.0.0.1."""

    def __init__(self, directory: Path) -> None:
        requires("root", "unshare", "nsenter", "ip", "mount")
        self.resolv_conf = directory / "resolv.conf"
        self.resolv_conf.write_text("nameserver 127.0.0.1\n")
        bind = f"mount --bind {self.resolv_conf} /etc/resolv.conf"
        # getaddrinfo() asks for no addresses of a family of which the host has only loopback.
        family = "ip addr add 10.255.0.1/32 dev lo && ip addr add fd00:ff::1/128 dev lo"
        script = f"ip link set lo up && {family} && {bind} && echo && cat"
        self._process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"\n"
        # --root: entering a mount namespace would leave a chroot in which the tests may live
        target = ("-t", str(self._process.pid))
        self.enter = ("nsenter", *target, "--net", "--mount", "--root", "--wd")

    def close(self) -> None:
        """End the namespaces."""
        self._process.communicate()

    def listener(self) -> socket.socket:
        """A socket inside on which a server outside may listen."""
        with inside.Namespace(self._process.pid) as namespace:
            sock = namespace.socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", None))
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        return sock

    def run(self, *command: str, status: int = 0) -> str:
        """What a program prints there."""
        done = subprocess.run(
            [*self.enter, *command], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def answers(self, name: str, database: str = "ahosts") -> set[str]:
        """Addresses that getaddrinfo() finds; none for an unknown name."""
        done = subprocess.run(
            [*self.enter, "getent", database, name],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return {line.split()[0] for line in done.stdout.splitlines()}


@pytest.fixture(scope="module")
def host(
    tmp_path_factory: pytest.TempPathFactory,
    start_dns: Callable[..., Any],
    wait: Callable[..., Any],
) -> Iterator[Host]:
    """A host whose resolver is cairn-dns on port 53."""
    directory = tmp_path_factory.mktemp("host")
    host = Host(directory)
    try:
        with start_dns(directory, 53, host.listener(), *host.enter):
            wait("a cluster", lambda: "127.0.0.1" in host.answers("leader.mesos"))
            yield host
    finally:
        host.close()


#: Ways in which resolv.conf may ask.
OPTIONS = ["", "options edns0", "options use-vc", "options single-request", "options trust-ad"]


@pytest.mark.parametrize("options", OPTIONS)
def test_glibc_finds_names(host: Host, options: str) -> None:
    host.resolv_conf.write_text(f"nameserver 127.0.0.1\nsearch marathon.mesos mesos\n{options}\n")
    assert host.answers("web.marathon.mesos") == WEB | WEB6
    assert host.answers("web.marathon.mesos", "ahostsv4") == WEB
    assert host.answers("web") == WEB | WEB6
    assert host.answers("leader") == {"127.0.0.1"}
    assert host.answers("six") == {"2001:db8::14"}
    assert host.answers("Odd-Name-V1.Marathon.Mesos") == {"9.0.0.7"}
    assert host.answers("many") == {f"9.1.0.{n}" for n in range(1, 41)}
    assert host.answers("nobody") == set()
    host.run("getent", "hosts", "nobody.marathon.mesos", status=2)
    assert "odd-name-v1-" in host.run("getent", "hosts", "9.0.0.7")
    assert host.run("getent", "hosts", "web.marathon.mesos").split()[-1] == "web.marathon.mesos"


def test_glibc_finds_names_over_ipv6(host: Host) -> None:
    host.resolv_conf.write_text("nameserver ::1\n")
    assert host.answers("web.marathon.mesos") == WEB | WEB6


# -- a caching resolver in front -------------------------------------------------------------

UNBOUND = """
server:
  interface: 127.0.0.1@{port}
  do-daemonize: no
  use-syslog: no
  chroot: ""
  username: ""
  directory: "{directory}"
  pidfile: "{directory}/pid"
  num-threads: 1
  do-not-query-localhost: no
  module-config: "iterator"
  local-zone: "mesos." nodefault
  verbosity: 1
remote-control:
  control-enable: no
stub-zone:
  name: mesos
  stub-addr: 127.0.0.1@{upstream}
"""


@contextmanager
def running_unbound(program: Path, directory: Path, port: int, upstream: int) -> Iterator[None]:
    config = directory / "unbound.conf"
    config.write_text(UNBOUND.format(port=port, directory=directory, upstream=upstream))
    with (directory / "unbound.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-d", "-c", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def asked(port: int, name: str, kind: str) -> dns.message.Message | None:
    """The answer of a resolver, or None while it does not answer."""
    query = dns.message.make_query(name, kind)
    try:
        return dns.query.udp_with_fallback(query, "127.0.0.1", 2, port)[0]
    except (dns.exception.Timeout, OSError):
        return None


def texts(message: dns.message.Message) -> set[str]:
    return {data.to_text() for rrset in message.answer for data in rrset}


def test_unbound_caches_answers_and_their_absence(
    start_dns: Callable[..., Any],
    make_task: Callable[..., Any],
    make_port: Callable[[], int],
    wait: Callable[..., Any],
    debian_program: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    program, port = debian_program("unbound", "usr/sbin/unbound"), make_port()
    with ExitStack() as stack:
        names = stack.enter_context(start_dns(tmp_path, make_port(), ttl=2))
        wait("a cluster", lambda: known(names.port, "leader.mesos"))
        stack.enter_context(running_unbound(program, tmp_path, port, names.port))

        def find(name: str, kind: str = "A") -> dns.message.Message:
            found: dns.message.Message = wait("an answer", lambda: asked(port, name, kind))
            return found

        assert texts(find("web.marathon.mesos")) == WEB
        assert texts(find("web.marathon.mesos", "AAAA")) == WEB6
        assert len(texts(find("many.marathon.mesos"))) == 40
        assert len(texts(find("_http._web._tcp.marathon.mesos", "SRV"))) == 2
        # What does not exist is kept as long as the zone says, and under the zone's own name.
        assert find("late.marathon.mesos").rcode() == dns.rcode.NXDOMAIN
        nothing = find("six.marathon.mesos")
        assert (nothing.rcode(), nothing.answer) == (dns.rcode.NOERROR, [])
        for absent in (find("late.marathon.mesos"), nothing):
            (soa,) = absent.authority
            assert soa.name.to_text() == "mesos."
            assert soa.ttl <= 2
        names.master.put(make_task("late", 1, 0, "9.0.0.50"))
        wait("the new name", lambda: known(port, "late.marathon.mesos") == {"9.0.0.50"})
        names.master.delete("task/F/late.1")
        wait("no name", lambda: not known(port, "late.marathon.mesos"))


def known(port: int, name: str) -> set[str]:
    """Addresses of a name at a server; none where it does not answer."""
    reply = asked(port, name, "A")
    return texts(reply) if reply is not None else set()
