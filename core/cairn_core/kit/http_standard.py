"""Routes that every daemon answers alike: `/health`, `/ready`, `/metrics`, `/debug/state`.

`/health` says that the process answers, and nothing else; a load balancer asks `/ready`. Where the
original owns one of these paths, name another (`metrics_path="/metrics/prometheus"`).
"""

from collections.abc import Callable
from typing import Any

import msgspec

from cairn_core.kit.http_types import Answer, Handler, Request, Response
from cairn_core.kit.metrics import CONTENT_TYPE, Metrics
from cairn_core.kit.routes import Options, Router


def add_standard_routes(
    router: Router[Handler],
    *,
    metrics: Metrics,
    ready: Callable[[], str | None] = lambda: None,
    state: Callable[[], Any] = dict,
    health_path: str | None = "/health",
    metrics_path: str = "/metrics",
) -> None:
    """Add the routes to `router`.

    ready: why the daemon cannot serve yet, or None when it can.
    state: its tables, as msgspec encodes them, without secrets; also made with `?pretty`.
    health_path: None when the daemon has a `/health` of its own.
    """

    async def get_health(request: Request) -> Answer:
        # Compat: Mesos answers /health with 200 and an empty body
        return Response.empty()

    async def get_ready(request: Request) -> Answer:
        reason = ready()
        return Response.json(
            {"ready": reason is None, "reason": reason}, 200 if reason is None else 503
        )

    async def get_metrics(request: Request) -> Answer:
        return Response(body=metrics.text(), content_type=CONTENT_TYPE)

    async def get_state(request: Request) -> Answer:
        body = msgspec.json.encode(state())
        if request.flag("pretty"):
            body = msgspec.json.format(body) + b"\n"
        return Response(body=body)

    exact = Options(exact=True)
    if health_path is not None:
        router.add(health_path, get_health, options=exact)
    router.add("/ready", get_ready, options=exact)
    router.add(metrics_path, get_metrics, options=exact)
    router.add("/debug/state", get_state, options=exact)
