"""The cluster of the benchmarks of the layer-4 load balancer: apps with a named VIP each, as rows.

Every app has one VIP and every task of it is a backend, on an agent of its own address.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address

from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    PortRow,
    Row,
    TaskRow,
    VipRow,
)

FRAMEWORK_ID = "5b5f4bd5-0000-4000-8000-000000000001-0000"
MASTER_ID = "5b5f4bd5-0000-4000-8000-000000000002"
#: First address of VIPs; that of an app is so many further on as its number says.
FIRST_VIP = "11.0.0.1"


def vip_address(app: int) -> str:
    """Address of an app's VIP."""
    return str(ip_address(FIRST_VIP) + app)


def cluster_rows(agents: Sequence[str]) -> Iterator[Row]:
    """Everything but apps; agents: their addresses, which are their ids as well."""
    yield MasterRow(MASTER_ID, "master", "127.0.0.1", 5050, leads=True)
    yield FrameworkRow(FRAMEWORK_ID, "marathon", "10.200.0.1")
    for address in agents:
        yield AgentRow(address, address, address)


def vip_row(app: int) -> VipRow:
    """The address of an app's VIP."""
    return VipRow(f"app-{app}.marathon", vip_address(app))


def task_row(
    app: int, number: int, agent: str, port: int, labels: Mapping[str, str] | None = None
) -> TaskRow:
    """A task of an app, ready on a port of its agent; labels: more of them, on that port."""
    vip = {"VIP_0": f"/app-{app}:{port}", **(labels or {})}
    return TaskRow(
        id=f"app-{app}.{number:08x}-1111-11ef-8000-0242ac110002",
        name=f"app-{app}", framework_id=FRAMEWORK_ID, agent_id=agent, state="TASK_RUNNING",
        ports=((port, port),), discovery_name=f"app-{app}",
        discovery_ports=(PortRow(port, "http", "tcp", tuple(vip.items())),),
    )  # fmt: skip


def app_rows(
    app: int, agents: Sequence[str], port: int, labels: Mapping[str, str] | None = None
) -> Iterator[Row]:
    """An app with a task on each of these agents."""
    yield vip_row(app)
    for number, agent in enumerate(agents):
        yield task_row(app, number, agent, port, labels)


def agent_addresses(count: int) -> list[str]:
    """Addresses of so many agents, where nobody is."""
    return [str(ip_address("10.128.0.1") + n) for n in range(count)]


def large(vips: int, backends: int) -> Iterator[Row]:
    """So many VIPs with so many backends each, on a fifth as many agents as tasks."""
    agents = agent_addresses(max(backends, vips * backends // 5))
    yield from cluster_rows(agents)
    for app in range(vips):
        places = [agents[(app * backends + n) % len(agents)] for n in range(backends)]
        yield from app_rows(app, places, 20000 + app % 5000)
