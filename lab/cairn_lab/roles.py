"""What a machine of each role runs: systemd units and configuration files.

One definition for the lab, for Vagrant machines and for real ones. The unit files are those
in the component folders, unchanged; what differs between machines is in /etc/cairn/*.json.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cairn_lab.topology import NETWORKS, Host, Role, Topology

#: Units of each role, in the order in which they start.
UNITS: Mapping[Role, tuple[str, ...]] = {
    "master": ("cairn-master", "cairn-dns", "cairn-dns-proxy", "cairn-l4lb", "cairn-marathon"),
    "agent": ("cairn-dns-proxy", "cairn-l4lb", "cairn-agent"),
    "public_agent": ("cairn-dns-proxy", "cairn-l4lb", "cairn-agent"),
}
#: Folder of the repository that holds each unit file.
_UNIT_FOLDERS: Mapping[str, str] = {
    "cairn-master": "core/systemd",
    "cairn-agent": "core/systemd",
    "cairn-marathon": "scheduler/systemd",
    "cairn-dns": "dns/systemd",
    "cairn-dns-proxy": "dns/systemd",
    "cairn-l4lb": "l4lb/systemd",
}
#: Where the supervisor of a host listens, as seen inside the host.
CONTROL_SOCKET = "/run/cairn/supervise.sock"
UNIT_FOLDER = "/etc/cairn/units"
LOG_FOLDER = "/var/log/cairn"

MASTER_PORT = 5050
AGENT_PORT = 5051
MARATHON_PORT = 8080
#: Of the masters' `cairn-dns`; port 53 is the proxy's on every host.
DNS_PORT = 61053
#: Where the proxy of a host answers, the same on every host.
PROXY_ADDRESSES = ("198.51.100.1", "198.51.100.2", "198.51.100.3", "fd01:d::c633:6401")


def supervisor_argv() -> list[str]:
    """Command line of PID 1 of a lab host: our supervisor, on the host's unit files."""
    return [
        sys.executable, "-m", "cairn_core.kit.supervise",
        "--units", UNIT_FOLDER, "--log", LOG_FOLDER, "--control", CONTROL_SOCKET,
    ]  # fmt: skip


def configuration(topology: Topology, host: Host) -> dict[str, dict[str, Any]]:
    """Configuration files of `host`: file name below /etc/cairn -> settings."""
    own = (
        _master(topology, host) if host.role == "master" else {"agent.json": _agent(topology, host)}
    )
    return {
        **own, "dns-proxy.json": _dns_proxy(topology, host), "l4lb.json": _l4lb(topology, host),
    }  # fmt: skip


def _masters(topology: Topology) -> list[str]:
    return [str(master.ipv4) for master in topology.by_role("master")]


def _master(topology: Topology, host: Host) -> dict[str, dict[str, Any]]:
    leader = _masters(topology)[0]
    return {
        "master.json": {
            "ip": str(host.ipv4),
            "port": MASTER_PORT,
            "hostname": host.name,
            "cluster": topology.name,
            "work_dir": "/var/lib/cairn/master",
        },
        "marathon.json": {
            "master": f"{leader}:{MASTER_PORT}",
            "http_address": str(host.ipv4),
            "http_port": MARATHON_PORT,
            "hostname": host.name,
            "mesos_role": "slave_public",
            "default_accepted_resource_roles": ["*"],
            "mesos_user": "nobody",
            # as in DC/OS; balancers give nothing new to a task that is being killed
            "enable_features": ["vips", "task_killing"],
        },
        "dns.json": {
            "masters": [f"{ip}:{MASTER_PORT}" for ip in _masters(topology)],
            "domain": "mesos",
            "port": DNS_PORT,
            "dcos_zones": True,
            "externalon": False,  # there is nobody to ask outside the lab
            "forward_clients": _clients(),  # whom no limit of rate is for
        },
    }


def _dns_proxy(topology: Topology, host: Host) -> dict[str, Any]:
    """Upstreams are left out: there is nobody to ask outside the lab.

    Masters answer on their own addresses as well, for who has no proxy (yet).
    """
    return {
        "masters": _masters(topology),
        "master_port": DNS_PORT,
        "domain": "mesos",
        "private_ip": str(host.ipv4),
        "bind_ips": [str(host.ipv4), str(host.ipv6)] if host.role == "master" else [],
        "forward_clients": _clients(),
        "resolv_conf": "/etc/resolv.conf",
    }


def _l4lb(topology: Topology, host: Host) -> dict[str, Any]:
    return {
        "masters": [f"{ip}:{MASTER_PORT}" for ip in _masters(topology)],
        "private_ip": str(host.ipv4),
        "agent_polling_enabled": host.role != "master",
        "agent_port": AGENT_PORT,
    }


def _clients() -> list[str]:
    """Networks of the cluster's hosts; who asks the proxy of the own host has its address."""
    return ["127.0.0.0/8", "::1/128", *PROXY_ADDRESSES, *NETWORKS]


def _agent(topology: Topology, host: Host) -> dict[str, Any]:
    public = host.role == "public_agent"
    return {
        "master": f"{_masters(topology)[0]}:{MASTER_PORT}",
        "ip": str(host.ipv4),
        "port": AGENT_PORT,
        "hostname": host.name,
        "work_dir": "/var/lib/cairn/agent",
        "cgroups_root": topology.agent_cgroup(host.name),
        "launcher": "linux",
        "isolation": "filesystem/linux,namespaces/pid,cgroups/cpu,cgroups/mem,disk/du",
        "resources": (
            "cpus(slave_public):2;mem(slave_public):1024;disk(slave_public):4096;"
            "ports(slave_public):[1-21,23-5050,5052-32000]"
            if public
            else "cpus:2;mem:1024;disk:4096;ports:[1025-2180,2182-3887,3889-5049,5052-8079,"
            "8082-8180,8182-32000]"
        ),
        "attributes": f"host:{host.name}" + (";public_ip:true" if public else ""),
    }


def write_configuration(topology: Topology, host: Host, folder: Path) -> None:
    """Write configuration and unit files of `host` into `folder`, its /etc/cairn."""
    for name, settings in configuration(topology, host).items():
        (folder / name).write_bytes(msgspec.json.format(msgspec.json.encode(settings)) + b"\n")
    units = folder / Path(UNIT_FOLDER).name
    units.mkdir(exist_ok=True)
    for unit in UNITS[host.role]:
        source = repository() / _UNIT_FOLDERS[unit]
        for path in sorted(source.glob(f"{unit}.*")):
            shutil.copyfile(path, units / path.name)


def repository() -> Path:
    """The checkout that this module is part of."""
    return Path(__file__).resolve().parent.parent.parent
