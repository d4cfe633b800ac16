"""What the host says of itself, and its programs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.errors import Unavailable
from cairn_l4lb import host_stats, io_host
from cairn_l4lb.io_host import Host
from cairn_l4lb.io_programs import run
from cairn_l4lb.rules import KernelSettings

# of Linux 6.1 with two processors; older ones have more columns and name some otherwise
CONNTRACK = """\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop
00000012  00000001 00000002 00000000 000000ff 00000000 00000000 00000000 00000000 0000000a 00000001 00000000
00000012  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000002
"""  # noqa: E501
QUEUES = """\
   50   1234     3 2   128     7     1       99  1
   58   1234     0 2   128     1     0       99  1
   60   9999     9 2   128     9     9       99  1
"""


def test_counters_are_summed_over_processors_by_name() -> None:
    found = host_stats.conntrack(CONNTRACK)
    assert found["insert_failed"] == 11
    assert found["drop"] == 1
    assert found["early_drop"] == 2


def test_only_our_queues_count() -> None:
    assert host_stats.queues(QUEUES, range(50, 59)) == {
        "queue_waiting": 3,
        "queue_dropped": 8,
        "queue_user_dropped": 1,
    }


@given(st.text())
def test_another_text_says_nothing(text: str) -> None:
    host_stats.conntrack(text)
    assert set(host_stats.queues(text, [50])) == {
        "queue_waiting", "queue_dropped", "queue_user_dropped",
    }  # fmt: skip


def test_a_program_that_fails_is_quoted() -> None:
    with pytest.raises(Unavailable, match=r"exit 3: no such thing$"):
        run(("sh", "-c", "echo no such thing >&2; exit 3"))


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(Unavailable, match=r"^program cairn-nothing is missing"):
        run(("cairn-nothing", "-V"))


def test_a_program_gets_its_input() -> None:
    assert run(("cat",), "hello") == "hello"


def test_what_the_host_refuses_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(argv: object) -> str:
        raise Unavailable("refused")

    host = Host(KernelSettings(), tmp_path / "memory.json")
    monkeypatch.setattr(io_host, "_number", lambda _: None)
    monkeypatch.setattr(io_host, "_has_route", lambda _: False)
    monkeypatch.setattr(io_host, "run", refuse)
    assert host.apply() == []
    assert host.apply() == []
    assert len(caplog.records) == 1
