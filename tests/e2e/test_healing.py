"""What a running cluster survives: each daemon, executor, task and host failing in turn."""

import re

import pytest

from cairn_lab import hosts
from cairn_lab.testing import Cluster, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def ids(cluster: Cluster) -> set[str]:
    return {instance.task_id for instance in cluster.healthy()}


def test_the_web_example_runs_on_two_agents_and_answers(cluster: Cluster) -> None:
    found = cluster.healthy()
    assert {i.host.name for i in found} == {"agent1", "agent2"}
    for instance in found:
        page = cluster.web.fetch(instance)
        assert page == f"web on {instance.host.name}:{instance.port}, task {instance.task_id}"


def test_every_host_resolves_the_example_to_its_instances(cluster: Cluster) -> None:
    addresses = {str(i.host.ipv4) for i in cluster.healthy()}
    for host in cluster.lab.topology.hosts:
        cluster.web.wait_for_name(host, addresses)


def test_tasks_run_as_nobody(cluster: Cluster) -> None:
    for instance in cluster.healthy():
        pid = cluster.listener(instance)
        user = cluster.run(instance.host.name, "stat", "-c", "%U", f"/proc/{pid}")
        assert user == "nobody\n"


@pytest.mark.parametrize(
    ("host", "unit"),
    [
        ("master1", "cairn-dns"),
        ("master1", "cairn-marathon"),
        ("master1", "cairn-master"),
        ("agent1", "cairn-agent"),
    ],
)
def test_a_killed_daemon_returns_and_no_task_notices(
    cluster: Cluster, host: str, unit: str
) -> None:
    before = cluster.healthy()
    processes = {i.task_id: cluster.listener(i) for i in before}
    framework, agents = cluster.framework_id(), cluster.agents()
    cluster.kill(host, unit)
    cluster.wait()
    eventually(lambda: cluster.agents() == agents, "agents return under their ids")
    eventually(lambda: cluster.framework_id() == framework, "Marathon keeps its framework id")
    eventually(lambda: set(processes) <= cluster.running_tasks(), "the master knows the tasks")
    after = cluster.healthy()
    assert after == before
    assert {i.task_id: cluster.listener(i) for i in after} == processes
    addresses = {str(i.host.ipv4) for i in after}
    cluster.web.wait_for_name(cluster.lab.topology.host("agent1"), addresses)


def test_a_killed_task_is_replaced(cluster: Cluster) -> None:
    victim, other = cluster.healthy()
    cluster.web.kill(victim)
    after = cluster.web.wait_for_instances(but_not=frozenset([victim.task_id]))
    assert other in after
    assert {i.host.name for i in after} == {"agent1", "agent2"}


def test_a_killed_executor_costs_only_its_own_task(cluster: Cluster) -> None:
    victim, other = cluster.healthy()
    task = cluster.listener(victim)
    status = cluster.run(victim.host.name, "cat", f"/proc/{task}/status")
    parent = re.search(r"^PPid:\s*(\d+)$", status, re.MULTILINE)
    assert parent is not None
    cluster.run(victim.host.name, "kill", "-9", parent[1])
    after = cluster.web.wait_for_instances(but_not=frozenset([victim.task_id]))
    assert other in after
    gone = f"/proc/{task}"
    eventually(
        lambda: cluster.run(victim.host.name, "sh", "-c", f"ls -d {gone} 2>&1 || true") != gone,
        "the task of the killed executor is gone",
    )


def test_a_task_that_ended_while_the_agent_was_dead_is_replaced(cluster: Cluster) -> None:
    victim, other = cluster.healthy()
    cluster.supervisor(victim.host.name).kill("cairn-agent", 9)
    cluster.web.kill(victim)
    after = cluster.web.wait_for_instances(but_not=frozenset([victim.task_id]))
    assert other in after


def test_all_daemons_at_once_may_die(cluster: Cluster) -> None:
    before = ids(cluster)
    for host in cluster.lab.topology.hosts:
        for unit in cluster.supervisor(host.name).status():
            cluster.supervisor(host.name).kill(unit, 9)
    cluster.wait()
    assert ids(cluster) == before


def test_a_host_that_was_cut_off_comes_back_into_service(cluster: Cluster) -> None:
    agents = cluster.agents()
    hosts.cut(cluster.lab.switch_pid(), "agent2")
    eventually(
        lambda: [i.host.name for i in cluster.web.instances()] == ["agent1"],
        "the instance that cannot be reached does not count as healthy",
    )
    hosts.heal(cluster.lab.switch_pid(), "agent2")
    after = cluster.healthy()
    assert {i.host.name for i in after} == {"agent1", "agent2"}
    eventually(lambda: cluster.agents() == agents, "the agent keeps its id")
