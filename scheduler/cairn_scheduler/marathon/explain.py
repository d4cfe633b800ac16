"""Why an app is as it is: what keeps its instances from running, in words.

`GET /v2/apps/<id>/explain`. The original has only the queue's counters, from which few people
could tell what to do.
"""

from typing import Any

from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.conditions import Condition
from cairn_scheduler.marathon.matcher import FUNNEL, MatchRules, obstacle
from cairn_scheduler.marathon.tables import Tables

#: Agents that are listed; the summary counts all.
MAX_AGENTS = 100


def explain(app: App, tables: Tables, rules: MatchRules, *, now: float) -> dict[str, Any]:
    """The explanation. now: monotonic, for the launch delay."""
    conditions: dict[str, int] = {}
    for instance in tables.instances_of(app.id):
        name = instance.condition.value
        conditions[name] = conditions.get(name, 0) + 1
    waiting = tables.pending(app.id)
    delay_s = tables.backoff.left_s(app, now=now)
    queue = tables.queue.get(app.id)
    last = dict(queue.last_by_agent) if queue is not None else {}
    refusing = {agent: reason for agent, reason in last.items() if reason is not None}
    return {
        "appId": app.id,
        "instances": app.instances,
        "conditions": conditions,
        "waiting": waiting,
        "delaySeconds": round(delay_s, 3),
        "deployments": [d.plan.id for d in tables.deployments_of(app.id)],
        "agents": [
            {"agentId": agent, "reason": reason.value}
            for agent, reason in list(refusing.items())[:MAX_AGENTS]
        ],
        "reasons": list(_reasons(app, tables, rules, waiting, delay_s)),
    }


def _reasons(
    app: App, tables: Tables, rules: MatchRules, waiting: int, delay_s: float
) -> list[str]:
    """Sentences, the most weighty first; empty where the app runs as it shall."""
    found: list[str] = []
    missing = obstacle(app, rules)
    if missing is not None:
        found.append(f"it can be launched nowhere: {missing}")
    if waiting and delay_s > 0:
        found.append(f"launches are delayed by failures for another {delay_s:.1f} s")
    queue = tables.queue.get(app.id)
    if waiting and missing is None:
        if queue is None or not queue.processed:
            found.append(f"{waiting} instances wait for an offer, and none has come yet")
        else:
            last = [reason for reason in queue.last_by_agent.values() if reason is not None]
            counted = ((reason, last.count(reason)) for reason in FUNNEL)
            text = ", ".join(f"{n} for {reason.value}" for reason, n in counted if n)
            found.append(
                f"{waiting} instances wait; {len(last)} of {len(queue.last_by_agent)} agents "
                f"do not fit" + (f" ({text})" if text else "")
            )
    lost = sum(
        i.condition in (Condition.UNREACHABLE, Condition.UNREACHABLE_INACTIVE)
        for i in tables.instances_of(app.id)
    )
    if lost:
        found.append(f"{lost} instances are on agents that the master cannot reach")
    unhealthy = sum(
        any(not h.alive for h in tables.health_of(i.id)) for i in tables.instances_of(app.id)
    )
    if unhealthy:
        found.append(f"{unhealthy} instances fail a health check")
    failure = tables.failures.get(app.id)
    if failure is not None and (waiting or delay_s > 0):
        found.append(
            f"the last task failed: {failure.status.state.value}, {failure.status.message or ''}"
        )
    return found
