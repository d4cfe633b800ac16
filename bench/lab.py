"""From a POST to Marathon until the app is healthy, with real containers in a lab of two agents.

A lab of its own name without relays: master, Marathon and agents as `bin/up` starts them, all on
this machine. Times are those at which Marathon's event stream says so, from the first byte of the
request, each after a second of quiet. Cases, N instances each:

    none-N       `sleep`, no health check; scaled to 0 afterwards
    tcp-N        a small server, checked by its executor (MESOS_TCP, delaySeconds 0)
    http-N       the same, checked by Marathon (HTTP)
    rolling-N    N checked servers (HTTP) replaced by as many of a new version

`cpu_ms_per_task_*` is the processor time from POST until all are healthy: of the daemons, and of
all that is in the containers' control groups (executor, server, `sleep`). Memory is what the
processes of a container do not share with others: executor, its parent and `sleep`.
"""

import http.client
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench.report import CannotRun, Result
from bench.runc import private_kb
from cairn_lab import cgroups, inside, lab
from cairn_lab.errors import LabError
from cairn_lab.roles import MARATHON_PORT
from cairn_lab.testing import Cluster

WAIT_S = 120.0
#: Quiet before a measurement, so that nothing waits for what came before.
PAUSE_S = 1.0
TICKS = os.sysconf("SC_CLK_TCK")
#: Answers every connection, and costs little to start.
SERVER = (
    "import os, socket\n"
    "s = socket.create_server(('', int(os.environ['PORT0'])), backlog=64)\n"
    "while True:\n"
    "    c = s.accept()[0]\n"
    "    try:\n"
    "        c.recv(4096) and c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n')\n"
    "    except OSError:\n"
    "        pass\n"
    "    c.close()\n"
)
CHECK = {"gracePeriodSeconds": 60, "intervalSeconds": 5, "timeoutSeconds": 4, "portIndex": 0}
CHECKS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "tcp": {"protocol": "MESOS_TCP", "delaySeconds": 0, **CHECK},
    "http": {"protocol": "HTTP", "path": "/", **CHECK},
}
DAEMONS = ("master", "marathon", "agents", "containers")


def app(kind: str, count: int, version: int = 1) -> dict[str, Any]:
    """A definition; two versions differ in their environment."""
    made: dict[str, Any] = {
        "id": f"/{kind}", "cpus": 0.01, "mem": 16, "instances": count, "backoffSeconds": 1,
        "env": {"VERSION": str(version)},
        "upgradeStrategy": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0.5},
    }  # fmt: skip
    if (check := CHECKS[kind]) is None:
        return {**made, "cmd": "exec sleep 12345"}
    made["args"] = ["/usr/bin/python3", "-I", "-S", "-c", SERVER]
    return {**made, "portDefinitions": [{"port": 0}], "healthChecks": [check]}


class Events:
    """Marathon's event stream, and when each of its events came."""

    def __init__(self, cluster: Cluster) -> None:
        address = str(cluster.master.ipv4)
        with inside.Namespace(cluster.lab.pid(cluster.master.name)) as namespace:
            self._sock = namespace.socket((2, 1, 0, "", None))
        self._sock.settimeout(WAIT_S)
        self._sock.connect((address, MARATHON_PORT))
        self._sock.sendall(
            b"GET /v2/events HTTP/1.1\r\nHost: marathon\r\nAccept: text/event-stream\r\n\r\n"
        )
        self._answer = http.client.HTTPResponse(self._sock)
        self._answer.begin()

    def close(self) -> None:
        """End the stream."""
        self._answer.close()
        self._sock.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        deadline = time.perf_counter() + WAIT_S
        while time.perf_counter() < deadline:
            line = self._answer.readline()
            if not line:
                raise CannotRun("marathon closed its event stream")
            if line.startswith(b"data:"):
                yield msgspec.json.decode(line[5:])
        raise CannotRun(f"not deployed after {WAIT_S:.0f} s")


class Bench:
    """A running lab under measurement."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.events = Events(cluster)
        self._hosts = [h.name for h in cluster.lab.topology.hosts if h.role != "master"]
        self._pids = {
            name: _outer_pid(cluster, cluster.master.name, f"cairn-{name}")
            for name in ("master", "marathon")
        }

    def close(self) -> None:
        """End the event stream."""
        self.events.close()

    def send(self, method: str, path: str, document: object) -> str:
        """Send a request; returns the id of the deployment that it started."""
        pid, address = self.cluster.lab.pid(self.cluster.master.name), self.cluster.master.ipv4
        answer = inside.request(pid, method, str(address), MARATHON_PORT, path, document)
        if answer.status not in (200, 201):
            raise CannotRun(f"{method} {path} answered {answer.status}: {answer.body[:200]!r}")
        found = answer.json()
        return str(found.get("deploymentId") or found["deployments"][0]["id"])

    def deploy(self, method: str, path: str, document: object) -> dict[str, float]:
        """Seconds until the last task ran, was healthy, and the deployment had ended."""
        start = time.perf_counter()
        deployment = self.send(method, path, document)
        last = {"answered": time.perf_counter() - start}
        running: set[str] = set()
        for event in self.events:
            now = time.perf_counter() - start
            match event["eventType"]:
                case "status_update_event" if event["taskStatus"] == "TASK_RUNNING":
                    # the executor reports again when the result of its check changes
                    if event["taskId"] not in running:
                        running.add(event["taskId"])
                        last["running"] = now
                case "instance_health_changed_event" if event["healthy"]:
                    last["healthy"] = now
                case "health_status_changed_event" if event["alive"]:
                    last["healthy"] = now
                case "deployment_success" if event["id"] == deployment:
                    return {**last, "done": now}
                case "deployment_failed" if event["id"] == deployment:
                    raise CannotRun(f"deployment of {path} failed")
        raise AssertionError("unreachable: the events end in an exception")

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds used until now."""
        topology = self.cluster.lab.topology
        return {
            **{name: _process_s(pid) for name, pid in self._pids.items()},
            "agents": sum(_group_s(topology.system_cgroup(host)) for host in self._hosts),
            "containers": sum(_group_s(topology.agent_cgroup(host)) for host in self._hosts),
        }

    def private_kb(self) -> tuple[int, int]:
        """Memory of the containers' processes, and of the agents, that they share with nobody."""
        topology = self.cluster.lab.topology
        agents = {_outer_pid(self.cluster, host, "cairn-agent") for host in self._hosts}
        groups = [topology.agent_cgroup(h) for h in self._hosts]
        groups += [topology.system_cgroup(h) for h in self._hosts]
        others = {pid for group in groups for pid in cgroups.processes(group)} - agents
        return _total_kb(others), _total_kb(agents)


def _total_kb(pids: set[int]) -> int:
    """Private memory of those processes that still live."""
    total = 0
    for pid in pids:
        with suppress(ProcessLookupError, FileNotFoundError):
            total += private_kb(pid)
    return total


def _outer_pid(cluster: Cluster, host: str, unit: str) -> int:
    """Process id, outside, of a daemon."""
    within = cluster.supervisor(host).status()[unit].pid
    for pid in cgroups.processes(cluster.lab.topology.system_cgroup(host)):
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = status.partition("NSpid:")[2].partition("\n")[0].split()
        if len(numbers) == 2 and int(numbers[-1]) == within:  # 3 numbers: inside a container
            return pid
    raise CannotRun(f"{unit} does not run on {host}")


def _process_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _group_s(group: str) -> float:
    usage = cgroups.MOUNT_ROOT / "cpuacct" / group / "cpuacct.usage"
    return int(usage.read_text()) / 1e9


def measure(bench: Bench, kind: str, count: int, rounds: int) -> Iterator[Result]:
    """Deploy, scale to 0; `rounds` times, in the last one also what it cost."""
    case = f"{kind}-{count}"
    took: list[dict[str, float]] = []
    downs: list[float] = []
    for n in range(rounds):
        time.sleep(PAUSE_S)
        empty = bench.private_kb()
        before = bench.cpu_s()
        took.append(bench.deploy("PUT", f"/v2/apps/{kind}", app(kind, count)))
        after, full = bench.cpu_s(), bench.private_kb()
        downs.append(bench.deploy("PUT", f"/v2/apps/{kind}", {"instances": 0})["done"])
        if n < rounds - 1:
            continue
        for name in ("answered", "running", "healthy"):
            if name in took[0]:
                seconds = median(one[name] for one in took)
                yield Result("lab", case, f"{name}_s", seconds, "s", rounds)
        if kind != "none":
            continue
        yield Result("lab", case, "down_s", median(downs), "s", rounds)
        if count >= 10:
            for name in DAEMONS:
                cost = (after[name] - before[name]) * 1000 / count
                yield Result("lab", case, f"cpu_ms_per_task_{name}", cost, "ms")
            for name, was, is_ in zip(("container", "agents"), empty, full, strict=True):
                yield Result("lab", case, f"{name}_private_kb", (is_ - was) / count, "kB")


def rolling(bench: Bench, count: int) -> Iterator[Result]:
    """Replace all instances by those of a new version, at half capacity at least."""
    bench.deploy("PUT", "/v2/apps/http", app("http", count))
    time.sleep(PAUSE_S)
    took = bench.deploy("PUT", "/v2/apps/http", app("http", count, version=2))
    yield Result("lab", f"rolling-{count}", "done_s", took["done"], "s")
    bench.deploy("PUT", "/v2/apps/http", {"instances": 0})


def run(quick: bool) -> Iterator[Result]:
    """All cases; quick: up to 20 instances, and one round."""
    if os.geteuid() != 0 or not (cgroups.MOUNT_ROOT / "cpuacct").is_dir():
        raise CannotRun("needs root and version 1 control groups")
    name = f"bench-{uuid.uuid4().hex[:8]}"
    try:
        cluster = Cluster(lab.up(name)[0])
        cluster.wait()
        with closing(Bench(cluster)) as bench:
            for _ in measure(bench, "none", 10, 1):
                pass  # agents start their zygotes with the first container
            for kind in CHECKS:
                for count in (1, 20) if quick else (1, 10, 100):
                    yield from measure(bench, kind, count, 1 if quick else 3)
            yield from rolling(bench, 10 if quick else 20)
    except LabError as error:
        raise CannotRun(str(error)) from error
    finally:
        lab.down(name)
