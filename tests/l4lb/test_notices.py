"""What is logged of wrong labels and of backends that close."""

from cairn_l4lb.model import BackendKey
from cairn_l4lb.notices import MAX_LINES, PERIOD_S, Notices

ONE: BackendKey = ("tcp", "10.0.0.1", 80)
SIX: BackendKey = ("udp", "fd00::1", 53)


def test_each_is_told_when_it_comes_and_when_it_goes() -> None:
    notices = Notices()
    wrong = [("web.1", "no port")]
    assert notices.look(wrong, [ONE], 0) == [
        "not served as asked for of=web.1 reason=no port",
        "backend closed after failures backend=tcp/10.0.0.1:80",
    ]
    assert notices.look(wrong, [ONE], 1) == []
    assert notices.look([], [SIX], 2) == [
        "put right of=web.1 reason=no port",
        "backend closed after failures backend=udp/[fd00::1]:53",
        "backend open again backend=tcp/10.0.0.1:80",
    ]


def test_many_are_counted() -> None:
    notices = Notices()
    many: list[BackendKey] = [("tcp", "10.0.0.1", port) for port in range(1, 101)]
    assert len(notices.look([], many, 0)) == MAX_LINES
    assert notices.look([], [], 1) == []
    told = notices.look([], [ONE], PERIOD_S)
    assert told[0] == "backend closed after failures backend=tcp/10.0.0.1:80"
    assert told[1].endswith(f"count={200 - MAX_LINES}")
