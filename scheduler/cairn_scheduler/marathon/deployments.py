"""Deployments as the API and the events show them.

Source: the released Marathon's deployment resource. `currentStep` counts from 1; 0 means that
nothing has begun.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cairn_scheduler.marathon.groups import RootGroup, group_json
from cairn_scheduler.marathon.planner import Action, Plan, Step


def action_json(action: Action) -> dict[str, Any]:
    """An action of a step."""
    return {"action": action.kind.value, "app": action.app}


def step_json(step: Step) -> dict[str, Any]:
    """A step of a plan."""
    return {"actions": [action_json(action) for action in step]}


def plan_json(plan: Plan, roots: tuple[RootGroup, RootGroup] | None = None) -> dict[str, Any]:
    """A plan inside an event.

    roots: the root group before and after, for the heavy form (`plan-format=heavy`), which some
    clients insist on; its size is that of the whole state. Without them the light form.
    """
    body: dict[str, Any] = {
        "id": plan.id,
        "version": plan.version,
        "steps": [step_json(step) for step in plan.steps],
    }
    if roots is not None:
        body |= {"original": group_json(roots[0]), "target": group_json(roots[1])}
    return body


def deployment_json(
    plan: Plan,
    current: int | None,
    readiness: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """A running deployment.

    current: index of the step under way, None before the first.
    readiness: results of readiness checks by app.
    """
    actions: Step = () if current is None else plan.steps[current]
    readiness = readiness or {}
    return {
        "id": plan.id,
        "version": plan.version,
        "affectedApps": sorted(plan.affected),
        "affectedPods": [],
        "steps": [step_json(step) for step in plan.steps],
        "currentActions": [
            action_json(a) | {"readinessCheckResults": list(readiness.get(a.app, ()))}
            for a in actions
        ],
        "currentStep": 0 if current is None else current + 1,
        "totalSteps": len(plan.steps),
    }


def result_json(plan: Plan) -> dict[str, str]:
    """The answer to whatever started a deployment."""
    return {"version": plan.version, "deploymentId": plan.id}


def dry_run_json(plan: Plan) -> dict[str, Any]:
    """The answer to a dry run."""
    return {"steps": [step_json(step) for step in plan.steps]}
