"""The gate: closed by failures in turn, probed by one connection, opened by an answer."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb.health import REFUSED_S, REFUSED_SPARE_S, Gate

LIMIT, BACKOFF_S, PROBE_S = 5, 30.0, 1.0


@dataclass
class Model:
    """A dumb gate: remembers all that happened."""

    failures_in_turn: int = 0
    closed_at: float | None = None
    probe_at: float | None = None  # of a probe nobody heard of
    free_at: float = -1e9
    refuses_since: float | None = None
    probe_again_at: float = 0.0

    def pause(self, now: float) -> float:
        if self.refuses_since is None:
            return BACKOFF_S
        return min(BACKOFF_S, max(REFUSED_S, now - self.refuses_since))

    def may_probe(self, now: float) -> bool:
        if self.closed_at is None:
            return False
        return now >= self.probe_again_at

    def may_spare(self, now: float) -> bool:
        waits = self.probe_at is not None
        return self.closed_at is not None and not waits and now >= self.free_at


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "success",
                    "failure",
                    "failure",
                    "failure",
                    "refusal",
                    "refusal",
                    "probe",
                    "spare",
                    "release",
                ]
            ),
            st.sampled_from([0.0, 0.1, 0.5, 1.0, 10.0, 31.0]),
        )
    )
)
def test_the_gate_is_its_model(steps: list[tuple[str, float]]) -> None:
    gate, model, now = Gate(), Model(), 0.0
    for what, passed in steps:
        now += passed
        if what == "success":
            assert gate.success() == (model.closed_at is not None)
            model = Model(free_at=model.free_at)
        elif what in ("failure", "refusal"):
            refused = what == "refusal"
            model.failures_in_turn += 1
            closes = model.closed_at is None and model.failures_in_turn >= LIMIT
            assert gate.failure(LIMIT, BACKOFF_S, now, refused) == closes
            if closes or model.closed_at is not None:
                since = now if model.refuses_since is None else model.refuses_since
                model.refuses_since = since if refused else None
                model.closed_at, model.probe_at = now, None
                model.probe_again_at = now + model.pause(now)
        elif what == "release":
            assert gate.release(now) == (model.probe_at is not None)
            if model.probe_at is not None:
                model.probe_at, model.probe_again_at = None, now
        elif {"probe": model.may_probe, "spare": model.may_spare}[what](now):
            gate.probe(BACKOFF_S, PROBE_S, now)
            model.probe_at = now
            model.probe_again_at = now + model.pause(now)
            model.free_at = now + (PROBE_S if model.refuses_since is None else REFUSED_SPARE_S)
        assert gate.closed == (model.closed_at is not None)
        assert gate.consecutive == model.failures_in_turn
        assert gate.due(now) == model.may_probe(now)
        assert gate.spare(now) == model.may_spare(now)


def test_one_probe_for_each_backoff() -> None:
    gate = Gate()
    for _ in range(LIMIT):
        gate.failure(LIMIT, BACKOFF_S, 0.0)
    assert not gate.due(29.9)
    assert gate.due(30.0)
    gate.probe(BACKOFF_S, PROBE_S, 30.0)
    assert not gate.due(30.1)
    gate.failure(LIMIT, BACKOFF_S, 30.4)
    assert gate.closed
    assert not gate.due(60.3)
    assert gate.due(60.4)
    gate.probe(BACKOFF_S, PROBE_S, 60.4)
    assert gate.success()
    assert not gate.closed
    assert not gate.failure(LIMIT, BACKOFF_S, 60.5)


def test_one_that_refuses_is_probed_soon_and_then_less_often() -> None:
    gate, now = Gate(), 0.0
    for _ in range(LIMIT):
        gate.failure(LIMIT, BACKOFF_S, now, refused=True)
    pauses: list[float] = []
    while len(pauses) < 8:
        pauses.append(gate.until - now)
        now = gate.until
        gate.probe(BACKOFF_S, PROBE_S, now)
        gate.failure(LIMIT, BACKOFF_S, now, refused=True)
    assert pauses == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    # one that keeps silent then is left alone for all the time
    gate.failure(LIMIT, BACKOFF_S, now)
    assert gate.until == now + BACKOFF_S
