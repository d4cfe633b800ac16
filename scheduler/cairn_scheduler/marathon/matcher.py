"""Whether an offer is good for an app; if not, all the reasons, in the order of the funnel.

Reserved resources are used before unreserved ones, where the app accepts their role. Source: the
released Marathon's resource matcher. Offers are `Offered`: read once, then smaller with each
launch that was put on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from operator import eq
from random import Random

from cairn_core.mesos.scheduler_api import Offer
from cairn_core.resources import Kind, Resources
from cairn_core.resources.quantities import to_milli
from cairn_core.resources.spans import normalise
from cairn_scheduler.marathon import ports
from cairn_scheduler.marathon.app import App, SecretRef
from cairn_scheduler.marathon.constraints import Place, looks_at_domain, place_of, unsatisfied
from cairn_scheduler.marathon.container import BRIDGE, CONTAINER


class Reason(StrEnum):
    """Why an offer was not used, by the name in the queue; in the order of the funnel."""

    NOT_SUPPORTED = "NotSupported"
    ROLE = "UnfulfilledRole"
    CONSTRAINT = "UnfulfilledConstraint"
    RESERVATION = "NoCorrespondingReservationFound"
    MAINTENANCE = "AgentMaintenance"
    CPUS = "InsufficientCpus"
    MEMORY = "InsufficientMemory"
    DISK = "InsufficientDisk"
    GPUS = "InsufficientGpus"
    PORTS = "InsufficientPorts"
    SCARCE = "DeclinedScarceResources"


FUNNEL = tuple(Reason)
_SCALARS = (
    ("cpus", Reason.CPUS), ("mem", Reason.MEMORY), ("disk", Reason.DISK), ("gpus", Reason.GPUS),
)  # fmt: skip


class Need(StrEnum):
    """What an app may need that a cluster may not have."""

    DOCKER = "docker containers"
    IMAGES = "docker images"
    NETWORKS = "container networks"
    PERSISTENT_VOLUMES = "persistent volumes"
    EXTERNAL_VOLUMES = "external volumes"
    SECRETS = "secrets"


@dataclass(frozen=True, slots=True)
class MatchRules:
    """What the daemon's configuration says about offers.

    accepted_roles: `--default_accepted_resource_roles`, for apps that name none; empty: `*` and
    the app's own role.
    region: the master's own; None where it is not known, then any region is local.
    gpus_restricted: `--gpu_scheduling_behavior`. draining_s: `--draining_seconds`.
    supported: what the cluster has; an app that needs anything else is never launched.
    """

    accepted_roles: frozenset[str] = frozenset({"*"})
    region: str | None = None
    gpus_restricted: bool = True
    maintenance: bool = True
    draining_s: float = 0.0
    supported: frozenset[Need] = frozenset()


@dataclass(frozen=True, slots=True)
class Offered:
    """An offer, and what is left of it. refined: the form in which resources go back."""

    offer: Offer
    resources: Resources
    place: Place
    refined: bool

    @classmethod
    def of(cls, offer: Offer) -> "Offered":
        """Read an offer. Raises ResourceError."""
        return cls(
            offer=offer,
            resources=Resources.from_wire(offer.resources),
            place=place_of(offer),
            refined=all(r.role is None for r in offer.resources),
        )

    @property
    def role(self) -> str | None:
        """The role that the offer is for, when the master says so."""
        info = self.offer.allocation_info
        return info.role if info is not None else None

    def less(self, used: Resources) -> "Offered":
        """Without what a launch uses."""
        return replace(self, resources=self.resources - used)


@dataclass(frozen=True, slots=True)
class Match:
    """The offer is good. host_ports: one for each port of the app."""

    resources: Resources
    host_ports: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class NoMatch:
    """The offer is not good; reasons in the order of the funnel, at least one."""

    reasons: tuple[Reason, ...]


def needs(app: App) -> frozenset[Need]:
    """What a cluster must have for the app."""
    found = set()
    container = app.container
    if any(n.mode in (BRIDGE, CONTAINER) for n in app.networks):
        found.add(Need.NETWORKS)
    if app.secrets or any(isinstance(v, SecretRef) for v in app.env.values()):
        found.add(Need.SECRETS)
    if container is not None:
        if container.type == "DOCKER":
            found.add(Need.DOCKER)
        elif container.docker is not None:
            found.add(Need.IMAGES)
        if container.has_persistent_volumes:
            found.add(Need.PERSISTENT_VOLUMES)
        if container.has_external_volumes:
            found.add(Need.EXTERNAL_VOLUMES)
    return frozenset(found)


def obstacle(app: App, rules: MatchRules) -> str | None:
    """Why the app can be launched nowhere here, in words; None when it can."""
    missing = sorted(needs(app) - rules.supported)
    return f"this cluster has no {', no '.join(missing)}" if missing else None


def match(
    app: App,
    offered: Offered,
    placed: Sequence[Place],
    rules: MatchRules,
    rng: Random,
    *,
    wall: float,
) -> Match | NoMatch:
    """Try an offer for one instance.

    placed: where instances of this configuration are that are not terminal, oldest first.
    wall: seconds since the epoch, for maintenance windows.
    """
    reasons: set[Reason] = set()
    usable = _usable(app, offered, rules)
    if needs(app) - rules.supported:
        reasons.add(Reason.NOT_SUPPORTED)
    if not usable or (offered.role is not None and offered.role != app.role):
        reasons.add(Reason.ROLE)
    if not _is_near(app, offered, rules) or (
        unsatisfied(app.constraints, offered.place, placed) is not None
    ):
        reasons.add(Reason.CONSTRAINT)
    if rules.maintenance and _in_maintenance(offered.offer, rules.draining_s, wall):
        reasons.add(Reason.MAINTENANCE)
    scalars: dict[Kind, int] = {}
    for name, reason in _SCALARS:
        taken = _take(usable, name, to_milli(float(getattr(app, name))))
        if taken is None:
            reasons.add(reason)
        else:
            scalars |= taken
    chosen = ports.choose(ports.wanted(app), _port_ranges(usable), rng)
    if chosen is None:
        reasons.add(Reason.PORTS)
    if _wastes_gpus(app, offered, rules):
        reasons.add(Reason.SCARCE)
    if reasons or chosen is None:
        return NoMatch(tuple(reason for reason in FUNNEL if reason in reasons))
    spans: dict[Kind, list[tuple[int, int]]] = {}
    for found in chosen:
        if found is not None:
            spans.setdefault(found[0], []).append((found[1], found[1]))
    resources = Resources(scalars, {kind: normalise(s) for kind, s in spans.items()})
    return Match(resources, tuple(None if f is None else f[1] for f in chosen))


def _usable(app: App, offered: Offered, rules: MatchRules) -> Resources:
    """What the app may take: roles it accepts, nothing that belongs to an instance or a volume."""
    accepted = frozenset(app.accepted_resource_roles or ()) or rules.accepted_roles
    accepted = accepted or frozenset({"*", app.role})

    def may_use(kind: Kind) -> bool:
        return (
            kind.role in accepted
            and kind.volume_id is None
            and not kind.unit
            and not kind.revocable
            and not kind.shared
            and not any(r.dynamic and r.labels for r in kind.reservations)
        )

    return offered.resources.filter(may_use)


def _reserved_first(kinds: Sequence[Kind]) -> list[Kind]:
    return sorted(kinds, key=lambda kind: not kind.reservations)


def _take(usable: Resources, name: str, amount: int) -> dict[Kind, int] | None:
    """Thousandths per kind that make up an amount, None where there is not enough."""
    if not amount:
        return {}
    amounts = usable.scalar_kinds()
    taken: dict[Kind, int] = {}
    for kind in _reserved_first([k for k in amounts if k.name == name]):
        part = min(amount, amounts[kind])
        taken[kind] = part
        amount -= part
        if not amount:
            return taken
    return None


def _port_ranges(usable: Resources) -> list[ports.PortRange]:
    out = []
    for kind in _reserved_first([kind for kind in usable if kind.name == "ports"]):
        out += ports.port_ranges(kind, usable.filter(partial(eq, kind)).ranges("ports"))
    return out


def _is_near(app: App, offered: Offered, rules: MatchRules) -> bool:
    """Other regions are used only by apps that speak of regions or zones."""
    region = offered.place.region
    return (
        region is None
        or rules.region is None
        or region == rules.region
        or looks_at_domain(app.constraints)
    )


def _in_maintenance(offer: Offer, draining_s: float, wall: float) -> bool:
    """Whether the agent's window is open, or begins within `draining_s`."""
    window = offer.unavailability
    if window is None:
        return False
    start = window.start.nanoseconds / 1e9
    if wall < start - draining_s:
        return False
    return window.duration is None or wall <= start + window.duration.nanoseconds / 1e9


def _wastes_gpus(app: App, offered: Offered, rules: MatchRules) -> bool:
    """Whether an app without GPUs would sit where there are some."""
    wish = app.labels.get("GPU_SCHEDULING_BEHAVIOR")
    restricted = (
        wish == "restricted" if wish in ("restricted", "unrestricted") else (rules.gpus_restricted)
    )
    return restricted and not app.gpus and offered.resources.scalar("gpus") > 0
