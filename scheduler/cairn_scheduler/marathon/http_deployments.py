"""`/v2/deployments` and `/v2/queue`: what is under way, and what waits for offers.

Source: the released Marathon's deployment and queue resources.
"""

import msgspec

from cairn_core.kit.http_types import Answer, Handler, Request, Response
from cairn_core.kit.routes import Router
from cairn_scheduler.marathon.app_view import AppViews
from cairn_scheduler.marathon.context import MarathonContext
from cairn_scheduler.marathon.deployments import deployment_json
from cairn_scheduler.marathon.errors import uri_not_found
from cairn_scheduler.marathon.http_request import (
    EXACT,
    METHODS,
    answer_deployed,
    is_strict,
    path_of,
    wrong_method,
)
from cairn_scheduler.marathon.matcher import obstacle
from cairn_scheduler.marathon.queue import QueueStatistics, item_json


class DeploymentResource:
    """The handlers."""

    def __init__(self, marathon: MarathonContext, views: AppViews) -> None:
        self.marathon = marathon
        self.views = views

    def mount(self, router: Router[Handler]) -> None:
        """Add the routes."""
        router.add("/v2/deployments", self.list_all, ("GET",), options=EXACT)
        router.add("/v2/deployments/{id}", self.undo, ("DELETE",), options=EXACT)
        router.add("/v2/queue", self.queue, METHODS)

    async def list_all(self, request: Request) -> Answer:
        """`GET /v2/deployments`, the oldest first."""
        tables = self.marathon.tables
        shown = []
        for deployment in tables.deployments.values():
            plan = deployment.plan
            actions = plan.steps[deployment.step] if deployment.step is not None else ()
            readiness = {action.app: tables.readiness_of(action.app) for action in actions}
            shown.append(deployment_json(plan, deployment.step, readiness))
        return Response.json(shown)

    async def undo(self, request: Request) -> Answer:
        """`DELETE /v2/deployments/<id>`: roll back, or with `force` only stop."""
        plan_id = request.params["id"]
        self.marathon.tables.deployment(plan_id)
        if request.flag("force"):
            await self.marathon.cancel(plan_id)
            return Response.empty(202)
        return answer_deployed(await self.marathon.rollback(plan_id))

    async def queue(self, request: Request) -> Answer:
        """Any request at or below `/v2/queue`."""
        parts = [part for part in request.rest.split("/") if part]
        if not parts:
            if request.method not in ("GET", "HEAD"):
                raise wrong_method(["GET"])
            return self._waiting(request)
        if len(parts) < 2 or parts[-1] != "delay":
            raise uri_not_found()
        if request.method != "DELETE":
            raise wrong_method(["DELETE"])
        await self.marathon.reset_delay(path_of("/".join(parts[:-1])))
        return Response.empty(204)

    def _waiting(self, request: Request) -> Response:
        """`GET /v2/queue`."""
        marathon, tables = self.marathon, self.marathon.tables
        with_offers = "lastUnusedOffers" in request.query.getall("embed", ())
        strict = is_strict(request, marathon.config)
        rules, now, wall = marathon.config.match_rules(), marathon.now(), marathon.wall()
        items = []
        for app_id in sorted(tables.waiting):
            first = tables.instances[next(iter(tables.waiting[app_id]))]
            app = tables.app_of(first)
            if app is None:
                continue
            items.append(
                item_json(
                    msgspec.Raw(self.views.definition(app)),
                    tables.pending(app_id),
                    app.role,
                    tables.queue.get(app_id) or QueueStatistics(since=min(first.since, wall)),
                    delay_left_s=tables.backoff.left_s(app, now=now),
                    obstacle=obstacle(app, rules),
                    with_offers=with_offers,
                    with_role=not strict,
                )
            )
        return Response.json({"queue": items})
