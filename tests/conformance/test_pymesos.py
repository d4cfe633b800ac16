"""pymesos, unmodified, as framework and as operator: the Mesos v1 API over the wire."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

ClientPython = Callable[[str], Path]


def drive(python: Path, mode: str, address: str) -> Any:
    script = Path(__file__).parent / "clients/pymesos/drive.py"
    done = subprocess.run(
        [python, script, mode, address], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_a_framework_launches_kills_and_reconciles(
    cluster: Any, client_python: ClientPython
) -> None:
    seen = drive(client_python("pymesos"), "scheduler", cluster.master)
    assert seen["finished"], seen
    assert re.fullmatch(r".+-\d{4}", seen["framework"])
    ends = {name: states[-1] for name, states in seen["states"].items()}
    assert ends == {
        "t1": "TASK_FINISHED", "t2": "TASK_FAILED", "t3": "TASK_FINISHED", "t4": "TASK_KILLED",
    }  # fmt: skip
    assert "TASK_RUNNING" in seen["states"]["t4"]
    assert ["t4", "TASK_RUNNING"] in seen["reconciled"]
    # nobody knows this task, and the framework is not partition-aware
    assert ["nobody", "TASK_LOST"] in seen["reconciled"]


def test_an_operator_reads_the_master(cluster: Any, client_python: ClientPython) -> None:
    seen = drive(client_python("pymesos"), "operator", cluster.master)
    assert seen["health"]["get_health"]["healthy"] is True
    assert seen["version"]["get_version"]["version_info"]["version"].count(".") == 2
    (agent,) = seen["agents"]["get_agents"]["agents"]
    assert agent["active"] is True
    assert {"get_tasks", "get_agents", "get_frameworks", "get_executors"} <= seen["state"][
        "get_state"
    ].keys()
    names = {metric["name"] for metric in seen["metrics"]["get_metrics"]["metrics"]}
    assert "master/elected" in names


def test_an_operator_reads_an_agent(cluster: Any, client_python: ClientPython) -> None:
    seen = drive(client_python("pymesos"), "agent", cluster.agent)
    assert seen["health"]["get_health"]["healthy"] is True
    assert "get_containers" in seen["containers"]
    assert "get_state" in seen["state"]
