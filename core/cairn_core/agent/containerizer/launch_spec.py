"""What the helper is told about one container: user, environment, log files, mounts.

The keys are those of `helper.monitor`. A container's environment is what its configuration and the
isolators give and a default PATH; nothing of the agent's leaks in.
"""

import grp
import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cairn_core.extensions import ContainerConfig, LaunchInfo

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOGGER_PREFIX = "CONTAINER_LOGGER_"
MAX_KEPT_LOGS = 100
_SIZE = re.compile(r"([0-9]{1,15})(B|KB|MB|GB|TB)")
_UNITS = {"B": 0, "KB": 10, "MB": 20, "GB": 30, "TB": 40}
_ROTATE = re.compile(r"^\s*rotate\s+([0-9]{1,9})\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class User:
    """Whom a container runs as; None in `uid` means: as the agent itself."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LoggerSettings:
    """How much of stdout and stderr a sandbox keeps.

    max_bytes: per file, 0 for no rotation; 10 MB as in the original's logrotate logger. keep: older
    files per stream.
    """

    max_bytes: int = 10 << 20
    keep: int = 9

    def for_stream(self, stream: str, environment: Mapping[str, str]) -> tuple[int, int]:
        """Size and number for `STDOUT` or `STDERR`, which the task's environment may override.

        `CONTAINER_LOGGER_MAX_<stream>_SIZE` is a size such as `5MB`;
        `CONTAINER_LOGGER_LOGROTATE_<stream>_OPTIONS` counts by its `rotate N` line. Raises
        ValueError for a size that is none.
        """
        name = f"{LOGGER_PREFIX}MAX_{stream}_SIZE"
        size, keep = self.max_bytes, self.keep
        if (text := environment.get(name)) is not None:
            match = _SIZE.fullmatch(text)
            if match is None:
                raise ValueError(f"{name}: not a size such as 5MB: {text[:60]!r}")
            size = max(int(match[1]) << _UNITS[match[2]], os.sysconf("SC_PAGE_SIZE"))
        options = environment.get(f"{LOGGER_PREFIX}LOGROTATE_{stream}_OPTIONS", "")
        if (match := _ROTATE.search(options)) is not None:
            keep = min(int(match[1]), MAX_KEPT_LOGS)
        return size, keep


def find_user(name: str | None) -> User:
    """Look up a user. Raises ValueError when there is none, or when we may not become it."""
    if name is None:
        return User()
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"user: no such user on this agent: {name!r}") from None
    if os.geteuid() != 0:
        if entry.pw_uid == os.geteuid():
            return User()
        raise ValueError(f"user: an agent without root cannot run as {name!r}")
    groups = {g.gr_gid for g in grp.getgrall() if name in g.gr_mem} | {entry.pw_gid}
    return User(entry.pw_uid, entry.pw_gid, tuple(sorted(groups)))


def build_spec(
    container_id: str,
    config: ContainerConfig,
    info: LaunchInfo,
    user: User,
    status: str,
    logger: LoggerSettings,
) -> dict[str, Any]:
    """The specification for the monitor. Raises ValueError for settings that make no sense."""
    if bool(config.argv) == bool(config.entry):
        raise ValueError("command: exactly one of argv and entry is needed")
    env = {"PATH": DEFAULT_PATH, **config.environment, **info.environment}
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"environment: unusable variable {name[:60]!r}")
    spec: dict[str, Any] = {
        "id": container_id,
        "status": status,
        "env": env,
        "cwd": info.working_directory or config.working_directory or config.sandbox,
        "namespaces": list(info.namespaces),
        "join": dict(info.join),
        "mounts": [[m.source, m.target, m.fstype, list(m.flags), m.data] for m in info.mounts],
        "masked": list(info.masked),
        "pre_exec": [list(argv) for argv in info.pre_exec],
        "rlimits": [list(limit) for limit in info.rlimits or ()],
        "hostname": info.hostname,
        "no_new_privs": info.no_new_privs,
    }
    if config.entry:
        spec["entry"] = config.entry
    else:
        spec |= {"argv": list(config.argv), "reap": "pid" in info.namespaces}
    if user.uid is not None:
        spec |= {"uid": user.uid, "gid": user.gid, "groups": list(user.groups)}
    for stream in ("stdout", "stderr"):
        size, keep = logger.for_stream(stream.upper(), config.environment)
        spec[stream] = {"dir": config.sandbox, "name": stream, "max_bytes": size, "keep": keep}
    return spec
