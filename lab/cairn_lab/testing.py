"""A running lab as a test sees it: questions by public interfaces, and failures on demand.

For end-to-end tests here and elsewhere: `up` a lab of your own name without relays, wrap it.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from cairn_lab import hosts, inside, lab
from cairn_lab.demo import Demo, Instance
from cairn_lab.roles import MARATHON_PORT, MASTER_PORT, repository
from cairn_lab.supervisor import Supervisor

EXAMPLES = repository() / "examples"


class Cluster:
    """A running lab as a test sees it: everything by the public interfaces."""

    def __init__(self, made: lab.Lab) -> None:
        self.lab = made
        self.web = Demo(made, EXAMPLES / "web.json")
        self.master = made.topology.by_role("master")[0]

    def wait(self) -> None:
        """Wait until the master knows all agents and Marathon."""
        self.web.wait_for_agents()
        self.web.wait_for_marathon()

    def ask(self, port: int, path: str, method: str = "GET", document: object = None) -> Any:
        """JSON that a daemon on the master answers; None when it does not answer with 200."""
        pid = self.lab.pid(self.master.name)
        try:
            answer = inside.request(pid, method, str(self.master.ipv4), port, path, document)
        except OSError:
            return None
        return answer.json() if answer.status == 200 else None

    def agents(self) -> dict[str, str]:
        """Id of each active agent, by host name."""
        document = self.ask(MASTER_PORT, "/slaves") or {"slaves": []}
        return {a["hostname"]: a["id"] for a in document["slaves"] if a["active"]}

    def framework_id(self) -> str | None:
        """Marathon's framework id, once it has one."""
        return (self.ask(MARATHON_PORT, "/v2/info") or {}).get("frameworkId")

    def running_tasks(self) -> set[str]:
        """Ids of tasks that the master believes to run."""
        document = self.ask(MASTER_PORT, "/tasks?limit=1000") or {"tasks": []}
        return {t["id"] for t in document["tasks"] if t["state"] == "TASK_RUNNING"}

    def run(self, host: str, *command: str) -> str:
        """Output of a command that succeeds on a host."""
        return subprocess.run(
            hosts.enter(self.lab.pid(host), command), check=True, capture_output=True, text=True
        ).stdout

    def listener(self, instance: Instance) -> int:
        """Main process of an instance, as its host numbers processes."""
        found = self.run(instance.host.name, "ss", "-ltnpH", f"sport = :{instance.port}")
        return min(int(word.split(",")[0]) for word in found.split("pid=")[1:])

    def supervisor(self, host: str) -> Supervisor:
        """The host's supervisor."""
        return Supervisor(self.lab.pid(host))

    def kill(self, host: str, unit: str) -> None:
        """SIGKILL a daemon and wait until another process of it runs."""
        before = self.supervisor(host).status()[unit].pid
        self.supervisor(host).kill(unit, 9)

        def returned() -> bool:
            now = self.supervisor(host).status()[unit]
            return now.running and now.pid != before

        eventually(returned, f"{unit} runs again on {host}")

    def healthy(self) -> list[Instance]:
        """The web instances, once as many as wanted are healthy."""
        return self.web.wait_for_instances()

    def logs(self) -> str:
        """Ends of all logs, for a failing test."""
        texts = []
        for host in self.lab.topology.hosts:
            for path in sorted((self.lab.folder(host.name) / "log").glob("*.log")):
                end = path.read_text(errors="replace").splitlines()[-25:]
                texts.append("\n".join([f"== {host.name} {path.name}", *end]))
        return "\n".join(texts)


def start(cluster: Cluster, script: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a Python program of ours on the master's host, its outputs in pipes."""
    argv = [sys.executable, script, *arguments]
    return subprocess.Popen(
        hosts.enter(cluster.lab.pid(cluster.master.name), argv),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def eventually(condition: Callable[[], object], what: str, *, timeout_s: float = 30.0) -> None:
    """Wait until `condition` holds; fails with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not true after {timeout_s:.0f} s: {what}")
        time.sleep(0.1)
