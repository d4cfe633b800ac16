"""The text of our nft table `inet cairn_l4lb`, which stays while settings do: pure.

What changes are elements of its maps, see `rules`.  The way of a first packet:

    -149    `assign`, after conntrack (-200) and the packet filter's mangle (-150): the slot that
            user space put into the packet's mark moves into the connection's.  Without one, or
            with one that has no backend any more, a chain `pick-N` draws one of N shares; these
            are made when the first VIP needs them.  Then `report` says which events the
            connection makes: of one that the kernel chose for by itself all, if it is told of.
    -101    the destination becomes the backend's, before nat of others (-100)
    1       `unknown` refuses what goes to an address of named VIPs that nobody has
    99      a source that is not of the outgoing interface becomes one that is

Bits of marks outside our mask are kept.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator

from .rules import KernelSettings, pick_chain, shares_of

TABLE = "cairn_l4lb"
#: Of so many connections of a busy VIP that the kernel has for itself one is reported.
SAMPLE = 16
#: What is told of a connection that user space has not seen.
WHOLE = "new,reply,destroy"
#: How names of sets begin.
SETS = ("hot", "busy")
_MAPS = ("be", "picks", "vips", *SETS)
#: Chains with a hook: name -> kind, hook, priority.
_HOOKED = {
    "prerouting": ("filter", "prerouting", -149),
    "output": ("filter", "output", -149),
    "nat-prerouting": ("nat", "prerouting", -101),
    "nat-output": ("nat", "output", -101),
    # conntrack translates answers only where each of these hooks has a chain
    "nat-input": ("nat", "input", 99),
    "nat-postrouting": ("nat", "postrouting", 99),
    "unknown-output": ("filter", "output", 1),
    "unknown-forward": ("filter", "forward", 1),
}


def maps(ipv6: bool) -> list[str]:
    """Names of all maps and sets."""
    return [name + six for six in (("", "6") if ipv6 else ("",)) for name in _MAPS]


def first_picks(ipv6: bool) -> set[str]:
    """The chains `pick-N` that there are always, as others go to them."""
    return {pick_chain(six, 1) for six in ((False, True) if ipv6 else (False,))}


def chains(settings: KernelSettings) -> set[str]:
    """Names of all chains but `pick-N`."""
    return set(_chains(settings, ()))


def comment(settings: KernelSettings) -> str:
    """What the table says of itself: equal only for the same rules, whichever `pick-N` it has."""
    examples = [pick_chain(six, n) for six in (False, True) for n in (1, 2)]
    text = "\n".join(_maps(settings)) + repr(_chains(settings, examples))
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{_comment_of_mask(settings.mark_mask)} form {digest}"


def has_mask(text: str, mask: int) -> bool:
    """Whether a table with this comment means the same by a mark as we do."""
    return text.startswith(f"{_comment_of_mask(mask)} ")


def _comment_of_mask(mask: int) -> str:
    return f"cairn-l4lb marks {mask:#x}"


def ruleset(
    settings: KernelSettings,
    picks: Collection[str],
    *,
    anew: bool,
    elements: Iterable[str] = (),
) -> str:
    """Input of `nft -f -`, one transaction.

    picks: chains `pick-N`, at least `first_picks` and those that elements which stay go to.
    anew: replaces the table, whatever it is now, and with it all elements but those given here, as
    `rules.element_text` has them; otherwise makes it, or fills the chains of one with the same
    comment again, and all elements stay.
    """
    chains = _chains(settings, picks)
    lines = []
    if anew:
        lines += [f"add table inet {TABLE}", f"delete table inet {TABLE}"]
    lines += [f"table inet {TABLE} {{", f'comment "{comment(settings)}"', *_maps(settings)]
    for name in chains:
        hook = ""
        if name in _HOOKED:
            kind, where, priority = _HOOKED[name]
            hook = f"type {kind} hook {where} priority {priority}; policy accept;"
        lines.append(f"chain {name} {{ {hook} }}")
    lines += ["}", f"flush table inet {TABLE}"]
    lines += [
        f"add rule inet {TABLE} {name} {rule}" for name, rules in chains.items() for rule in rules
    ]
    lines += [f"add element inet {TABLE} {one}" for one in elements]
    return "\n".join(lines) + "\n"


def more_picks(settings: KernelSettings, picks: Iterable[str]) -> str:
    """Input of `nft -f -` that adds chains `pick-N` to the table."""
    lines = []
    for name in sorted(picks):
        lines.append(f"add chain inet {TABLE} {name}")
        lines += [f"add rule inet {TABLE} {name} {rule}" for rule in _pick(settings, name)]
    return "\n".join(lines) + "\n"


def summary(settings: KernelSettings, picks: Collection[str]) -> list[str]:
    """The rules as commands for people."""
    result = [f"add table inet {TABLE}"]
    result += [f"add {one.replace(' ', f' inet {TABLE} ', 1)}" for one in _maps(settings)]
    for name, rules in _chains(settings, picks).items():
        kind = (
            "{{ type {} hook {} priority {}; }}".format(*_HOOKED[name]) if name in _HOOKED else ""
        )
        result.append(f"add chain inet {TABLE} {name} {kind}".rstrip())
        result += [f"add rule inet {TABLE} {name} {rule}" for rule in rules]
    return result


def _maps(settings: KernelSettings) -> Iterator[str]:
    for ipv6 in (False, True) if settings.ipv6 else (False,):
        ip, six = ("ip6", "6") if ipv6 else ("ip", "")
        address = f"{'ipv6' if ipv6 else 'ipv4'}_addr"
        vip = f"{address} . inet_proto . inet_service"
        yield f"map be{six} {{ type {vip} . mark : {address} . inet_service; }}"
        # only with `typeof` a number drawn may be part of a key
        drawn = f"{ip} daddr . meta l4proto . th dport . numgen random mod 2"
        yield f"map picks{six} {{ typeof {drawn} : meta mark; }}"
        yield f"map vips{six} {{ type {vip} : verdict; }}"
        for name in SETS:
            yield f"set {name}{six} {{ type {vip}; }}"


def _pick(settings: KernelSettings, name: str) -> list[str]:
    """Rules of a chain `pick-N`."""
    ipv6, shares = shares_of(name)
    ip, six = ("ip6", "6") if ipv6 else ("ip", "")
    _, others = _masks(settings)
    drawn = f"{ip} daddr . meta l4proto . th dport . numgen random mod {shares} map @picks{six}"
    return [
        # of a connection and a packet that others marked both, the connection's is lost
        f"ct mark and {others} != 0 meta mark and {others} == 0 "
        f"meta mark set {drawn} goto remember",
        f"ct mark set {drawn} goto report",
        # there were fewer shares when they were looked at than when they were counted
        *([f"goto {pick_chain(ipv6, 1)}"] if shares > 1 else ()),
    ]


def _masks(settings: KernelSettings) -> tuple[str, str]:
    """Our bits of a mark, and all others."""
    return f"{settings.mark_mask:#010x}", f"{~settings.mark_mask & 0xFFFFFFFF:#010x}"


def _chains(settings: KernelSettings, picks: Collection[str]) -> dict[str, list[str]]:
    """Rules by chain; a chain comes after those that it goes to."""
    mask, others = _masks(settings)
    families = (("ip", ""), ("ip6", "6")) if settings.ipv6 else (("ip", ""),)
    vips = [(f"{ip} daddr . meta l4proto . th dport", ip, six) for ip, six in families]
    bits = [1 << n for n in range(32) if settings.mark_mask >> n & 1]
    result = {
        "sample": [
            f"numgen random mod {SAMPLE} 0 ct event set {WHOLE} return",
            "ct event set 0",
        ],
        "report": [
            *(f"{vip} @busy{six} goto sample" for vip, _, six in vips),
            *(f"{vip} @hot{six} ct event set {WHOLE} return" for vip, _, six in vips),
            # an end is told for those that had no answer, and of these the RST itself tells
            f"ct event set {'reply' if settings.retry_refused else 'reply,destroy'}",
        ],
        "remember": [
            f"ct mark 0 ct mark set meta mark and {mask} goto report",
            # nft cannot join two marks: bit by bit, for the rare connection that others marked
            *(f"meta mark and {bit:#x} != 0 ct mark set ct mark or {bit:#x}" for bit in bits),
            "goto report",
        ],
    }
    for name in sorted(picks, key=shares_of):
        result[name] = _pick(settings, name)
    result["choose"] = [f"{vip} vmap @vips{six}" for vip, _, six in vips]
    result["assign"] = [
        f"meta mark and {mask} == 0 goto choose",
        *(f"{vip} . (meta mark and {mask}) @be{six} goto remember" for vip, _, six in vips),
        "goto choose",
    ]
    result["translate"] = [
        f"dnat {ip} to {vip} . (ct mark and {mask}) map @be{six}" for vip, ip, six in vips
    ]
    for name in ("prerouting", "output"):
        result[name] = [
            "ct state new ct status ! confirmed meta l4proto { tcp, udp } "
            f"ct mark and {mask} == 0 jump assign",
            # whoever routes or filters by marks shall not meet ours
            f"meta mark and {mask} != 0 ct mark and {mask} != 0 "
            f"meta mark set meta mark and {others}",
        ]
    for name in ("nat-prerouting", "nat-output"):
        result[name] = [f"meta l4proto {{ tcp, udp }} ct mark and {mask} != 0 jump translate"]
    result["nat-input"] = []
    result["nat-postrouting"] = [
        f'ct mark and {mask} != 0 ct status dnat oifname != "lo" '
        "fib saddr . oif type != local masquerade"
    ]
    if settings.refuse_unknown:
        result["unknown"] = ["meta l4proto tcp reject with tcp reset", "reject"]
        for name in ("unknown-output", "unknown-forward"):
            result[name] = [
                f"{ip} daddr {first}-{last} ct state new fib daddr type != local goto unknown"
                for ip, (first, last) in _named(settings)
            ]
    return result


def _named(settings: KernelSettings) -> Iterator[tuple[str, tuple[str, str]]]:
    yield "ip", settings.named
    if settings.ipv6 and settings.named6 is not None:
        yield "ip6", settings.named6
