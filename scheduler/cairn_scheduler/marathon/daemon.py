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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn_core.kit.daemon import Daemon, Service, inherited_sockets
from cairn_core.kit.listeners import Listener
from cairn_core.replog.io_sqlite import SqliteLog
from cairn_core.replog.state import KeyedStore
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.http_api import MarathonApi
from cairn_scheduler.marathon.io_marathon import Marathon
from cairn_scheduler.marathon.store import LOG

log = logging.getLogger(__name__)


async def build(config: MarathonConfig) -> Daemon[MarathonConfig]:
    """Make the objects of a Marathon and list its services."""
    inherited = [sock for sockets in inherited_sockets().values() for sock in sockets]
    listeners: list[Listener] = list(inherited) or [(config.http_address, config.http_port)]
    return Daemon(services=(await assemble(config, listeners)).services)


@dataclass(frozen=True, slots=True)
class Assembly:
    """A Marathon that is put together and not started yet."""

    marathon: Marathon
    api: MarathonApi
    services: list[Service]


async def assemble(config: MarathonConfig, listeners: list[Listener]) -> Assembly:
    """Make the objects; raises CairnError, with one line, where that cannot be."""
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

    api = MarathonApi(marathon, lambda: debug_state(marathon))
    return Assembly(marathon, api, [*api.services(listeners), lead])


def _own_user() -> str:
    with contextlib.suppress(OSError, KeyError):
        return getpass.getuser()
    return "root"


def debug_state(marathon: Marathon) -> dict[str, Any]:
    """What `/debug/state` shows beside the sizes of the tables."""
    return {"log_queue": len(marathon.writer), "counters": dict(marathon.counters())}
