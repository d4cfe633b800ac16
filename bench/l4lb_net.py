"""Namespaces for the benchmarks of the layer-4 load balancer, and what connects within them.

One namespace has the backends; each way to reach them gets a namespace of its own, where clients
and balancer are, joined to the first by a veth pair. So ways can be measured in turn and share no
rule, connection or port. Everything ends with this process, whatever ends it.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from bench.report import CannotRun
from cairn_l4lb.testing import Namespace

ROOT = Path(__file__).resolve().parent.parent
PORT = 8080
#: What every host gets: room for many short connections, and no waiting for old ones to end.
SETTINGS = {
    "net.core.somaxconn": "65535",
    "net.ipv4.tcp_max_syn_backlog": "65535",
    "net.ipv4.ip_local_port_range": "1024 65535",
    "net.ipv4.tcp_tw_reuse": "1",
    "net.ipv4.ip_forward": "1",
}
#: Likewise, where connections are tracked: the table is one for the whole machine.
TRACKING = {
    "net.netfilter.nf_conntrack_tcp_timeout_time_wait": "2",
    "net.netfilter.nf_conntrack_tcp_timeout_close": "1",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait": "2",
    "net.netfilter.nf_conntrack_tcp_timeout_last_ack": "2",
}
DENIED = """
table inet denied {
  chain denied {
    type filter hook input priority -400;
    ip daddr %s meta l4proto tcp %s
  }
}
"""
#: What keeps a program on one processor.
ON_ONE = ["taskset", "-c", "0"]
#: Client addresses of each host: more ports than one has.
SOURCES = 4


def needs_programs(*names: str) -> None:
    """Raise where one of them, or the right to use them, is missing."""
    if os.geteuid():
        raise CannotRun("needs root")
    for name in names:
        if shutil.which(name) is None:
            raise CannotRun(f"needs {name}")


def compiled(directory: Path) -> Path:
    """The load program."""
    needs_programs("cc")
    program = directory / "l4lb_load"
    source = Path(__file__).with_name("l4lb_load.c")
    argv = ["cc", "-O2", "-pthread", "-o", str(program), str(source)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRun(f"cc exited with {done.returncode}: {done.stderr.strip()[-300:]}")
    return program


@dataclass(slots=True)
class Talker:
    """A process that answers each line on its input by a line of JSON, and ends with its input."""

    process: "subprocess.Popen[str]"

    def read(self) -> Any:
        """The next line."""
        line = _output(self.process).readline()
        if not line:
            raise CannotRun(f"{self.process.args!r} ended with {self.process.wait(10)}")
        return json.loads(line)

    def ask(self, line: str = "") -> Any:
        """The answer to a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _output(self.process).close()


def _output(process: "subprocess.Popen[str]") -> IO[str]:
    assert process.stdout is not None
    return process.stdout


class Host(Namespace):
    """A network namespace; what fails in it is why a benchmark cannot run."""

    def run(self, *argv: str, given: str | None = None) -> str:
        try:
            return super().run(*argv, given=given)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            raise CannotRun(str(error)[:400]) from None

    def settings(self, settings: Mapping[str, object]) -> None:
        """Set many of this namespace's; those that this kernel has not are left out."""
        for name, value in settings.items():
            with suppress(FileNotFoundError):
                self.sysctl(name, value)

    def talker(self, *argv: str) -> "Talker":
        """Start one here."""
        return Talker(self.start(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT))


@contextmanager
def host() -> Iterator[Host]:
    """A namespace that lives as long as this process, at most."""
    needs_programs("ip", "nft")
    try:
        made = Host()
    except OSError as error:
        raise CannotRun(f"needs network namespaces: {error}") from None
    try:
        made.ip("link set lo up")
        yield made
    finally:
        made.close()


@dataclass(frozen=True)
class Client:
    """Where the clients of one way are, and its balancer.  targets: what they dial, in turn."""

    name: str
    host: Host
    program: Path
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def start(
        self, *options: object, targets: Sequence[str] | None = None
    ) -> "subprocess.Popen[str]":
        """Begin to connect: see `l4lb_load.c`; `result` has the figures."""
        words = list(map(str, options))
        if "from" not in words:
            words += ["from", ",".join(self.sources)]
        return self.host.start(
            str(self.program), "connect", *words, *(targets or self.targets),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def connect(self, *options: object, targets: Sequence[str] | None = None) -> dict[str, Any]:
        """Connect, and the figures."""
        return result(self.start(*options, targets=targets))

    def pingpong(self, count: int) -> dict[str, Any]:
        """Bytes there and back over one connection, and the figures."""
        argv = [*ON_ONE, str(self.program), "pingpong", str(count), self.targets[0]]
        text = self.host.run(*argv)
        found: dict[str, Any] = json.loads(text)
        return found


def result(process: "subprocess.Popen[str]", timeout_s: float = 120.0) -> dict[str, Any]:
    """The figures of a client, once it has ended."""
    try:
        out, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise CannotRun(f"{process.args!r} does not end within {timeout_s} s") from None
    if process.returncode:
        raise CannotRun(f"{process.args!r} exited with {process.returncode}: {errors[-300:]}")
    found: dict[str, Any] = json.loads(out)
    return found


@dataclass
class Site:
    """The backends' host, and what is to be cleaned up.  backends: their addresses."""

    backends: tuple[str, ...]
    host: Host
    program: Path
    _links: int = field(default=0)

    @contextmanager
    def listening(self, mode: str = "close", refuse: int = 0) -> Iterator[Talker]:
        """A server on all backends but the last `refuse` ones, where nobody listens.

        One that echoes is on the processor of `Client.pingpong`.
        """
        addresses = self.backends[: len(self.backends) - refuse]
        argv = [str(self.program), "serve", mode, str(PORT), *addresses]
        server = self.host.talker(*(ON_ONE if mode == "echo" else []), *argv)
        try:
            server.read()
            yield server
        finally:
            server.close()

    def deny(self, address: str, how: str = "drop") -> None:
        """From now on connections to this backend are not answered, or as a verdict of nft says."""
        self.host.run("nft", "-f", "-", given=DENIED % (address, how))

    def heal(self) -> None:
        """Undo `deny`, if it was done."""
        self.host.run("nft", "-f", "-", given="add table inet denied; delete table inet denied\n")

    @contextmanager
    def client(self, name: str, targets: Sequence[str] = ()) -> Iterator[Client]:
        """A client's host that reaches the backends; targets: default the backends themselves."""
        self._links += 1
        link, net = self._links, f"10.78.{self._links}"
        sources = tuple(f"{net}.{i + 1}" for i in range(SOURCES))
        with host() as made:
            made.ip(
                f"link add up0 type veth peer name down{link} netns {self.host.path}\n"
                + "".join(f"address add {address}/24 dev up0\n" for address in sources)
                + "link set up0 up"
            )
            self.host.ip(f"address add {net}.254/24 dev down{link}\nlink set down{link} up")
            made.ip(f"route add default via {net}.254")
            made.settings(SETTINGS)
            yield Client(
                name, made, self.program, sources,
                tuple(targets) or tuple(f"{address}:{PORT}" for address in self.backends),
            )  # fmt: skip


@contextmanager
def site(backends: int) -> Iterator[Site]:
    """A host with so many backend addresses, nobody listening yet."""
    with TemporaryDirectory() as directory, host() as made:
        addresses = tuple(f"10.77.0.{10 + i}" for i in range(1, backends + 1))
        made.ip("\n".join(f"address add {address}/32 dev lo" for address in addresses))
        made.settings(SETTINGS)
        yield Site(addresses, made, compiled(Path(directory)))


def accepted(server: Talker) -> dict[str, int]:
    """Connections by backend since it started, once all that wait are accepted."""
    before: dict[str, int] = {}
    while (counts := server.ask()["accepted"]) != before:
        before = counts
        time.sleep(0.05)
    return before


def busy_s() -> float:
    """Processor seconds that this machine has spent, all programs and the kernel together."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def memory_kb() -> float:
    """Memory of this process."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1000
