"""Numbers and lists that the master's rules depend on, with the original's defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cairn_core.vips.addresses import DEFAULT_IPV4, DEFAULT_IPV6, AddressRange

#: Default and longest refusal of an offer, in seconds.
DEFAULT_REFUSE_S = 5.0
MAX_REFUSE_S = 365 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the rules; durations in seconds.

    roles: the only roles that frameworks may use; None for any.
    agent_secrets: principal to secret when agents must authenticate, else None.
    authenticate_frameworks: a framework must subscribe with a principal.
    min_allocatable: alternatives of which an offer must hold one, thousandths by resource name.
    port_rest_s: freed host ports are offered again after this; 0: at once.
    max_offers: outstanding offers of one framework; what comes beyond is refused in its name
        for 5 s.
    max_joining: agents whose inventory is being read at the same time.
    joins_per_s: the rate at which the others are told to come back.
    vip_ipv4, vip_ipv6: ranges of the addresses of named VIPs; None: none of this family.
    vip_release_s: a name that no task asks for keeps its addresses for so long.
    max_vips: names that have an address at most. max_vips_of_framework: of these those of one
        framework; the last quarter of all is for frameworks that have less than a quarter of that.
    joining_timeout_s: an agent must have sent its inventory by then, or starts over.
    """

    offer_timeout_s: float | None = None
    agent_ping_timeout_s: float = 15.0
    max_agent_ping_timeouts: int = 5
    agent_reregister_timeout_s: float = 600.0
    roles: frozenset[str] | None = None
    root_submissions: bool = True
    authenticate_frameworks: bool = False
    agent_secrets: Mapping[str, str] | None = None
    min_allocatable: tuple[Mapping[str, int], ...] = field(
        default_factory=lambda: ({"cpus": 10}, {"mem": 32_000})
    )
    port_rest_s: float = 60.0
    max_offers: int = 2048
    max_joining: int = 256
    joins_per_s: float = 500.0
    joining_timeout_s: float = 60.0
    max_agent_tasks: int = 100_000
    registry_gc_interval_s: float = 900.0
    registry_max_agent_age_s: float = 14 * 86400.0
    registry_max_agent_count: int = 102_400
    vip_ipv4: AddressRange | None = DEFAULT_IPV4
    vip_ipv6: AddressRange | None = DEFAULT_IPV6
    vip_release_s: float = 7 * 86400.0
    max_vips: int = 65_536
    max_vips_of_framework: int = 8192

    @property
    def ping_timeout_s(self) -> float:
        """Seconds of silence after which an agent is unreachable, and looks for a master anew."""
        return self.agent_ping_timeout_s * self.max_agent_ping_timeouts

    @property
    def link_idle_s(self) -> float:
        """Seconds of silence after which the transport cuts a connection.

        Longer than the pings take to give the agent up: cut before, it would be waited for anew.
        """
        return max(60.0, self.ping_timeout_s + 2 * self.agent_ping_timeout_s)


def refusal(seconds: float | None) -> float:
    """Seconds of `Filters.refuse_seconds`: absent, negative or NaN count as 5, at most 365 days."""
    if seconds is None or not seconds >= 0:
        return DEFAULT_REFUSE_S
    return min(seconds, MAX_REFUSE_S)
