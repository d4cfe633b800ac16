"""The containerizer as the agent uses it: its protocol, and how the settings make one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cairn_core.agent.config import AgentConfig, flags_of, work_path
from cairn_core.agent.containerizer.cgroups import Cgroups, find_hierarchies
from cairn_core.agent.containerizer.containerizer import Containerizer, Fetch
from cairn_core.agent.containerizer.isolators.loading import load, load_hooks
from cairn_core.agent.containerizer.launch_spec import LoggerSettings
from cairn_core.agent.containerizer.launcher import Launcher, LinuxLauncher, Zygote
from cairn_core.agent.containerizer.runtime_dir import ContainerTermination, RuntimeDir
from cairn_core.agent.io_fetcher import Fetcher, FetcherSettings
from cairn_core.extensions import AgentSettings, Amounts, ContainerConfig, Limitation
from cairn_core.mesos.types import ContainerStatus, ResourceStatistics, TaskStatus

#: Loaded once in the zygote, so that a command executor costs a fork.
PRELOAD = ("cairn_core.executor.command",)


class Containers(Protocol):
    """What the agent asks of a containerizer; see `Containerizer` for each method."""

    async def recover(self, known: Mapping[str, ContainerConfig | None]) -> set[str]:
        """Take over known containers, destroy all others."""
        ...

    async def launch(self, container_id: str, config: ContainerConfig) -> int:
        """Start a container."""
        ...

    async def update(self, container_id: str, requests: Amounts, limits: Amounts | None) -> None:
        """Change what it may use."""
        ...

    async def destroy(
        self, container_id: str, reason: str | None = None, message: str = ""
    ) -> ContainerTermination:
        """End it."""
        ...

    async def wait(self, container_id: str) -> ContainerTermination:
        """How it ended, once it has."""
        ...

    async def usage(self, container_id: str) -> ResourceStatistics:
        """What it uses."""
        ...

    async def status(self, container_id: str) -> ContainerStatus:
        """Its process and networks."""
        ...

    async def limitation(self, container_id: str) -> Limitation | None:
        """The limit that it has gone over, also while it still runs."""
        ...

    def decorated(self, framework_id: str, status: TaskStatus) -> TaskStatus:
        """A status of an executor with what hooks add to it."""
        ...

    def forget(self, container_id: str) -> None:
        """Its end is taken note of."""
        ...


def traces(config: AgentConfig) -> set[str]:
    """Ids of the containers of which an earlier agent left something in the runtime directory."""
    return set(RuntimeDir(config.runtime_dir).ids())


def make_fetcher(config: AgentConfig) -> Fetcher:
    """A fetcher as the settings want it, with an empty cache."""
    # A directory of its own below the one named, for it is emptied.
    directory = str(Path(config.fetcher_cache_dir or work_path(config)) / "fetch")
    fetcher = Fetcher(
        FetcherSettings(
            directory,
            tuple(part for part in config.fetcher_allowed_dirs.split(",") if part),
            config.frameworks_home,
            cache_bytes=config.fetcher_cache_size,
            stall_timeout_s=config.fetcher_stall_timeout,
        )
    )
    fetcher.prepare()
    return fetcher


def make(config: AgentConfig, fetch: Fetch | None = None) -> Containerizer:
    """A containerizer as the settings want it.

    Raises LocalError for names in `--isolation` or `--hooks` that nothing installed has.
    """
    runtime = Path(config.runtime_dir)
    flags = flags_of(config)
    flags["container_disk_watch_interval"] = str(config.container_disk_watch_interval)
    settings = AgentSettings(
        runtime_dir=str(runtime),
        work_dir=work_path(config),
        cgroups_root=config.cgroups_root,
        cgroups_mount=config.cgroups_hierarchy,
        flags=flags,
    )
    # its socket starts processes as root: a directory that nobody else may enter
    zygote = Zygote(str(runtime / "helper"), PRELOAD)
    linux = config.launcher == "linux" or (config.launcher == "" and os.geteuid() == 0)
    launcher: Launcher = Launcher(zygote)
    if linux:
        launcher = LinuxLauncher(zygote, Cgroups(find_hierarchies(), config.cgroups_root))
    logger = LoggerSettings(config.container_logger_max_size, config.container_logger_keep)
    isolators = load(config.isolation, settings)
    hooks = load_hooks(config.hooks, settings)
    fetch = fetch or make_fetcher(config).fetch
    return Containerizer(str(runtime), launcher, isolators, fetch, logger, hooks)
