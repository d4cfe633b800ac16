"""Health checks and generic checks of an app as the executor runs them.

What Mesos checks is checked inside the task's network, so the container port counts where there
is one. A task has at most one health check of Mesos; the first wins.
"""

from collections.abc import Sequence

from cairn_core.mesos.types import (
    CheckCommand,
    CheckHttp,
    CheckInfo,
    CheckTcp,
    CommandInfo,
    HealthCheck,
    HealthCheckHttp,
    HealthCheckTcp,
)
from cairn_scheduler.marathon import checks
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.ports import TaskPort

#: Mesos knows no "never": this many failures take longer than anything runs.
NEVER = (1 << 31) - 1


def check_port(
    port: int | None, index: int | None, ports: Sequence[TaskPort], *, inside: bool
) -> int | None:
    """The port that a check goes to; None where there is none.

    inside: in the task's network (what Mesos runs), else from outside, where the host port comes
    first. A port given by number stands as it is; without an index the first port counts.
    """
    if port is not None:
        return port
    index = index or 0
    if index >= len(ports):
        return None
    found = ports[index]
    return (found.container if inside else found.told) or None


def health_check(app: App, ports: Sequence[TaskPort]) -> HealthCheck | None:
    """The health check that goes with the task, if the app has one for Mesos."""
    for check in app.health_checks:
        if check.by_mesos:
            return _health_check(check, ports)
    return None


def _health_check(check: checks.HealthCheck, ports: Sequence[TaskPort]) -> HealthCheck | None:
    command, http, tcp = None, None, None
    if check.protocol == "COMMAND":
        if check.command is None:
            return None
        kind, command = "COMMAND", CommandInfo(value=check.command.value)
    else:
        port = check_port(check.port, check.port_index, ports, inside=True)
        if port is None:
            return None
        if check.protocol == "MESOS_TCP":
            kind, tcp = "TCP", HealthCheckTcp(port=port, protocol=check.ip_protocol)
        else:
            scheme = "https" if check.protocol == "MESOS_HTTPS" else "http"
            kind = "HTTP"
            http = HealthCheckHttp(
                port=port, protocol=check.ip_protocol, scheme=scheme, path=check.path
            )
    return HealthCheck(
        type=kind,
        command=command,
        http=http,
        tcp=tcp,
        delay_seconds=float(check.delay_seconds),
        interval_seconds=float(check.interval_seconds),
        timeout_seconds=float(check.timeout_seconds),
        # Differs: the original passes 0 on, which kills at the first failure instead of never.
        consecutive_failures=check.max_consecutive_failures or NEVER,
        grace_period_seconds=float(check.grace_period_seconds),
    )


def check_info(app: App, ports: Sequence[TaskPort]) -> CheckInfo | None:
    """The generic check that goes with the task, if the app has one."""
    check = app.check
    if check is None:
        return None
    command, http, tcp = None, None, None
    if check.exec is not None:
        wanted = check.exec.command
        if wanted.shell is not None:
            info = CommandInfo(value=wanted.shell)
        else:
            info = CommandInfo(shell=False, value=wanted.argv[0], arguments=wanted.argv)
        kind, command = "COMMAND", CheckCommand(info)
    elif check.http is not None:
        port = check_port(check.http.port, check.http.port_index, ports, inside=True)
        if port is None:
            return None
        kind, http = "HTTP", CheckHttp(port=port, path=check.http.path)
    elif check.tcp is not None:
        port = check_port(check.tcp.port, check.tcp.port_index, ports, inside=True)
        if port is None:
            return None
        kind, tcp = "TCP", CheckTcp(port=port)
    else:
        return None
    return CheckInfo(
        type=kind,
        command=command,
        http=http,
        tcp=tcp,
        delay_seconds=float(check.delay_seconds),
        interval_seconds=float(check.interval_seconds),
        timeout_seconds=float(check.timeout_seconds),
    )
