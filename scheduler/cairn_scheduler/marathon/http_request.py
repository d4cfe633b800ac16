"""What Marathon's HTTP handlers share: bodies, ids in paths, strict clients, usual answers."""

from collections.abc import Iterable, Mapping

from cairn_core.errors import shorten
from cairn_core.kit.http_types import Answer, Handler, Refused, Request, Response
from cairn_core.kit.routes import Options
from cairn_scheduler.marathon import paths
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.deployments import result_json
from cairn_scheduler.marathon.effects import Deployed

#: Methods that a resource answers, if only to refuse them by name.
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
EXACT = Options(exact=True)


def path_of(rest: str) -> str:
    """The absolute id that the end of a path names, dots resolved."""
    return paths.canonical("/" + rest)


def is_strict(request: Request, config: MarathonConfig) -> bool:
    """Whether the client fails on keys and events that it does not know.

    Compat: the Python package `marathon` does, and names itself only by its HTTP library.
    """
    agent = request.headers.get("User-Agent", "")
    return config.strict_clients or agent.startswith("python-requests/")


def wants_text(request: Request) -> bool:
    """Whether the client asks for plain text rather than JSON, which is what everybody gets."""
    accept = request.headers.get("Accept", "").lower()
    return "text/plain" in accept and "application/json" not in accept


def answer_deployed(
    deployed: Deployed, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that started a deployment."""
    named = {"Marathon-Deployment-Id": deployed.plan.id}
    return Response.json(result_json(deployed.plan), status, {**named, **(headers or {})})


async def by_method(request: Request, handlers: Mapping[str, Handler]) -> Answer:
    """Answer with the handler of the request's method; HEAD is answered by GET. Raises Refused."""
    method = "GET" if request.method == "HEAD" else request.method
    handler = handlers.get(method)
    if handler is None:
        raise wrong_method(handlers)
    return await handler(request)


def wrong_method(allowed: Iterable[str]) -> Refused:
    """405 in the original's words."""
    return Refused(405, "Method Not Allowed", headers={"Allow": ", ".join(sorted(allowed))})


def not_served(what: str) -> Refused:
    """501 for what the original has and we do not."""
    return Refused(501, f"{shorten(what, 100)}: not served")
