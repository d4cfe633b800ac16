"""The rules of iptables: which there are, and which of those found are ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb.packet_filter import (
    COMMENT,
    Rule,
    changes,
    command_line,
    desired,
    parse,
    restore,
)
from cairn_l4lb.rules import KernelSettings

STRICT = KernelSettings(
    queue_bypass=False, reject="icmp-port-unreachable", ipv6=False, retry_refused=False
)
SYN = "-p tcp -m set --match-set minuteman dst,dst -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"


def test_the_four_rules_are_the_original_s_to_the_letter() -> None:
    queue = f"{SYN} -j NFQUEUE --queue-balance 50:58"
    refuse = f"{SYN} -j REJECT --reject-with icmp-port-unreachable"
    ours = [rule for rule in desired(STRICT) if "-p tcp" in rule.text]
    assert sorted(ours) == [
        Rule(False, "filter", "FORWARD", refuse),
        Rule(False, "filter", "OUTPUT", refuse),
        Rule(False, "raw", "OUTPUT", queue),
        Rule(False, "raw", "PREROUTING", queue),
    ]


def test_by_default_nobody_waits_for_us_and_refusals_come_at_once() -> None:
    texts = [rule.text for rule in desired(KernelSettings()) if rule.text.startswith(SYN)]
    assert sorted(set(texts)) == [
        f"{SYN} -j NFQUEUE --queue-balance 50:58 --queue-bypass",
        f"{SYN} -j REJECT --reject-with tcp-reset",
    ]


def test_one_queue_has_another_spelling() -> None:
    assert any("--queue-num 7 " in rule.text for rule in desired(KernelSettings(queues=(7, 7))))


def test_nothing_is_done_when_all_is_there_in_whatever_order() -> None:
    wanted = desired(KernelSettings())
    saved = {
        (rule.ipv6, rule.table): "".join(
            # as iptables 1.8.9 prints it
            f"-A {one.chain} "
            + one.text.replace("--ctdir REPLY ! --ctstatus ASSURED", "! --ctstatus ASSURED "
                               "--ctdir REPLY").replace("cairn-l4lb", '"cairn-l4lb"')
            + "\n"
            for one in wanted
            if (one.ipv6, one.table) == (rule.ipv6, rule.table)
        )
        for rule in wanted
    }  # fmt: skip
    found = [rule for (ipv6, table), text in saved.items() for rule in parse(text, ipv6, table)]
    assert len(found) == len(wanted)
    assert changes(found, wanted) == []


def test_duplicates_and_other_variants_go_and_strangers_stay() -> None:
    wanted = [rule for rule in desired(STRICT) if (rule.table, rule.chain) == ("raw", "OUTPUT")]
    right = wanted[0].text
    saved = f"""\
-P OUTPUT ACCEPT
-N cali-OUTPUT
-A OUTPUT -j cali-OUTPUT
-A OUTPUT {right}
-A OUTPUT {right} --queue-bypass
-A OUTPUT {right}
-A OUTPUT -p tcp -m set --match-set minuteman dst,dst -j ACCEPT
-A OUTPUT -p tcp -m set --match-set minuteman-mine dst,dst -j REJECT --reject-with tcp-reset
-A OUTPUT -m comment --comment cairn-l4lb-not -j DROP
"""
    found = changes(parse(saved, False, "raw"), wanted)
    assert found == [
        ("-D", Rule(False, "raw", "OUTPUT", f"{right} --queue-bypass")),
        ("-D", Rule(False, "raw", "OUTPUT", right)),
    ]


OURS = f"-A OUTPUT {SYN} -j REJECT --reject-with tcp-reset"
FOREIGN = [
    '-A INPUT -p tcp -m comment --comment "cairn-l4lb exception for ssh" -j ACCEPT',
    '-A OUTPUT -m comment --comment "cairn-l4lb exception for ssh" -j ACCEPT',
    '-A OUTPUT -m comment --comment "see --comment cairn-l4lb in the wiki" -j ACCEPT',
    '-A OUTPUT -m comment --comment "was --match-set minuteman dst,dst, now -j REJECT" -j DROP',
    '-A OUTPUT -m comment --comment "a \\"--comment cairn-l4lb\\" b" -j DROP',
    f'-A OUTPUT -m comment --comment "a\n{OURS}\n" -j DROP',
    '-A OUTPUT -m comment --comment "a\n-A OUTPUT -m comment --comment cairn-l4lb -j DROP" -j DROP',
    f'-A OUTPUT {SYN} -m comment --comment "mine" -j REJECT',
    "-A MYCHAIN -m set --match-set minuteman src,dst -j REJECT",
    f"-A MYCHAIN {SYN} -j REJECT --reject-with tcp-reset",
    "-A MYCHAIN -m comment --comment cairn-l4lb -j ACCEPT",
    "-A INPUT -m comment --comment cairn-l4lb -j ACCEPT",
    "-A OUTPUT -m set --match-set minuteman src,dst -j REJECT",
    "-A OUTPUT -m set --match-set minuteman dst -j REJECT",
    "-A OUTPUT -m set ! --match-set minuteman dst,dst -j REJECT",
    "-A OUTPUT -m set --match-set minuteman dst,dst -m set --match-set mine src -j REJECT",
    "-A OUTPUT -m set --match-set minuteman dst,dst -j REJECTED",
    "-A OUTPUT -m set --match-set minuteman dst,dst -g REJECT",
    "-A OUTPUT -s 10.1.0.0/16 -m set --match-set minuteman dst,dst -j REJECT",
    "-A OUTPUT -m owner --uid-owner 7 -m set --match-set minuteman dst,dst -j REJECT",
    '-A OUTPUT -m string --string "--match-set minuteman dst,dst" --algo bm -j REJECT',
]


@pytest.mark.parametrize("line", FOREIGN)
def test_rules_of_others_that_speak_of_us_are_theirs(line: str) -> None:
    assert [rule.text for rule in parse(f"{line}\n{OURS}\n", False, "filter")] == [
        OURS.removeprefix("-A OUTPUT ")
    ]


@pytest.mark.parametrize(
    "line",
    [
        "-A OUTPUT -p tcp -m set --match-set minuteman dst,dst -j REJECT",
        f"-A OUTPUT {SYN} -j NFQUEUE --queue-num 50 --queue-bypass",
        "-A FORWARD -m comment --comment cairn-l4lb -j ACCEPT",
        '-A FORWARD -m comment --comment "cairn-l4lb" -j ACCEPT',
    ],
)
def test_rules_of_other_versions_of_ours_are_ours(line: str) -> None:
    assert len(parse(line, False, "filter")) == 1


words = st.sampled_from(
    ["--comment", "cairn-l4lb", "--match-set", "minuteman", "dst,dst", "-j", "REJECT", "NFQUEUE",
     "\n", "-A", "OUTPUT", OURS, '"', "'", "\\", "\x0b", "\u2028", " "]
)  # fmt: skip


comments = st.lists(words | st.text(max_size=3)).map(" ".join)


@given(comment=comments.filter(lambda text: text != COMMENT))
def test_no_other_comment_makes_a_rule_ours(comment: str) -> None:
    quoted = "".join(f"\\{one}" if one in "\"\\'" else one for one in comment)  # as iptables does
    line = f'-A OUTPUT -m comment --comment "{quoted}" -j REJECT'
    found = [rule.text for rule in parse(f"{OURS}\n{line}\n{OURS}\n", False, "filter")]
    assert found == [OURS.removeprefix("-A OUTPUT ")] * 2


def test_one_table_is_changed_at_once() -> None:
    rules = [Rule(False, "raw", "OUTPUT", "-a"), Rule(False, "raw", "PREROUTING", "-b")]
    six = Rule(True, "filter", "FORWARD", "-c")
    assert restore([("-D", rules[0]), ("-I", rules[1]), ("-I", six)]) == {
        False: "*raw\n-D OUTPUT -a\n-I PREROUTING 1 -b\nCOMMIT\n",
        True: "*filter\n-I FORWARD 1 -c\nCOMMIT\n",
    }
    assert command_line("-I", six) == "ip6tables -t filter -I FORWARD 1 -c"
    assert command_line("-D", rules[0]) == "iptables -t raw -D OUTPUT -a"
