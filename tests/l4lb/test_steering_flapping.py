"""Steering: backends that restart, one after another or all at once, and refuse meanwhile."""

from collections import Counter
from collections.abc import Callable

import pytest

from cairn_l4lb.testing_steering import World, service, text

RATE = 100


class Restarts:
    """Connections at a rate; who is away refuses at once."""

    def __init__(self, count: int, away: Callable[[int, float], bool], resend: bool = True) -> None:
        """away: whether the backend of this number, from 1, is away after so many seconds."""
        self.world = World(service(count))
        self.start = self.world.now
        self.away = away
        self.resend = resend
        self.got: Counter[str] = Counter()
        self.refused = self.tries = 0
        #: Clients that ask again: when, and their flows.
        self.again: list[tuple[float, bytes]] = []

    def run(self, seconds: float) -> "Restarts":
        end = self.world.now + seconds
        while self.world.now < end:
            self.connect(self.world.flow())
            self.world.wait(1.0 / RATE)
            while self.again and self.again[0][0] <= self.world.now:
                self.connect(self.again.pop(0)[1])
        self.world.report()
        return self

    def connect(self, flow: bytes) -> None:
        world = self.world
        decision = world.syn(flow)
        while decision is not None and decision.slot:
            self.tries += 1
            world.now += 0.0001
            if not self.away(decision.slot, world.now - self.start):
                world.answer(flow, decision)
                self.got[text(decision)] += 1
                return
            decision = world.steering.refused(flow, world.now, self.resend)
            if decision is not None and not self.resend:
                self.again.append((world.now + 1.0, flow))
                return
        self.refused += 1

    def open(self) -> int:
        return sum(one.open for one in self.world.backends.values())


@pytest.mark.parametrize("resend", [True, False], ids=["host", "elsewhere"])
def test_backends_that_restart_in_turn_all_serve_again(resend: bool) -> None:
    def away(number: int, seconds: float) -> bool:
        return 2.0 * number <= seconds < 2.0 * number + 1.0

    found = Restarts(4, away, resend).run(12.0)
    assert found.refused == 0
    assert found.open() == 4
    found.got.clear()
    found.run(4.0)
    assert max(found.got.values()) < 1.5 * min(found.got.values())


@pytest.mark.parametrize("resend", [True, False], ids=["host", "elsewhere"])
def test_pairs_that_flap_refuse_nobody(resend: bool) -> None:
    def away(number: int, seconds: float) -> bool:
        return number % 2 == int(seconds / 2.0) % 2

    found = Restarts(4, away, resend).run(16.0)
    # but who asks again a second later, when the other pair is just away
    assert found.refused < (1 if resend else RATE / 20)
    assert sum(found.got.values()) > 15 * RATE


def test_after_all_were_away_all_serve_again() -> None:
    found = Restarts(4, lambda _, seconds: 5.0 <= seconds < 25.0).run(25.0)
    assert found.open() == 0
    before = found.refused
    found.got.clear()
    found.run(2.0)
    assert found.refused - before < RATE / 4
    assert found.open() >= 2
    found.run(20.0)
    assert found.open() == 4


def test_who_refuses_for_long_is_left_alone() -> None:
    found = Restarts(4, lambda number, _: number == 1).run(60.0)
    assert found.refused == 0
    assert found.world.backends["10.0.0.1:80"].failures < 15


def test_with_all_away_few_backends_are_troubled() -> None:
    found = Restarts(100, lambda number, _: True).run(10.0)
    assert found.open() == 0
    found.tries = 0
    found.run(10.0)
    assert found.tries <= 100 * 10 * 4 + 100  # each four times a second
    assert not found.got
