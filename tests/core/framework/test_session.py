"""Rules of a subscription: first event, heartbeats, errors, whom to ask next."""

from random import Random

import pytest

from cairn_core.framework.reconciliation import MAX_TASKS_PER_CALL, Reconciliation
from cairn_core.framework.session import (
    ASKING_S,
    MISSED_HEARTBEATS,
    Connect,
    Deliver,
    Disconnect,
    End,
    Session,
    State,
)
from cairn_core.mesos.scheduler_api import HEARTBEAT, Error, Event, ReconcileTask, Subscribed
from cairn_core.mesos.types import FrameworkID, FrameworkInfo, TaskID

INFO = FrameworkInfo(user="nobody", name="test")


def subscribed(interval_s: float | None = 2.0) -> Event:
    return Event(type="SUBSCRIBED", subscribed=Subscribed(FrameworkID("f-1"), interval_s))


@pytest.fixture
def session() -> Session:
    return Session(["http://a", "http://b"], INFO, Random(1))


def opened(session: Session, now: float = 0.0) -> None:
    session.begin(now=now)
    assert session.opened(200, "", now=now) == []
    assert session.received(subscribed(), now=now) == [Deliver(subscribed())]


def test_the_framework_id_is_kept_for_the_next_subscription(session: Session) -> None:
    first = session.begin(now=0.0)
    assert first.call.framework_id is None
    session.opened(200, "", now=0.0)
    session.received(subscribed(), now=0.0)
    [effect] = session.lost("cut", now=5.0)
    assert isinstance(effect, Disconnect)
    assert 5.0 < effect.retry_at <= 5.25
    again = session.begin(now=effect.retry_at)
    assert again.url == "http://a"
    assert again.call.framework_id == FrameworkID("f-1")
    assert again.call.subscribe is not None
    assert again.call.subscribe.framework_info.id == FrameworkID("f-1")


def test_masters_are_tried_in_turn_with_growing_delays(session: Session) -> None:
    delays: list[float] = []
    urls: list[str] = []
    for _ in range(12):
        connect = session.begin(now=0.0)
        urls.append(connect.url)
        [effect] = session.opened(503, "no leader", now=0.0)
        assert isinstance(effect, Disconnect)
        delays.append(effect.retry_at)
    assert urls[:4] == ["http://a", "http://b", "http://a", "http://b"]
    assert delays[0] <= 0.25
    assert 7.5 <= delays[-1] <= 15.0


def test_five_missed_heartbeats_end_the_stream(session: Session) -> None:
    opened(session)
    assert session.received(HEARTBEAT, now=3.0) == []
    assert session.deadline() == 3.0 + MISSED_HEARTBEATS * 2.0
    assert session.silent(now=12.9) == []
    [effect] = session.silent(now=13.0)
    assert isinstance(effect, Disconnect)
    assert session.state is State.IDLE
    assert session.deadline() is None


def test_silence_while_we_did_not_listen_does_not_count(session: Session) -> None:
    opened(session)
    session.listening(now=100.0)
    assert session.silent(now=101.0) == []


def test_a_master_that_does_not_answer_is_left(session: Session) -> None:
    session.begin(now=0.0)
    assert session.silent(now=ASKING_S - 1) == []
    assert [type(e) for e in session.silent(now=ASKING_S)] == [Disconnect]


@pytest.mark.parametrize("interval_s", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_heartbeat_interval_is_not_believed(
    session: Session, interval_s: float | None
) -> None:
    session.begin(now=0.0)
    session.opened(200, "", now=0.0)
    session.received(subscribed(interval_s), now=0.0)
    assert session.deadline() == MISSED_HEARTBEATS * 15.0


def test_the_first_event_must_be_subscribed(session: Session) -> None:
    session.begin(now=0.0)
    session.opened(200, "", now=0.0)
    [effect] = session.received(Event(type="OFFERS"), now=0.0)
    assert isinstance(effect, Disconnect)


def test_an_unknown_event_is_passed_on(session: Session) -> None:
    opened(session)
    event = Event(type="NEWS_OF_2030")
    assert session.received(event, now=1.0) == [Deliver(event)]


@pytest.mark.parametrize("at_start", [True, False])
def test_error_and_refusal_end_the_session(session: Session, at_start: bool) -> None:
    if at_start:
        assert isinstance(session.begin(now=0.0), Connect)
        effects = session.opened(401, "who are you", now=0.0)
    else:
        opened(session)
        event = Event(type="ERROR", error=Error("Framework failed over"))
        effects = session.received(event, now=1.0)
    assert [type(e) for e in effects] == [End]
    assert session.state is State.ENDED
    assert session.lost("closed", now=1.0) == []


def tasks(count: int) -> list[ReconcileTask]:
    return [ReconcileTask(TaskID(f"t{i}")) for i in range(count)]


def test_reconciliation_asks_again_for_the_unanswered_and_then_for_all() -> None:
    loop = Reconciliation(Random(1), period_s=100.0)
    assert loop.due(tasks(3), now=0.0) == []
    loop.subscribed(now=10.0)
    [first] = loop.due(tasks(3), now=10.0)
    assert [t.task_id.value for t in first.tasks] == ["t0", "t1", "t2"]
    assert loop.due([], now=10.1) == []
    loop.answered("t1")
    again_at = loop.deadline()
    assert again_at is not None
    [second] = loop.due([], now=again_at)
    assert [t.task_id.value for t in second.tasks] == ["t0", "t2"]
    loop.answered("t0")
    loop.answered("t2")
    end_at = loop.deadline()
    assert end_at is not None
    assert end_at - again_at > again_at - 10.0
    [last] = loop.due([], now=end_at)
    assert last.tasks == ()
    assert loop.deadline() == end_at + 100.0
    assert len(loop.due(tasks(1), now=end_at + 100.0)) == 1


def test_reconciliation_rests_while_disconnected_and_starts_over_after() -> None:
    loop = Reconciliation(Random(1))
    loop.subscribed(now=0.0)
    loop.due(tasks(2), now=0.0)
    loop.disconnected()
    assert loop.deadline() is None
    assert loop.due(tasks(2), now=1000.0) == []
    loop.subscribed(now=1001.0)
    [call] = loop.due(tasks(1), now=1001.0)
    assert len(call.tasks) == 1


def test_many_tasks_are_asked_for_in_several_calls() -> None:
    loop = Reconciliation(Random(1))
    loop.subscribed(now=0.0)
    calls = loop.due(tasks(2 * MAX_TASKS_PER_CALL + 1), now=0.0)
    assert [len(c.tasks) for c in calls] == [MAX_TASKS_PER_CALL, MAX_TASKS_PER_CALL, 1]
