"""What makes two amounts of a resource the same kind: name, reservations, disk, and flags.

Only amounts of one kind may be added up. Source: Apache Mesos `src/common/resources.cpp`
(which resources are addable) and `docs/{reservation-refinement,persistent-volume}.md`.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from cairn_core.mesos import types
from cairn_core.roles import DEFAULT_ROLE, is_subrole

LabelPairs: TypeAlias = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Reservation:
    """One reservation of a stack.

    labels: in the order given, or None when the field was absent. Two reservations with the
        same labels in another order are the same (`identity`).
    """

    role: str
    dynamic: bool = False
    principal: str | None = None
    labels: LabelPairs | None = None

    @property
    def identity(self) -> tuple[object, ...]:
        """What is compared."""
        labels = self.labels
        if labels is not None:
            labels = tuple(sorted(labels, key=lambda pair: (pair[0], pair[1] or "")))
        return (self.role, self.dynamic, self.principal, labels)


class Kind:
    """Identity of a resource; immutable, and cheap as a dictionary key (its hash is kept).

    unit: 0 for what can be cut (cpus, root disk). A resource that can only be taken whole
        (persistent volume, MOUNT or BLOCK disk, anything shared) has its size in thousandths
        here, and its value counts how many there are of it - mostly 1; a shared volume is
        counted once per user.
    """

    __slots__ = (
        "_hash", "_key", "disk", "name", "provider_id", "reservations", "revocable", "shared",
        "unit",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        reservations: tuple[Reservation, ...] = (),
        disk: types.DiskInfo | None = None,
        *,
        revocable: bool = False,
        shared: bool = False,
        provider_id: str | None = None,
        unit: int = 0,
    ) -> None:
        self.name = name
        self.reservations = reservations
        self.disk = disk
        self.revocable = revocable
        self.shared = shared
        self.provider_id = provider_id
        self.unit = unit
        self._key = (
            name,
            tuple(r.identity for r in reservations),
            disk_identity(disk),
            revocable,
            shared,
            provider_id,
            unit,
        )
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Kind):
            return NotImplemented
        return self._hash == other._hash and self._key == other._key

    @staticmethod
    @lru_cache(maxsize=4096)
    def plain(name: str) -> "Kind":
        """The unreserved kind of this name without anything else; mostly the same object, so
        that comparing it is cheap."""
        return Kind(name)

    def __repr__(self) -> str:
        return f"Kind({self})"

    def __str__(self) -> str:
        flags = "".join(f"[{r.role}]" for r in self.reservations)
        if self.disk is not None and self.disk.persistence is not None:
            flags += f"[volume {self.disk.persistence.id}]"
        if self.disk is not None and self.disk.source is not None:
            flags += f"[{self.disk.source.type}]"
        return self.name + flags + "{REV}" * self.revocable + "<SHARED>" * self.shared

    @property
    def role(self) -> str:
        """The role that may use it: the last of the stack, `*` when unreserved."""
        return self.reservations[-1].role if self.reservations else DEFAULT_ROLE

    @property
    def volume_id(self) -> str | None:
        """Id of the persistent volume that this is, if it is one."""
        disk = self.disk
        return disk.persistence.id if disk is not None and disk.persistence is not None else None

    def usable_by(self, role: str) -> bool:
        """Whether a framework in `role` may be offered it: unreserved, or reserved to the role
        or one above it.
        """
        return not self.reservations or self.role == role or is_subrole(role, self.role)

    def with_(
        self,
        *,
        reservations: tuple[Reservation, ...] | None = None,
        disk: types.DiskInfo | None = None,
        keep_disk: bool = True,
        shared: bool | None = None,
        unit: int | None = None,
    ) -> "Kind":
        """A copy with some fields changed."""
        return Kind(
            self.name,
            self.reservations if reservations is None else reservations,
            disk if disk is not None or not keep_disk else self.disk,
            revocable=self.revocable,
            shared=self.shared if shared is None else shared,
            provider_id=self.provider_id,
            unit=self.unit if unit is None else unit,
        )


def disk_identity(disk: types.DiskInfo | None) -> tuple[object, ...] | None:
    """What of a disk is compared: source and volume id.

    The `volume` field says how a task mounts it, the principal who made it; neither changes
    what it is.
    """
    if disk is None or (disk.source is None and disk.persistence is None):
        return None
    volume = disk.persistence.id if disk.persistence is not None else None
    source = disk.source
    if source is None:
        return (volume,)
    root = source.path or source.mount
    return (
        volume, source.type, root.root if root else None, source.vendor, source.id, source.profile,
        source.metadata,
    )  # fmt: skip


def is_whole(disk: types.DiskInfo | None, shared: bool) -> bool:
    """Whether a disk can only be taken as a whole."""
    if shared:
        return True
    if disk is None:
        return False
    if disk.persistence is not None:
        return True
    source = disk.source
    if source is None:
        return False
    return source.type in ("MOUNT", "BLOCK") or (source.type == "RAW" and source.id is not None)
