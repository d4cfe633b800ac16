"""Marathon's HTTP API as a whole: all resources, and what holds for every request.

Source: the released Marathon's HTTP layer. Every answer carries the headers that forbid caching
and framing, and names the leader. Errors are `{"message", "details"?}`. While this process does
not lead, or has not read its log, only what concerns itself is answered; everything else is 503.
Differs: an unknown URI is 404 and not 500; `/health`, `/ready` and `/debug/state` are ours.
"""

from collections.abc import Callable, Sequence
from typing import Any

from cairn_core.kit.daemon import Service
from cairn_core.kit.http_auth import BasicAuth
from cairn_core.kit.http_server import HttpServer
from cairn_core.kit.http_standard import add_standard_routes
from cairn_core.kit.http_types import Answer, Filter, Handler, Refused, Request, Response
from cairn_core.kit.listeners import Listener
from cairn_core.kit.metrics import Metrics
from cairn_core.kit.routes import Router
from cairn_scheduler.marathon.app_view import AppViews
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.context import MarathonContext
from cairn_scheduler.marathon.errors import MarathonError, uri_not_found
from cairn_scheduler.marathon.http_apps import AppResource
from cairn_scheduler.marathon.http_deployments import DeploymentResource
from cairn_scheduler.marathon.http_events import EventStreams
from cairn_scheduler.marathon.http_groups import GroupResource
from cairn_scheduler.marathon.http_info import InfoResource
from cairn_scheduler.marathon.http_metrics import MetricsResource
from cairn_scheduler.marathon.http_request import METHODS
from cairn_scheduler.marathon.http_tasks import TaskResource

HEADERS = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
    "X-Frame-Options": "DENY",
    "X-XSS-Protection": "1; mode=block",
}
#: Answered without a leader.
_ANYWHERE = (
    "/ping", "/health", "/ready", "/metrics", "/debug", "/config", "/logging", "/v2/info",
    "/v2/leader",
)  # fmt: skip
#: Answered to anybody: they tell nothing.
_OPEN = frozenset({"/ping", "/health", "/ready"})


class MarathonApi:
    """Routes and filters of one Marathon, and the services behind them.

    state: what `/debug/state` shows besides sizes of tables.
    """

    def __init__(
        self, marathon: MarathonContext, state: Callable[[], dict[str, Any]] = dict
    ) -> None:
        self.marathon = marathon
        self.events = EventStreams(marathon)
        self.metrics = Metrics("marathon")
        self._state = state
        router: Router[Handler] = Router()
        views = AppViews(marathon.tables)
        tasks = TaskResource(marathon, views)
        for resource in (
            AppResource(marathon, views, tasks),
            tasks,
            GroupResource(marathon, views),
            DeploymentResource(marathon, views),
            self.events,
            InfoResource(marathon),
            MetricsResource(marathon, self.metrics),
        ):
            resource.mount(router)
        add_standard_routes(
            router,
            metrics=self.metrics,
            ready=self._unready,
            state=self._debug_state,
            metrics_path="/metrics/prometheus",
        )
        router.add("/", _unknown, (*METHODS, "OPTIONS"))
        self.http = HttpServer(router, filters=self._filters(), headers=HEADERS)
        self.metrics.watch_http(self.http.stats)

    def services(self, listeners: Sequence[Listener]) -> list[Service]:
        """What the daemon runs for the API."""
        return [self.http.service(*listeners), self.events.heartbeats]

    def _filters(self) -> list[Filter]:
        config = self.marathon.config
        filters: list[Filter] = []
        if config.access_control_allow_origin:
            filters.append(CrossOrigin(frozenset(config.access_control_allow_origin)))
        if config.http_max_concurrent_requests:
            filters.append(AtMost(config.http_max_concurrent_requests))
        filters.append(self._named)
        if config.http_credentials:
            filters.append(_authentication(config))
        filters.append(self._led)
        return filters

    async def _named(self, request: Request, handler: Handler) -> Answer:
        """Errors of the rules as answers, and the leader's name on all of them."""
        try:
            answer = await handler(request)
        except MarathonError as error:
            answer = Response.json(error.body(), error.status)
        except Refused as refused:
            answer = refused.response()
        if isinstance(answer, Response) and answer.status == 405:
            answer.body = b'{"message":"Method Not Allowed"}'
        leader = self.marathon.leader()
        if leader is not None:
            answer.headers = {**answer.headers, "X-Marathon-Leader": f"http://{leader}"}
        return answer

    async def _led(self, request: Request, handler: Handler) -> Answer:
        """Refuse what only a leader can answer."""
        if not self.marathon.elected() and not request.path.startswith(_ANYWHERE):
            message = "Could not determine the current leader"
            return Response.error(503, message, {"Retry-After": "1"})
        return await handler(request)

    def _unready(self) -> str | None:
        return None if self.marathon.elected() else "the log is not read yet"

    def _debug_state(self) -> dict[str, Any]:
        tables = self.marathon.tables
        return {
            "elected": self.marathon.elected(),
            "master": self.marathon.master_url(),
            "frameworkId": tables.framework_id,
            "version": tables.root.version,
            "apps": len(tables.root.apps),
            "groups": len(tables.root.groups),
            "roots": len(tables.roots),
            "versions": sum(map(len, tables.versions.values())),
            "instances": len(tables.instances),
            "waiting": {app_id: len(ids) for app_id, ids in tables.waiting.items()},
            "deployments": {
                plan_id: {"step": d.step, "steps": len(d.plan.steps), "since": d.since}
                for plan_id, d in tables.deployments.items()
            },
            "health": len(tables.health),
            "subscribers": len(self.events),
            **self._state(),
        }


async def _unknown(request: Request) -> Answer:
    raise uri_not_found()


def _authentication(config: MarathonConfig) -> BasicAuth:
    user, _, password = config.http_credentials.partition(":")
    return BasicAuth({user: password}, config.http_realm, _OPEN)


class AtMost:
    """A filter: refuses requests above a number at work. Event streams do not count."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._active = 0

    async def __call__(self, request: Request, handler: Handler) -> Answer:
        """Refuse or pass on."""
        if self._active >= self.most:
            text = f"Too many concurrent requests! Allowed: {self.most}."
            return Response.text(text, 503)
        self._active += 1
        try:
            return await handler(request)
        finally:
            self._active -= 1


class CrossOrigin:
    """A filter: lets pages of other origins read (CORS). `*` stands for every origin."""

    def __init__(self, origins: frozenset[str]) -> None:
        self.origins = origins

    async def __call__(self, request: Request, handler: Handler) -> Answer:
        """Answer a browser's question beforehand, or mark the answer."""
        headers = self._headers(request)
        if request.method == "OPTIONS" and headers:
            return Response.empty(200, headers)
        answer = await handler(request)
        answer.headers = {**answer.headers, **headers}
        return answer

    def _headers(self, request: Request) -> dict[str, str]:
        origin = request.headers.get("Origin", "")
        if "*" in self.origins:
            allowed = "*"
        elif origin in self.origins:
            allowed = origin
        else:
            return {}
        headers = {
            "Access-Control-Allow-Origin": allowed,
            "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
            "Access-Control-Max-Age": "86400",
        }
        asked = request.headers.get("Access-Control-Request-Headers")
        if asked is not None:
            headers["Access-Control-Allow-Headers"] = asked[:1024]
        return headers
