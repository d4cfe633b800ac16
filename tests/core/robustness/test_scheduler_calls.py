"""Scheduler calls that are nearly right: each is answered, and the tables stay sound.

A valid call is taken and one to three of its parts are replaced by something hostile; resource
amounts, ids, offers and nested messages all get their turn.
"""

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cairn_core.mesos.recordio import Decoder

SCALAR = {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}}
PORTS = {"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": 31000, "end": 31001}]}}
TASK: dict[str, Any] = {
    "name": "web",
    "task_id": {"value": "TASK"},
    "agent_id": {"value": "AGENT"},
    "resources": [SCALAR, PORTS],
    "command": {
        "value": "sleep 1", "shell": True, "user": "nobody", "arguments": ["a"],
        "environment": {"variables": [{"name": "A", "value": "1", "type": "VALUE"}]},
        "uris": [{"value": "http://127.0.0.1/x", "executable": True}],
    },
    "labels": {"labels": [{"key": "VIP_0", "value": "/web:80"}]},
    "discovery": {
        "visibility": "FRAMEWORK", "name": "web",
        "ports": {"ports": [{"number": 80, "name": "http", "protocol": "tcp"}]},
    },
    "container": {"type": "MESOS", "network_infos": [{"name": "dcos"}], "volumes": []},
    "health_check": {
        "type": "HTTP", "http": {"port": 80, "path": "/"}, "delay_seconds": 1.0,
        "interval_seconds": 5.0, "timeout_seconds": 5.0, "consecutive_failures": 3,
    },
    "kill_policy": {"grace_period": {"nanoseconds": 1000}},
    "limits": {"mem": {"value": 64}},
    "data": "AAAA",
}  # fmt: skip
EXECUTOR = {
    "executor_id": {"value": "executor"}, "type": "CUSTOM", "command": {"value": "run"},
    "resources": [SCALAR], "framework_id": {"value": "FRAMEWORK"},
}  # fmt: skip
CUSTOM = {key: TASK[key] for key in ("name", "task_id", "agent_id", "resources")} | {
    "executor": EXECUTOR
}
IDS = {"task_id": {"value": "TASK"}, "agent_id": {"value": "AGENT"}}
INFO = {
    "user": "nobody", "name": "fuzz", "id": {"value": "FRAMEWORK"}, "failover_timeout": 100.0,
    "roles": ["a", "b/c"], "capabilities": [{"type": "MULTI_ROLE"}], "checkpoint": True,
    "labels": {"labels": [{"key": "k", "value": "v"}]}, "webui_url": "http://x", "hostname": "h",
    "offer_filters": {"a": {"min_allocatable_resources": {"quantities": [
        {"quantities": {"cpus": {"value": 1}}}]}}},
}  # fmt: skip


def operation(kind: str, **body: Any) -> dict[str, Any]:
    feedback = {} if kind.startswith("LAUNCH") else {"id": {"value": "op"}}
    return {"type": kind, kind.lower(): body, **feedback}


def accept(*operations: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "ACCEPT",
        "accept": {
            "offer_ids": [{"value": "OFFER"}],
            "operations": list(operations),
            "filters": {"refuse_seconds": 0.0},
        },
    }


CALLS: list[dict[str, Any]] = [
    accept(operation("LAUNCH", task_infos=[TASK])),
    accept(operation("LAUNCH", task_infos=[CUSTOM, CUSTOM])),
    accept(operation("LAUNCH_GROUP", executor=EXECUTOR, task_group={"tasks": [TASK]})),
    accept(operation("RESERVE", resources=[SCALAR]), operation("LAUNCH", task_infos=[TASK])),
    accept(operation("CREATE", volumes=[SCALAR]), operation("DESTROY", volumes=[SCALAR])),
    accept(),
    {"type": "DECLINE", "decline": {
        "offer_ids": [{"value": "OFFER"}, {"value": "OFFER"}, {"value": "other-O1"}],
        "filters": {"refuse_seconds": 0.01}}},
    {"type": "REVIVE", "revive": {"roles": ["a"]}},
    {"type": "SUPPRESS", "suppress": {"roles": ["b/c"]}},
    {"type": "KILL", "kill": IDS | {"kill_policy": {"grace_period": {"nanoseconds": 5}}}},
    {"type": "SHUTDOWN", "shutdown": {"executor_id": {"value": "executor"}, **IDS}},
    {"type": "ACKNOWLEDGE", "acknowledge": IDS | {"uuid": "AAECAwQFRgeICQoLDA0ODw=="}},
    {"type": "RECONCILE", "reconcile": {"tasks": [IDS, IDS]}},
    {"type": "RECONCILE", "reconcile": {"tasks": []}},
    {"type": "MESSAGE", "message": {
        "executor_id": {"value": "executor"}, "agent_id": {"value": "AGENT"}, "data": "AAAA"}},
    {"type": "REQUEST", "request": {"requests": [{"resources": [SCALAR]}]}},
    {"type": "UPDATE_FRAMEWORK", "update_framework": {
        "framework_info": INFO, "suppressed_roles": ["a"], "offer_constraints": {
            "role_constraints": {"a": {"groups": [{"attribute_constraints": [{
                "selector": {"attribute_name": "rack"},
                "predicate": {"text_matches": {"regex": "(a|b)*"}}}]}]}}}}},
]  # fmt: skip

HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 1e308, -1e308, 5e-324, 2**31, 2**63, 2**64, 10**40, "", "a/b", "..",
    "\0", "\x1f", "é", "x" * 10_000, [], {}, [{}], [[]], {"value": "x"}, {"value": -1.0},
    {"value": "NaN"}, {"value": 1e308}, {"value": None}, "NaN", "Infinity", "-Infinity", "TASK",
    "AGENT", "OFFER", "FRAMEWORK", ["x"] * 300, {"a": {"b": {"c": []}}}, "(" * 50, "*", "AAAA",
    [SCALAR, SCALAR], [{**SCALAR, "scalar": {"value": -1}}],
    [{**SCALAR, "scalar": {"value": 1e308}}],
    [{**SCALAR, "role": "a//b"}], [{**SCALAR, "type": "SET", "set": {"item": ["x"] * 99}}],
    [{**PORTS, "ranges": {"range": [{"begin": 9, "end": 1}]}}],
    [{**PORTS, "ranges": {"range": [{"begin": 0, "end": 2**63}]}}],
    [{**PORTS, "ranges": {"range": [{"begin": n, "end": n} for n in range(0, 9000, 2)]}}],
    [{**SCALAR, "name": "disk", "disk": {"persistence": {"id": "../x"}}}],
    [{**SCALAR, "revocable": {}}], [{**SCALAR, "shared": {}}],
    [{**SCALAR, "reservations": [{"type": "STATIC", "role": "x"}] * 40}],
    [{**SCALAR, "allocation_info": {"role": "other"}}], {"labels": [{"key": "k" * 9999}] * 30},
]  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    if at:
        yield at
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from places(item, (*at, key))


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    call: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(CALLS)))
    for _ in range(draw(st.integers(0, 3))):
        spots = [spot for spot in places(call) if spot != ("type",)]
        spot = draw(st.sampled_from(spots))
        inner: Any = call
        for key in spot[:-1]:
            inner = inner[key]
        what = draw(st.sampled_from([*range(len(HOSTILE)), "remove"]))
        if what == "remove":
            del inner[spot[-1]]
        else:
            inner[spot[-1]] = copy.deepcopy(HOSTILE[int(what)])
    return call


class Framework:
    """A framework that reads its events and tells the next call what is real."""

    def __init__(self, victim: Any) -> None:
        self.victim = victim
        self.decoder = Decoder()
        self.answer: Any = None
        self.framework_id = ""
        self.rng = Random(1)

    async def subscribe(self) -> None:
        info = {key: value for key, value in INFO.items() if key not in ("id", "offer_filters")}
        call = {"type": "SUBSCRIBE", "subscribe": {"framework_info": info}}
        url = f"{self.victim.url}/api/v1/scheduler"
        self.answer = await self.victim.client.post(url, json=call)
        assert self.answer.status == 200, await self.answer.text()
        self.framework_id = ""
        while not self.framework_id:
            for event in await self.events():
                if event["type"] == "SUBSCRIBED":
                    self.framework_id = event["subscribed"]["framework_id"]["value"]

    async def events(self) -> list[dict[str, Any]]:
        data = await self.answer.content.readany()
        return [json.loads(record) for record in self.decoder.feed(data)]

    @property
    def record(self) -> Any:
        return self.victim.assembly.master.cluster.frameworks.get(self.framework_id)

    def real(self, text: str) -> str:
        """The call with the ids that there are."""
        cluster = self.victim.assembly.master.cluster
        own = list(self.record.offers) if self.record is not None else []
        offer_id = self.rng.choice(own or ["none-O0"])
        offer = cluster.offers.get(offer_id)
        agent_id = offer.agent_id if offer is not None else next(iter(cluster.agents))
        for name, value in (
            ("OFFER", offer_id), ("AGENT", agent_id), ("FRAMEWORK", self.framework_id),
            ("TASK", f"t{self.rng.randrange(50)}"),
        ):  # fmt: skip
            text = text.replace(f'"{name}"', json.dumps(value))
        return text

    async def call(self, call: dict[str, Any]) -> None:
        if self.record is None or not self.record.connected:
            self.answer.close()
            await self.subscribe()
        if call["type"] == "ACCEPT" and not self.record.offers:
            await self.call({"type": "REVIVE"})
            await self.victim.until(lambda: self.record.offers)
        body = self.real(json.dumps({"framework_id": {"value": "FRAMEWORK"}, **call}))
        headers = {
            "Content-Type": "application/json",
            "Mesos-Stream-Id": self.answer.headers["Mesos-Stream-Id"],
        }
        url = f"{self.victim.url}/api/v1/scheduler"
        async with self.victim.client.post(url, data=body, headers=headers) as answer:
            text = await answer.text()
            assert answer.status in (200, 202, 400, 403, 409, 501), (answer.status, text)
            assert answer.status < 400 or 0 < len(text) < 2000, text[:3000]


@pytest.fixture(scope="module")
def framework(victim: Any) -> Any:
    made = Framework(victim)
    victim.run(made.subscribe())
    return made


def test_the_calls_are_right_before_they_are_changed(victim: Any, framework: Framework) -> None:
    """Otherwise the test below would only see the first refusal of each."""

    async def check() -> None:
        for call in CALLS[:2]:
            before = victim.agents.launched
            await framework.call(call)
            await victim.until(lambda: victim.agents.launched > before)  # noqa: B023

    victim.run(check())


@given(batch=st.lists(calls(), min_size=1, max_size=6))
@settings(
    max_examples=150, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
def test_calls_that_are_nearly_right_harm_nobody(
    victim: Any, framework: Framework, batch: list[dict[str, Any]]
) -> None:
    async def attack() -> None:
        for call in batch:
            await framework.call(call)
        await victim.unharmed()
        assert victim.agents_are_there()

    victim.run(attack())


@given(
    body=st.dictionaries(
        st.sampled_from([*INFO, "role", "principal"]), st.sampled_from(HOSTILE), max_size=4
    )
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_frameworks_of_all_kinds_are_taken_in_or_refused(victim: Any, body: dict[str, Any]) -> None:
    async def attack() -> None:
        info = {"user": "u", "name": "n", **body}
        call = {"type": "SUBSCRIBE", "subscribe": {"framework_info": info}}
        if isinstance(info.get("id"), dict):
            call["framework_id"] = info["id"]
        url = f"{victim.url}/api/v1/scheduler"
        async with victim.client.post(url, data=json.dumps(call).encode(), headers=HEADERS) as said:
            assert said.status in (200, 400), await said.text()
            if said.status == 400:
                assert 0 < len(await said.text()) < 2000
            else:
                first = await said.content.readany()
                assert b'"SUBSCRIBED"' in first or b'"ERROR"' in first, first[:200]
            said.close()
        await victim.unharmed()

    victim.run(attack())


HEADERS = {"Content-Type": "application/json"}


def test_a_lot_of_labels_leaves_the_readers_their_state(victim: Any, framework: Framework) -> None:
    """Too large for a row of the node feed; the task itself is legal."""

    async def attack() -> None:
        if framework.record is None or not framework.record.connected:
            await framework.subscribe()
        labels = {"labels": [{"key": f"k{n}", "value": "v" * 10_000} for n in range(45)]}
        ports = {"ports": [{"number": n, "labels": labels} for n in (1,)]}
        plain = {key: TASK[key] for key in ("name", "agent_id", "command")}
        task = plain | {
            "task_id": {"value": "large"}, "labels": labels, "resources": [SCALAR],
            "discovery": {"visibility": "CLUSTER", "ports": ports},
        }  # fmt: skip
        await framework.call(accept(operation("LAUNCH", task_infos=[task])))
        await victim.until(lambda: "large" in framework.record.tasks)
        for path in ("/state", "/tasks?limit=-1", "/state-summary", "/metrics/snapshot"):
            async with victim.client.get(victim.url + path) as answer:
                assert answer.status == 200
                json.loads(await answer.read())
        await victim.unharmed()

    victim.run(attack())
