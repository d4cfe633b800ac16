"""Everything the master knows, in tables of records, and the invariants that hold between them.

Readers may look at every public field between two facts; only this package writes.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from cairn_core.master.state.effects import Effect
from cairn_core.master.state.records import (
    AgentRecord,
    FrameworkRecord,
    KnownAgent,
    MasterRecord,
    OfferRecord,
    Quota,
)


@dataclass(slots=True)
class Cluster:
    """The tables.

    frameworks: connected ones, those waited for, and recovered ones, by id.
    completed_frameworks: ended ones, oldest first.
    agents: registered with this master, connected or not, by id.
    recovered_agents: in the registry as admitted, not back yet since this master was elected.
    unreachable_agents, gone_agents: as the registry has them.
    offers: all outstanding ones, by id.
    quotas, weights: as the registry has them, by role; a role that is absent has the default.
    counts: events since start under the names of the original's metrics (`master/...`).
    out: effects of the fact that is being handled.
    """

    master: MasterRecord
    frameworks: dict[str, FrameworkRecord] = field(default_factory=dict)
    completed_frameworks: OrderedDict[str, FrameworkRecord] = field(default_factory=OrderedDict)
    agents: dict[str, AgentRecord] = field(default_factory=dict)
    recovered_agents: dict[str, KnownAgent] = field(default_factory=dict)
    unreachable_agents: dict[str, KnownAgent] = field(default_factory=dict)
    gone_agents: dict[str, KnownAgent] = field(default_factory=dict)
    offers: dict[str, OfferRecord] = field(default_factory=dict)
    quotas: dict[str, Quota] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    out: list[Effect] = field(default_factory=list)
