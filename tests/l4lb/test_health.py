"""The gate: closed by failures in turn, probed by one connection, opened by an answer."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb.health import Gate

LIMIT, BACKOFF_S, PROBE_S = 5, 30.0, 1.0


@dataclass
class Model:
    """A dumb gate: remembers all that happened."""

    failures_in_turn: int = 0
    closed_at: float | None = None
    probe_at: float | None = None  # of a probe nobody heard of
    last_probe: float = -1e9

    def may_probe(self, now: float) -> bool:
        if self.closed_at is None:
            return False
        return now >= max(self.closed_at, self.probe_at or -1e9) + BACKOFF_S

    def may_spare(self, now: float) -> bool:
        waits = self.probe_at is not None
        return self.closed_at is not None and not waits and now >= self.last_probe + PROBE_S


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["success", "failure", "failure", "failure", "probe", "spare"]),
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
            model = Model(last_probe=model.last_probe)
        elif what == "failure":
            model.failures_in_turn += 1
            closes = model.closed_at is None and model.failures_in_turn >= LIMIT
            assert gate.failure(LIMIT, BACKOFF_S, now) == closes
            if closes or model.closed_at is not None:
                model.closed_at, model.probe_at = now, None
        elif {"probe": model.may_probe, "spare": model.may_spare}[what](now):
            gate.probe(BACKOFF_S, PROBE_S, now)
            model.probe_at = model.last_probe = now
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
