"""Probes against real servers, and the rules of health on their own."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from cairn_core.kit.http_server import Answer, Handler, HttpServer, Request, Response, Router
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.checks import HealthCheck
from cairn_scheduler.marathon.conditions import Condition
from cairn_scheduler.marathon.container import PortDefinition
from cairn_scheduler.marathon.effects import Probe, Probed
from cairn_scheduler.marathon.health import HEALTH, HealthRules
from cairn_scheduler.marathon.instances import Agent, Instance, Task
from cairn_scheduler.marathon.io_health import Prober

KEY = (HEALTH, "t", 0)


class Site:
    """A server that answers as told, and counts who is inside."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.open = asyncio.Event()
        self.open.set()
        router: Router[Handler] = Router()
        router.add("/", self.answer)
        self.server = HttpServer(router)

    async def answer(self, request: Request) -> Answer:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.open.wait()
        self.inside -= 1
        status = int(request.path.strip("/") or 200)
        return Response.text("hello", status)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    await made.server.start(("127.0.0.1", 0))
    yield made
    made.open.set()
    await made.server.drain(0)


def probe(site: Site, path: str = "/", scheme: str = "http", **keys: object) -> Probe:
    return Probe(KEY, scheme, "127.0.0.1", site.server.port, path, 5.0, **keys)  # type: ignore[arg-type]


async def results(probes: list[Probe], limit: int = 256) -> list[Probed]:
    found: list[Probed] = []
    done = asyncio.Event()

    def take(result: Probed) -> None:
        found.append(result)
        if len(found) == len(probes):
            done.set()

    async with asyncio.timeout(20), Prober(take, limit) as prober:
        for one in probes:
            prober.start(one)
        await done.wait()
    return found


@pytest.mark.parametrize(
    ("path", "good"), [("/", True), ("/302", True), ("/404", False), ("/500", False)]
)
async def test_http(site: Site, path: str, good: bool) -> None:
    [found] = await results([probe(site, path)])
    assert found.good is good
    assert found.key == KEY
    assert found.status == int(path.strip("/") or 200)
    assert bool(found.failure) is not good


async def test_statuses_and_body_of_readiness(site: Site) -> None:
    [found] = await results([probe(site, "/404", statuses=(404,), keep_body=True)])
    assert found.good
    assert found.body == "hello"
    assert found.content_type == "text/plain"


async def test_tcp(site: Site) -> None:
    [found] = await results([probe(site, scheme="tcp")])
    assert found.good


async def test_nobody_listens(site: Site) -> None:
    port = site.server.port
    await site.server.drain(0)
    for scheme in ("tcp", "http", "https"):
        [found] = await results([Probe(KEY, scheme, "127.0.0.1", port, "/", 5.0)])
        assert not found.good
        assert found.failure


async def test_slow_server_times_out(site: Site) -> None:
    site.open.clear()
    [found] = await results([Probe(KEY, "http", "127.0.0.1", site.server.port, "/", 0.05)])
    assert not found.good
    assert "timeout" in found.failure


async def test_not_more_than_the_limit_at_once(site: Site) -> None:
    found = await results([probe(site) for _ in range(30)], limit=4)
    assert len(found) == 30
    assert all(one.good for one in found)
    assert site.most <= 4


def app(**keys: object) -> App:
    check = HealthCheck(protocol="HTTP", path="/h", port_index=0, **keys)  # type: ignore[arg-type]
    return App(id="/a", health_checks=(check,), port_definitions=(PortDefinition(port=0),))


def running(started: float = 100.0) -> Instance:
    task = Task("t", staged_at=started, started_at=started, host_ports=(31005,))
    return Instance(
        "a.instance-1", "/a", "v", "v", condition=Condition.RUNNING,
        agent=Agent("S1", "host1"), task=task,
    )  # fmt: skip


def test_probe_goes_to_the_host_port() -> None:
    rules = HealthRules(Random(1))
    checked = app(interval_seconds=60, timeout_seconds=7, grace_period_seconds=0)
    rules.follow(running(), checked, None, now=0)
    assert rules.deadline() == 5
    assert rules.due(now=4.9) == []
    [found] = rules.due(now=5)
    assert (found.scheme, found.host, found.port, found.path) == ("http", "host1", 31005, "/h")
    assert found.timeout_s == 7
    assert rules.due(now=100) == [], "the next one comes after the result"


def test_an_instance_that_comes_up_is_probed_at_once_and_ever_less_often() -> None:
    rules = HealthRules(Random(1))
    rules.follow(running(100), app(grace_period_seconds=30, interval_seconds=4), None, now=0)
    bad, good = Probed(KEY, False, 500, "status 500"), Probed(KEY, True, 200)
    at: list[float] = []
    while len(at) < 9:
        now = rules.deadline()
        assert now is not None
        assert len(rules.due(now=now)) == 1
        at.append(now)
        assert rules.result(bad, now=now, wall=100 + now) is None
    assert at == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.4])
    verdict = rules.result(good, now=11, wall=111)
    assert verdict is not None
    assert verdict.turned


def test_failures_that_count_are_an_interval_apart() -> None:
    rules = HealthRules(Random(1))
    rules.follow(running(100), app(grace_period_seconds=3, interval_seconds=10), None, now=0)
    bad = Probed(KEY, False, 500, "status 500")
    counted: list[tuple[float, bool]] = []
    while len(counted) < 3:
        now = rules.deadline()
        assert now is not None
        rules.due(now=now)
        verdict = rules.result(bad, now=now, wall=100 + now)
        if verdict is not None:
            counted.append((round(now, 3), verdict.kill))
    assert counted == [(3.2, False), (13.2, False), (23.2, True)]


def test_failures_in_grace_count_only_after_a_success() -> None:
    rules = HealthRules(Random(1))
    rules.follow(running(100), app(grace_period_seconds=30, interval_seconds=1), None, now=0)
    bad, good = Probed(KEY, False, 500, "status 500"), Probed(KEY, True, 200)
    assert rules.result(bad, now=1, wall=110) is None
    first = rules.result(good, now=2, wall=111)
    assert first is not None
    assert first.turned
    assert first.health.alive
    again = rules.result(good, now=3, wall=112)
    assert again is not None
    assert not again.turned
    fails = [rules.result(bad, now=4 + n, wall=113 + n) for n in range(4)]
    assert [f.health.consecutive_failures for f in fails if f] == [1, 2, 3, 4]
    assert [f.turned for f in fails if f] == [True, False, False, False]
    assert [f.kill for f in fails if f] == [False, False, True, False], "killed once"


def test_zero_failures_means_never_killed() -> None:
    rules = HealthRules(Random(1))
    checked = app(grace_period_seconds=0, max_consecutive_failures=0)
    rules.follow(running(100), checked, None, now=0)
    bad = Probed(KEY, False, failure="refused")
    found = [rules.result(bad, now=n, wall=200 + n) for n in range(20)]
    assert all(f is not None and not f.kill for f in found)


def test_informational_answers_can_be_ignored() -> None:
    rules = HealthRules(Random(1))
    rules.follow(running(), app(ignore_http1xx=True, grace_period_seconds=0), None, now=0)
    assert rules.result(Probed(KEY, False, 102), now=1, wall=500) is None
    assert rules.results("a.instance-1") == ()


def test_ended_instance_is_forgotten() -> None:
    rules = HealthRules(Random(1))
    rules.follow(running(), app(), None, now=0)
    rules.forget("a.instance-1")
    assert rules.due(now=10) == []
    assert rules.result(Probed(KEY, True), now=11, wall=11) is None
    assert len(rules) == 0
