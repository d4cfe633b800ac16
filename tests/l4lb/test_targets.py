"""What a person types for a VIP, and for what is to be drained."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.errors import CairnError
from cairn_l4lb.drains import MAX_DRAINS, BadDrain, Drains, target_of
from cairn_l4lb.model import Service, Vip
from cairn_l4lb.targets import BadTarget, find, vip_of

WEB = Service(Vip("tcp", "11.0.0.1", 80), "web.marathon")
WEB6 = Service(Vip("tcp", "fd01:c::1", 80), "web.marathon")
WEB_UDP = Service(Vip("udp", "11.0.0.1", 80), "web.marathon")
TLS = Service(Vip("tcp", "11.0.0.1", 443), "web.marathon")
PLAIN = Service(Vip("tcp", "1.2.3.4", 80))
ALL = [WEB, WEB6, WEB_UDP, TLS, PLAIN]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("web.marathon:80", [WEB, WEB6, WEB_UDP]),
        ("WEB.marathon", [WEB, WEB6, WEB_UDP, TLS]),
        ("tcp/web.marathon.l4lb.thisdcos.directory:80", [WEB, WEB6]),
        ("web.marathon.dclb.thisdcos.global.", [WEB, WEB6, WEB_UDP, TLS]),
        ("11.0.0.1:443", [TLS]),
        ("udp/11.0.0.1", [WEB_UDP]),
        ("[fd01:c:0::1]:80", [WEB6]),
        ("fd01:c::1", [WEB6]),
        ("1.2.3.4", [PLAIN]),
        ("nobody:80", []),
    ],
)
def test_a_vip_is_found_by_all_that_it_is_called(text: str, found: list[Service]) -> None:
    assert find(text, ALL) == found


@pytest.mark.parametrize("text", ["", ":80", "web:port", "web:0", "icmp/web", "web:99999"])
def test_what_can_be_no_vip_is_refused(text: str) -> None:
    with pytest.raises(BadTarget):
        find(text, ALL)


@given(st.text(max_size=60))
def test_any_text_is_found_or_refused(text: str) -> None:
    with suppress(BadTarget):
        find(text, ALL)
    with suppress(BadDrain):
        target_of(text)
    vip_of(text)


def test_drains_are_canonical() -> None:
    drains = Drains().add("[FD01::0:1]:80").add(" 10.0.0.1:80 ").add("web.1234").add("fd01:0::2")
    assert drains.drained == ("10.0.0.1:80", "[fd01::1]:80", "fd01::2", "web.1234")
    assert drains.add("10.0.0.1:80") == drains
    assert drains.remove("[fd01::1]:80").drained == ("10.0.0.1:80", "fd01::2", "web.1234")


def test_what_cannot_be_drained_is_refused() -> None:
    for text in ("", "a/b", "..", "x\ny", "a" * 256):
        with pytest.raises(BadDrain):
            target_of(text)
    with pytest.raises(CairnError, match="not drained"):
        Drains().remove("web.1")
    full = Drains(tuple(f"t{number}" for number in range(MAX_DRAINS)))
    with pytest.raises(BadDrain, match="drained already"):
        full.add("one.more")
    assert full.add("t1").drained[0] == "t0"
