"""What all parts speak of: a VIP, its backends, and how one of them is chosen.

Addresses are canonical texts (`ipaddress`), so that equal ones compare equal.  Everything here is
immutable, hashable and goes through msgpack.
"""

from typing import Literal, TypeAlias

from msgspec import Struct

Protocol: TypeAlias = Literal["tcp", "udp"]

#: How one of several backends is chosen for a new connection.
Policy: TypeAlias = Literal[
    "p2c",            # of two at random the cheaper one; `cost` says what is cheap
    "least-latency",  # the one with the lowest latency of those that are known
    "round-robin",    # in turn, as often as the weight says
    "random",         # at random by weight
    "source-hash",    # by client address, rendezvous: a change moves only what it must
    "maglev",         # by client address, Maglev's table: likewise, and the same on every host
]  # fmt: skip
#: Cost of a backend for `p2c`: connections not yet answered, or Finagle's peak EWMA of latency.
Cost: TypeAlias = Literal["pending", "peak-ewma"]
#: Who decides: user space with a mark; user space with a conntrack entry, as the original; the
#: kernel with weights that user space re-writes.  `auto`: `mark`, and `kernel` while it is hot.
Mode: TypeAlias = Literal["auto", "mark", "ctnetlink", "kernel"]
#: Which backends are preferred while they are open: any; those on the client's host; then those
#: in the host's zone as well.
Locality: TypeAlias = Literal["none", "host", "zone"]


class Vip(Struct, frozen=True, order=True, array_like=True, gc=False):
    """What a client connects to.  address: canonical IPv4 or IPv6; port: 1-65535."""

    protocol: Protocol
    address: str
    port: int

    @property
    def ipv6(self) -> bool:
        """Whether the address is an IPv6 one."""
        return ":" in self.address

    @property
    def text(self) -> str:
        """`address:port`, as the original shows it; an IPv6 address in brackets."""
        return endpoint(self.address, self.port)

    def __str__(self) -> str:
        """`tcp/address:port`, for logs."""
        return f"{self.protocol}/{self.text}"


class Backend(Struct, frozen=True, order=True, array_like=True, gc=False):
    """Where a VIP's connection may go.

    weight: 0 takes no new connections (drain), else 1-100 relative to the others.
    agent_address: of the host it runs on. reachable: whether that host is there, as far as the
    master knows. slot: its number within the VIP in packet marks, from 1; 0 while it has none.
    why: for people, in a word or two why the weight is 0; empty where it is not.
    """

    address: str
    port: int
    weight: int = 1
    task_id: str = ""
    agent_id: str = ""
    agent_address: str = ""
    zone: str = ""
    reachable: bool = True
    slot: int = 0
    why: str = ""

    @property
    def text(self) -> str:
        """`address:port`; an IPv6 address in brackets."""
        return endpoint(self.address, self.port)


class Options(Struct, frozen=True, kw_only=True, gc=False):
    """How a VIP is served; None: as the daemon is configured.

    sticky_s: a client address keeps its backend for so long after its last connection, seconds;
    0: not. slow_start_s: a new backend comes to its full share in this time. hedge_ms: a SYN that
    has no answer for so long goes to another backend too; 0: not before the client repeats it.
    """

    policy: Policy | None = None
    cost: Cost | None = None
    mode: Mode | None = None
    locality: Locality | None = None
    sticky_s: float | None = None
    slow_start_s: float | None = None
    hedge_ms: float | None = None


class Service(Struct, frozen=True, gc=False):
    """A VIP as it is to be served.

    name: `<label>.<framework>` of a named VIP, empty for a literal one. backends: in the order of
    address and port, each pair once, all of the family of the VIP; may be empty.
    """

    vip: Vip
    name: str = ""
    backends: tuple[Backend, ...] = ()
    options: Options = Options()


#: A backend whatever VIP it serves: protocol, address, port.
BackendKey: TypeAlias = tuple[Protocol, str, int]


def endpoint(address: str, port: int) -> str:
    """`address:port`; an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
