"""The rules of iptables: which there are, and which of those found are ours."""

from cairn_l4lb.packet_filter import Rule, changes, command_line, desired, parse, restore
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


def test_one_table_is_changed_at_once() -> None:
    rules = [Rule(False, "raw", "OUTPUT", "-a"), Rule(False, "raw", "PREROUTING", "-b")]
    six = Rule(True, "filter", "FORWARD", "-c")
    assert restore([("-D", rules[0]), ("-I", rules[1]), ("-I", six)]) == {
        False: "*raw\n-D OUTPUT -a\n-I PREROUTING 1 -b\nCOMMIT\n",
        True: "*filter\n-I FORWARD 1 -c\nCOMMIT\n",
    }
    assert command_line("-I", six) == "ip6tables -t filter -I FORWARD 1 -c"
    assert command_line("-D", rules[0]) == "iptables -t raw -D OUTPUT -a"
