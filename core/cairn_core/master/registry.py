"""What of the master outlives it: agents, quota, weights and VIPs, as records of the log.

    agent/<agent id>     StoredAgent     admitted, unreachable or gone
    quota/<role>         StoredQuota     absent: no guarantee, no limit
    weight/<role>        StoredWeight    absent: 1
    vip/<name>           StoredVip       addresses of `<label>.<framework>`

Frameworks and tasks are not here: agents and frameworks bring them along when they return.
Ids need no storing, for they begin with the id of the master that made them.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from cairn_core.errors import LocalError
from cairn_core.extensions import AgentId
from cairn_core.master.state.records import KnownAgent, Quota
from cairn_core.mesos.types import AgentInfo
from cairn_core.replog.interface import Record
from cairn_core.vips.addresses import Given

#: Name of the log.
LOG = "registry"
SCHEMA = 1


class AgentStanding(enum.StrEnum):
    """How the registry regards an agent."""

    ADMITTED = "admitted"
    UNREACHABLE = "unreachable"
    GONE = "gone"


class StoredAgent(msgspec.Struct, frozen=True):
    """An agent; `time` is the wall-clock time of becoming unreachable or gone."""

    standing: AgentStanding
    info: msgspec.Raw
    time: float = 0.0


class StoredQuota(msgspec.Struct, frozen=True):
    """Thousandths by resource name."""

    guarantees: dict[str, int]
    limits: dict[str, int]


class StoredWeight(msgspec.Struct, frozen=True):
    """Weight of a role, above 0."""

    weight: float


class StoredVip(msgspec.Struct, frozen=True):
    """Addresses of a name, empty where it has none of a family."""

    ipv4: str
    ipv6: str = ""


@dataclass(frozen=True, slots=True)
class RegistryImage:
    """The registry, decoded."""

    admitted: dict[str, KnownAgent] = field(default_factory=dict)
    unreachable: dict[str, KnownAgent] = field(default_factory=dict)
    gone: dict[str, KnownAgent] = field(default_factory=dict)
    quotas: dict[str, Quota] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    vips: dict[str, Given] = field(default_factory=dict)


def agent_record(agent_id: str, standing: AgentStanding, info: bytes, time: float = 0.0) -> Record:
    """The record that gives an agent its standing."""
    stored = StoredAgent(standing, msgspec.Raw(info), time)
    return Record(f"agent/{agent_id}", msgspec.json.encode(stored), SCHEMA)


def agent_removal(agent_id: str) -> Record:
    """The record that makes the registry forget an agent."""
    return Record(f"agent/{agent_id}", None, SCHEMA)


def quota_record(role: str, quota: Quota | None) -> Record:
    """The record that sets the quota of a role, or removes it."""
    if quota is None:
        return Record(f"quota/{role}", None, SCHEMA)
    stored = StoredQuota(quota.guarantees, quota.limits)
    return Record(f"quota/{role}", msgspec.json.encode(stored), SCHEMA)


def weight_record(role: str, weight: float) -> Record:
    """The record that sets the weight of a role."""
    return Record(f"weight/{role}", msgspec.json.encode(StoredWeight(weight)), SCHEMA)


def vip_record(name: str, given: Given) -> Record:
    """The record that gives a named VIP its addresses."""
    return Record(f"vip/{name}", msgspec.json.encode(StoredVip(*given)), SCHEMA)


def vip_removal(name: str) -> Record:
    """The record that frees the addresses of a named VIP."""
    return Record(f"vip/{name}", None, SCHEMA)


def read_registry(items: Iterable[tuple[str, bytes, int]]) -> RegistryImage:
    """Decode key, value and schema of every record.

    Raises LocalError for a record of a newer schema or one that cannot be read: a master that
    does not understand its registry must not run. Keys of other owners are passed over.
    """
    image = RegistryImage()
    for key, value, schema in items:
        kind, _, name = key.partition("/")
        if kind not in ("agent", "quota", "weight", "vip"):
            continue
        if schema > SCHEMA:
            raise LocalError(f"registry record '{key}' has schema {schema}, newer than {SCHEMA}")
        try:
            _read(image, kind, name, value)
        except msgspec.MsgspecError as error:
            raise LocalError(f"registry record '{key}' cannot be read: {error}") from None
    return image


def _read(image: RegistryImage, kind: str, name: str, value: bytes) -> None:
    if kind == "agent":
        stored = msgspec.json.decode(value, type=StoredAgent)
        info = msgspec.json.decode(stored.info, type=AgentInfo)
        known = KnownAgent(AgentId(name), bytes(stored.info), info.hostname, stored.time)
        match stored.standing:
            case AgentStanding.ADMITTED:
                image.admitted[name] = known
            case AgentStanding.UNREACHABLE:
                image.unreachable[name] = known
            case AgentStanding.GONE:
                image.gone[name] = known
    elif kind == "quota":
        quota = msgspec.json.decode(value, type=StoredQuota)
        image.quotas[name] = Quota(quota.guarantees, quota.limits)
    elif kind == "vip":
        vip = msgspec.json.decode(value, type=StoredVip)
        image.vips[name] = Given(vip.ipv4, vip.ipv6)
    else:
        image.weights[name] = msgspec.json.decode(value, type=StoredWeight).weight
