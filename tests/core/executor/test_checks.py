"""When checks are made and what their results mean, in virtual time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.executor.checks import Check, CheckChanged, Health, Probe, Result

HEALTH = {
    "type": "HTTP", "http": {"port": 80}, "delay_seconds": 0, "interval_seconds": 10,
    "timeout_seconds": 5, "grace_period_seconds": 30, "consecutive_failures": 3,
}  # fmt: skip


def run(spec: dict[str, Any], values: list[int | None], *, health: bool) -> list[Any]:
    """Answer one probe after the other; what was told for each."""
    now, told = 0.0, []
    check = Check(spec, health=health, now=now)
    for value in values:
        deadline = check.next_deadline()
        assert deadline is not None
        now = deadline
        assert isinstance(check.expire(now=now), Probe)
        assert check.next_deadline() is None
        told.append(check.finished(Result(value, "m"), now=now))
    return told


OK, BAD, KILL = Health(True, False), Health(False, False, "m"), Health(False, True, "m")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([200, 200, 302], [OK, None, None]),
        ([200, 500, 200, 404], [OK, BAD, OK, BAD]),
        ([200, None, 500, 400], [OK, BAD, BAD, KILL]),
        ([500] * 13, [None] * 10 + [BAD, BAD, KILL]),
        ([500, 200, 500, 500, 500], [None, OK, BAD, BAD, KILL]),
    ],
    ids=["only changes to healthy", "every failure", "three in a row kill",
         "failures in the grace period are ignored", "the grace ends with the first success"],
)  # fmt: skip
def test_health(values: list[int | None], told: list[Any]) -> None:
    assert run(HEALTH, values, health=True) == told


def test_a_task_that_comes_up_is_probed_ever_less_often() -> None:
    check = Check({**HEALTH, "delay_seconds": 2}, health=True, now=0.0)
    at: list[float] = []
    while len(at) < 14:
        now = check.next_deadline()
        assert now is not None
        at.append(now)
        check.expire(now=now)
        check.finished(Result(500), now=now)
    assert [t - 2 for t in at] == pytest.approx(
        [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 22.8, 32.8, 42.8, 52.8, 62.8]
    )


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        ("COMMAND", [0, 0, 3, None], [{"exit_code": 0}, None, {"exit_code": 3}, {}]),
        ("HTTP", [None, 500, 500, 200], [None, {"status_code": 500}, None, {"status_code": 200}]),
        ("TCP", [1, 1, 0], [{"succeeded": True}, None, {"succeeded": False}]),
    ],
)
def test_a_check_tells_changes_only(kind: str, values: list[int | None], told: list[Any]) -> None:
    spec = {"type": kind, kind.lower(): {}}
    want = [t if t is None else CheckChanged({"type": kind, kind.lower(): t}) for t in told]
    assert run(spec, values, health=False) == want


def test_defaults_are_those_of_the_original() -> None:
    check = Check({"command": {"value": "true"}}, health=True, now=100.0)
    assert check.next_deadline() == 115.0
    assert check.expire(now=115.0) == Probe(True, "COMMAND", {"value": "true"}, 20.0)
    check.finished(Result(0), now=116.0)
    assert check.next_deadline() == 126.0


def test_a_pause_drops_results_and_resumes_at_once() -> None:
    check = Check(HEALTH, health=True, now=0.0)
    check.expire(now=0.0)
    check.pause()
    assert check.finished(Result(500), now=1.0) is None
    assert check.next_deadline() is None
    check.resume(now=20.0)
    assert check.next_deadline() == 11.0
    check.stop()
    assert check.next_deadline() is None


@given(st.lists(st.sampled_from([200, 399, 400, None]), max_size=30), st.integers(1, 5))
def test_a_kill_is_asked_for_exactly_after_so_many_failures_in_a_row(
    values: list[int | None], limit: int
) -> None:
    spec = {**HEALTH, "grace_period_seconds": 0, "delay_seconds": 1, "consecutive_failures": limit}
    failures = 0
    for value, told in zip(values, run(spec, values, health=True), strict=True):
        failures = 0 if value in (200, 399) else failures + 1
        assert (told is not None and told.kill) == (failures >= limit)
