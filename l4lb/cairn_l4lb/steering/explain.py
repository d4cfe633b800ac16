"""One decision by all rules, and the same in words."""

from collections import Counter
from ipaddress import ip_address
from random import Random

from cairn_l4lb.channel import Answer, Question
from cairn_l4lb.choose import BY_CLIENT, OTHER, Pool, Reason, another
from cairn_l4lb.ewma import PENALTY
from cairn_l4lb.members import Member

from .promotion import promotable
from .vips import VipState, clone

_KINDS = (
    "of those that are open and reachable",
    "no open one is reachable: of those that are open",
    "none is open: of all",
)


def choose(
    vip: VipState, pool: Pool, client: bytes, rng: Random, refuse_closed: bool, now: float
) -> Reason | None:
    """Who gets a connection; None: it is refused.  Changes nothing but the generator.

    In this order: whom the client sticks to, a closed backend that is to be probed, the policy.
    A container gets another one than itself, if any other is open, and does not probe itself.
    """
    reason = _by_rules(vip, pool, client, rng, refuse_closed, now)
    if reason is None or reason[1].state.itself != client:
        return reason
    itself = reason[1]
    other = another(pool, (itself,), vip.rules, rng, now, client)
    if other is not None and other.reachable >= itself.reachable:
        return ("not itself", other, None, 0.0, 0.0)
    return None if reason[0] == "probe" else reason


def _by_rules(
    vip: VipState, pool: Pool, client: bytes, rng: Random, refuse_closed: bool, now: float
) -> Reason | None:
    if vip.rules.sticky_s and (member := vip.stuck(client, now)) is not None:
        return ("sticky", member, None, 0.0, 0.0)
    if pool.probes:
        return ("probe", pool.probes[0], None, 0.0, 0.0)
    if refuses(pool, refuse_closed):
        spare = pool.spare(now)
        return None if spare is None else ("probe", spare, None, 0.0, 0.0)
    if pool.scarce and (spare := pool.spare(now)) is not None:
        return ("probe", spare, None, 0.0, 0.0)
    return vip.pick(pool, client, rng, now)


def refuses(pool: Pool, refuse_closed: bool) -> bool:
    """Whether clients are refused, but for those that probe."""
    return pool.kind == OTHER and (refuse_closed or not pool.members)


def answer(
    vip: VipState, question: Question, rng: Random, refuse_closed: bool, now: float
) -> Answer:
    """What `packet` would do now, with the same numbers drawn, and why."""
    size = 16 if vip.service.vip.ipv6 else 4
    client = _packed(question.client, size)
    lines = [_of_backend(one, now) for one in vip.members]
    backend = None
    if vip.mode == "kernel" and not promotable(vip.rules):
        lines.append("not by the kernel, though it is set so: it cannot follow this policy")
    with vip.looked_at(now) as pool:
        reason = choose(vip, pool, client or bytes(size), clone(rng), refuse_closed, now)
        lines += _rules(vip, pool)
    if vip.promotion.slots:
        lines += _shares(vip)
        lines.append("the kernel chooses, by these shares")
    elif reason is None:
        lines.append(_refusal(vip))
    elif client is None and _by_client(vip):
        lines.append("depends on the client: give its address (--client)")
    else:
        backend = reason[1].text
        lines.append(text(reason, vip.rules.cost))
    recent = [
        (_address(who), why[1].text, text(why, vip.rules.cost), now - at)
        for at, who, why in reversed(vip.recent or ())
    ]
    return Answer(question.number, backend, lines, recent)


def _packed(client: str, size: int) -> bytes | None:
    """An address as on the wire; None for what is none of this size."""
    try:
        packed = ip_address(client).packed
    except ValueError:
        return None
    return packed if len(packed) == size else None


def _by_client(vip: VipState) -> bool:
    return vip.rules.sticky_s > 0 or vip.rules.policy in BY_CLIENT


def _shares(vip: VipState) -> list[str]:
    """What the kernel goes by, in words."""
    slots = vip.promotion.slots
    counts = Counter(slots)
    return [
        f"{one.text}: {counts[one.slot]} of {len(slots)} shares"
        for one in vip.members
        if counts[one.slot]
    ]


def text(reason: Reason, cost: str) -> str:
    """A decision in words."""
    rule, member, other, here, there = reason
    if rule == "p2c" and other is not None:
        unit = _pending if cost == "pending" else _latency
        after = ", which had no fewer connections" if here == there else ""
        return f"p2c: {member.text} ({unit(here)}) before {other.text} ({unit(there)}){after}"
    if rule == "not itself":
        return f"{rule}: {member.text}, as the client is the container that it would go to"
    if other is not None:  # it had another one before
        return f"{rule}: {member.text} after {other.text}"
    if rule == "least-latency":
        return f"{rule}: {member.text} ({_latency(here)})"
    return f"{rule}: {member.text}"


def _rules(vip: VipState, pool: Pool) -> list[str]:
    rules = vip.rules
    lines: list[str] = []
    if rules.sticky_s:
        lines.append(f"sticky: a client keeps its backend for {rules.sticky_s:g} s")
    lines.append(f"{_KINDS[pool.kind]}: {', '.join(one.text for one in pool.members) or 'none'}")
    if rules.locality != "none":
        lines.append(f"locality: {rules.locality}, the nearest of these that there are")
    if pool.probes:
        lines.append(f"to be probed with one connection: {', '.join(p.text for p in pool.probes)}")
    return lines


def _of_backend(member: Member, now: float) -> str:
    state, gate = member.state, member.state.gate
    if not member.weight:
        health = "takes no new connections"
    elif not gate.closed:
        health = "open"
    elif gate.probing:
        health = "closed, a probe is under way"
    elif gate.due(now):
        health = "closed, next connection probes it"
    else:
        health = f"closed for {gate.until - now:.1f} s more"
    reach = "reachable" if member.reachable else "unreachable"
    latency = _latency(state.ewma.read(now)) if state.ewma.measured else "latency unknown"
    return (
        f"{member.text}: {health}, {reach}, weight {member.weight}, slot {member.slot}, "
        f"{state.pending} pending, {latency}, {gate.consecutive} failures in turn"
    )


def _refusal(vip: VipState) -> str:
    if any(one.weight for one in vip.members):
        return "refused: all backends are closed"
    return "refused: no backend takes connections"


def _pending(cost: float) -> str:
    return f"{cost:g} pending"


def _latency(nanoseconds: float) -> str:
    if nanoseconds >= PENALTY:
        return "unknown"
    # what was measured long ago fades to nothing
    return f"{nanoseconds / 1e6:.3g} ms" if nanoseconds >= 1e3 else "under 0.001 ms"


def _address(client: bytes) -> str:
    return str(ip_address(client)) if len(client) in (4, 16) else client.hex()
