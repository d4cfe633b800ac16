"""Reasons for names that do not exist, near names, and the command that shows them."""

import asyncio
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cairn_core.cli import main as cairn
from cairn_core.clusterview.view import ClusterView, Snapshot
from cairn_core.kit.http_server import Answer, Handler, HttpServer, Request, Response, Router
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, Row, TaskRow
from cairn_dns.explain import MAX_DISTANCE, body_of, distance, near_names, nearest, why_not
from cairn_dns.explain_cli import shown
from cairn_dns.io_explain import ask

ZONES = ("mesos", "dcos.thisdcos.directory")
ROWS: list[Row] = [
    AgentRow("c-S0", "agent1", "10.0.0.11"),
    FrameworkRow("F", "marathon"),
    FrameworkRow("G", "Dev Tools.v2"),
    TaskRow("web.1", "web", "F", "c-S0", "TASK_RUNNING"),
    TaskRow("new.1", "new", "F", "c-S0", "TASK_STAGING"),
    TaskRow("lost.1", "lost", "F", "c-S9", "TASK_RUNNING"),
    TaskRow("ill.1", "ill", "F", "c-S0", "TASK_RUNNING", healthy=False),
    TaskRow("doc.1", "Doc", "G", "c-S0", "TASK_KILLING", discovery_name="the.doc"),
]


def snapshot(*rows: Row) -> Snapshot:
    view = ClusterView()
    view.replace(rows or ROWS)
    return view.snapshot


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("new.marathon.mesos", "task 'new.1' exists, but it is TASK_STAGING"),
        ("new.marathon.slave.mesos", "task 'new.1' exists, but it is TASK_STAGING"),
        ("_new._tcp.marathon.mesos", "task 'new.1' exists, but it is TASK_STAGING"),
        ("_http._new._tcp.marathon.mesos", "task 'new.1' exists, but it is TASK_STAGING"),
        ("the-doc.devtools.v2.mesos", "task 'doc.1' exists, but it is TASK_KILLING"),
        (
            "the-doc.devtools-v2.autoip.dcos.thisdcos.directory",
            "task 'doc.1' exists, but it is TASK_KILLING",
        ),
        ("lost.marathon.mesos", "task 'lost.1' exists, but its agent 'c-S9' is not known"),
        ("ill.marathon.mesos", "but it is not healthy, and healthy_only is set"),
        ("_web._tcp.marathon.mesos", "task 'web.1' exists, but it has no such port or protocol"),
        ("nope.marathon.mesos", "no task 'nope' in framework 'marathon'"),
        ("web.chronos.mesos", "no framework 'chronos'; a task of this name is in 'marathon'"),
        ("nope.chronos.mesos", "no framework 'chronos' and no task 'nope'"),
        ("leader.mesos", "no master is known"),
        ("nope.mesos", "no framework and no host of the cluster is called 'nope'"),
        ("example.org", "not a name of the cluster"),
        ("x" * 64 + ".marathon.mesos", "label has 64 characters, at most 63 are possible"),
        ("", "not a name of the cluster"),
        ("mesos", "no framework and no host of the cluster is called ''"),
    ],
)
def test_reasons(name: str, reason: str) -> None:
    told = why_not(name, ZONES, snapshot(), known=True, healthy_only=True)
    assert reason in told


def test_nothing_is_said_of_a_cluster_that_is_not_known() -> None:
    reason = why_not("web.marathon.mesos", ZONES, Snapshot(), known=False)
    assert reason == "no state of the cluster is known yet"


def test_labels_that_rfc_952_does_not_allow() -> None:
    name = "a" * 25 + ".marathon.mesos"
    reason = why_not(name, ZONES, snapshot(), known=True, rfc952=True)
    assert reason == "label has more than 24 characters, which RFC 952 does not allow"


def test_near_names() -> None:
    names = ["web.marathon.mesos", "wub.marathon.mesos", "db.marathon.mesos", "web.chronos.mesos"]
    assert near_names("wab.marathon.mesos", names) == ["web.marathon.mesos", "wub.marathon.mesos"]
    assert near_names("web.chroxos.mesos", names) == ["web.chronos.mesos"]
    assert near_names("zzzzzzzz.org", names) == []


texts = st.text("abc", max_size=12)


@given(texts, st.lists(texts, max_size=30))
def test_nearest_misses_nothing(name: str, names: list[str]) -> None:
    every = sorted(
        (far, other)
        for other in names
        if other != name
        and (far := distance(name, other)) <= min(MAX_DISTANCE, max(1, len(name) // 2))
    )
    assert nearest(name, names) == every[:5]


@given(texts, texts, texts)
def test_distance_is_a_metric(one: str, other: str, third: str) -> None:
    far = 99
    assert distance(one, one, far) == 0
    assert distance(one, other, far) == distance(other, one, far)
    assert distance(one, third, far) <= distance(one, other, far) + distance(other, third, far)
    assert distance(one, other, 3) == min(distance(one, other, far), 4)


@given(st.text("_ab.-Z\u00e4", max_size=30))
def test_any_name_gets_one_sentence(name: str) -> None:
    assert why_not(name, ZONES, snapshot(), known=True)
    assert "\n" not in why_not(f"{name}.mesos", ZONES, snapshot(), known=True)
    body_of(f"{name}.mesos", ZONES)


# -- the command ---------------------------------------------------------------------------------

TOLD: dict[str, Any] = {
    "name": "web.marathon.mesos",
    "zone": "mesos",
    "exists": True,
    "records": [
        {
            "type": "A",
            "value": "10.0.0.11",
            "ttl": 60,
            "by": [
                {
                    "kind": "task",
                    "id": "web.1",
                    "name": "web",
                    "framework": "marathon",
                    "agent": "c-S0",
                    "state": "TASK_RUNNING",
                    "healthy": False,
                    "ip_source": "netinfo",
                }
            ],
        }
    ],
    "changed": "2026-11-27T10:00:00.000Z",
    "reason": None,
    "nearest": [],
    "source": {"kind": "feed", "master": "10.0.0.1:5050", "age_s": 0.25},
}
BY_PROXY = {
    "name": "web.marathon.mesos",
    "route": {"kind": "masters", "zone": "mesos", "reason": "asked of the masters"},
    "servers": [{"address": "10.0.0.1:61053", "asked": True, "dead": False}],
    "master": TOLD,
}


def printed(told: dict[str, Any]) -> str:
    written = StringIO()
    console = Console(width=200, file=written)
    for part in shown("http://x", told):
        console.print(part)
    return written.getvalue()


def test_what_people_read() -> None:
    for told in (TOLD, BY_PROXY):
        text = printed(told)
        assert "task web.1 (marathon, on c-S0, TASK_RUNNING, by netinfo, not healthy)" in text
        assert "known by feed of 10.0.0.1:5050, 0.2 s old" in text
        assert "changed 2026-11-27T10:00:00.000Z" in text
    assert "asked of the masters (zone mesos)" in printed(BY_PROXY)
    assert "no master answered" in printed({**BY_PROXY, "master": None})
    missing = {"name": "wab.mesos", "reason": "no task 'wab'", "nearest": ["web.mesos"]}
    assert "no task 'wab'\ndid you mean web.mesos?" in printed(missing)


def test_a_name_is_no_command_to_the_terminal() -> None:
    text = printed({"name": "\x1b[2J[red]x", "reason": "[bold]y"})
    assert "\x1b[2J" not in text
    assert "[red]x" in text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "records", "by", "route", "servers", "master", "source", "age_s"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(list(TOLD) + list(BY_PROXY)), json_values))
def test_any_answer_can_be_shown(told: dict[str, Any]) -> None:
    printed(told)


async def test_the_command_asks_the_next_server(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    async def answer(request: Request) -> Answer:
        asked.append(request.params["name"])
        return Response.json(TOLD)

    router: Router[Handler] = Router()
    router.add("/v1/explain/{name}", answer)
    server = HttpServer(router)
    await server.start(("127.0.0.1", 0))
    try:
        url = f"http://127.0.0.1:{server.port}"
        code = await asyncio.to_thread(
            cairn, ["dns", "explain", "web.marathon.mesos", "--server", url]
        )
        assert code == 0
        assert asked == ["web.marathon.mesos"]
        assert "10.0.0.11" in capsys.readouterr().out
        told = await asyncio.to_thread(ask, ["http://127.0.0.1:1", url], "a/b")
        assert told == (url, TOLD)
        assert asked[1:] == ["a/b"]
        code = await asyncio.to_thread(cairn, ["dns", "explain", "x", "--server", f"{url}/nothing"])
        assert code == 1
        assert "is it cairn-dns?" in capsys.readouterr().err
        assert (
            await asyncio.to_thread(cairn, ["dns", "explain", "x", "--server", "127.0.0.1:1"]) == 1
        )
        assert "no answer from http://127.0.0.1:1" in capsys.readouterr().err
    finally:
        await server.drain(0)
