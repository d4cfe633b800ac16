"""Version 2 control groups, as a stock Debian 12 has them: containers in a guest with its kernel.

Everything runs in one boot (guest_cgroup2.py); the tests look at what it reported.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cairn_core.testing import guest
from cairn_core.testing.requires import requires

pytestmark = [pytest.mark.guest, pytest.mark.slow]
Findings = dict[str, dict[str, Any]]
MIB = 1 << 20


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    requires(guest.EMULATOR, f"path:{guest.KERNEL}")
    program = Path(__file__).with_name("guest_cgroup2.py")
    reported = guest.run(program, tmp_path_factory.mktemp("guest"))
    return {finding["name"]: finding for finding in reported}


def test_the_guest_has_version_2_and_nothing_else(findings: Findings) -> None:
    assert findings["machine"]["cgroup_mounts"] == ["cgroup2"]
    assert findings["machine"]["release"].endswith("-amd64")


def test_an_agent_leaves_a_group_that_hands_controllers_down(findings: Findings) -> None:
    found = findings["machine"]
    assert (found["before"], found["after"]) == ("/delegated", "/delegated/cairn/agent/leaf")
    assert found["left_behind"] == []
    assert found["handed_down"] == ["cpu", "memory", "pids"]


def test_others_in_such_a_group_are_an_error_that_names_it(findings: Findings) -> None:
    assert findings["occupied"]["error"].startswith("/sys/fs/cgroup/occupied: holds processes")


def test_amounts_are_in_the_control_files(findings: Findings) -> None:
    found = findings["amounts"]
    order = ("cpu.weight", "cpu.max", "memory.low", "memory.max")

    def values(stage: str) -> list[str]:
        return [found[stage][name] for name in order]

    assert values("launched") == ["20", "20000 100000", str(64 * MIB), str(64 * MIB)]
    assert values("raised") == ["100", "100000 100000", str(128 * MIB), str(128 * MIB)]
    assert values("lowered") == ["1", "1000 100000", str(48 * MIB), str(128 * MIB)]
    assert values("unlimited") == ["1", "max 100000", str(48 * MIB), "max"]


def test_processes_live_in_leaves(findings: Findings) -> None:
    found = findings["amounts"]
    assert found["held"] == [f"delegated/cairn/{found['cid']}/leaf"]
    assert found["zygote"] == "0::/delegated/cairn/helpers/leaf"


def test_the_quota_takes_effect_and_usage_shows_it(findings: Findings) -> None:
    usage = findings["amounts"]["usage"]
    assert usage["cpus_nr_throttled"] >= 5
    assert usage["cpus_throttled_time_secs"] > 0
    assert usage["processes"] == 2  # its init and its command
    assert usage["cpus_user_time_secs"] > 0
    assert (usage["mem_limit_bytes"], usage["mem_soft_limit_bytes"]) == (64 * MIB, 64 * MIB)
    assert 0 < usage["mem_anon_bytes"] <= usage["mem_total_bytes"] < 64 * MIB


@pytest.mark.parametrize("victim", ["killed child", "killed first process", "killed nested"])
def test_going_over_memory_is_a_limitation(findings: Findings, victim: str) -> None:
    found = findings[victim]
    assert found["reason"] == "REASON_CONTAINER_LIMITATION_MEMORY"
    assert found["message"] == "Memory limit exceeded: Requested: 32MB Maximum Used: 32MB"
    assert found["statistics"]
    assert found["limited"] == {"mem": 32_000}
    assert os.WTERMSIG(found["status"]) == signal.SIGKILL


def test_a_nested_container_over_its_own_limit_leaves_its_parent_alone(findings: Findings) -> None:
    found = findings["killed nested"]
    assert found["parent_counts"] == 1  # the kernel adds up, so these counters would mislead
    assert found["parent_running"]
    assert findings["parent destroyed"]["reason"] is None


def test_destroying_leaves_no_process_and_no_group(findings: Findings) -> None:
    found = findings["destroyed"]
    assert found["has_kill"]
    assert found["members"] > 10
    assert (found["alive"], found["left"]) == ([], [])


def test_a_new_agent_takes_over_its_own_and_ends_the_rest(findings: Findings) -> None:
    found = findings["recovered"]
    assert found["kept"]
    assert found["same_process"]
    assert found["stranger_gone"]
    assert findings["after all"]["left"] == []


def test_a_launch_that_fails_says_why(findings: Findings) -> None:
    assert "cannot execute /no/such/program" in findings["after all"]["refused"]
