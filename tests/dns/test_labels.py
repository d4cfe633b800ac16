"""Label mangling and hashes against vectors of Mesos-DNS."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_dns.labels import canonical, domain_fragment, mangle, task_hash

LONG = "chronos with a space AND MIXED CASE-2.0.1"


@pytest.mark.parametrize(
    ("name", "rfc1123", "rfc952"),
    [
        ("Web_App.v1", "web-app-v1", "web-app-v1"),
        ("--a--b--", "a--b", "a--b"),
        ("9lives", "9lives", "lives"),
        ("ünïcode", "ncode", "ncode"),
        ("a/b c@d", "abcd", "abcd"),
        ("1.2.3", "1-2-3", ""),
        ("___", "", ""),
        ("a" * 62 + "--bcd", "a" * 62 + "b", "a" * 24),
        ("abcdefghijklmnopqrstuv--xyz12", "abcdefghijklmnopqrstuv--xyz12",
         "abcdefghijklmnopqrstuvxy"),
        ("89fdgsf---gs7-fgs--d7fddg---123", "89fdgsf---gs7-fgs--d7fddg---123",
         "fdgsf---gs7-fgs--d7fddg1"),
        (LONG, "chronoswithaspaceandmixedcase-2-0-1", "chronoswithaspaceandmixe"),
        ("hello" + "-" * 56 + "f", "hello" + "-" * 56 + "f", "hellof"),
        ("hello" + "-" * 58 + "f", "hellof", "hellof"),
    ],
)  # fmt: skip
def test_labels(name: str, rfc1123: str, rfc952: str) -> None:
    assert (mangle(name), mangle(name, rfc952=True)) == (rfc1123, rfc952)


@pytest.mark.parametrize(
    ("name", "rfc1123", "rfc952"),
    [
        ("pod_123$abc.marathon-0.6.0-dev.mesos", "pod-123abc.marathon-0.6.0-dev.mesos",
         "pod-123abc.marathon-0.dev.mesos"),
        ("a..c", "a.c", "a.c"),
        (".", "", ""),
        ("prod/marathon.Team_A-1", "prodmarathon.team-a-1", "prodmarathon.team-a-1"),
    ],
)  # fmt: skip
def test_domain_fragments(name: str, rfc1123: str, rfc952: str) -> None:
    assert (domain_fragment(name), domain_fragment(name, rfc952=True)) == (rfc1123, rfc952)


@pytest.mark.parametrize(
    ("task_id", "expected"),
    [
        ("", "5eh48"),
        ("a", "o556e"),
        ("test", "iffe9"),
        ("web.1", "e844k"),
        ("db.1", "f3ink"),
        ("sentinel.1", "5fw4j"),
        ("liquor-store.b8db9f73-562f-11e4-a088-c20493233aa5", "4dfjd"),
    ],
)
def test_hashes(task_id: str, expected: str) -> None:
    assert task_hash(task_id) == expected


def test_a_host_name_ends_with_the_tail_of_the_agent() -> None:
    assert canonical("web", "web.1", "20140803-1-5050-S12") == "web-e844k-s12"
    assert canonical("web", "web.1", "20140803-194712-3041283216-5050-2116-0") == "web-e844k-0"


@given(st.text(max_size=100), st.booleans())
def test_every_label_is_one(name: str, rfc952: bool) -> None:
    label = mangle(name, rfc952=rfc952)
    assert len(label) <= (24 if rfc952 else 63)
    assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not label.startswith("-")
