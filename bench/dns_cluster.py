"""The cluster of the DNS benchmarks: Marathon apps of four instances, in every form servers want.

Half of the apps have container addresses, each has two named TCP ports.  One more app, `sentinel`,
has a single instance whose address the benchmarks change.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import msgspec

from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, Row, TaskRow, task_row
from cairn_core.mesos.types import Task

INSTANCES = 4
FRAMEWORK_ID = "5b5f4bd5-0000-4000-8000-000000000001-0000"
MASTER_ID = "5b5f4bd5-0000-4000-8000-000000000002"
SENTINEL = "sentinel.marathon.mesos"
PORTS = ("http", "admin")
LABELS = ("DCOS_PACKAGE_NAME", "DCOS_PACKAGE_VERSION", "DCOS_SERVICE_NAME", "TEAM", "STAGE")
#: Types of questions by the name that load generators know.
A, SRV = 1, 33


@dataclass(frozen=True, slots=True)
class Instance:
    """One task; container: its own address, or None where it has that of its agent."""

    app: str
    number: int
    agent: int
    container: str | None
    first_port: int

    @property
    def task_id(self) -> str:
        """As Marathon makes it; the same in every run."""
        return f"{self.app}.{self.number:08x}-1111-11ef-8000-0242ac110002"


def sentinel(address: str) -> Instance:
    """The task that changes."""
    return Instance("sentinel", 0, 0, address, 31998)


def sentinel_address(number: int) -> str:
    """Address of the sentinel after so many changes."""
    return f"10.99.{number >> 8 & 255}.{number & 255}"


def agent_address(number: int) -> str:
    """Address of an agent."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


class Cluster:
    """tasks: how many, beside the sentinel; agents: a twentieth of them, but 50 at least."""

    def __init__(self, tasks: int) -> None:
        self.apps = tasks // INSTANCES
        self.agents = max(50, tasks // 20)
        self.instances = [
            self._instance(app, number) for app in range(self.apps) for number in range(INSTANCES)
        ]

    def _instance(self, app: int, number: int) -> Instance:
        nth = app * INSTANCES + number
        container = str(ip_address("9.0.0.0") + nth + 1) if app % 2 else None
        return Instance(f"app-{app}", number, nth % self.agents, container, 20000 + app % 5000 * 2)

    # -- as /master/state --------------------------------------------------------------------

    def state(self, leader: str) -> tuple[bytes, bytes]:
        """Everything before and after the sentinel in a `/master/state`; leader: `host:port`."""
        slaves = [
            {
                "id": f"c1-S{n}", "hostname": agent_address(n + 1), "port": 5051,
                "pid": f"slave(1)@{agent_address(n + 1)}:5051", "active": True,
                "attributes": {}, "resources": {"cpus": 16.0, "mem": 65536.0, "disk": 500000.0},
            }
            for n in range(self.agents)
        ]  # fmt: skip
        head = {
            "id": MASTER_ID, "version": "1.11.0", "leader": f"master@{leader}",
            "pid": f"master@{leader}", "hostname": leader.partition(":")[0], "cluster": "bench",
            "slaves": slaves,
        }  # fmt: skip
        framework = {
            "id": FRAMEWORK_ID, "name": "marathon", "pid": "scheduler-1@10.200.0.1:15101",
            "hostname": "10.200.0.1", "active": True,
        }  # fmt: skip
        tasks = ",".join(_json(_state_task(one)) for one in self.instances)
        before = f'{_json(head)[:-1]},"frameworks":[{_json(framework)[:-1]},"tasks":[{tasks}'
        return f"{before}{',' if tasks else ''}".encode(), b']}],"completed_frameworks":[]}'

    # -- as the event stream -----------------------------------------------------------------

    def subscribed(self) -> bytes:
        """The first event of a stream."""
        agents = [
            {
                "agent_info": {
                    "id": {"value": f"c1-S{n}"}, "hostname": agent_address(n + 1), "port": 5051,
                },
                "pid": f"slave(1)@{agent_address(n + 1)}:5051", "active": True, "version": "1.11.0",
            }
            for n in range(self.agents)
        ]  # fmt: skip
        info = {
            "id": {"value": FRAMEWORK_ID}, "name": "marathon", "user": "root",
            "hostname": "10.200.0.1",
        }  # fmt: skip
        framework = {
            "framework_info": info, "active": True, "connected": True, "recovered": False
        }  # fmt: skip
        state = {
            "get_agents": {"agents": agents},
            "get_frameworks": {"frameworks": [framework]},
            "get_tasks": {"tasks": [_v1_task(one) for one in self.instances]},
            "get_executors": {},
        }
        return _json({"type": "SUBSCRIBED", "subscribed": {"get_state": state}}).encode()

    # -- as rows -----------------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        """What the source of the DNS server makes of it."""
        yield MasterRow(MASTER_ID, "master", "127.0.0.1", 5050, leads=True)
        yield FrameworkRow(FRAMEWORK_ID, "marathon", "10.200.0.1")
        for n in range(self.agents):
            yield AgentRow(f"c1-S{n}", agent_address(n + 1), agent_address(n + 1))
        for one in self.instances:
            yield row(one)


def row(one: Instance) -> TaskRow:
    """The row of a task."""
    return task_row(msgspec.convert(_v1_task(one), Task, strict=False))


def state_task(one: Instance) -> bytes:
    """A task in `/master/state`."""
    return _json(_state_task(one)).encode()


def task_added(one: Instance) -> bytes:
    """The event that a task is there."""
    return _json({"type": "TASK_ADDED", "task_added": {"task": _v1_task(one)}}).encode()


def task_updated(one: Instance) -> bytes:
    """The event that a task runs, with its newest address."""
    status = {**_v1_status(one), "task_id": {"value": one.task_id}}
    event = {
        "type": "TASK_UPDATED",
        "task_updated": {
            "framework_id": {"value": FRAMEWORK_ID}, "status": status, "state": "TASK_RUNNING",
        },
    }  # fmt: skip
    return _json(event).encode()


# -- questions -------------------------------------------------------------------------------


def questions(case: str, apps: int) -> list[tuple[str, str]]:
    """Names and types of one case, at most 1,000; a generator asks them over and over."""
    some = range(min(apps, 250))
    addresses = [
        (f"app-{n}.marathon{part}.mesos", "A") for n in some for part in ("", ".slave")
    ]  # fmt: skip
    if case == "A":
        return addresses
    per_port = [(f"_{port}._app-{n}._tcp.marathon.mesos", "SRV") for n in some for port in PORTS]
    if case == "SRV":
        return per_port
    if case == "SRV8":
        return [(f"_app-{n}._tcp.marathon.mesos", "SRV") for n in some]
    missing = [(f"nobody-{n}.marathon.mesos", "A") for n in range(500)]
    if case == "NXDOMAIN":
        return missing
    if case == "mix":
        rng = random.Random(1)
        leader = [("leader.mesos", "A")]
        kinds = rng.choices((addresses, per_port, missing, leader), (60, 20, 10, 10), k=1000)
        return [rng.choice(kind) for kind in kinds]
    raise ValueError(f"no case {case!r}")


def foreign_questions() -> list[tuple[str, str]]:
    """Names outside of the cluster."""
    return [(f"host-{n}.example", "A") for n in range(500)]


def foreign_zone() -> str:
    """The zone in which those are."""
    hosts = (f"host-{n} A 10.77.{n // 250}.{n % 250 + 1}\n" for n in range(500))
    return zone_text("example", hosts)


def zone_text(origin: str, records: Iterable[str], ttl: int = 60) -> str:
    """A zone file."""
    head = (
        f"$ORIGIN {origin}.\n$TTL {ttl}\n"
        f"@ SOA ns1.{origin}. root.ns1.{origin}. 1 60 600 86400 60\n@ NS ns1.{origin}.\n"
    )
    return head + "".join(records)


# -- parts -----------------------------------------------------------------------------------


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _discovery(one: Instance) -> dict[str, Any]:
    ports = [
        {"number": one.first_port + n, "name": name, "protocol": "tcp"}
        for n, name in enumerate(PORTS)
    ]
    return {"visibility": "FRAMEWORK", "name": one.app, "ports": {"ports": ports}}


def _container_status(one: Instance) -> dict[str, Any]:
    network = {"name": "dcos"} if one.container else {}
    address = one.container or agent_address(one.agent + 1)
    addresses = [{"protocol": "IPv4", "ip_address": address}]
    return {
        "container_id": {"value": f"c0ffee00-0000-4000-8000-{one.number:012x}"},
        "executor_pid": 4711,
        "network_infos": [{**network, "ip_addresses": addresses}],
    }


def _state_task(one: Instance) -> dict[str, Any]:
    """About as long as one of Marathon is in reality: 1.3 kB."""
    common = {"timestamp": 1700000000.25, "source": "SOURCE_EXECUTOR"}
    labels = [{"key": key, "value": "0123456789abcdef0123456789abcdef"} for key in LABELS]
    return {
        "id": one.task_id, "name": one.app, "framework_id": FRAMEWORK_ID, "executor_id": "",
        "slave_id": f"c1-S{one.agent}", "state": "TASK_RUNNING", "role": "slave_public",
        "resources": {
            "cpus": 0.5, "disk": 0.0, "gpus": 0.0, "mem": 256.0,
            "ports": f"[{one.first_port}-{one.first_port + 1}]",
        },
        "statuses": [
            {"state": "TASK_STARTING", **common, "timestamp": 1699999999.5},
            {"state": "TASK_RUNNING", **common, "container_status": _container_status(one)},
        ],
        "labels": labels, "discovery": _discovery(one),
        "container": {"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {
            "name": "registry.example/team/service:1.2.3"}}}},
    }  # fmt: skip


def _v1_status(one: Instance) -> dict[str, Any]:
    return {
        "state": "TASK_RUNNING", "timestamp": 1700000000.25, "source": "SOURCE_EXECUTOR",
        "agent_id": {"value": f"c1-S{one.agent}"}, "container_status": _container_status(one),
    }  # fmt: skip


def _v1_task(one: Instance) -> dict[str, Any]:
    return {
        "name": one.app, "task_id": {"value": one.task_id},
        "framework_id": {"value": FRAMEWORK_ID}, "agent_id": {"value": f"c1-S{one.agent}"},
        "state": "TASK_RUNNING", "discovery": _discovery(one),
        "resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.5}},
            {"name": "mem", "type": "SCALAR", "scalar": {"value": 256.0}},
            {"name": "ports", "type": "RANGES", "ranges": {"range": [
                {"begin": one.first_port, "end": one.first_port + 1}]}},
        ],
        "statuses": [{**_v1_status(one), "task_id": {"value": one.task_id}}],
    }  # fmt: skip
