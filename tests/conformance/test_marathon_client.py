"""The Python package `marathon`, unmodified: the HTTP API over the wire, tasks for real."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

ClientPython = Callable[[str], Path]


@pytest.fixture
def drive(marathon: str, client_python: ClientPython) -> Callable[[str], Any]:
    """Runs one part of the client's script."""

    def run(what: str) -> Any:
        script = Path(__file__).parent / "clients/marathon/drive.py"
        done = subprocess.run(
            [client_python("marathon"), script, what, f"http://{marathon}"],
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout)

    return run


def test_the_life_of_an_app(drive: Callable[[str], Any]) -> None:
    seen = drive("apps")
    assert seen.pop("version")
    assert seen == {
        "created": "/conformance/web",
        "tasks": ["TASK_RUNNING", "TASK_RUNNING"],
        "listed": ["/conformance/web"],
        "conflict": "An app with id [/conformance/web] already exists.",
        "killed": True,
        "commands": ["sleep 2000", "sleep 1000"],
        "versions": 4,
        "old": "sleep 1000",
        "instances": 2,
        "endpoints": 2,
        "gone": "App '/conformance/web' does not exist",
    }


def test_the_life_of_a_group(drive: Callable[[str], Any]) -> None:
    seen = drive("groups")
    assert seen == {
        "apps": ["/conformance-group/one", "/conformance-group/two"],
        "listed": seen["left"] + ["/conformance-group"],
        "scaled": [2, 2],
        "back": [1, 1],
        "updated": ["/conformance-group/one"],
        "left": seen["left"],
    }


def test_what_waits_is_explained_locked_and_undone(drive: Callable[[str], Any]) -> None:
    assert drive("waiting") == {
        "queued": "/conformance-big",
        "count": 1,
        "overdue": True,
        "affected": ["/conformance-big"],
        "actions": ["StartApplication", "ScaleApplication"],
        "locked": 409,
        "refused": [422, "Invalid JSON"],
        "undone": ["deploymentId", "version"],
        "left": [],
        "cancelled": True,
    }


def test_a_rolling_restart_waits_for_health_and_readiness(drive: Callable[[str], Any]) -> None:
    assert drive("checked") == {
        "healthy": 2,
        "results": [[True, True], [True, True]],
        "fewest": 2,
        "versions": 1,
    }


def test_marathon_says_who_it_is(drive: Callable[[str], Any], marathon: str) -> None:
    seen = drive("info")
    assert (seen["name"], seen["elected"], seen["ping"]) == ("marathon", True, '"pong"')
    assert seen["leader"] == marathon
    assert seen["framework"]
    assert "marathon.apps.active.gauge" in seen["gauges"]


def test_every_event_is_one_that_the_client_knows(drive: Callable[[str], Any]) -> None:
    seen = drive("events")
    types = seen["types"]
    assert types[0] == "event_stream_attached"
    assert types[-1] == "app_terminated_event"
    assert {
        "api_post_event", "group_change_success", "deployment_info", "deployment_step_success",
        "deployment_success", "instance_changed_event", "status_update_event",
    } <= set(types)  # fmt: skip
    assert seen["states"][-1] == "TASK_KILLED"
    assert "TASK_RUNNING" in seen["states"]
    assert seen["plans"] >= 2
    assert seen["targets"]
