"""What holds for the whole site: who may ask, what it says of itself, metrics, settings."""

import asyncio
import base64
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cairn_core.kit.config import load, settings_table
from cairn_core.kit.http_types import Answer, Request, Response
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.http_api import AtMost

SCHEDULER = Path(__file__).parents[3] / "scheduler"


async def test_ping(site: Any) -> None:
    plain = await site("GET", "/ping", headers={"Accept": "*/*"})
    assert (plain.status, plain.body) == (200, b"pong")
    assert plain.headers["Content-Type"].startswith("text/plain")
    quoted = await site("GET", "/ping", headers={"Accept": "application/json"})
    assert quoted.json == "pong"


async def test_info_leader_plugins_and_pods(site: Any) -> None:
    info = await site.get("/v2/info")
    assert (info["name"], info["elected"], info["leader"]) == ("marathon", True, "marathon1:8080")
    assert info["frameworkId"] == "fw-1"
    config = info["marathon_config"]
    assert config["hostname"] == "marathon1"
    assert config["mesos_leader_ui_url"] == "http://master1:5050"
    assert (config["local_port_min"], config["failover_timeout"]) == (10000, 604800)
    assert info["http_config"]["http_port"] == 8080
    assert await site.get("/v2/leader") == {"leader": "marathon1:8080"}
    assert await site.get("/v2/plugins") == {"plugins": []}
    missing = await site("PUT", "/v2/plugins/x/main.js")
    assert missing.json == {"message": "No plugin with this pluginId: x"}
    assert await site.get("/v2/eventSubscriptions") == {"callbackUrls": []}
    assert (await site("HEAD", "/v2/pods")).status == 200
    for path in ("/v2/pods", "/v2/pods::status", "/v2/pods/::status"):
        assert await site.get(path) == []
    assert (await site("GET", "/v2/pods/x::status")).status == 404
    assert (await site("PUT", "/v2/pods/x", {})).status == 501


async def test_leadership_is_given_up(site: Any) -> None:
    restore = await site("DELETE", "/v2/leader?restore=file:///x")
    assert (restore.status, site.rig.abdicated) == (501, False)
    answer = await site("DELETE", "/v2/leader")
    assert (answer.json, site.rig.abdicated) == ({"message": "Leadership abdicated"}, True)


async def test_without_a_leader_only_what_concerns_itself_is_answered(site: Any) -> None:
    assert (await site("GET", "/ready")).status == 200
    site.rig.leads = False
    refused = await site("GET", "/v2/apps")
    assert refused.status == 503
    assert refused.json == {"message": "Could not determine the current leader"}
    assert "X-Marathon-Leader" not in refused.headers
    assert (await site("GET", "/v2/leader")).json == {"message": "There is no leader"}
    assert (await site("GET", "/v2/leader")).status == 404
    assert (await site.get("/v2/info"))["elected"] is False
    for path, status in (("/ping", 200), ("/health", 200), ("/ready", 503), ("/metrics", 200)):
        assert (await site("GET", path)).status == status


async def test_metrics_as_json_and_for_prometheus(site: Any) -> None:
    await site.sleeper("/a", instances=3)
    site.rig.run()
    found = await site.get("/metrics")
    assert found["gauges"]["marathon.apps.active.gauge"] == {"value": 1}
    assert found["gauges"]["marathon.instances.running.gauge"] == {"value": 3}
    assert found["counters"]["marathon.tasks.launched.counter"] == {"count": 3}
    asked = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1"}
    for path, headers in (("/metrics", asked), ("/metrics/prometheus", {})):
        text = (await site("GET", path, headers=headers)).body.decode()
        assert "\nmarathon_instances_running_gauge 3.0\n" in text
        assert "\nmarathon_tasks_launched_counter_total 3.0\n" in text
        assert "\ncairn_marathon_http_requests_total " in text


async def test_debug_state_has_sizes(site: Any) -> None:
    await site.sleeper("/a")
    state = await site.get("/debug/state")
    assert (state["apps"], state["elected"], state["waiting"]) == (1, True, {"/a": 1})


async def test_settings_are_shown_without_secrets(make_site: Callable[..., Any]) -> None:
    site = await make_site(mesos_authentication_secret="hush", mesos_role="prod")
    shown = await site.get("/config")
    assert shown["mesos_role"] == "prod"
    assert shown["mesos_authentication_secret"] == "<redacted>"
    assert shown["http_credentials"] == ""


async def test_log_levels_are_set(site: Any) -> None:
    name = "cairn_scheduler.marathon.http_events"
    logger = logging.getLogger(name)
    try:
        body = {"logger": name, "level": "debug", "durationSeconds": 600}
        assert (await site("POST", "/logging", body)).status == 200
        assert logger.level == logging.DEBUG
        assert (await site.get("/logging"))[name] == "DEBUG"
        # The second request ends the first one's time, and is for good.
        again = await site("POST", "/logging", {"logger": name, "level": "error"})
        assert again.status == 200
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(logging.NOTSET)
    for wrong in (
        {"logger": name, "level": "loud"},
        {"logger": "no.such", "level": "info"},
        {"logger": name, "level": "info", "durationSeconds": 0},
    ):
        assert (await site("POST", "/logging", wrong)).status == 422


async def test_passwords_are_asked_for(make_site: Callable[..., Any]) -> None:
    site = await make_site(http_credentials="ops:s3cret")
    refused = await site("GET", "/v2/apps")
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"] == 'Basic realm="Mesosphere"'
    for secret, status in (("s3cret", 200), ("wrong", 401)):
        token = base64.b64encode(f"ops:{secret}".encode()).decode()
        headers = {"Authorization": f"Basic {token}"}
        assert (await site("GET", "/v2/apps", headers=headers)).status == status
    assert (await site("GET", "/health")).status == 200


async def test_pages_of_allowed_origins_may_read(make_site: Callable[..., Any]) -> None:
    site = await make_site(access_control_allow_origin=("http://ui",))
    asked = {"Origin": "http://ui", "Access-Control-Request-Headers": "X-One"}
    before = await site("OPTIONS", "/v2/apps", headers=asked)
    assert before.status == 200
    assert before.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
    assert before.headers["Access-Control-Allow-Headers"] == "X-One"
    read = await site("GET", "/v2/apps", headers={"Origin": "http://ui"})
    assert read.headers["Access-Control-Allow-Origin"] == "http://ui"
    other = await site("GET", "/v2/apps", headers={"Origin": "http://evil"})
    assert "Access-Control-Allow-Origin" not in other.headers


async def test_only_so_many_requests_are_at_work() -> None:
    limit, entered, leave = AtMost(1), asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Answer:
        entered.set()
        await leave.wait()
        return Response.empty()

    request = Request.make("GET", "/v2/apps")
    first = asyncio.create_task(limit(request, slow))
    await entered.wait()
    refused = await limit(request, slow)
    assert isinstance(refused, Response)
    assert refused.status == 503
    assert refused.body == b"Too many concurrent requests! Allowed: 1."
    leave.set()
    await first
    after = await limit(request, slow)
    assert isinstance(after, Response)
    assert after.status == 200


@pytest.mark.parametrize("path", ["/v2/apps/", "/v2//apps", "/v2/apps?embed=nonsense"])
async def test_paths_that_clients_write_are_understood(site: Any, path: str) -> None:
    assert await site.get(path) == {"apps": []}


def test_the_sample_settings_are_right() -> None:
    sample = SCHEDULER / "config" / "marathon.json"
    loaded = load(MarathonConfig, program="cairn-marathon", file=sample, environ={})
    assert loaded.config.masters()


def test_the_readme_names_every_setting() -> None:
    assert settings_table(MarathonConfig).strip() in (SCHEDULER / "README.md").read_text()
