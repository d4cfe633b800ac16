"""Master and agents under a framework of our own: the batch example, with failures meanwhile."""

import pytest

from cairn_lab.testing import EXAMPLES, Cluster, eventually, start

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


class Batch:
    """The batch example on the master's host."""

    def __init__(self, agents: Cluster, count: int, command: str) -> None:
        master = f"http://{agents.master.ipv4}:5050"
        self._process = start(agents, str(EXAMPLES / "batch.py"), master, str(count), command)

    def states(self) -> list[str]:
        """As `ended`, without the messages: a reconciled task has another one."""
        *tasks, total = self.ended()
        return [*(" ".join(line.split()[:2]) for line in tasks), total]

    def ended(self, timeout_s: float = 120.0) -> list[str]:
        """Lines that say how each task ended, sorted, and the sum as the last one."""
        output, complaints = self._process.communicate(timeout=timeout_s)
        assert "Traceback" not in complaints, complaints
        *tasks, total = output.splitlines()
        return [*sorted(tasks), total]


def all_finished(count: int) -> list[str]:
    lines = [f"batch-{i} TASK_FINISHED" for i in range(count)]
    return [*sorted(lines), f"{count} finished, 0 failed"]


def test_a_batch_of_short_tasks_finishes(agents: Cluster) -> None:
    assert Batch(agents, 30, "hostname").states() == all_finished(30)


def test_a_failing_command_is_reported_with_its_status(agents: Cluster) -> None:
    assert Batch(agents, 1, "exit 3").ended() == [
        "batch-0 TASK_FAILED Command exited with status 3",
        "0 finished, 1 failed",
    ]


def test_tasks_survive_a_killed_agent(agents: Cluster) -> None:
    ids = agents.agents()
    running = Batch(agents, 20, "sleep 4")
    eventually(lambda: len(agents.running_tasks()) == 20, "20 tasks run")
    for host in ("agent1", "agent2"):
        agents.kill(host, "cairn-agent")
    assert running.states() == all_finished(20)
    eventually(lambda: agents.agents() == ids, "the agents return under their ids")


def test_tasks_survive_a_killed_master(agents: Cluster) -> None:
    ids = agents.agents()
    running = Batch(agents, 20, "sleep 4")
    eventually(lambda: len(agents.running_tasks()) == 20, "20 tasks run")
    agents.kill("master1", "cairn-master")
    assert running.states() == all_finished(20)
    eventually(lambda: agents.agents() == ids, "the agents return under their ids")


def test_a_public_agent_offers_nothing_to_a_framework_of_another_role(agents: Cluster) -> None:
    assert Batch(agents, 10, "hostname").states() == all_finished(10)
    [public] = [s for s in agents.ask(5050, "/slaves")["slaves"] if s["hostname"] == "public1"]
    assert public["unreserved_resources"].get("cpus", 0) == 0
    assert public["reserved_resources"]["slave_public"]["cpus"] == 2


def test_no_process_cgroup_or_mount_is_left_when_tasks_have_ended(agents: Cluster) -> None:
    eventually(lambda: not agents.running_tasks(), "earlier batches have ended")

    def traces() -> list[str]:
        found = []
        for host in ("agent1", "agent2"):
            root = agents.lab.topology.agent_cgroup(host)
            shown = agents.run(host, "sh", "-c", f"find /sys/fs/cgroup/*/{root} -type d; mount")
            found.append("\n".join(sorted(shown.splitlines())))
        return found

    before = traces()
    assert Batch(agents, 10, "true").states() == all_finished(10)
    eventually(lambda: traces() == before, "cgroups and mounts are as before")


def test_every_host_resolves_a_task_while_it_runs(agents: Cluster) -> None:
    def found(host: str) -> str:
        return agents.run(host, "dig", "+short", "+tries=1", "+time=2", "batch-0.batch.mesos")

    running = Batch(agents, 1, "sleep 3")
    places = {"203.0.113.101\n", "203.0.113.102\n"}
    hosts_left = {host.name for host in agents.lab.topology.hosts}

    def all_resolve() -> bool:
        hosts_left.difference_update([h for h in hosts_left if found(h) in places])
        return not hosts_left

    eventually(all_resolve, "every host resolves the task")
    assert running.states() == all_finished(1)
    eventually(lambda: found("agent1") == "", "the name goes with the task")


def test_a_killed_name_server_returns_with_the_names(agents: Cluster) -> None:
    def leader() -> str:
        return agents.run("agent1", "dig", "+short", "+tries=1", "+time=2", "leader.mesos")

    eventually(lambda: leader() == "203.0.113.11\n", "the leader resolves")
    agents.kill("master1", "cairn-dns")
    eventually(lambda: leader() == "203.0.113.11\n", "the leader resolves again")
