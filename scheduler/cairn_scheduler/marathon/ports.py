"""Host ports: what an app asks for, which ports of an offer it gets, and what tasks are told.

    host mode, required     each definition's port (0: a random one)
    host mode               as many random ports as definitions
    mapping, host port > 0  that port
    mapping, host port 0    a random one
    mapping without         none

Random ports: the offered ranges are shuffled, and taken in a row from a random place on, with
wrap-around: ports of one task lie together, and those of different tasks far apart, which gives
load balancers time. Source: the released Marathon's port matching and its port variables.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from cairn_core.resources.kinds import Kind
from cairn_core.resources.spans import Spans
from cairn_scheduler.marathon.app import App

#: Container ports that are chosen for a task are above the well-known ones.
FIRST_CONTAINER_PORT = 1025
LAST_PORT = 65535


class PortRange(NamedTuple):
    """Ports that an offer has, both ends included."""

    kind: Kind
    first: int
    last: int


def port_ranges(kind: Kind, spans: Spans) -> list[PortRange]:
    """The ranges of one kind."""
    return [PortRange(kind, first, last) for first, last in spans]


def wanted(app: App) -> tuple[int | None, ...]:
    """Host port per port of the app: a number, 0 for any, None for none."""
    if app.port_mappings:
        return tuple(m.host_port for m in app.port_mappings)
    definitions = app.port_definitions or ()
    return tuple(d.port if app.require_ports else 0 for d in definitions)


def choose(
    ports: Sequence[int | None], ranges: Sequence[PortRange], rng: Random
) -> tuple[tuple[Kind, int] | None, ...] | None:
    """Ports of the offer for what is wanted, each with its kind; None where they do not suffice."""
    fixed = {port for port in ports if port}
    dynamic = (found for found in _random_ports(ranges, rng) if found[1] not in fixed)
    out: list[tuple[Kind, int] | None] = []
    taken = set()
    for port in ports:
        if port is None:
            out.append(None)
            continue
        found = next(dynamic, None) if port == 0 else _fixed(port, ranges)
        if found is None or found[1] in taken:
            return None
        taken.add(found[1])
        out.append(found)
    return tuple(out)


def _fixed(port: int, ranges: Sequence[PortRange]) -> tuple[Kind, int] | None:
    for span in ranges:
        if span.first <= port <= span.last:
            return (span.kind, port)
    return None


def _random_ports(ranges: Sequence[PortRange], rng: Random) -> Iterator[tuple[Kind, int]]:
    """All ports, lazily, in shuffled ranges from a random place on."""
    total = sum(span.last - span.first + 1 for span in ranges)
    if not total:
        return
    shuffled = list(ranges)
    rng.shuffle(shuffled)
    at = rng.randrange(total)
    begin = 0
    while at > shuffled[begin].last - shuffled[begin].first:
        at -= shuffled[begin].last - shuffled[begin].first + 1
        begin += 1
    head = shuffled[begin]
    for port in range(head.first + at, head.last + 1):
        yield head.kind, port
    for span in (*shuffled[begin + 1 :], *shuffled[:begin]):
        for port in range(span.first, span.last + 1):
            yield span.kind, port
    for port in range(head.first, head.first + at):
        yield head.kind, port


@dataclass(frozen=True, slots=True)
class TaskPort:
    """A port of a task, with nothing left open.

    requested: container port of a mapping, port of a definition; 0 when it was left open.
    host: None where no host port leads to it. container: what the process listens on.
    chosen: whether the container port was drawn here.
    """

    requested: int
    host: int | None
    container: int
    name: str | None
    protocols: tuple[str, ...]
    labels: Mapping[str, str]
    network_names: tuple[str, ...] = ()
    chosen: bool = False

    @property
    def told(self) -> int:
        """What the task is told: the host port, else the container's."""
        return self.container if self.host is None else self.host


def task_ports(app: App, host_ports: Sequence[int | None], rng: Random) -> tuple[TaskPort, ...]:
    """The ports of a task. host_ports: one for each port of the app."""
    if not app.port_mappings:
        return tuple(
            TaskPort(d.port, host, host or 0, d.name, d.protocols, d.labels)
            for d, host in zip(app.port_definitions or (), host_ports, strict=True)
        )
    known = {m.container_port for m in app.port_mappings} | {p for p in host_ports if p}
    out = []
    for mapping, host in zip(app.port_mappings, host_ports, strict=True):
        container = mapping.container_port or host or 0
        drawn = not container
        if drawn:
            container = _container_port(known, rng)
            known.add(container)
        out.append(
            TaskPort(
                requested=mapping.container_port,
                host=host,
                container=container,
                name=mapping.name,
                protocols=mapping.protocols,
                labels=mapping.labels,
                network_names=mapping.network_names,
                chosen=drawn,
            )
        )
    return tuple(out)


def _container_port(known: set[int], rng: Random) -> int:
    """A port that this task does not use yet; there are far more than an app may have."""
    while True:
        port = rng.randint(FIRST_CONTAINER_PORT, LAST_PORT)
        if port not in known:
            return port


def port_variables(ports: Sequence[TaskPort]) -> dict[str, str]:
    """PORT, PORT0..n, PORTS, PORT_<number>, PORT_<NAME>; none for an app without ports."""
    if not ports:
        return {}
    env = {f"PORT{i}": str(port.told) for i, port in enumerate(ports)}
    for port in ports:
        env[f"PORT_{port.requested or port.told}"] = str(port.told)
    for port in ports:
        if port.name is not None:
            env[f"PORT_{port.name.upper()}"] = str(port.told)
    # Compat: fixed container ports without host port are not in the list.
    listed = [p.host for p in ports if p.host is not None]
    listed += [p.container for p in ports if p.chosen]
    if listed:
        env["PORT"] = str(listed[0])
    env["PORTS"] = ",".join(str(port) for port in listed)
    return env
