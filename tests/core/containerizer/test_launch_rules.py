"""What becomes of several isolators' wishes, of `--isolation`, and of a container's settings."""

import os
import pwd
from pathlib import Path

import pytest

from cairn_core.agent.config import AgentConfig
from cairn_core.agent.containerizer.isolators.loading import load, load_hooks, resolve
from cairn_core.agent.containerizer.launch_info import merge
from cairn_core.agent.containerizer.launch_spec import LoggerSettings, User, build_spec, find_user
from cairn_core.agent.containerizer.runtime_dir import RuntimeDir, validate_id
from cairn_core.agent.io_containers import make
from cairn_core.errors import LocalError
from cairn_core.extensions import AgentSettings, ContainerConfig, LaunchInfo, Mount


def test_wishes_are_merged() -> None:
    one = LaunchInfo({"A": "1", "B": "1"}, ("pid", "mnt"), mounts=(Mount("a", "b"),), hostname="h")
    two = LaunchInfo({"B": "2"}, ("mnt", "ipc"), {"net": "/n"}, (Mount("c", "d"),))
    three = LaunchInfo(no_new_privs=True)
    assert merge([("one", one), ("two", two), ("three", three)]) == LaunchInfo(
        environment={"A": "1", "B": "2"},
        namespaces=("pid", "mnt", "ipc"),
        join={"net": "/n"},
        mounts=(Mount("a", "b"), Mount("c", "d")),
        hostname="h",
        no_new_privs=True,
    )


@pytest.mark.parametrize(
    ("infos", "said"),
    [
        ([LaunchInfo(hostname="a"), LaunchInfo(hostname="b")], "hostname: set by both isolators 0"),
        ([LaunchInfo(rlimits=()), LaunchInfo(rlimits=())], "rlimits: set by both"),
        ([LaunchInfo(join={"net": "a"}), LaunchInfo(join={"net": "b"})], "join net"),
        ([LaunchInfo(namespaces=("net",)), LaunchInfo(join={"net": "b"})], "both left and joined"),
    ],
)
def test_wishes_that_exclude_each_other_are_an_error(infos: list[LaunchInfo], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        merge((str(n), info) for n, info in enumerate(infos))


@pytest.mark.parametrize(
    ("flag", "names"),
    [
        ("", ["filesystem/posix"]),
        ("process", ["filesystem/posix", "posix/cpu", "posix/mem"]),
        (
            "my/own, namespaces/pid,cgroups,filesystem/linux,posix/disk",
            [
                "filesystem/linux",
                "cgroups/cpu",
                "cgroups/mem",
                "disk/du",
                "namespaces/pid",
                "my/own",
            ],
        ),
    ],
)
def test_isolation_is_in_the_order_of_the_original(flag: str, names: list[str]) -> None:
    assert resolve(flag) == names


@pytest.mark.parametrize(
    "flag", ["posix/cpu,cgroups/cpu", "filesystem/posix,filesystem/linux", "namespaces/pid"]
)
def test_isolation_that_makes_no_sense_is_refused(flag: str) -> None:
    with pytest.raises(ValueError, match="isolation: "):
        resolve(flag)


def test_an_isolator_that_nobody_brings_is_named() -> None:
    with pytest.raises(LocalError, match="isolation: nothing installed is named 'my/own'"):
        load("my/own", AgentSettings("/r", "/w"))


def test_hooks_are_loaded_only_when_named() -> None:
    assert load_hooks("", AgentSettings("/r", "/w")) == []
    with pytest.raises(LocalError, match="hooks: nothing installed is named 'mine'"):
        load_hooks(" mine", AgentSettings("/r", "/w"))


def test_the_agent_takes_hooks_from_its_settings(tmp_path: Path) -> None:
    folder = str(tmp_path)
    config = AgentConfig(master="m:5050", runtime_dir=folder, work_dir=folder, hooks="mine")
    with pytest.raises(LocalError, match="hooks: nothing installed is named 'mine'"):
        make(config)


CONFIG = ContainerConfig(sandbox="/s", argv=("x",), environment={"A": "1"})


def test_the_environment_is_only_what_is_given() -> None:
    info = LaunchInfo({"PATH": "/own", "MESOS_SANDBOX": "/s"})
    spec = build_spec("c", CONFIG, info, User(1, 2, (2, 3)), "/st", LoggerSettings())
    assert spec["env"] == {"A": "1", "PATH": "/own", "MESOS_SANDBOX": "/s"}
    assert (spec["uid"], spec["gid"], spec["groups"], spec["reap"]) == (1, 2, [2, 3], False)
    assert spec["stdout"] == {"dir": "/s", "name": "stdout", "max_bytes": 10 << 20, "keep": 9}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ContainerConfig(sandbox="/s"), "exactly one of argv and entry"),
        (ContainerConfig(sandbox="/s", argv=("x",), environment={"A=B": ""}), "unusable variable"),
        (ContainerConfig(sandbox="/s", argv=("x",), environment={"A": "\0"}), "unusable variable"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: ContainerConfig, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_spec("c", config, LaunchInfo(), User(), "/st", LoggerSettings())


def test_the_task_may_choose_how_much_output_is_kept() -> None:
    settings = LoggerSettings(1000, 2)
    environment = {
        "CONTAINER_LOGGER_MAX_STDOUT_SIZE": "5MB",
        "CONTAINER_LOGGER_LOGROTATE_STDOUT_OPTIONS": "compress\nrotate 7",
    }
    assert settings.for_stream("STDOUT", environment) == (5 << 20, 7)
    assert settings.for_stream("STDERR", environment) == (1000, 2)
    with pytest.raises(ValueError, match="CONTAINER_LOGGER_MAX_STDERR_SIZE: not a size"):
        settings.for_stream("STDERR", {"CONTAINER_LOGGER_MAX_STDERR_SIZE": "much"})


def test_users() -> None:
    assert find_user(None) == User()
    name = pwd.getpwuid(os.geteuid()).pw_name
    assert find_user(name).uid in (None, os.geteuid())


@pytest.mark.parametrize("cid", ["a", "11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa", "a.b.c"])
def test_usable_ids(cid: str) -> None:
    validate_id(cid)
    assert str(RuntimeDir("/r").path(cid)).count("/containers/") == cid.count(".") + 1


@pytest.mark.parametrize("cid", ["", ".", "..", "a..b", "a/b", "a b", "a\n", "x" * 243, "a\0"])
def test_ids_that_could_name_something_else(cid: str) -> None:
    with pytest.raises(ValueError, match="not usable"):
        validate_id(cid)
