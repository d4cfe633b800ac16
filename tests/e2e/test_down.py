"""Taking a lab down under load: nothing of daemons, executors or tasks is left."""

import os
import re
import subprocess
import uuid
from pathlib import Path

import pytest

from cairn_core.testing.requires import requires
from cairn_lab import cgroups, lab, state
from cairn_lab.testing import EXAMPLES, Cluster, eventually, start
from cairn_lab.topology import lab_cgroup

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def machine() -> list[str]:
    """What a lab must not touch: names in /etc, name servers, links and addresses."""
    shown = ["ip", "-o", "address", "show"]
    addresses = subprocess.run(shown, check=True, capture_output=True, text=True).stdout
    lines = [re.sub(r" (valid|preferred)_lft \S+", "", line) for line in addresses.splitlines()]
    return [*sorted(os.listdir("/etc")), Path("/etc/resolv.conf").read_text(), *lines]


def test_down_ends_running_tasks_and_leaves_nothing() -> None:
    requires("root", "ip", "nsenter", "dig")
    before = set(machine())
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    try:
        agents = Cluster(lab.up(name, public=0)[0])
        agents.web.wait_for_agents()
        master = f"http://{agents.master.ipv4}:5050"
        batch = start(agents, str(EXAMPLES / "batch.py"), master, "10", "sleep 1000")
        eventually(lambda: len(agents.running_tasks()) == 10, "10 tasks run")
        assert cgroups.processes(lab_cgroup(name))
        for host in agents.lab.topology.hosts:
            agents.web.wait_for_proxy(host)
        # but for the empty directory over which hosts mount their own
        assert set(machine()) - before <= {"cairn"}
    finally:
        lab.down(name)
    batch.communicate(timeout=10)
    assert not cgroups.processes(lab_cgroup(name))
    assert [h for h in cgroups.hierarchies() if (h / lab_cgroup(name)).exists()] == []
    assert not state.directory(name).exists()
    assert name not in Path("/proc/self/mounts").read_text()
    assert set(machine()) - before <= {"cairn"}
    assert before <= set(machine())
