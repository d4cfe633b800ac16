"""The steering process's rules as one object; see the package."""

from collections.abc import Callable
from random import Random
from typing import TypeAlias

from cairn_l4lb.channel import Answer, Question, Report, SteerSettings, Update
from cairn_l4lb.choose import OTHER, Reason, another, refusing, took
from cairn_l4lb.health import JITTER
from cairn_l4lb.members import REFUSE, Decision, Member, State

from . import explain
from .flows import ANSWERED, MAX_FLOWS, TCP, UDP, WAITING, Flow, Flows
from .table import Table
from .vips import VipState

#: Kinds of conntrack events, as `event` takes them.
NEW, UPDATED, DESTROYED = 0, 1, 2
#: CTA_STATUS: the backend answered.
SEEN_REPLY = 2
#: A SYN that comes again so soon is the same one by another way, not the client's next try.
DUPLICATE_S = 0.15
#: Seconds between two looks at rates and shares.
BEAT_S = 0.25
#: Hedges are at most this share of the connections, else they would add to what makes all slow.
HEDGE_SHARE, HEDGE_BURST = 0.1, 20.0
#: A refusal goes to so many backends at most, if they are closed; to fewer where the client itself
#: has to try again, and waits longer each time.
MAX_CLOSED, MAX_CLOSED_WAITS = 8, 2
#: Silences of which the kernel is asked, in a tick; it answers in some 10 microseconds.
MAX_LOOKS = 200
COUNTERS = (
    "observed_conns", "successes", "timeouts", "unblamed", "refusals", "failovers",
    "retried_refusals", "hedges", "no_backend", "unknown_vip", "probes",
    "reachable_open_backend", "open_backend", "other_backend", "forgotten_flows", "promoted",
)  # fmt: skip
#: Whether a SYN left this host, for this backend, and nobody has answered it: protocol, flow,
#: address and port of the backend as on the wire.
Sent: TypeAlias = Callable[[int, bytes, bytes], bool]
_KINDS = ("reachable_open_backend", "open_backend", "other_backend")


class Steering:
    """All VIPs of this host, their backends' health, and the connections that wait for an answer.

    A flow is source address, destination address, source port and destination port as on the wire
    and as the client sent them: 12 bytes for IPv4, 36 for IPv6.

    Invariant: a backend's `pending` is the number of flows that wait for it.
    """

    def __init__(
        self,
        settings: SteerSettings,
        rng: Random,
        now: float,
        sent: Sent = lambda protocol, flow, backend: True,
    ) -> None:
        self._settings = settings
        self._rng = rng
        self._sent, self._looks = sent, MAX_LOOKS
        self._table = Table(settings)
        self._flows = Flows()
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._urgent = False
        self._beat = now
        self._hedge_credit = HEDGE_BURST

    @property
    def urgent(self) -> bool:
        """Whether a backend opened or closed since the last report."""
        return self._urgent

    def due(self) -> float | None:
        """When `tick` has something to do; None: not before the next packet or event."""
        return self._flows.due()

    def configure(self, settings: SteerSettings, now: float) -> None:
        """Go on with other settings; what is known is kept."""
        self._settings = settings
        self._table.configure(settings, now)

    def update(self, update: Update, now: float) -> None:
        """Serve what it says.  Costs what changed; backends that stay keep their health."""
        self._table.update(update, now)

    # --- connections -----------------------------------------------------------------------------

    def packet(
        self, protocol: int, flow: bytes, seq: int, now: float, resend: bool = True
    ) -> Decision | None:
        """The backend for a SYN (6) or a first datagram (17, any seq).

        resend: `tick` may say that the SYN is to be sent again.
        None: no such VIP, or no backend that may have it; it goes on unmarked.
        """
        place = flow[4:8] + flow[10:] if len(flow) == 12 else flow[16:32] + flow[34:]
        vip = self._table.at.get(protocol, {}).get(place)
        if vip is None:
            self._counters["unknown_vip"] += 1
            return None
        flows = self._flows
        known = (flows.tcp if protocol == TCP else flows.udp).get(flow)
        pinned = None
        if known is not None:
            if known.vip is vip and self._same(known, seq):
                return self._again(known, now)
            if protocol == TCP and known.stage != ANSWERED:
                # the kernel's entry of an unanswered SYN leads to the backend of that one
                pinned = known.member.state.source
            self._settle(known)
            flows.forget(known)
        client = flow[:4] if len(flow) == 12 else flow[:16]
        reason = self._choose(vip, client, now)
        vip.picks += 1
        vip.promotion.seen += 1
        if not vip.dirty:
            self._table.tell_vip(vip)
        if reason is None:
            self._refuse(vip)
            return None
        member = reason[1]
        vip.note(client, reason, now)
        self._counters["observed_conns"] += 1
        started = Flow(protocol, flow, vip, member, seq, now)
        started.replaced = pinned
        self._add(started)
        self._wait(started, now)
        if vip.hedge_s and resend:
            self._hedge_credit = min(self._hedge_credit + HEDGE_SHARE, HEDGE_BURST)
            flows.hedge(started, now + vip.hedge_s)
        return member.decision if pinned is None else member.other

    def refused(self, flow: bytes, now: float, resend: bool = True) -> Decision | None:
        """An RST came for an unanswered SYN: who else to try; None: let the client have it.

        resend: the SYN is sent to that one at once; else the client's next one gets a backend.
        """
        known = self._flows.tcp.get(flow)
        if known is None or known.stage == ANSWERED:
            return None
        self._counters["refusals"] += 1
        retry = self._settings.retry_refused
        self._failed(known, now, refused=retry)
        member = self._next(known, now, refused=True, resend=resend) if retry else None
        if member is None:
            self._flows.forget(known)
            return None
        self._counters["retried_refusals"] += 1
        known.refused = True
        return self._move(known, member, "refused", now) if resend else member.other

    def refusal(self, reply_source: bytes, client: bytes, now: float) -> None:
        """A backend refused a connection that only the kernel knows.

        reply_source: as of `event`. client: address as on the wire.
        """
        state = self._table.sources[TCP].get(reply_source)
        if state is not None:
            self._counters["refusals"] += 1
            self._fail(state, 1, client, None, now)

    def unsent(self, flow: bytes) -> None:
        """The SYN could not be sent where `refused` or `tick` said: that is no backend's fault."""
        known = self._flows.tcp.get(flow)
        if known is not None and known.stage == WAITING:
            self._settle(known)
            self._flows.forget(known)

    def event(
        self, kind: int, protocol: int, flow: bytes, reply_source: bytes, status: int, now: float
    ) -> None:
        """Conntrack says NEW, UPDATED or DESTROYED of a flow with our mark.

        flow: its original direction. reply_source: address and port, 6 or 18 bytes, that the reply
        comes from, which is the backend. status: CTA_STATUS.
        """
        sources = self._table.sources.get(protocol)
        if sources is None:
            return
        known = self._flows.of(protocol).get(flow)
        if kind == UPDATED and status & SEEN_REPLY:
            if known is not None:
                self._answered(known, reply_source, now)
            elif state := sources.get(reply_source):
                self._succeeded(state, None, 1, now)
        elif kind == DESTROYED:
            if known is not None:
                self._ended(known, reply_source, status, now)
            elif self._tells(protocol, status) and (state := sources.get(reply_source)):
                self._fail(state, 1, flow, None, now)
        elif kind == NEW and (known is None or known.stage != WAITING):
            self._kernel_chose(protocol, flow, reply_source, now)

    def tick(self, now: float) -> list[tuple[bytes, Decision]]:
        """Take note of time; flows whose SYN is to be sent again to another backend, with it.

        About every 20-50 ms while `due` says so. Costs what is due.
        """
        self._looks = MAX_LOOKS
        for flow in self._flows.late(now):
            if flow.seq >= 0 and flow.vip.promotion.unheard(flow.started):
                self._pass_over(flow, now)
            else:
                self._silent(flow, now)
        found: list[tuple[bytes, Decision]] = []
        for flow in self._flows.hedges(now):
            if self._hedge_credit < 1.0 or not self._left(flow):
                continue
            if decision := self._hedge(flow, now):
                self._hedge_credit -= 1.0
                self._counters["hedges"] += 1
                found.append((flow.key, decision))
        self._flows.expire(now)
        self._flows.trim()
        return found

    # --- choosing --------------------------------------------------------------------------------

    def _choose(self, vip: VipState, client: bytes, now: float) -> Reason | None:
        """The decision by all rules, noted in the pool and the health, not yet in counts."""
        pool = vip.fresh(now)
        refuse_closed = self._settings.refuse_closed
        reason = explain.choose(vip, pool, client, self._rng, refuse_closed, now)
        if reason is None:
            return None
        member = reason[1]
        took(pool, reason, now)
        if vip.rules.sticky_s:
            vip.stick(client, member, now)
        if member.state.gate.closed and member.state.itself != client:
            self._probe(member.state, now)
        self._counters[_KINDS[pool.kind]] += 1
        return reason

    def _probe(self, state: State, now: float) -> None:
        """A connection goes to a closed backend."""
        self._counters["probes"] += 1
        state.gate.probe(self._settings.backoff_s, self._settings.probe_s, now)
        self._changed(state, False, now)

    def _same(self, known: Flow, seq: int) -> bool:
        """Whether this SYN is another copy of the known one, or the datagram of a waiting flow."""
        if known.protocol == UDP:
            return known.stage == WAITING
        return known.seq == seq or (known.seq < 0 and known.stage != ANSWERED)

    def _again(self, known: Flow, now: float) -> Decision | None:
        """The SYN came again: its backend did not answer."""
        early = now < known.started + DUPLICATE_S
        if known.protocol == UDP or known.stage == ANSWERED or early:
            return known.member.decision
        if known.stage == WAITING:
            self._silent(known, now)
        member = self._next(known, now, refused=known.refused, resend=False)
        if member is not None:
            return self._move(known, member, "repeated", now)
        vip = known.vip
        if explain.refuses(vip.fresh(now), self._settings.refuse_closed):
            # it was the probe, say: without its entry it meets what every other client does
            self._refuse(vip)
            return REFUSE
        return known.member.decision

    def _refuse(self, vip: VipState) -> None:
        vip.refused += 1
        self._counters["no_backend"] += 1
        self._table.tell_vip(vip)

    def _next(
        self, flow: Flow, now: float, *, refused: bool = False, resend: bool = True
    ) -> Member | None:
        """A backend that an unanswered flow has not tried; None: there is none.

        refused: it may be a closed one that refuses, too. resend: at once.
        """
        vip, tried = flow.vip, flow.tried()
        pool = vip.fresh(now)
        member = another(pool, tried, vip.rules, self._rng, now)
        if member is not None or not refused:
            return member
        if flow.attempt >= (MAX_CLOSED if resend else MAX_CLOSED_WAITS):
            return None
        if not resend and pool.kind == OTHER:
            return None  # with all closed a client shall not wait for its refusal
        return refusing(pool, tried, _client(flow.key), now)

    def _move(self, flow: Flow, member: Member, why: str, now: float) -> Decision:
        """Give an unanswered flow to that backend."""
        vip = flow.vip
        vip.note(_client(flow.key), (why, member, flow.member, 0.0, 0.0), now)
        vip.failovers += 1
        self._table.tell_vip(vip)
        self._counters["failovers"] += 1
        if member.state.gate.closed:
            self._probe(member.state, now)
        member.served += member.step
        flow.refused = False
        flow.earlier = [*(flow.earlier or ()), (flow.member, flow.started)]
        flow.member = member
        flow.started = now
        flow.attempt += 1
        if vip.rules.sticky_s:
            vip.stick(_client(flow.key), member, now)
        self._wait(flow, now)
        return member.other

    def _hedge(self, flow: Flow, now: float) -> Decision | None:
        """Another backend for a flow that waits long, though not yet too long.

        Its first one cannot answer any more. Whether that is to blame shows when the other one
        answers sooner, or nobody does.
        """
        member = self._next(flow, now)
        if member is None:
            return None
        first, waited = flow.member, now - flow.started
        self._settle(flow)
        flow.hedged = (first, waited)
        return self._move(flow, member, "hedged", now)

    # --- what became of them ---------------------------------------------------------------------

    def _add(self, flow: Flow) -> None:
        """A new flow is known; another one is forgotten if there are too many."""
        flows = self._flows
        if len(flows.tcp) + len(flows.udp) >= MAX_FLOWS:
            self._counters["forgotten_flows"] += 1
            if (forgotten := flows.make_room()) is not None:
                self._settle(forgotten)
        (flows.tcp if flow.protocol == TCP else flows.udp)[flow.key] = flow

    def _wait(self, flow: Flow, now: float) -> None:
        """Its backend got it just now."""
        flow.stage = WAITING
        state = flow.member.state
        state.pending += 1
        state.picks += flow.count
        if not state.dirty:
            self._table.tell(state)
        due = now + self._settings.connect_threshold_s
        self._flows.waiting.append((due, flow.attempt, flow))

    def _settle(self, flow: Flow) -> None:
        """It does not wait any more; nothing is said of its backend."""
        if flow.stage == WAITING:
            flow.stage = ANSWERED
            flow.member.state.pending -= 1
            self._table.tell(flow.member.state)

    def _pass_over(self, flow: Flow, now: float) -> None:
        """It was not answered, and nobody is to blame."""
        self._settle(flow)
        self._flows.unanswered(flow, now)
        flow.hedged = None
        if flow.member.state.gate.release(now):
            self._changed(flow.member.state, False, now)

    def _left(self, flow: Flow) -> bool:
        """Whether its SYN is known to have left this host.

        One that the host drops, for its checksum, say, or because a container may not go there,
        says nothing of the backend; who sends many of them would close it for everybody.
        """
        if flow.seq < 0:  # the kernel tells of no other
            return True
        self._looks -= 1
        return self._looks >= 0 and self._sent(flow.protocol, flow.key, flow.member.state.source)

    def _silent(self, flow: Flow, now: float) -> None:
        """Nothing came in time."""
        if flow.protocol == TCP:
            if not self._left(flow):
                self._counters["unblamed"] += 1
                self._pass_over(flow, now)
                return
            self._counters["timeouts"] += flow.count
        self._failed(flow, now)

    def _failed(self, flow: Flow, now: float, *, refused: bool = False) -> None:
        """Its backend did not answer; counted once, and never for UDP, where silence is usual."""
        if flow.stage != WAITING:
            return
        self._settle(flow)
        self._flows.unanswered(flow, now)
        if flow.protocol == TCP:
            waited = now - flow.started
            self._fail(flow.member.state, flow.count, flow.key, waited, now, refused=refused)
            self._blame(flow, now)

    def _blame(self, flow: Flow, now: float) -> None:
        """The backend that a hedge left did not answer either."""
        if flow.hedged is not None:
            (member, waited), flow.hedged = flow.hedged, None
            self._fail(member.state, flow.count, flow.key, waited, now)

    def _answered(self, flow: Flow, reply_source: bytes, now: float) -> None:
        """It was answered, by the backend that has it or by an earlier one."""
        if flow.stage == ANSWERED:
            return
        member, started = flow.member, flow.started
        for earlier in flow.earlier or ():
            if earlier[0].state.source == reply_source:
                member, started = earlier
        self._settle(flow)
        self._flows.answered(flow, now)
        latency = now - started
        if flow.hedged is not None:
            if member is flow.member and latency <= flow.hedged[1]:
                self._blame(flow, now)
            flow.hedged = None
        if member.state.source == reply_source:
            self._succeeded(member.state, latency, flow.count, now)
        elif state := self._table.sources[flow.protocol].get(reply_source):
            self._succeeded(state, None, flow.count, now)

    def _ended(self, flow: Flow, reply_source: bytes, status: int, now: float) -> None:
        """Its conntrack entry is gone, or one that an earlier try or connection had."""
        if status & SEEN_REPLY:
            if flow.stage == ANSWERED:
                self._flows.forget(flow)
        elif flow.replaced == reply_source:
            flow.replaced = None
        elif flow.member.state.source == reply_source:
            if flow.seq >= 0 or self._tells(flow.protocol, status):
                self._failed(flow, now)
            elif flow.stage == WAITING:
                self._pass_over(flow, now)

    def _tells(self, protocol: int, status: int) -> bool:
        """Whether the end of a connection that the kernel gave away tells of a refusal.

        While RSTs come to the queues these do; and what was no SYN ends in the same way.
        """
        return protocol == TCP and not status & SEEN_REPLY and not self._settings.retry_refused

    def _kernel_chose(self, protocol: int, key: bytes, reply_source: bytes, now: float) -> None:
        """A flow that user space did not see: its VIP is the kernel's, or nobody read the queue."""
        place = key[4:8] + key[10:] if len(key) == 12 else key[16:32] + key[34:]
        vip = self._table.at[protocol].get(place)
        member = vip.by_source.get(reply_source) if vip is not None else None
        if vip is None or member is None:
            return
        flow = Flow(protocol, key, vip, member, -1, now)
        flow.count = vip.promotion.count
        vip.picks += flow.count
        vip.promotion.seen += flow.count
        self._table.tell_vip(vip)
        self._counters["observed_conns"] += flow.count
        member.served += member.step * flow.count
        self._add(flow)
        self._wait(flow, now)

    def _succeeded(self, state: State, latency: float | None, count: int, now: float) -> None:
        """A backend answered; latency: None where nobody knows when it was asked."""
        state.successes += count
        self._counters["successes"] += count
        if latency is not None:
            state.answered(latency, count, now)
        self._table.tell(state)
        gate = state.gate
        if (gate.consecutive or gate.closed) and gate.success():
            self._urgent = True
            self._changed(state, True, now)

    def _fail(
        self,
        state: State,
        count: int,
        key: bytes,
        waited: float | None,
        now: float,
        *,
        refused: bool = False,
    ) -> None:
        """A backend did not answer; a quick refusal is as dear as a silence.

        refused: and it went to another backend, if there was one.
        """
        if state.itself and key.startswith(state.itself):
            return  # its network may be one that cannot lead it back to itself
        settings = self._settings
        state.failures += count
        if waited is not None:
            state.ewma.observe(max(waited, settings.connect_threshold_s) * 1e9, now)
        self._table.tell(state)
        if not state.watchers:
            return  # nobody has it any more
        backoff_s = settings.backoff_s * (1.0 + JITTER * self._rng.random())
        probed = state.gate.probing
        closes = state.gate.failure(settings.failure_limit, backoff_s, now, refused)
        if closes or probed:
            self._urgent |= closes
            self._changed(state, False, now)

    def _changed(self, state: State, reopened: bool, now: float) -> None:
        """Pools with this backend are made anew."""
        for watcher in state.watchers:
            watcher.changed(state, reopened, now)

    # --- telling ---------------------------------------------------------------------------------

    def report(self, now: float) -> Report:
        """What changed since the last report; about every `report_s`, also when idle."""
        if now - self._beat >= BEAT_S or self._urgent:
            self._step(now)
        self._urgent = False
        return Report(*self._table.news(now), dict(self._counters))

    def _step(self, now: float) -> None:
        """Rates and shares of VIPs that have connections, or had."""
        self._table.sticky.expire(now)
        settings, passed_s = self._settings, now - self._beat
        for vip in list(self._table.busy):
            promotion = vip.promotion
            before = promotion.rate, promotion.promoted
            if passed_s > 0:
                promotion.step(vip.rules, vip.mode, settings.promote_per_s, passed_s, now)
            self._counters["promoted"] += promotion.promoted > before[1]
            changed = promotion.rate != before[0]
            if promotion.promoted or promotion.slots:
                count, refuse = settings.kernel_slots, settings.refuse_closed
                changed |= promotion.assign(vip.fresh(now), vip.rules, refuse, count, now)
            if changed:
                self._table.tell_vip(vip)
            if not promotion.rate and not promotion.promoted:
                self._table.busy.discard(vip)
        self._beat = now

    def explain(self, question: Question, now: float) -> Answer:
        """What this client would get, and why.  Changes nothing."""
        vip = self._table.vips.get(question.vip)
        if vip is None:
            return Answer(question.number, None, [f"{question.vip}: no such VIP"])
        return explain.answer(vip, question, self._rng, self._settings.refuse_closed, now)


def _client(flow: bytes) -> bytes:
    return flow[:4] if len(flow) == 12 else flow[:16]
