"""Marathon killed in the middle of rolling restarts: it goes on, and restarts nothing healthy."""

import json
import signal
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

INSTANCES = 5


class Marathon:
    """One that is started, killed and started again on the same log."""

    def __init__(self, cluster: Any, port: int, wait: Callable[..., Any]) -> None:
        self.cluster = cluster
        self.port = port
        self.wait = wait

    def start(self) -> None:
        self.cluster.start(
            "cairn-marathon", "--http_address=127.0.0.1", f"--http_port={self.port}",
            "--hostname=127.0.0.1", f"--master={self.cluster.master}", "--framework_name=crashes",
            f"--work_dir={self.cluster.directory / 'crashes'}", "--mesos_user=root",
        )  # fmt: skip
        self.wait("a leading marathon", lambda: self.ask("GET", "/v2/info")["elected"])

    def kill(self) -> None:
        process = self.cluster.processes[-1]
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), method=method
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def running(self, version: str) -> int:
        tasks = self.ask("GET", "/v2/tasks?status=running")["tasks"]
        return sum(task["version"] == version for task in tasks)

    def states(self) -> dict[str, str]:
        """Every task that the master ever had of us, with its state."""
        url = f"http://{self.cluster.master}/state"
        with urllib.request.urlopen(url, timeout=10) as answer:
            frameworks = json.loads(answer.read())["frameworks"]
        (ours,) = [f for f in frameworks if f["name"] == "crashes"]
        return {t["id"]: t["state"] for t in ours["tasks"] + ours["completed_tasks"]}


def test_rolling_restarts_go_on_after_every_kill(
    cluster: Any, port: int, wait: Callable[..., Any]
) -> None:
    marathon = Marathon(cluster, port, wait)
    marathon.start()
    app = {
        "id": "/rolling", "cmd": "sleep 1000", "cpus": 0.1, "mem": 32, "instances": INSTANCES,
        "upgradeStrategy": {"minimumHealthCapacity": 0.8, "maximumOverCapacity": 0},
    }  # fmt: skip
    version = marathon.ask("POST", "/v2/apps", app)["version"]
    wait("the first instances", lambda: marathon.running(version) == INSTANCES)
    wait("the first deployment", lambda: not marathon.ask("GET", "/v2/deployments"))
    wait("the master's view", lambda: len(marathon.states()) == INSTANCES)
    for round_, replaced in enumerate((0, 1, 3), 1):
        answer = marathon.ask("PUT", "/v2/apps/rolling", {"cmd": f"sleep {1000 + round_}"})
        new = answer["version"]
        wait(f"{replaced} new instances", lambda v=new, n=replaced: marathon.running(v) >= n)
        marathon.kill()
        marathon.start()
        wait("the deployment", lambda: not marathon.ask("GET", "/v2/deployments"))
        assert marathon.running(new) == INSTANCES
        wait("the old ones to end", lambda n=round_: _ended(marathon.states()) == n * INSTANCES)
        # Every instance was launched once per version: nothing was started twice or in vain.
        states = marathon.states()
        assert len(states) == (round_ + 1) * INSTANCES
        assert set(states.values()) == {"TASK_RUNNING", "TASK_KILLED"}
    marathon.ask("DELETE", "/v2/apps/rolling")
    wait("the end of all", lambda: _ended(marathon.states()) == 4 * INSTANCES)


def _ended(states: dict[str, str]) -> int:
    return sum(state == "TASK_KILLED" for state in states.values())
