"""Network namespaces for tests and benchmarks: a host with the balancer, servers, and clients.

    client --veth-- br0 [ host ] --veth-- servers 10.99.0.11, .12, ...
    10.98.0.2      .0.1          .0.1

All of it is thrown away at the end, and the root namespace is never touched.  Namespaces have no
name: whoever holds the descriptor has the namespace.

    with site(backends=4) as place:
        place.serve()
        load = place.connect("11.0.0.1", 80, count=1000)
        assert not load.failures and len(load.backends) == 4
"""

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
from msgspec import Struct

_CLONE_NEWNET = 0x40000000
_PATIENCE_S = 30.0
#: What answers and what asks, as a program of its own.
_PROGRAM = "cairn_l4lb.testing_load"
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class Namespace:
    """A network namespace; gone when it is closed and nobody is in it."""

    def __init__(self) -> None:
        made: list[int | OSError] = []

        def make() -> None:
            try:
                _check(_libc.unshare(_CLONE_NEWNET), "unshare")
                made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=make)  # of its own, to leave ours where it is
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        self.descriptor: int = made[0]

    @property
    def path(self) -> str:
        """For `ip link set DEVICE netns PATH`."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in the namespace: sockets that it makes, and what it starts."""
        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(self.descriptor, _CLONE_NEWNET), "setns")
            try:
                yield
            finally:
                _check(_libc.setns(back, _CLONE_NEWNET), "setns")
        finally:
            os.close(back)

    def run(self, *argv: str, given: str | None = None) -> str:
        """What a program prints; raises RuntimeError with its complaint when it fails."""
        with self.inside():
            done = subprocess.run(argv, input=given, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def ip(self, commands: str) -> None:
        """Commands of ip(8), one a line."""
        lines = "\n".join(line.strip() for line in commands.strip().splitlines())
        self.run("ip", "-batch", "-", given=lines + "\n")

    def start(self, *argv: str, **options: Any) -> "subprocess.Popen[str]":
        """Start a program."""
        with self.inside():
            return subprocess.Popen(argv, text=True, **options)

    def sysctl(self, name: str, value: object) -> None:
        """Set one of the namespace, as `net.ipv4.ip_forward`."""
        path = f"/proc/sys/{name.replace('.', '/')}"
        with self.inside(), open(path, "w") as file:
            file.write(str(value))

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


class Load(Struct, frozen=True):
    """How connecting went.

    failures: how many by name of the error. backends: connections by what answered. times in
    seconds, from connect() to its return.
    """

    connections: int
    failures: dict[str, int]
    backends: dict[str, int]
    seconds: float
    p50_s: float
    p99_s: float
    max_s: float


class Loading:
    """Connecting that goes on."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert process.stdout is not None
        if process.stdout.readline() != "connected\n":
            raise RuntimeError("no first connection")

    def stop(self) -> Load:
        """Let it end early; what came of it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None
        return self.result()

    def result(self) -> Load:
        """When it has ended, what came of it."""
        assert self._process.stdout is not None
        out = self._process.stdout.readline()  # communicate() would end it early
        code = self._process.wait(_PATIENCE_S)
        if code:
            raise RuntimeError(f"load ended with {code}")
        return msgspec.json.decode(out, type=Load)


class Site:
    """The namespaces, and what runs in them.

    backends, backends6: addresses of the servers, all with the same `port`.
    """

    port = 8080

    def __init__(self, backends: int, stack: ExitStack) -> None:
        self._stack = stack
        self.host, self.servers, self.client = Namespace(), Namespace(), Namespace()
        for one in (self.host, self.servers, self.client):
            stack.callback(one.close)
        self.backends = tuple(f"10.99.{n // 200}.{n % 200 + 11}" for n in range(backends))
        self.backends6 = tuple(f"fd99::{n + 0x11:x}" for n in range(backends))
        host, servers, client = self.host, self.servers, self.client
        for one in (host, servers, client):
            one.sysctl("net.ipv4.ip_local_port_range", "10240 65000")
            # addresses are there at once, also those of the links themselves
            one.sysctl("net.ipv6.conf.default.accept_dad", 0)
        host.ip(f"""
            link set lo up
            link add s0 type veth peer name eth0 netns {servers.path}
            link add c0 type veth peer name eth0 netns {client.path}
            link add br0 type bridge
            link set c0 master br0
            address add 10.99.0.1/16 dev s0
            address add 10.98.0.1/24 dev br0
            address add fd99::1/64 dev s0 nodad
            address add fd98::1/64 dev br0 nodad
            link set s0 up
            link set c0 up
            link set br0 up
        """)
        servers.ip("link set lo up\nlink set eth0 up\n")
        servers.ip(
            "\n".join(f"address add {one}/16 dev eth0" for one in self.backends)
            + "\n"
            + "\n".join(f"address add {one}/64 dev eth0 nodad" for one in self.backends6)
        )
        client.ip("""
            link set lo up
            link set eth0 up
            address add 10.98.0.2/24 dev eth0
            address add fd98::2/64 dev eth0 nodad
            route add default via 10.98.0.1
            route add ::/0 via fd98::1
        """)
        # a VIP needs some route, or connect() fails before netfilter sees anything
        host.ip(f"""
            route add default via {self.backends[0]}
            route add ::/0 via {self.backends6[0]}
        """)
        servers.ip("route add default via 10.99.0.1\nroute add ::/0 via fd99::1")
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            host.sysctl(name, 1)

    def serve(
        self, *addresses: str, port: int | None = None, udp: bool = False, where: str = "servers"
    ) -> "Servers":
        """Answer at these addresses, or at all: with the address on a line, then what comes."""
        namespace: Namespace = getattr(self, where)
        process = namespace.start(
            sys.executable, "-P", "-m", _PROGRAM, "serve",
            json.dumps(addresses or self.backends + self.backends6),
            str(port or self.port), "udp" if udp else "tcp",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._end(process)
        return Servers(process)

    def start_connecting(
        self,
        address: str,
        port: int,
        *,
        where: str = "host",
        count: int = 10**9,
        seconds: float = 60.0,
        threads: int = 2,
        rate: float = 0.0,
        source_ports: Sequence[int] = (),
        reset: bool = False,
        passive: bool = False,
        read: bool = True,
        timeout_s: float = 10.0,
    ) -> Loading:
        """Connect again and again from the "host" or the "client"; returns after the first one.

        count: connections in all. seconds: no new ones after. rate: a second in all; 0: as fast
        as it goes. source_ports: use these in turn, each thread its share. reset: end with RST,
        not FIN. passive: let the server end it first. read: wait for the server's name.
        """
        namespace: Namespace = getattr(self, where)
        options = {
            "address": address, "port": port, "count": count, "seconds": seconds,
            "threads": threads, "rate": rate, "source_ports": list(source_ports),
            "reset": reset, "passive": passive, "read": read, "timeout_s": timeout_s,
        }  # fmt: skip
        process = namespace.start(
            sys.executable, "-P", "-m", _PROGRAM, "connect", json.dumps(options),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._end(process)
        return Loading(process)

    def connect(self, address: str, port: int, **options: Any) -> Load:
        """Likewise; returns when it is over."""
        return self.start_connecting(address, port, **options).result()

    def blackhole(self, address: str) -> None:
        """Let packets to one of the servers vanish."""
        self._table(f"add element inet testing gone{self._six(address)} {{ {address} }}")

    def heal(self, address: str) -> None:
        """Undo `blackhole`."""
        self._table(f"delete element inet testing gone{self._six(address)} {{ {address} }}")

    @staticmethod
    def _six(address: str) -> str:
        return "6" if ":" in address else ""

    def _table(self, command: str) -> None:
        self.servers.run("nft", "-f", "-", given=_TABLE + command + "\n")

    def _end(self, process: "subprocess.Popen[str]") -> None:
        """End a program at the end, when it has not by itself."""

        def end() -> None:
            process.kill()
            process.wait(_PATIENCE_S)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

        self._stack.callback(end)


_TABLE = """
table inet testing {
    set gone { type ipv4_addr; }
    set gone6 { type ipv6_addr; }
    chain input {
        type filter hook input priority 0;
        ip daddr @gone drop
        ip6 daddr @gone6 drop
    }
}
flush chain inet testing input
table inet testing {
    chain input {
        ip daddr @gone drop
        ip6 daddr @gone6 drop
    }
}
"""


class Servers:
    """Those that answer; each can be closed, so that its kernel refuses, and opened again."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ok\n":
            raise RuntimeError("servers do not answer")

    def _tell(self, what: str, address: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {address}\n")
        self._process.stdin.flush()
        self._answer()

    def close(self, address: str) -> None:
        """Listen no longer; existing connections go on."""
        self._tell("close", address)

    def open(self, address: str) -> None:
        """Listen again."""
        self._tell("open", address)


@contextmanager
def site(backends: int = 4) -> Iterator[Site]:
    """The namespaces with so many servers, up to 10,000; needs root, ip, nft."""
    with ExitStack() as stack:
        yield Site(backends, stack)
