"""The lag of the event loop, measured where it is made."""

import asyncio

from prometheus_client import CollectorRegistry, Histogram

from cairn_core.kit.loop_lag import BUCKETS, KEPT, LoopLag


async def test_a_stall_shows_in_samples_and_histogram() -> None:
    loop = asyncio.get_running_loop()
    registry = CollectorRegistry()
    lag = LoopLag()
    lag.histogram = Histogram("lag_seconds", "lag", registry=registry, buckets=BUCKETS)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(lag.run(stop))
        async with asyncio.timeout(20):
            while len(lag.samples) < 3:  # noqa: ASYNC110 - the timer runs by itself
                await asyncio.sleep(0.005)
            seen = len(lag.samples)
            ends = loop.time() + 0.1
            while loop.time() < ends:
                pass  # holds the loop
            while len(lag.samples) < seen + 1:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        stop.set()
    assert lag.quantiles()["max"] >= 80.0
    assert lag.quantiles()["p50"] <= lag.quantiles()["p999"]
    assert registry.get_sample_value("lag_seconds_count") == len(lag.samples)
    assert (registry.get_sample_value("lag_seconds_sum") or 0.0) >= 0.08


def test_quantiles_are_of_the_last_minute() -> None:
    lag = LoopLag()
    assert set(lag.quantiles().values()) == {0.0}
    lag.samples.extend(number / 1000 for number in range(2 * KEPT))
    found = lag.quantiles()
    assert found["max"] == 2 * KEPT - 1
    assert found["p50"] == KEPT + KEPT // 2
