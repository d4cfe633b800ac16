"""What reports add up to, over restarts of the steering process."""

from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb.channel import LATENCY_BOUNDS_S, BackendReport, Report, VipReport
from cairn_l4lb.histogram import Minute, figures_ns, quantile
from cairn_l4lb.model import BackendKey, Vip
from cairn_l4lb.stats import FORGET_S, Stats

KEY: BackendKey = ("tcp", "10.0.0.1", 80)
VIP = Vip("tcp", "11.0.0.1", 80)
SIZE = len(LATENCY_BOUNDS_S) + 1


def latency(index: int, count: int) -> tuple[int, ...]:
    return tuple(count if at == index else 0 for at in range(SIZE))


def test_health_is_told_when_it_changes() -> None:
    stats = Stats()
    assert not stats.absorb(Report([BackendReport(KEY, picks=1)]), 0)
    assert stats.absorb(Report([BackendReport(KEY, picks=2, open=False)]), 1).closed
    assert not stats.absorb(Report([BackendReport(KEY, picks=3, open=False)]), 2)
    assert stats.closed == {KEY}
    assert stats.absorb(Report([BackendReport(KEY, picks=3)]), 3).closed
    assert not stats.closed


def test_shares_are_told_when_they_change() -> None:
    stats = Stats()
    assert not stats.absorb(Report(vips=[VipReport(VIP, picks=1)]), 0).promoted
    assert stats.absorb(Report(vips=[VipReport(VIP, slots=(1, 2))]), 0).promoted == {VIP}
    assert not stats.absorb(Report(vips=[VipReport(VIP, slots=(1, 2))]), 0).promoted
    assert stats.promoted == {VIP: (1, 2)}
    busy = VipReport(VIP, slots=(1, 2), sampled=True)
    assert stats.absorb(Report(vips=[busy]), 0).promoted == stats.sampled == {VIP}
    assert not stats.absorb(Report(vips=[busy]), 0).promoted
    assert stats.absorb(Report(vips=[VipReport(VIP)]), 0).promoted == {VIP}
    assert not stats.sampled
    assert not stats.promoted


def test_counts_go_on_over_a_restart_and_health_does_not() -> None:
    stats = Stats()
    first = BackendReport(KEY, 5, 3, 2, open=False, latency=latency(3, 3), latency_sum_s=0.003)
    stats.absorb(Report([first], [VipReport(VIP, 5, 1, slots=(1,))], {"successes": 3}), 0)
    assert stats.restarted().closed
    assert not stats.closed
    assert not stats.promoted
    second = BackendReport(KEY, 1, 1, latency=latency(3, 1), latency_sum_s=0.001)
    stats.absorb(Report([second], [VipReport(VIP, 1)], {"successes": 1}), 1)
    found = stats.backend(KEY)
    assert (found.picks, found.successes, found.failures) == (6, 4, 2)
    assert sum(stats.latency) == 4
    assert round(stats.latency_sum_s, 6) == 0.004
    assert (stats.vip(VIP).picks, stats.vip(VIP).refused) == (6, 1)
    assert stats.counters() == {"successes": 4}


def test_a_backend_that_nobody_serves_is_forgotten_after_a_while() -> None:
    stats = Stats()
    stats.absorb(Report([BackendReport(KEY, 1, open=False)]), 0)
    stats.tidy([], FORGET_S - 1)
    assert KEY in stats.backends
    stats.tidy([KEY], FORGET_S + 1)
    assert KEY in stats.backends
    stats.tidy([], FORGET_S + 1)
    assert not stats.backends
    assert not stats.closed


def test_the_last_minute_forgets() -> None:
    minute = Minute()
    minute.add(latency(0, 2), 1.0, 0)
    minute.add(latency(1, 3), 2.0, 30)
    assert (sum(minute.get(31)[0]), minute.get(31)[1]) == (5, 3.0)
    assert sum(minute.get(70)[0]) == 3
    assert minute.get(200) == ([], 0.0)


@given(st.lists(st.integers(0, 1000), min_size=SIZE, max_size=SIZE), st.floats(0, 1))
def test_a_quantile_lies_where_the_counts_are(counts: list[int], share: float) -> None:
    bounds = (*LATENCY_BOUNDS_S, 4.0)
    sum_s = sum(count * bound for count, bound in zip(counts, bounds, strict=True))
    found = quantile(counts, share, sum_s)
    if not any(counts):
        assert found is None
        assert figures_ns(counts, 0.0) == {}
        return
    figures = figures_ns(counts, sum_s)
    assert figures["min"] <= figures["mean"] <= figures["max"]
    assert found is not None
    assert figures["min"] / 1e9 <= found + 1e-9
    assert found <= figures["max"] / 1e9 + 1e-9
    assert figures["n"] == sum(counts)
    assert figures["50"] <= figures["90"] <= figures["999"]


def test_a_single_time_is_told_exactly() -> None:
    figures = figures_ns(latency(3, 1), 0.000731)
    assert figures.pop("n") == 1
    assert set(figures.values()) == {731_000}
    assert quantile(latency(3, 1), 0.5, 0.000731) == 0.000731


def test_what_an_earlier_process_counted_is_not_counted_twice_in_the_minute() -> None:
    stats = Stats()
    one = BackendReport(KEY, latency=latency(0, 2), latency_sum_s=0.2)
    stats.absorb(Report([one]), 0)
    stats.absorb(Report([one]), 1)
    stats.restarted()
    stats.absorb(Report([BackendReport(KEY, latency=latency(0, 1), latency_sum_s=0.1)]), 2)
    assert sum(stats.minute.get(3)[0]) == 3
