"""What the command executor does when, in virtual time."""

import itertools
import signal
from typing import Any

import pytest

from cairn_core.executor.checks import Probe, Result
from cairn_core.executor.rules import Effect, Executor, Exit, Send, Signal, Start
from cairn_core.executor.settings import Settings, parse_duration, read_settings, task_environment

SETTINGS = Settings("f", "t1", "127.0.0.1:5051", None, None, checkpoint=True)
TASK = {"task_id": {"value": "t1"}, "name": "n", "command": {"value": "true"}}
KILLING: dict[str, Any] = {"framework_info": {"capabilities": [{"type": "TASK_KILLING_STATE"}]}}


class Driver:
    """Plays agent and kernel to the rules."""

    def __init__(self, **settings: Any) -> None:
        numbers = itertools.count()
        self.rules = Executor(
            SETTINGS._replace(**settings),
            draw_uuid=lambda: next(numbers).to_bytes(16, "big"),
            now=0.0,
        )

    def event(self, kind: str, now: float = 0.0, **body: Any) -> list[Any]:
        return self.told(self.rules.received({"type": kind, kind.lower(): body}, now=now, wall=now))

    def told(self, effects: list[Effect]) -> list[Any]:
        """Effects, with updates as (state, reason, message)."""
        found: list[Any] = []
        for effect in effects:
            if isinstance(effect, Send):
                status = effect.call["update"]["status"]
                found.append((status["state"], status.get("reason"), status.get("message")))
            else:
                found.append(effect)
        return found

    def launched(self, task: dict[str, Any] = TASK) -> "Driver":
        assert self.event("SUBSCRIBED", **KILLING) == []
        assert self.event("LAUNCH", task=task) == [("TASK_STARTING", None, None), Start(task)]
        (running,) = self.told(self.rules.started(now=0.0, wall=0.0))
        assert running[0] == "TASK_RUNNING"
        return self

    def acknowledge_all(self) -> list[Any]:
        pending = self.rules.subscribe_call()["subscribe"].get("unacknowledged_updates", [])
        found: list[Any] = []
        for update in pending:
            uuid = update["status"]["uuid"]
            found += self.event("ACKNOWLEDGED", task_id=TASK["task_id"], uuid=uuid)
        return found


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (0, ("TASK_FINISHED", None, "Command exited with status 0")),
        (3 << 8, ("TASK_FAILED", "REASON_COMMAND_EXECUTOR_FAILED", "Command exited with status 3")),
        (9, ("TASK_FAILED", "REASON_COMMAND_EXECUTOR_FAILED",
             "Command terminated with signal Killed")),
    ],
)  # fmt: skip
def test_the_end_of_the_command_is_the_end_of_the_task(status: int, told: Any) -> None:
    driver = Driver().launched()
    assert driver.told(driver.rules.exited(status, now=1.0, wall=1.0)) == [told]
    assert driver.acknowledge_all() == [Exit(0)]


def test_an_update_is_version_4_and_says_who_made_it() -> None:
    driver = Driver()
    driver.event("SUBSCRIBED")
    (send, _) = driver.rules.received({"type": "LAUNCH", "launch": {"task": TASK}}, now=0, wall=7.5)
    assert isinstance(send, Send)
    assert send.call == {
        "type": "UPDATE", "framework_id": {"value": "f"}, "executor_id": {"value": "t1"},
        "update": {"status": {
            "task_id": {"value": "t1"}, "executor_id": {"value": "t1"}, "state": "TASK_STARTING",
            "source": "SOURCE_EXECUTOR", "timestamp": 7.5, "uuid": "AAAAAAAAQACAAAAAAAAAAA==",
        }},
    }  # fmt: skip


def test_kill_is_term_then_kill_after_the_grace_period() -> None:
    driver = Driver().launched()
    assert driver.event("KILL", 10.0, task_id=TASK["task_id"]) == [
        ("TASK_KILLING", None, None), Signal(signal.SIGTERM),
    ]  # fmt: skip
    assert driver.rules.next_deadline() == 13.0
    assert driver.rules.expire(now=13.0, wall=13.0) == [Signal(signal.SIGKILL)]
    end = ("TASK_KILLED", None, "Command terminated with signal Killed")
    assert driver.told(driver.rules.exited(9, now=13.1, wall=13.1)) == [end]


def test_a_command_that_obeys_the_kill_is_killed_whatever_it_exits_with() -> None:
    driver = Driver().launched()
    driver.event("KILL", 1.0, task_id=TASK["task_id"])
    assert driver.told(driver.rules.exited(0, now=2.0, wall=2.0))[0][0] == "TASK_KILLED"


@pytest.mark.parametrize(
    ("call", "task", "deadline"),
    [(None, None, 3.0), (None, 7.0, 7.0), (2.0, 7.0, 2.0), (0.0, None, 0.0)],
)
def test_the_grace_period_of_the_call_wins(
    call: float | None, task: float | None, deadline: float
) -> None:
    def policy(seconds: float | None) -> dict[str, Any]:
        return {"kill_policy": {"grace_period": {"nanoseconds": int((seconds or 0) * 1e9)}}} if (
            seconds is not None
        ) else {}  # fmt: skip

    driver = Driver().launched({**TASK, **policy(task)})
    driver.event("KILL", 0.0, task_id=TASK["task_id"], **policy(call))
    assert driver.rules.next_deadline() == deadline


def test_a_second_kill_only_shortens_the_first() -> None:
    driver = Driver().launched()
    driver.event("KILL", 0.0, task_id=TASK["task_id"])
    long = {"grace_period": {"nanoseconds": 60_000_000_000}}
    assert driver.event("KILL", 1.0, task_id=TASK["task_id"], kill_policy=long) == []
    assert driver.rules.next_deadline() == 3.0
    now = {"grace_period": {"nanoseconds": 0}}
    again = driver.event("KILL", 1.0, task_id=TASK["task_id"], kill_policy=now)
    assert again == [Signal(signal.SIGKILL)]


def test_a_task_that_takes_too_long_fails() -> None:
    driver = Driver().launched({**TASK, "max_completion_time": {"nanoseconds": 5_000_000_000}})
    assert driver.rules.next_deadline() == 5.0
    assert driver.rules.expire(now=5.0, wall=5.0) == [Signal(signal.SIGKILL)]
    (end,) = driver.told(driver.rules.exited(9, now=5.1, wall=5.1))
    assert end[:2] == ("TASK_FAILED", "REASON_MAX_COMPLETION_TIME_REACHED")


def test_an_unhealthy_task_is_killed() -> None:
    check = {"type": "TCP", "tcp": {"port": 1}, "delay_seconds": 0, "grace_period_seconds": 0,
             "consecutive_failures": 1}  # fmt: skip
    driver = Driver().launched({**TASK, "health_check": check})
    (probe,) = driver.rules.expire(now=0.5, wall=0.5)
    assert isinstance(probe, Probe)
    told = driver.told(driver.rules.probed(True, Result(0, "refused"), now=1.0, wall=1.0))
    assert told == [
        ("TASK_RUNNING", "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED", "refused"),
        ("TASK_KILLING", None, None),
        Signal(signal.SIGTERM),
    ]
    (send,) = driver.rules.exited(15, now=2.0, wall=2.0)
    assert isinstance(send, Send)
    status = send.call["update"]["status"]
    assert (status["state"], status["healthy"]) == ("TASK_KILLED", False)


def test_a_command_that_does_not_exist_fails_the_task() -> None:
    driver = Driver()
    driver.event("SUBSCRIBED")
    driver.event("LAUNCH", task=TASK)
    told = driver.told(driver.rules.not_started("cannot execute x", now=0.0, wall=0.0))
    assert told == [("TASK_FAILED", "REASON_COMMAND_EXECUTOR_FAILED", "cannot execute x")]


def test_what_is_not_acknowledged_goes_along_with_the_next_subscription() -> None:
    driver = Driver().launched()
    body = driver.rules.subscribe_call()["subscribe"]
    assert body["unacknowledged_tasks"] == [TASK]
    states = [update["status"]["state"] for update in body["unacknowledged_updates"]]
    assert states == ["TASK_STARTING", "TASK_RUNNING"]
    driver.acknowledge_all()
    assert driver.rules.subscribe_call()["subscribe"] == {}


def test_an_update_made_while_subscribing_is_sent_after_it() -> None:
    driver = Driver().launched()
    driver.acknowledge_all()
    driver.rules.disconnected(now=1.0, wall=1.0)
    driver.rules.subscribe_call()
    driver.rules.exited(0, now=2.0, wall=2.0)
    assert driver.event("SUBSCRIBED", 3.0)[0][0] == "TASK_FINISHED"


def test_a_lost_agent_is_waited_for_only_with_checkpointing() -> None:
    patient, hasty = Driver().launched(), Driver(checkpoint=False).launched()
    assert patient.rules.disconnected(now=10.0, wall=10.0) == []
    assert patient.rules.next_deadline() == 910.0
    gone = patient.told(patient.rules.expire(now=910.0, wall=910.0))
    assert gone[-1] == Signal(signal.SIGTERM)
    assert patient.rules.exited(15, now=911.0, wall=911.0) == [Exit(0)]
    assert hasty.told(hasty.rules.disconnected(now=10.0, wall=10.0))[-1] == Signal(signal.SIGTERM)
    assert hasty.rules.exited(15, now=11.0, wall=11.0) == [Exit(0)]


def test_the_agent_coming_back_ends_the_wait() -> None:
    driver = Driver().launched()
    driver.rules.disconnected(now=10.0, wall=10.0)
    driver.event("SUBSCRIBED", 20.0)
    assert driver.rules.next_deadline() is None


def test_a_last_update_that_is_never_acknowledged_does_not_keep_the_executor() -> None:
    driver = Driver().launched()
    driver.rules.exited(0, now=1.0, wall=1.0)
    assert driver.rules.next_deadline() == 61.0
    assert driver.rules.expire(now=61.0, wall=61.0) == [Exit(0)]


def test_shutdown_leaves_the_agent_no_reason_to_kill() -> None:
    driver = Driver().launched()
    assert driver.event("SHUTDOWN", 1.0)[-1] == Signal(signal.SIGTERM)
    assert driver.rules.next_deadline() == 4.0
    idle = Driver()
    idle.event("SUBSCRIBED")
    assert idle.event("SHUTDOWN") == [Exit(0)]


@pytest.mark.parametrize(
    "event", [{}, {"type": "LAUNCH"}, {"type": "KILL", "kill": {}}, {"type": "NEWER"}], ids=str
)
def test_events_that_make_no_sense_are_ignored(event: dict[str, Any]) -> None:
    assert Driver().rules.received(event, now=0.0, wall=0.0) == []


def test_settings_name_what_is_wrong() -> None:
    good = {"MESOS_FRAMEWORK_ID": "f", "MESOS_EXECUTOR_ID": "e", "MESOS_AGENT_ENDPOINT": "h:1",
            "MESOS_CHECKPOINT": "0", "MESOS_RECOVERY_TIMEOUT": "100ms"}  # fmt: skip
    assert read_settings(good).recovery_timeout_s == pytest.approx(0.1)
    assert read_settings(good).checkpoint is False
    for name, value in (("MESOS_EXECUTOR_ID", ""), ("MESOS_RECOVERY_TIMEOUT", "1 year")):
        with pytest.raises(ValueError, match=name):
            read_settings({**good, name: value})
    assert parse_duration("1.5mins") == 90.0


def test_the_task_gets_no_secret_of_its_executor() -> None:
    inherited = {"MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "x", "MESOS_DOMAIN_SOCKET": "y", "A": "1"}
    variables = [{"name": "A", "value": "2"}, {"name": "B"}, {"name": "C=D", "value": "3"}]
    command = {"environment": {"variables": variables}}
    assert task_environment(inherited, command) == {"A": "2", "B": ""}
