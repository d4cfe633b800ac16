"""Rows whose numbers are ports where they should be, and whose labels somebody may have written.

JSON may hold any number; what leaves here can be written in any other form.  No I/O.
"""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from cairn_core.mesos.feed_rows import AgentRow, MasterRow, NetworkRow, PortRow, Row, TaskRow

T = TypeVar("T")

MAX_PORT = 65535
#: Labels of one task that may declare VIPs; more is nothing anybody would write.
MAX_LABELS = 256


def sound(row: Row, skipped: "Counter[str]") -> Row:
    """The row without what is no port, which is counted.  Some two microseconds for a good row."""
    if isinstance(row, TaskRow):
        ports = _kept(row.ports, _is_range, "range", skipped)
        discovery = _kept(row.discovery_ports, _is_port, "port", skipped)
        networks = tuple(_network(one, skipped) for one in row.networks)
        docker = _kept(row.docker_ports, _is_mapping, "portmapping", skipped)
        if len(row.vip_labels) > MAX_LABELS:
            skipped["label"] += len(row.vip_labels) - MAX_LABELS
            row = replace(row, vip_labels=row.vip_labels[:MAX_LABELS])
        if (
            ports is row.ports
            and discovery is row.discovery_ports
            and networks == row.networks
            and docker is row.docker_ports
        ):
            return row
        return replace(
            row, ports=ports, discovery_ports=discovery, networks=networks, docker_ports=docker
        )
    if isinstance(row, AgentRow | MasterRow) and not 0 <= row.port <= MAX_PORT:
        skipped["agent.port" if isinstance(row, AgentRow) else "master.port"] += 1
        return replace(row, port=0)
    return row


def _network(one: NetworkRow, skipped: "Counter[str]") -> NetworkRow:
    kept = _kept(one.port_mappings, _is_mapping, "portmapping", skipped)
    return one if kept is one.port_mappings else replace(one, port_mappings=kept)


def _kept(
    items: tuple[T, ...], is_good: Callable[[T], bool], kind: str, skipped: "Counter[str]"
) -> tuple[T, ...]:
    """The good ones; the very same tuple when all are."""
    if all(map(is_good, items)):
        return items
    good = tuple(filter(is_good, items))
    skipped[kind] += len(items) - len(good)
    return good


def _is_range(span: tuple[int, int]) -> bool:
    return 0 <= span[0] <= span[1] <= MAX_PORT


def _is_port(port: PortRow) -> bool:
    return 0 <= port.number <= MAX_PORT


def _is_mapping(mapping: tuple[int, int, str]) -> bool:
    return 0 <= mapping[0] <= MAX_PORT and 0 <= mapping[1] <= MAX_PORT
