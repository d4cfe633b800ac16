"""The rules of iptables and ip6tables, and how those that are there become them: pure.

    raw     PREROUTING, OUTPUT   a SYN to a VIP of TCP -> the queues
    mangle  PREROUTING, OUTPUT   a first datagram to a VIP of UDP -> the queues, after conntrack
    mangle  INPUT, FORWARD,      a RST that answers a SYN -> the queues.  Its destination is the
            OUTPUT               client again, its source still the backend.  OUTPUT is for clients
                                 of other namespaces and a backend on this host.
    filter  OUTPUT, FORWARD      what still has a VIP as destination found no backend -> REJECT

The first and last are the original's (dcos/minuteman src/iptables.erl) but for the answer and the
bypass, see `KernelSettings`.

A rule is ours when it is in one of these chains, and its whole comment is our name, or it sends
what one of our sets has to one of our two targets, on no condition that ours do not have.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from .rules import SETS, KernelSettings

#: Comment of rules that name none of the sets.
COMMENT = "cairn-l4lb"
TABLES = ("raw", "mangle", "filter")
_SYN = "--tcp-flags FIN,SYN,RST,ACK SYN"
_CHAINS = {
    "raw": {"PREROUTING", "OUTPUT"},
    "mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT"},
    "filter": {"FORWARD", "OUTPUT"},
}
#: What rules of ours, or of an earlier version, that name a set may ask and say.
_OPTIONS = {
    "-p", "-m", "--match-set", "--tcp-flags", "--ctstatus", "-j",
    "--queue-balance", "--queue-num", "--queue-bypass", "--reject-with",
}  # fmt: skip
#: A line break, a quoted part or a plain one of what iptables prints; comments may hold the first.
_PART = re.compile(r'(\n)|"((?:[^"\\]|\\.)*)"|([^\s"]+)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class Rule(NamedTuple):
    """A rule as `iptables -S` prints it.  text: what comes after the chain."""

    ipv6: bool
    table: str
    chain: str
    text: str


def desired(settings: KernelSettings, without: Collection[str] = ()) -> list[Rule]:
    """All our rules.  without: sets that no rule may name."""
    return [
        rule
        for ipv6 in ((False, True) if settings.ipv6 else (False,))
        for rule in _of(settings, ipv6)
        if set_of(rule) not in without
    ]


def set_of(rule: Rule) -> str:
    """The set of ours that a rule of ours names; empty: none."""
    words = rule.text.split()
    return words[words.index("--match-set") + 1] if "--match-set" in words else ""


def _of(settings: KernelSettings, ipv6: bool) -> Iterable[Rule]:
    first, last = settings.queues
    queue = f"-j NFQUEUE --queue-{f'balance {first}:{last}' if first < last else f'num {first}'}"
    # the original has no such rules but those of TCP, so only they may be without a bypass
    strict = f"{queue} --queue-bypass" if settings.queue_bypass else queue
    queue += " --queue-bypass"
    icmp = "icmp6-port-unreachable" if ipv6 else "icmp-port-unreachable"
    reset = "tcp-reset" if settings.reject == "tcp-reset" else icmp
    syn = f"-p tcp -m set --match-set {SETS[ipv6, 'tcp']} dst,dst -m tcp {_SYN}"
    datagram = f"-p udp -m set --match-set {SETS[ipv6, 'udp']} dst,dst"
    for chain in ("OUTPUT", "PREROUTING"):
        yield Rule(ipv6, "raw", chain, f"{syn} {strict}")
        first_one = f"{datagram} -m conntrack ! --ctstatus CONFIRMED"
        yield Rule(ipv6, "mangle", chain, f"{first_one} {queue}")
    if settings.retry_refused:
        mask = settings.mark_mask
        for chain in ("INPUT", "FORWARD", "OUTPUT"):
            yield Rule(
                ipv6, "mangle", chain,
                "-p tcp -m tcp --tcp-flags RST RST "
                f"-m connmark ! --mark 0x0/{mask:#x} "
                "-m conntrack --ctdir REPLY ! --ctstatus ASSURED "
                # not one with which the host itself refuses what it does not let through
                "-m conntrack --ctstatus CONFIRMED "
                f"-m comment --comment {COMMENT} {queue}",
            )  # fmt: skip
    for chain in ("OUTPUT", "FORWARD"):
        yield Rule(ipv6, "filter", chain, f"{syn} -j REJECT --reject-with {reset}")
        yield Rule(ipv6, "filter", chain, f"{datagram} -j REJECT --reject-with {icmp}")


def parse(saved: str, ipv6: bool, table: str) -> list[Rule]:
    """The rules of ours in what `iptables -t TABLE -S` printed."""
    result = []
    for text, words in _lines(saved):
        if words[0] == "-A" and words[1] in _CHAINS[table] and _is_ours(words[2:]):
            result.append(Rule(ipv6, table, words[1], text.split(" ", 2)[2]))
    # what iptables-restore could not be told to delete
    return [rule for rule in result if "\n" not in rule.text]


def _lines(saved: str) -> Iterator[tuple[str, list[str]]]:
    """Each line of more than one word, and its words as a shell has them."""
    words: list[str] = []
    begin = 0
    for part in _PART.finditer(saved + "\n"):
        line_break, quoted, plain = part.groups()
        if line_break is None:
            words.append(plain if quoted is None else _ESCAPED.sub(r"\1", quoted))
            continue
        if len(words) > 1:
            yield saved[begin : part.start()].strip(), words
        words, begin = [], part.end()


def _is_ours(words: Sequence[str]) -> bool:
    """Whether a rule of a chain of ours is ours."""
    values = dict(pairwise(words))
    if "--comment" in words:
        return values["--comment"] == COMMENT
    if words.count("--match-set") != 1:
        return False
    at = words.index("--match-set")
    return (
        words[at - 1] != "!"
        and words[at + 1] in SETS.values()
        and words[at + 2] == "dst,dst"
        and values.get("-j") in ("NFQUEUE", "REJECT")
        and {word for word in words if word.startswith("-")} <= _OPTIONS
    )


def changes(actual: Sequence[Rule], wanted: Sequence[Rule]) -> list[tuple[str, Rule]]:
    """`-D` and `-I` with rules, so that each wanted one is there once, and no other of ours."""
    left = {_words(rule): rule for rule in wanted}
    result = [("-D", rule) for rule in actual if left.pop(_words(rule), None) is None]
    return result + [("-I", rule) for rule in left.values()]


def _words(rule: Rule) -> tuple[bool, str, str, tuple[str, ...]]:
    """A rule whatever the order in which a version of the program prints its parts."""
    return rule.ipv6, rule.table, rule.chain, tuple(sorted(rule.text.replace('"', "").split()))


def restore(commands: Iterable[tuple[str, Rule]]) -> dict[bool, str]:
    """The input of `iptables-restore -n` and of `ip6tables-restore -n` (True) for `changes`."""
    result: dict[bool, str] = {}
    by_table: dict[tuple[bool, str], list[str]] = {}
    for command, rule in commands:
        position = "1 " if command == "-I" else ""
        by_table.setdefault((rule.ipv6, rule.table), []).append(
            f"{command} {rule.chain} {position}{rule.text}"
        )
    for (ipv6, table), lines in by_table.items():
        result[ipv6] = result.get(ipv6, "") + "\n".join((f"*{table}", *lines, "COMMIT", ""))
    return result


def command_line(command: str, rule: Rule) -> str:
    """A change as somebody would type it."""
    position = "1 " if command == "-I" else ""
    program = "ip6tables" if rule.ipv6 else "iptables"
    return f"{program} -t {rule.table} {command} {rule.chain} {position}{rule.text}"
