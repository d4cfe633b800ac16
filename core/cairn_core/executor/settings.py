"""What the agent tells an executor through its environment (mesos docs/executor-http-api.md)."""

from collections.abc import Mapping
from typing import NamedTuple

UNITS = {
    "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "secs": 1.0, "mins": 60.0, "hrs": 3600.0,
    "days": 86400.0, "weeks": 604800.0,
}  # fmt: skip
#: Never handed to the task: with them it could speak as its executor.
SECRET = ("MESOS_EXECUTOR_AUTHENTICATION_TOKEN", "MESOS_DOMAIN_SOCKET")


class Settings(NamedTuple):
    """Who we are, where the agent is, how long we wait for it; times in seconds."""

    framework_id: str
    executor_id: str
    endpoint: str  #: `ip:port` of the agent
    domain_socket: str | None
    token: str | None
    checkpoint: bool
    recovery_timeout_s: float = 900.0
    backoff_max_s: float = 2.0
    shutdown_grace_s: float = 5.0


def parse_duration(text: str) -> float:
    """Seconds of a text such as `15mins`. Raises ValueError."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :]
    if unit not in UNITS:
        raise ValueError(f"not a duration such as 10secs: {text[:60]!r}")
    return float(number) * UNITS[unit]


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Settings from the environment. ValueError names the variable that is missing or wrong."""
    durations = {}
    for name, default in (
        ("MESOS_RECOVERY_TIMEOUT", "15mins"),
        ("MESOS_SUBSCRIPTION_BACKOFF_MAX", "2secs"),
        ("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "5secs"),
    ):
        try:
            durations[name] = parse_duration(environment.get(name, default))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    for name in ("MESOS_FRAMEWORK_ID", "MESOS_EXECUTOR_ID"):
        if not environment.get(name):
            raise ValueError(f"{name}: not set")
    domain_socket = environment.get("MESOS_DOMAIN_SOCKET") or None
    endpoint = environment.get("MESOS_AGENT_ENDPOINT", "")
    if domain_socket is None and not endpoint.rpartition(":")[2].isdigit():
        raise ValueError(f"MESOS_AGENT_ENDPOINT: not ip:port: {endpoint[:60]!r}")
    return Settings(
        environment["MESOS_FRAMEWORK_ID"],
        environment["MESOS_EXECUTOR_ID"],
        endpoint,
        domain_socket,
        environment.get("MESOS_EXECUTOR_AUTHENTICATION_TOKEN") or None,
        environment.get("MESOS_CHECKPOINT") == "1",
        durations["MESOS_RECOVERY_TIMEOUT"],
        durations["MESOS_SUBSCRIPTION_BACKOFF_MAX"],
        durations["MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD"],
    )


def task_environment(inherited: Mapping[str, str], command: Mapping[str, object]) -> dict[str, str]:
    """The executor's environment without its secrets, and the command's own variables over it."""
    found = {name: value for name, value in inherited.items() if name not in SECRET}
    environment = command.get("environment")
    variables = environment.get("variables") if isinstance(environment, dict) else None
    for variable in variables or ():
        name, value = str(variable.get("name", "")), str(variable.get("value") or "")
        if name and "=" not in name and "\0" not in name + value:
            found[name] = value
    return found
