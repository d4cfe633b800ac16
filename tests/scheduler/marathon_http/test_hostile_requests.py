"""Whatever a client sends, it is answered, and never by an error of ours."""

from random import Random
from typing import Any

import pytest

WORDS = [
    "", "/", "..", ".", "*", "a", "/a", "a/b", "tasks", "versions", "restart", "delay", "explain",
    "::", "a::status", "%2F", "%2e%2e", "%00", "%ff", "A_B", "ä", "x" * 600, "2020-01-01",
    "2020-01-01T00:00:00.000Z", "a.instance-1._app.1", "true", "-1", "1e400",
]  # fmt: skip
KEYS = [
    "id", "cmd", "args", "instances", "cpus", "mem", "labels", "env", "container", "networks",
    "portDefinitions", "ports", "healthChecks", "readinessChecks", "constraints", "version",
    "upgradeStrategy", "dependencies", "apps", "groups", "scaleBy", "enforceRole", "ids",
    "acceptedResourceRoles", "role", "residency", "unreachableStrategy", "logger", "level", "fetch",
]  # fmt: skip
BASES = [
    "/v2/apps", "/v2/groups", "/v2/tasks", "/v2/tasks/delete", "/v2/queue", "/v2/deployments",
    "/v2/pods", "/v2/plugins", "/v2/leader", "/v2/info", "/logging", "/ping", "/metrics", "/v2",
]  # fmt: skip
QUERIES = ["embed", "label", "force", "scale", "wipe", "host", "status", "partialUpdate", "dryRun"]


def value(rng: Random, depth: int = 0) -> Any:
    """Some JSON."""
    kind = rng.randrange(9 if depth < 3 else 6)
    match kind:
        case 0:
            return rng.choice([None, True, False])
        case 1:
            return rng.choice([0, 1, -1, 0.5, 1 << 40, 1 << 70, -0.0, 65536])
        case 2 | 3:
            return rng.choice(WORDS).replace("%", "")
        case 4 | 5:
            return rng.choice([[], {}, ["hostname", "UNIQUE"], ["a", "LIKE", "("], "sleep 9"])
        case 6:
            return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {rng.choice(KEYS): value(rng, depth + 1) for _ in range(rng.randrange(6))}


@pytest.mark.parametrize("seed", range(8))
async def test_random_requests_are_answered(site: Any, seed: int) -> None:
    rng = Random(seed)
    await site.sleeper("/a")
    site.rig.run()
    for _ in range(120):
        method = rng.choice(["GET", "GET", "POST", "PUT", "PATCH", "DELETE"])
        path = "/".join([rng.choice(BASES), *rng.choices(WORDS, k=rng.randrange(4))])
        query = "&".join(
            f"{rng.choice(QUERIES)}={rng.choice(WORDS)}" for _ in range(rng.randrange(3))
        )
        body: Any = None
        if method in ("POST", "PUT", "PATCH"):
            body = value(rng)
            if rng.random() < 0.5:
                body = {"id": "/a/b", "cmd": "sleep 9", rng.choice(KEYS): value(rng)}
            if rng.random() < 0.1:
                body = rng.randbytes(20)
        answer = await site(method, f"{path}?{query}", body)
        assert answer.status != 500, (method, path, query, body, answer.body)
        if answer.status >= 400:
            assert answer.json["message"], (method, path, query, body)
    assert site.rig.tables.root.check() is None
    assert (await site("GET", "/v2/apps")).status == 200


@pytest.mark.parametrize("depth", [70, 500, 5000])
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
async def test_a_body_nested_too_deep_is_refused(site: Any, depth: int, kind: str) -> None:
    body = b'{"id":"/g","groups":[' * depth + b"]}" * depth
    answer = await site("POST", "/v2/groups", body, headers={"Content-Type": kind})
    assert answer.status in (400, 422)
    assert (await site.get("/v2/groups"))["groups"] == []
