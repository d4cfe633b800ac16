"""Reasons for names that do not exist, near names, and the command that shows them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.clusterview.view import ClusterView, Snapshot
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, Row, TaskRow
from cairn_dns.explain import MAX_DISTANCE, body_of, distance, near_names, nearest, why_not

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
