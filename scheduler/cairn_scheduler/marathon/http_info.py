"""What Marathon says of itself: `/ping`, `/v2/info`, `/v2/leader`, `/config`, `/logging`, and
resources of the original that have nothing in them here (pods, plugins, callbacks).

Source: the released Marathon's resources of the same names.
"""

import asyncio
import logging
from importlib.metadata import version as package_version
from typing import Any

import msgspec

from cairn_core.errors import shorten
from cairn_core.kit.config import fields
from cairn_core.kit.http_types import Answer, Handler, Request, Response
from cairn_core.kit.routes import Router
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.context import MarathonContext
from cairn_scheduler.marathon.errors import (
    BadRequest,
    IllegalArgument,
    NotFound,
    UnmappableJson,
    pod_not_found,
)
from cairn_scheduler.marathon.http_request import EXACT, METHODS, not_served, path_of
from cairn_scheduler.marathon.json_input import parse

#: What clients read that compare versions: the last release of the original.
COMPATIBLE_VERSION = "1.10.26"
_LEVELS = {
    "trace": logging.DEBUG, "debug": logging.DEBUG, "info": logging.INFO,
    "warn": logging.WARNING, "error": logging.ERROR,
}  # fmt: skip
#: Settings that `/v2/info` shows. Strict clients fail on any other.
_SHOWN = (
    "master", "failover_timeout", "framework_name", "checkpoint", "hostname", "local_port_min",
    "local_port_max", "mesos_role", "mesos_user", "mesos_bridge_name", "default_network_name",
    "env_vars_prefix", "webui_url", "task_launch_timeout", "task_launch_confirm_timeout",
    "reconciliation_interval", "scale_apps_interval", "decline_offer_duration",
    "min_revive_offers_interval", "max_instances_per_offer", "launch_token_refresh_interval",
    "new_group_enforce_role", "maintenance_mode",
)  # fmt: skip
MAX_LOGGING_S = 30 * 86400


class InfoResource:
    """The handlers."""

    def __init__(self, marathon: MarathonContext) -> None:
        self.marathon = marathon
        #: By logger: the level to go back to, and when.
        self._resets: dict[str, tuple[int, asyncio.TimerHandle]] = {}

    def mount(self, router: Router[Handler]) -> None:
        """Add the routes."""
        for path, handler, methods in (
            ("/ping", self.ping, ("GET",)),
            ("/v2/info", self.info, ("GET",)),
            ("/v2/leader", self.leader, ("GET",)),
            ("/v2/leader", self.abdicate, ("DELETE",)),
            ("/config", self.config, ("GET",)),
            ("/logging", self.log_levels, ("GET",)),
            ("/logging", self.set_log_level, ("POST",)),
            ("/v2/plugins", self.plugins, ("GET",)),
            ("/v2/eventSubscriptions", self.callbacks, METHODS),
        ):
            router.add(path, handler, methods, options=EXACT)
        router.add("/v2/plugins/{id}", self.plugin, METHODS)
        router.add("/v2/pods", self.pods, METHODS)
        router.add("/v2/pods::status", self.pods, METHODS)

    async def ping(self, request: Request) -> Answer:
        """`GET /ping`."""
        accept = request.headers.get("Accept", "")
        if "application/json" in accept and "text/plain" not in accept:
            return Response.json("pong")
        return Response.text("pong")

    async def info(self, request: Request) -> Answer:
        """`GET /v2/info`."""
        marathon, config = self.marathon, self.marathon.config
        values = msgspec.to_builtins(config)
        shown = {name: values[name] for name in _SHOWN}
        leader = marathon.leader()
        return Response.json(
            {
                "name": "marathon",
                "version": COMPATIBLE_VERSION,
                "buildref": f"cairn-{package_version('cairn')}",
                "elected": marathon.elected(),
                "leader": leader,
                "frameworkId": marathon.tables.framework_id,
                "marathon_config": {
                    **shown,
                    "hostname": config.hostname or (leader or "").rpartition(":")[0],
                    "failover_timeout": int(config.failover_timeout),
                    "access_control_allow_origin": list(config.access_control_allow_origin),
                    "executor": "//cmd",
                    "features": list(config.enable_features),
                    "ha": True,
                    "mesos_leader_ui_url": config.mesos_leader_ui_url or marathon.master_url(),
                },
                "zookeeper_config": {"zk_max_versions": config.zk_max_versions},
                "http_config": {"http_port": config.http_port, "https_port": None},
            }
        )

    async def leader(self, request: Request) -> Answer:
        """`GET /v2/leader`."""
        leader = self.marathon.leader()
        if leader is None:
            raise NotFound("There is no leader")
        return Response.json({"leader": leader})

    async def abdicate(self, request: Request) -> Answer:
        """`DELETE /v2/leader`."""
        if not self.marathon.elected():
            raise NotFound("There is no leader")
        for name in ("backup", "restore"):
            if name in request.query:
                raise not_served(f"query parameter {name}")
        self.marathon.abdicate()
        return Response.json({"message": "Leadership abdicated"})

    async def config(self, request: Request) -> Answer:
        """`GET /config`: the settings, without secrets."""
        values = msgspec.to_builtins(self.marathon.config)
        return Response.json(
            {
                one.name: "<redacted>"
                if one.kind == "secret" and values[one.key]
                else values[one.key]
                for one in fields(MarathonConfig)
            }
        )

    async def log_levels(self, request: Request) -> Answer:
        """`GET /logging`."""
        found = {"ROOT": _level_name(logging.getLogger())}
        for name in sorted(logging.root.manager.loggerDict):
            logger = logging.getLogger(name)
            inherited = "" if logger.level else " (inherited)"
            found[name] = _level_name(logger) + inherited
        return Response.json(found)

    async def set_log_level(self, request: Request) -> Answer:
        """`POST /logging`: until the restart, or for `durationSeconds`."""
        raw = parse(request.body)
        if not isinstance(raw, dict):
            raise UnmappableJson("expected a JSON object")
        name, level = raw.get("logger"), raw.get("level")
        seconds = raw.get("durationSeconds")
        if not isinstance(level, str) or level.lower() not in _LEVELS:
            raise IllegalArgument(f"level is not one of {', '.join(_LEVELS)}")
        if not isinstance(name, str) or not (
            name == "ROOT" or name in logging.root.manager.loggerDict
        ):
            raise IllegalArgument(f"logger is unknown: {shorten(str(name), 100)!r}")
        if seconds is not None and not (
            isinstance(seconds, int) and not isinstance(seconds, bool)
            and 0 < seconds <= MAX_LOGGING_S
        ):  # fmt: skip
            raise IllegalArgument(f"durationSeconds is not from 1 to {MAX_LOGGING_S}")
        logger = logging.getLogger(None if name == "ROOT" else name)
        before = logger.level
        if name in self._resets:
            # Of overlapping requests the first one saw the level to go back to.
            before, timer = self._resets.pop(name)
            timer.cancel()
        logger.setLevel(_LEVELS[level.lower()])
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._resets[name] = before, loop.call_later(seconds, self._reset, name, before)
        return Response.json({"logger": name, "level": level.upper(), "durationSeconds": seconds})

    def _reset(self, name: str, level: int) -> None:
        self._resets.pop(name, None)
        logging.getLogger(None if name == "ROOT" else name).setLevel(level)

    async def plugins(self, request: Request) -> Answer:
        """`GET /v2/plugins`: none."""
        return Response.json({"plugins": []})

    async def plugin(self, request: Request) -> Answer:
        """Anything below a plugin."""
        raise NotFound(f"No plugin with this pluginId: {shorten(request.params['id'], 100)}")

    async def callbacks(self, request: Request) -> Answer:
        """`/v2/eventSubscriptions`: gone from the original with 1.5."""
        if request.method in ("GET", "HEAD"):
            return Response.json({"callbackUrls": []})
        raise not_served("event callbacks are (use /v2/events)")

    async def pods(self, request: Request) -> Answer:
        """`/v2/pods`: there are none, and none can be made."""
        if request.method not in ("GET", "HEAD"):
            raise not_served("pods")
        name, colons, selector = request.rest.partition("::")
        if colons and selector.partition("/")[0] not in ("status", "versions", "instances"):
            raise BadRequest(f"unknown part of a pod: {shorten(selector, 60)}")
        if name.strip("/"):
            raise pod_not_found(path_of(name))
        return Response.json([])


def _level_name(logger: logging.Logger) -> str:
    name: Any = logging.getLevelName(logger.getEffectiveLevel())
    return str(name)
