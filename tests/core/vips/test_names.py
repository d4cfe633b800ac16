"""Names of VIPs and their hash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.vips.names import MAX_NAME, ZONE, ZONES, BadName, full_name, normalise
from cairn_core.vips.phash2 import phash2

#: Of Erlang/OTP 25: name, `phash2(Name, 1 bsl 32)`, `phash2(Name, 16777214)`.
VECTORS = [
    (b"nginxdocker.marathon", 4000361977, 7385045),
    (b"app-1.marathon", 6590888, 6590888),
    (b"l4lbtest.marathon", 226511253, 8407471),
    (b"broker.kafka", 447702129, 11494565),
    (b"foo.marathon", 3561024917, 4255549),
    (b"", 147926629, 13708917),
    (b"a", 1589197455, 12139339),
    (b"abcdefghijkl", 686521495, 15432935),
    (b"abcdefghijklm", 3501102500, 11441988),
]


@pytest.mark.parametrize(("name", "whole", "ranged"), VECTORS)
def test_phash2_is_that_of_erlang(name: bytes, whole: int, ranged: int) -> None:
    assert phash2(name, 1 << 32) == whole
    assert phash2(name, 16777214) == ranged


@given(st.binary(max_size=300), st.integers(1, 1 << 32))
def test_phash2_is_within_its_range(name: bytes, size: int) -> None:
    assert 0 <= phash2(name, size) < size


@pytest.mark.parametrize("size", [0, -1, (1 << 32) + 1])
def test_phash2_refuses_sizes_that_erlang_refuses(size: int) -> None:
    with pytest.raises(ValueError, match="size"):
        phash2(b"a", size)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("/group/app", "groupapp"),
        ("/foo", "foo"),
        ("My_App", "my-app"),
        ("a.b", "a.b"),
        ("..a...b..", "a.b"),
        ("a./.b", "a.b"),
        ("_-a-_", "a"),
        ("4abc123", "4abc123"),
        ("-4abc123", "4abc123"),
        ("0-0", "0-0"),
        ("fd%gsf---gs7-f$gs--d7fddg-123", "fdgsf---gs7-fgs--d7fddg-123"),
        ("a" * 70, "a" * 63),
        ("a" * 62 + "-bcd", "a" * 62 + "b"),
        ("a" * 60 + "----b-cde", "a" * 60 + "bcd"),
        ("a" * 62 + "-", "a" * 62),
        ("K\u212a\u0130\u00e4", "k"),
        ("/", ""),
        ("", ""),
    ],
)
def test_normal_form_of_a_label(label: str, name: str) -> None:
    assert normalise(label) == name


@given(st.text(max_size=400))
def test_normal_form_is_made_of_dns_labels_and_stays(label: str) -> None:
    name = normalise(label)
    assert normalise(name) == name
    for part in name.split(".") if name else ():
        assert 1 <= len(part) <= 63
        assert part.isascii()
        assert part.replace("-", "a").isalnum()
        assert part.lower() == part
        assert not part.startswith("-")
        assert not part.endswith("-")


def test_full_names() -> None:
    assert full_name("/web", "marathon") == "web.marathon"
    assert full_name("api.web", "Prod.Marathon") == "api.web.prod.marathon"
    assert ZONES[0] == ZONE
    assert len(set(ZONES)) == 4


@pytest.mark.parametrize(
    ("label", "framework", "reason"),
    [
        ("/", "marathon", "label"),
        ("", "marathon", "label"),
        ("\ud800", "marathon", "label"),
        ("web", "\u65e5\u672c", "framework name"),
        (".".join(["a" * 60] * 4), "marathon", "more than"),
        ("a" * 100_000, "marathon", "more than"),
    ],
)
def test_what_is_no_name_is_refused(label: str, framework: str, reason: str) -> None:
    with pytest.raises(BadName, match=reason) as caught:
        full_name(label, framework)
    assert len(str(caught.value)) < 200


@given(st.text(max_size=300), st.text(max_size=300))
def test_full_names_fit_every_zone(label: str, framework: str) -> None:
    try:
        name = full_name(label, framework)
    except BadName:
        return
    assert len(name) <= MAX_NAME
    assert all(len(f"{name}.{zone}") <= 253 for zone in ZONES)
    assert full_name(*name.rsplit(".", 1)) == name
