"""How often offers are asked for."""

from collections.abc import Callable
from typing import Any

from cairn_scheduler.marathon.effects import ReviveOffers
from cairn_scheduler.marathon.launching import REVIVE_BURST

MakeApp = Callable[..., Any]
INTERVAL_S = 0.5


def revives(world: Any) -> int:
    return sum(isinstance(call, ReviveOffers) for call in world.calls)


def test_a_few_changes_in_a_row_do_not_wait(world: Any, make_app: MakeApp) -> None:
    world.run(5)
    before, began = revives(world), world.now
    for n in range(REVIVE_BURST - 1):
        world.put(make_app(f"/a{n}", instances=1))
        world.run(0.02)
        assert revives(world) == before + n + 1
    assert world.now - began < INTERVAL_S


def test_many_changes_ask_once_per_interval(world: Any, make_app: MakeApp) -> None:
    world.run(5)
    before, began = revives(world), world.now
    for n in range(60):
        world.put(make_app(f"/a{n}", instances=1))
        world.run(0.05)
    most = REVIVE_BURST + (world.now - began) / INTERVAL_S
    assert REVIVE_BURST < revives(world) - before <= most
    world.until(world.settled, 60)
    assert len(world.running) == 60
