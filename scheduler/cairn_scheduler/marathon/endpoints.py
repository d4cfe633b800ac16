"""`/v2/tasks` as plain text: one line per service port, with the addresses that serve it.

    app_id <tab> service port <tab> host:port <tab> host:port <tab>

Slashes of the id are `_`; an app without ports has one line with hosts alone. Only running tasks
count. Source: the released Marathon's endpoints helper, which old HAProxy bridges read.
"""

from collections.abc import Collection, Iterable

from cairn_core.mesos.types import TaskState
from cairn_scheduler.marathon import paths
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.instances import Instance
from cairn_scheduler.marathon.tables import Tables


def endpoints_text(
    tables: Tables, container_networks: Collection[str] = (), *, only: str | None = None
) -> str:
    """The lines of all apps, by id; or of the app `only`, which must exist.

    container_networks: on these networks a task is told by its own address and container port.
    """
    lines: list[str] = []
    for app_id in sorted(tables.root.apps) if only is None else (only,):
        app = tables.root.apps[app_id]
        running = [
            instance
            for instance in tables.instances_of(app_id)
            if instance.task is not None and instance.condition.task_state is TaskState.RUNNING
        ]
        lines.extend(_lines(app, running, container_networks))
    return "".join(lines)


def _lines(app: App, running: list[Instance], networks: Collection[str]) -> Iterable[str]:
    name = paths.safe(app.id)
    ports = app.service_ports
    if not ports:
        hosts = [i.agent.hostname for i in running if i.agent is not None]
        yield "\t".join([name, " ", *hosts, "\n"])
    inside = any(network.name in networks for network in app.networks)
    for index, port in enumerate(ports):
        targets = [_target(app, instance, index, inside) for instance in running]
        yield "\t".join([name, str(port), *filter(None, targets), "\n"])


def _target(app: App, instance: Instance, index: int, inside: bool) -> str | None:
    """Where one port of an instance answers; None where nothing outside can reach it."""
    task, agent = instance.task, instance.agent
    if task is None or agent is None:
        return None
    mappings = app.port_mappings
    if inside and task.addresses and index < len(mappings) and mappings[index].container_port:
        return f"{task.addresses[0].ip_address}:{mappings[index].container_port}"
    port = task.host_ports[index] if index < len(task.host_ports) else None
    return f"{agent.hostname}:{port}" if port is not None else None
