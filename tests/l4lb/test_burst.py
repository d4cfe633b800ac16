"""How many messages the steering process looks for at a time."""

from cairn_l4lb.io_steer_server import FULL_TIMES, Burst


def test_as_many_are_looked_for_as_there_are() -> None:
    burst = Burst(32)
    for _ in range(FULL_TIMES):
        burst.note(1)
        assert burst.size == 1
    burst.note(1)
    assert burst.size == 2
    # there was only one after all
    burst.note(1)
    assert burst.size == 1


def test_more_are_looked_for_while_they_wait_and_never_too_many() -> None:
    burst = Burst(32)
    sizes = set()
    for _ in range(100):
        sizes.add(burst.size)
        burst.note(burst.size)
    assert sizes == {1, 2, 4, 8, 16, 32}
    burst.note(5)
    assert burst.size == 5
    burst.note(0)
    assert burst.size == 1
