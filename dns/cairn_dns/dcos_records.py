"""Names in `dcos.thisdcos.directory`, which say which address of a task is meant.

Follows dcos-net `dcos_dns_mesos.erl` and, for ports, `dcos_net_mesos_listener.erl`:

    <task>.<framework>.agentip.dcos.thisdcos.directory       its agent's
    <task>.<framework>.containerip.dcos.thisdcos.directory   its own
    <task>.<framework>.autoip.dcos.thisdcos.directory        where its ports can be reached

Not considered, for rows do not have them: `VIP_PORT<n>` labels of a task, and the port mappings of
`container.docker`.  Marathon says the latter in the discovery ports too, whose scope is `host`.
"""

from collections.abc import Sequence

from cairn_core.mesos.feed_rows import MasterRow, TaskRow

from .addresses import Address
from .labels import dcos_label
from .records import (
    Made,
    address_records,
    fitting,
    leader_address,
    numbered,
    source_addresses,
)
from .zone import Record

DCOS_DOMAIN = "dcos.thisdcos.directory"
_PROTOCOLS = ("tcp", "udp")


def dcos_master_records(masters: Sequence[Address], leader: MasterRow | None) -> Made:
    """`leader` and `master` of the zone."""
    address = leader_address(leader)
    records = address_records(f"master.{DCOS_DOMAIN}", numbered(masters, leader))
    if address is not None:
        records += address_records(f"leader.{DCOS_DOMAIN}", [address])
    return Made(records)


def dcos_task_records(task: TaskRow, agent: Sequence[Address], framework_name: str) -> Made:
    """The three names of a published task.  agent: addresses of its agent."""
    own = source_addresses(task, agent, "netinfo")
    place = agent_ip(agent)
    auto = place if not own or has_host_port(task) else own
    name = f"{dcos_label(task.discovery_name or task.name)}.{dcos_label(framework_name)}"
    records: list[Record] = []
    for kind, addresses in (("agentip", place), ("containerip", own), ("autoip", auto)):
        records += address_records(f"{name}.{kind}.{DCOS_DOMAIN}", addresses)
    fit = fitting(records)
    return Made(fit, {"name": len(records) - len(fit)} if len(fit) < len(records) else {})


def agent_ip(agent: Sequence[Address]) -> Sequence[Address]:
    """The address that stands for an agent: its first of IPv4, else its first."""
    return ([one for one in agent if len(one) == 4] or list(agent))[:1]


def has_host_port(task: TaskRow) -> bool:
    """Whether a port of the agent leads to one of the task's.

    Compat: ports of other protocols than TCP and UDP do not count.  Where the task is on the
    host's network its own address is the agent's, so that the answer makes no difference.
    """
    mapped = any(
        protocol.lower() in _PROTOCOLS
        for network in task.networks
        for _, _, protocol in network.port_mappings
    )
    return mapped or any(
        port.protocol.lower() in _PROTOCOLS and _scopes(port.labels) == ["host"]
        for port in task.discovery_ports
    )


def _scopes(labels: tuple[tuple[str, str], ...]) -> list[str]:
    return [value for key, value in labels if key == "network-scope"]
