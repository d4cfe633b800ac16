"""How `cairn-marathon` is put together, and in which order it starts.

    settings -> rules, shell -> HTTP server -> log opened (epoch) and read -> rules lead -> Mesos

Nothing is answered or launched before the log was read under an epoch of our own, because only
then nobody else can act on it.
"""

import asyncio
import contextlib
import getpass
import logging
import socket
from pathlib import Path
from typing import Any

from cairn_core.kit.daemon import Daemon, inherited_sockets
from cairn_core.kit.http_server import Handler, HttpServer, Router
from cairn_core.kit.http_standard import add_standard_routes
from cairn_core.kit.listeners import Listener
from cairn_core.kit.metrics import Metrics
from cairn_core.replog.io_sqlite import SqliteLog
from cairn_core.replog.state import KeyedStore
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.io_marathon import Marathon
from cairn_scheduler.marathon.store import LOG

log = logging.getLogger(__name__)


async def build(config: MarathonConfig) -> Daemon[MarathonConfig]:
    """Make the objects of a Marathon and list its services."""
    inherited = [sock for sockets in inherited_sockets().values() for sock in sockets]
    hostname = config.hostname or socket.getfqdn()
    marathon = Marathon(
        config,
        address=f"{hostname}:{config.http_port}",
        user=config.mesos_user or _own_user(),
    )
    store_log = await SqliteLog.start(Path(config.work_dir))

    async def lead(stop: asyncio.Event) -> None:
        try:
            store = await KeyedStore.open(store_log, LOG)
            await marathon.lead(store, stop)
        finally:
            await store_log.close()

    router: Router[Handler] = Router()
    metrics = Metrics("marathon")
    add_standard_routes(
        router,
        metrics=metrics,
        ready=lambda: None if marathon.elected() else "the log is not read yet",
        state=lambda: debug_state(marathon),
    )
    http = HttpServer(router)
    metrics.watch_http(http.stats)
    listeners: list[Listener] = list(inherited) or [(config.http_address, config.http_port)]
    return Daemon(services=[http.service(*listeners), lead])


def _own_user() -> str:
    with contextlib.suppress(OSError, KeyError):
        return getpass.getuser()
    return "root"


def debug_state(marathon: Marathon) -> dict[str, Any]:
    """Sizes of the tables, for people."""
    tables = marathon.tables
    return {
        "elected": marathon.elected(),
        "master": marathon.master_url(),
        "framework_id": tables.framework_id,
        "apps": len(tables.root.apps),
        "groups": len(tables.root.groups),
        "root_version": tables.root.version,
        "root_versions": len(tables.roots),
        "instances": len(tables.instances),
        "waiting": {app_id: len(ids) for app_id, ids in tables.waiting.items()},
        "deployments": {
            plan_id: {"step": d.step, "steps": len(d.plan.steps)}
            for plan_id, d in tables.deployments.items()
        },
        "log_queue": len(marathon.writer),
        "counters": dict(marathon.counters()),
    }
