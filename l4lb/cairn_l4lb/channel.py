"""What the controlling process and the steering process say to each other.

Messages are those of `cairn_core.kit.messages`: a length, a kind, msgpack.

    control -> steer   SETTINGS SteerSettings (first, and again when they change)
                       UPDATE   Update: services by VIP; `whole` replaces the table
                       READY    all services that there are have been told, answered by READY
                       ASK      Question, answered by one ANSWER with its number
                       DRAIN    take what still waits in the queues, then end
    steer -> control   READY    the queues are bound, and all of these are served
                       REPORT   Report, every `report_s` and when a backend opened or closed
                       ANSWER   Answer

When the socket closes the steering process ends, and the kernel's own choice takes over.
"""

import msgspec
from msgspec import Struct

from .model import BackendKey, Cost, Locality, Mode, Policy, Service, Vip

SETTINGS, UPDATE, ASK, DRAIN = b"S", b"U", b"?", b"D"
READY, REPORT, ANSWER = b"R", b"T", b"A"


class SteerSettings(Struct, frozen=True, kw_only=True):
    """What the steering process is configured with.

    queues: first and last NFQUEUE number. mark_mask: bits of packet and connection marks that are
    ours, contiguous; a slot is shifted into them, all other bits are kept. own_addresses: of this
    host as agents are known by, for locality; zone: likewise. connect_threshold_s, failure_limit,
    backoff_s: a backend that `failure_limit` times in turn did not answer within the threshold is
    closed for the backoff, then probed with one connection. refuse_closed: with all backends
    closed refuse, but for one probe of each per `probe_s`; else try one of them.
    retry_refused: a refusal goes to another backend before the client hears of it.
    promote_per_s: a VIP of mode `auto` with more new connections is left to the kernel until it
    has less than half; 0: never. kernel_slots: of a promoted VIP; their shares are its weights.
    busy_poll_s: after a packet the process looks for the next one so long without sleeping.
    """

    queues: tuple[int, int] = (50, 58)
    queue_length: int = 65536
    mark_mask: int = 0x0FFF0000
    fail_open: bool = True
    own_addresses: tuple[str, ...] = ()
    zone: str = ""
    policy: Policy = "p2c"
    cost: Cost = "pending"
    mode: Mode = "auto"
    locality: Locality = "none"
    sticky_s: float = 0.0
    slow_start_s: float = 0.0
    hedge_ms: float = 0.0
    connect_threshold_s: float = 0.4
    failure_limit: int = 5
    backoff_s: float = 30.0
    refuse_closed: bool = True
    probe_s: float = 1.0
    retry_refused: bool = True
    promote_per_s: float = 5000.0
    kernel_slots: int = 840  # most numbers of backends share it evenly, or nearly
    busy_poll_s: float = 0.0
    report_s: float = 0.25
    seed: int | None = None


class Update(Struct, frozen=True):
    """Services that are new or changed, and VIPs that are gone; `whole`: all others are gone."""

    services: list[Service] = []
    gone: list[Vip] = []
    whole: bool = False


class BackendReport(Struct, frozen=True, array_like=True, gc=False):
    """Counts of a backend since the steering process started, and its state.

    closed_for_s: until it is probed. ewma_ns: peak EWMA of the time to the first answer.
    latency: counts by the bounds of `LATENCY_BOUNDS_S`, the last for more; latency_sum_s: of all.
    """

    backend: BackendKey
    picks: int = 0
    successes: int = 0
    failures: int = 0
    consecutive_failures: int = 0
    pending: int = 0
    open: bool = True
    closed_for_s: float = 0.0
    ewma_ns: float = 0.0
    latency: tuple[int, ...] = ()
    latency_sum_s: float = 0.0


class VipReport(Struct, frozen=True, array_like=True, gc=False):
    """Counts of a VIP.  rate: new connections a second. slots: while the kernel decides, which
    slot each of `kernel_slots` shares goes to; empty while user space does. sampled: the kernel
    shall tell of few of its connections, as there are many."""

    vip: Vip
    picks: int = 0
    refused: int = 0
    failovers: int = 0
    rate: float = 0.0
    slots: tuple[int, ...] = ()
    sampled: bool = False


#: Upper bounds of the latency histogram, seconds: of a connect from SYN to the first answer.
LATENCY_BOUNDS_S = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0, 3.0,
)  # fmt: skip


class Report(Struct, frozen=True):
    """What changed since the last report; `counters` are totals by name, always all of them."""

    backends: list[BackendReport] = []
    vips: list[VipReport] = []
    counters: dict[str, int] = {}


class Question(Struct, frozen=True):
    """Which backend would this client get, and why?  recent: only the latest decisions."""

    number: int
    vip: Vip
    client: str = ""
    client_port: int = 0


class Answer(Struct, frozen=True):
    """backend: None where it would be refused, or nobody can say. reasons: one line each, in the
    order of the rules; the last one says which backend, or why none. recent: the latest decisions
    for this VIP, newest first: client, backend, reason, seconds ago."""

    number: int
    backend: str | None = None
    reasons: list[str] = []
    recent: list[tuple[str, str, str, float]] = []


encode = msgspec.msgpack.Encoder().encode
decode_settings = msgspec.msgpack.Decoder(SteerSettings).decode
decode_update = msgspec.msgpack.Decoder(Update).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
decode_question = msgspec.msgpack.Decoder(Question).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
