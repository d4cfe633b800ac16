"""Metric names and the routes every daemon has."""

import json

import pytest

from cairn_core.kit.http_server import Handler, Request, Response, Router, Stats
from cairn_core.kit.http_standard import add_standard_routes
from cairn_core.kit.metrics import Metrics, check_name
from cairn_core.kit.routes import Match, NoRoute


@pytest.mark.parametrize(
    "name", ["cairn_dns_answers_total", "cairn_l4lb_sync_seconds", "cairn_master_x_y_bytes"]
)
def test_good_names_pass(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name", ["dns_answers_total", "cairn_total", "cairn_dns_Answers_total", "cairn_dns_answers"]
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="metric name does not"):
        check_name(name)
    check_name(name, foreign=[name[:3]])


def test_metrics_are_exported_with_their_prefix() -> None:
    metrics = Metrics("dns-proxy", foreign=["l4lb_"])
    metrics.counter("answers_total", "answers sent", ["rcode"]).labels("NOERROR").inc(3)
    metrics.gauge("zone_age_seconds", "age of the zone").set(1.5)
    metrics.histogram("answer_seconds", "time to answer").observe(0.002)
    metrics.counter("l4lb_decisions_total", "name of the original").inc()
    metrics.watch_http(Stats(requests=7, open_streams=2))
    text = metrics.text().decode()
    for line in [
        'cairn_dns_proxy_answers_total{rcode="NOERROR"} 3.0',
        "cairn_dns_proxy_zone_age_seconds 1.5",
        'cairn_dns_proxy_answer_seconds_bucket{le="0.005"} 1.0',
        "l4lb_decisions_total 1.0",
        "cairn_dns_proxy_http_requests_total 7.0",
        "cairn_dns_proxy_http_open_streams_count 2.0",
    ]:
        assert line in text.splitlines()
    with pytest.raises(ValueError, match="does not end in _total"):
        metrics.counter("answers_seconds", "x")


async def ask(router: Router[Handler], target: str) -> Response:
    found = router.find("GET", target.partition("?")[0])
    assert isinstance(found, Match)
    answer = await found.handler(Request.make("GET", target))
    assert isinstance(answer, Response)
    return answer


async def test_the_standard_routes_answer() -> None:
    router: Router[Handler] = Router()
    reasons: list[str | None] = ["first sync not done", None]
    add_standard_routes(
        router,
        metrics=Metrics("dns"),
        ready=lambda: reasons.pop(0),
        state=lambda: {"zones": [1]},
        metrics_path="/metrics/prometheus",
    )
    health = await ask(router, "/health")
    assert (health.status, health.body) == (200, b"")
    waiting = await ask(router, "/ready")
    assert waiting.status == 503
    assert isinstance(waiting.body, bytes)
    assert json.loads(waiting.body) == {"ready": False, "reason": "first sync not done"}
    assert (await ask(router, "/ready")).status == 200
    assert (await ask(router, "/debug/state")).body == b'{"zones":[1]}'
    assert (await ask(router, "/debug/state?pretty")).body == b'{\n  "zones": [\n    1\n  ]\n}\n'
    assert b"process_cpu_seconds_total" in (await ask(router, "/metrics/prometheus")).body  # type: ignore[operator]  # bytes here
    assert router.find("GET", "/metrics") == NoRoute()
