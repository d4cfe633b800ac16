"""Between wire resources and kinds with amounts: validation in, three forms out.

Before reservations could be refined, a resource carried `role` (and `reservation` when it was
dynamic); since then it carries `reservations`, a stack. Both come in; what goes out is chosen.
Source: Apache Mesos `src/common/resources.cpp` (validate) and `src/common/resources_utils.hpp`
(conversion of the forms).
"""

import re
from collections.abc import Iterable, Mapping

from cairn_core.mesos import types
from cairn_core.resources import spans
from cairn_core.resources.bag import Bag
from cairn_core.resources.errors import ResourceError
from cairn_core.resources.kinds import Kind, Reservation, is_whole
from cairn_core.resources.quantities import from_milli, to_milli
from cairn_core.resources.spans import Spans
from cairn_core.roles import DEFAULT_ROLE, RoleError, is_subrole, validate

#: Only `reservations`.
REFINED = "refined"
#: Only `role` and `reservation`.
UNREFINED = "unrefined"
#: Both, as the JSON endpoints print it.
ENDPOINT = "endpoint"

_SCALAR_NAMES = frozenset({"cpus", "mem", "disk", "gpus"})
_VALUE_FIELDS = {"SCALAR": "scalar", "RANGES": "ranges", "SET": "set"}
_DISK_SOURCES = frozenset({"PATH", "MOUNT", "BLOCK", "RAW"})
_MAX_NUMBER = (1 << 64) - 1
_MAX_NAME = 255
#: Bounds on what one message may make us hold.
_MAX_RESOURCES = 100_000
_MAX_RANGES = 100_000
_MAX_STACK = 32
_CONTROL = re.compile(r"[\x00-\x1f]")


def read(resources: Iterable[types.Resource]) -> Bag:
    """Validate and collect. Raises ResourceError."""
    bag = Bag()
    volumes: dict[tuple[str, str], Kind] = {}
    for number, resource in enumerate(resources):
        if number >= _MAX_RESOURCES:
            raise ResourceError("resources", number, "resources are too many")
        kind = _kind(resource)
        _check_value_fields(resource)
        if resource.scalar is not None:
            _add_scalar(bag, kind, resource.scalar.value)
            if kind.volume_id is not None:
                _check_volume(volumes, kind)
        elif resource.ranges is not None:
            bag.add_ranges(kind, _spans(resource.ranges, resource.name))
        elif resource.set is not None:
            bag.add_set(kind, _words(resource.set.item, resource.name))
    return bag


def _check_value_fields(resource: types.Resource) -> None:
    wanted = _VALUE_FIELDS.get(resource.type)
    if wanted is None:
        raise ResourceError("type", resource.type, f"is no type of a resource ({resource.name})")
    for field in _VALUE_FIELDS.values():
        given = getattr(resource, field) is not None
        if given != (field == wanted):
            raise ResourceError(
                field,
                resource.name,
                f"{'must not' if given else 'must'} be set for {resource.type}",
            )
    if resource.name in _SCALAR_NAMES and resource.type != "SCALAR":
        raise ResourceError("type", resource.type, f"is not the type of {resource.name}")
    if resource.name == "ports" and resource.type != "RANGES":
        raise ResourceError("type", resource.type, "is not the type of ports")


def _kind(resource: types.Resource) -> Kind:
    name = resource.name
    if not name or len(name) > _MAX_NAME or _CONTROL.search(name):
        raise ResourceError("name", name, "is no name of a resource")
    disk = resource.disk
    if resource.shared is None and resource.revocable is None and resource.provider_id is None:
        plain = disk is None and not resource.reservations and resource.reservation is None
        if plain and resource.role in (None, DEFAULT_ROLE):
            return Kind.plain(name)
    if disk is not None:
        _check_disk(resource, disk)
    shared = resource.shared is not None
    if shared and (disk is None or disk.persistence is None):
        raise ResourceError("shared", name, "is only for persistent volumes")
    if resource.revocable is not None and disk is not None and disk.persistence is not None:
        raise ResourceError("revocable", name, "is not for persistent volumes")
    reservations = _reservations(resource)
    unit = 0
    if name == "disk" and resource.scalar is not None and is_whole(disk, shared):
        unit = to_milli(resource.scalar.value)
    return Kind(
        name,
        reservations,
        disk,
        revocable=resource.revocable is not None,
        shared=shared,
        provider_id=resource.provider_id.value if resource.provider_id is not None else None,
        unit=unit,
    )


def _check_disk(resource: types.Resource, disk: types.DiskInfo) -> None:
    if resource.name != "disk":
        raise ResourceError("disk", resource.name, "is only for the resource 'disk'")
    if disk.persistence is not None:
        volume = disk.persistence.id
        if not volume or len(volume) > _MAX_NAME or volume in (".", ".."):
            raise ResourceError("disk.persistence.id", volume, "is no id")
        if any(c in "/\\" or ord(c) < 32 for c in volume):
            raise ResourceError("disk.persistence.id", volume, "has a slash or control character")
    if disk.source is not None:
        if disk.source.type not in _DISK_SOURCES:
            raise ResourceError("disk.source.type", disk.source.type, "is no type of a disk")
        if disk.source.path is not None and disk.source.type != "PATH":
            raise ResourceError("disk.source.path", disk.source.type, "disk must not have it")
        if disk.source.mount is not None and disk.source.type != "MOUNT":
            raise ResourceError("disk.source.mount", disk.source.type, "disk must not have it")


def _reservations(resource: types.Resource) -> tuple[Reservation, ...]:
    stack = resource.reservations
    if stack:
        if resource.role not in (None, DEFAULT_ROLE, stack[-1].role):
            raise ResourceError("role", resource.role, "is set beside reservations")
        if len(stack) > _MAX_STACK:
            raise ResourceError("reservations", len(stack), "are too many")
        out: list[Reservation] = []
        for entry in stack:
            role = _role("reservations.role", entry.role)
            if entry.type not in ("STATIC", "DYNAMIC"):
                raise ResourceError("reservations.type", entry.type, "is not STATIC or DYNAMIC")
            if out and entry.type == "STATIC":
                raise ResourceError("reservations.type", entry.type, "only fits the first")
            if out and not is_subrole(role, out[-1].role):
                raise ResourceError("reservations.role", role, f"is not below {out[-1].role!r}")
            out.append(
                Reservation(role, entry.type == "DYNAMIC", entry.principal, _labels(entry.labels))
            )
        return tuple(out)
    role = resource.role if resource.role is not None else DEFAULT_ROLE
    if resource.reservation is not None:
        role = _role("role", role)
        dynamic = resource.reservation
        return (Reservation(role, True, dynamic.principal, _labels(dynamic.labels)),)
    if role == DEFAULT_ROLE:
        return ()
    return (Reservation(_role("role", role)),)


def _role(field: str, role: str | None) -> str:
    if role is None or role == DEFAULT_ROLE:
        raise ResourceError(field, role, "cannot hold a reservation")
    try:
        return validate(role)
    except RoleError as error:
        raise ResourceError(field, role, f"is not valid: {error}") from None


def _labels(labels: types.Labels | None) -> tuple[tuple[str, str | None], ...] | None:
    return None if labels is None else tuple((label.key, label.value) for label in labels.labels)


def _add_scalar(bag: Bag, kind: Kind, value: float) -> None:
    amount = to_milli(value)
    if kind.name == "gpus" and amount % 1000:
        raise ResourceError("scalar.value", value, "is not a whole number of gpus")
    bag.add_scalar(kind, 1 if kind.unit else amount)


def _check_volume(volumes: dict[tuple[str, str], Kind], kind: Kind) -> None:
    assert kind.volume_id is not None
    known = volumes.setdefault((kind.role, kind.volume_id), kind)
    if known is not kind and not (kind.shared and known == kind):
        raise ResourceError("disk.persistence.id", kind.volume_id, "is given twice")


def _spans(ranges: types.Ranges, name: str) -> Spans:
    if len(ranges.range) > _MAX_RANGES:
        raise ResourceError("ranges.range", len(ranges.range), f"ranges of {name} are too many")
    pairs = []
    for entry in ranges.range:
        if not 0 <= entry.begin <= entry.end <= _MAX_NUMBER:
            raise ResourceError("ranges.range", f"{entry.begin}-{entry.end}", "is no range")
        pairs.append((entry.begin, entry.end))
    merged = spans.normalise(pairs)
    if spans.size(merged) != sum(end - begin + 1 for begin, end in pairs):
        raise ResourceError("ranges.range", spans.text(tuple(pairs)), "overlap")
    return merged


def _words(items: tuple[str, ...], name: str) -> frozenset[str]:
    words = frozenset(items)
    if len(words) != len(items):
        raise ResourceError("set.item", name, "has a word twice")
    for word in words:
        if not word or len(word) > _MAX_NAME or any(ord(c) < 32 for c in word):
            raise ResourceError("set.item", word, "is no word")
    return words


def write(
    scalars: Mapping[Kind, int],
    ranges: Mapping[Kind, Spans],
    sets: Mapping[Kind, frozenset[str]],
    form: str,
    allocation_role: str | None,
) -> list[types.Resource]:
    """Wire resources in a stable order: scalars, ranges, sets, each as they came."""
    info = None if allocation_role is None else types.AllocationInfo(role=allocation_role)
    out = []
    for kind, amount in scalars.items():
        value = types.Scalar(value=from_milli(kind.unit or amount))
        one = _resource(kind, form, info, "SCALAR", scalar=value)
        out.extend([one] * (amount if kind.unit else 1))
    for kind, have in ranges.items():
        entries = tuple(types.Range(begin=first, end=last) for first, last in have)
        value_ranges = types.Ranges(range=entries)
        out.append(_resource(kind, form, info, "RANGES", ranges=value_ranges))
    for kind, words in sets.items():
        value_set = types.ValueSet(item=tuple(sorted(words)))
        out.append(_resource(kind, form, info, "SET", words=value_set))
    return out


def _resource(
    kind: Kind,
    form: str,
    info: types.AllocationInfo | None,
    type_: str,
    *,
    scalar: types.Scalar | None = None,
    ranges: types.Ranges | None = None,
    words: types.ValueSet | None = None,
) -> types.Resource:
    stack = kind.reservations
    role: str | None = None
    reservation: types.ReservationInfo | None = None
    if form == UNREFINED and len(stack) > 1:
        raise ResourceError("reservations", kind, "cannot be written without refinement")
    if form != REFINED:
        role = kind.role
        if len(stack) == 1 and stack[0].dynamic:
            reservation = types.ReservationInfo(
                principal=stack[0].principal, labels=_wire_labels(stack[0])
            )
    return types.Resource(
        name=kind.name,
        type=type_,
        provider_id=types.ResourceProviderID(kind.provider_id) if kind.provider_id else None,
        scalar=scalar,
        ranges=ranges,
        set=words,
        role=role,
        allocation_info=info,
        reservation=reservation,
        reservations=() if form == UNREFINED else tuple(_reservation_info(r) for r in stack),
        disk=kind.disk,
        revocable=types.RevocableInfo() if kind.revocable else None,
        shared=types.SharedInfo() if kind.shared else None,
    )


def _reservation_info(reservation: Reservation) -> types.ReservationInfo:
    return types.ReservationInfo(
        type="DYNAMIC" if reservation.dynamic else "STATIC",
        role=reservation.role,
        principal=reservation.principal,
        labels=_wire_labels(reservation),
    )


def _wire_labels(reservation: Reservation) -> types.Labels | None:
    if reservation.labels is None:
        return None
    return types.Labels(
        labels=tuple(types.Label(key=key, value=value) for key, value in reservation.labels)
    )
