"""From a change of the root group to a deployment."""

from typing import Any

import pytest

from cairn_scheduler.marathon import legacy_app, normalize
from cairn_scheduler.marathon.app import App, scaled
from cairn_scheduler.marathon.change import ChangeRules, Prepared, Wish, prepare
from cairn_scheduler.marathon.errors import Locked, NotValid
from cairn_scheduler.marathon.groups import RootGroup, put_app
from cairn_scheduler.marathon.normalize import Defaults
from cairn_scheduler.marathon.planner import ActionKind

V0, V1, V2 = (f"2020-01-0{day}T00:00:00.000Z" for day in (1, 2, 3))
EMPTY = RootGroup(V0)


def app(app_id: str, **keys: Any) -> App:
    """A complete app."""
    update = legacy_app.read_app({"id": app_id, "cmd": "sleep 9"} | keys)
    return normalize.complete(update, app_id, Defaults())


def changed(
    old: RootGroup,
    *apps: App,
    rules: ChangeRules | None = None,
    wish: Wish | None = None,
    version: str = V1,
    running: tuple[Prepared, ...] = (),
) -> Prepared:
    """The change that puts these apps."""
    new = old
    for one in apps:
        new = put_app(new, one)
    plans = [p.plan for p in running]
    return prepare(
        old, new, plans, rules or ChangeRules(), wish or Wish(), version=version, plan_id="p"
    )


def test_new_app_gets_port_version_and_plan() -> None:
    made = changed(EMPTY, app("/a"))
    (one,) = made.changed
    assert (one.service_ports, one.version) == ((10000,), V1)
    assert made.root.version == V1
    assert [[a.kind for a in step] for step in made.plan.steps] == [
        [ActionKind.START],
        [ActionKind.SCALE],
    ]
    assert made.cancelled == ()


def test_same_app_again_is_no_deployment() -> None:
    first = changed(EMPTY, app("/a"))
    again = changed(first.root, first.root.apps["/a"], version=V2)
    assert again.plan.is_empty
    assert again.changed == ()


def test_restart_is_wished_for() -> None:
    first = changed(EMPTY, app("/a"))
    made = changed(first.root, wish=Wish(restarts={"/a"}), version=V2)
    assert [[a.kind for a in step] for step in made.plan.steps] == [[ActionKind.RESTART]]


def test_only_what_changed_is_judged() -> None:
    gpus = ChangeRules(features=frozenset({"gpu_resources"}))
    old = changed(EMPTY, app("/old", gpus=1), rules=gpus).root
    assert [one.id for one in changed(old, app("/a"), version=V2).changed] == ["/a"]


def test_faults_of_several_apps_are_told_apart() -> None:
    with pytest.raises(NotValid) as caught:
        changed(EMPTY, app("/a", gpus=1), app("/b", portDefinitions=[{"port": 7}, {"port": 7}]))
    assert [f.path for f in caught.value.faults] == ["/apps(/a)", "/apps(/b)/portDefinitions"]


def test_running_deployment_locks_and_force_cancels_it() -> None:
    first = changed(EMPTY, app("/a"))
    more = scaled(first.root.apps["/a"], 5)
    with pytest.raises(Locked):
        changed(first.root, more, version=V2, running=(first,))
    made = changed(first.root, more, version=V2, running=(first,), wish=Wish(force=True))
    assert made.cancelled == (first.plan,)


def test_number_of_apps_may_be_limited() -> None:
    with pytest.raises(NotValid, match="may only handle up to 1 Apps"):
        changed(EMPTY, app("/a"), app("/b"), rules=ChangeRules(max_apps=1))


def test_roles_are_those_of_the_group_and_the_default() -> None:
    assert changed(EMPTY, app("/dev/a", role="dev")).changed[0].role == "dev"
    with pytest.raises(NotValid, match="is not one of"):
        changed(EMPTY, app("/dev/a", role="ops"))


def test_cycles_are_refused() -> None:
    with pytest.raises(NotValid, match="cyclic"):
        changed(EMPTY, app("/a", dependencies=["/b"]), app("/b", dependencies=["/a"]))
