"""The root group: changes, versions, service ports, dependency layers, plans and reversal."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cairn_scheduler.marathon import legacy_app, normalize, planner, versions
from cairn_scheduler.marathon.app import App, scaled
from cairn_scheduler.marathon.dependencies import layers
from cairn_scheduler.marathon.deployments import deployment_json, dry_run_json, plan_json
from cairn_scheduler.marathon.errors import (
    Conflict,
    IllegalArgument,
    Locked,
    NotFound,
    NotValid,
    TooManyDeployments,
)
from cairn_scheduler.marathon.groups import (
    RootGroup,
    add_app,
    app_maker,
    create_group,
    group_json,
    put_app,
    put_group,
    read_group,
    remove_app,
    remove_group,
    scale_group,
)
from cairn_scheduler.marathon.normalize import Defaults
from cairn_scheduler.marathon.planner import Action, ActionKind, Plan, make_plan, revert

V1, V2, V3 = (f"2020-01-0{day}T00:00:00.000Z" for day in (1, 2, 3))
START, STOP, SCALE, RESTART = (
    ActionKind.START,
    ActionKind.STOP,
    ActionKind.SCALE,
    ActionKind.RESTART,
)
MAKE = app_maker(Defaults())


def app(app_id: str, **keys: Any) -> App:
    """A complete app."""
    update = legacy_app.read_app({"id": app_id, "cmd": "sleep 9"} | keys)
    return normalize.complete(update, app_id, Defaults())


def root(*apps: App, version: str = V1) -> RootGroup:
    """A stamped root group of these apps."""
    new = RootGroup(version)
    for one in apps:
        new = put_app(new, one)
    new.check()
    return versions.stamp(RootGroup(""), new, version)


def put(old: RootGroup, group_id: str, body: dict[str, Any]) -> RootGroup:
    """A PUT of a group."""
    new = put_group(old, group_id, read_group(body), MAKE)
    new.check()
    return new


def test_put_creates_groups_and_apps_below_with_relative_ids() -> None:
    body = {
        "apps": [{"id": "a", "cmd": "sleep 9", "dependencies": ["b", "../x"]}],
        "groups": [{"id": "h", "apps": [{"id": "/g/h/b", "cmd": "sleep 9"}]}],
        "dependencies": ["/x"],
    }
    new = put(RootGroup(V1), "/g", body)
    assert sorted(new.apps) == ["/g/a", "/g/h/b"]
    assert new.apps["/g/a"].dependencies == ("/g/b", "/x")
    assert new.groups["/g"].dependencies == ("/x",)


def test_given_sets_replace_and_missing_keys_keep() -> None:
    old = root(app("/g/a"), app("/g/b"), app("/g/h/c"))
    kept = put(old, "/g", {"dependencies": []})
    assert sorted(kept.apps) == ["/g/a", "/g/b", "/g/h/c"]
    fewer = put(old, "/g", {"apps": [{"id": "a", "cmd": "sleep 9"}]})
    assert sorted(fewer.apps) == ["/g/a", "/g/h/c"]
    flat = put(old, "/g", {"groups": []})
    assert sorted(flat.apps) == ["/g/a", "/g/b"]
    assert "/g/h" not in flat.groups


@pytest.mark.parametrize(
    ("body", "path", "text"),
    [
        (
            {"apps": [{"id": "/other/a", "cmd": "sleep 9"}]},
            "/apps(0)/id",
            "Identifier is not child of '/g'. Hint: use relative paths.",
        ),
        (
            {"apps": [{"id": "h", "cmd": "sleep 9"}]},
            "/apps(0)/id",
            "Groups and Applications may not have the same identifier.",
        ),
        (
            {"groups": [{"id": "k", "apps": [{"id": "a", "ports": [1, 1]}]}]},
            "/groups(0)/apps(0)",
            "ports must be unique",
        ),
        ({"scaleBy": 2, "apps": []}, "/scaleBy", "not allowed in conjunction"),
        ({"version": V1, "id": "/g"}, "/version", "not allowed in conjunction"),
    ],
)
def test_faults_of_a_group_are_named_with_their_path(
    body: dict[str, Any], path: str, text: str
) -> None:
    with pytest.raises(NotValid) as caught:
        put(root(app("/g/h/c")), "/g", body)
    (found,) = caught.value.faults
    assert found.path == path
    assert found.errors[0].startswith(text)


def test_creating_what_exists_is_a_conflict() -> None:
    old = root(app("/g/a"))
    with pytest.raises(Conflict, match=r"Group /g is already created"):
        create_group(old, "/g", read_group({}), MAKE)
    with pytest.raises(Conflict, match="An app with the path /g/a already exists"):
        create_group(old, "/g/a/b", read_group({}), MAKE)
    with pytest.raises(Conflict, match=r"An app with id \[/g/a\] already exists"):
        add_app(old, app("/g/a"))
    with pytest.raises(NotValid, match="same identifier"):
        put_app(old, app("/g"))


def test_removing() -> None:
    old = root(app("/g/a"), app("/g/h/b"), app("/x"))
    assert sorted(remove_group(old, "/g").apps) == ["/x"]
    assert sorted(remove_group(old, "/").groups) == ["/"]
    assert sorted(remove_app(old, "/x").apps) == ["/g/a", "/g/h/b"]
    with pytest.raises(NotFound):
        remove_group(old, "/none")


@pytest.mark.parametrize(("factor", "expected"), [(0.5, 2), (1.5, 5), (0, 0), (1.1, 4), (2, 6)])
def test_scaling_a_group_rounds_up(factor: float, expected: int) -> None:
    new = scale_group(root(app("/g/a", instances=3), app("/x", instances=3)), "/g", factor)
    assert (new.apps["/g/a"].instances, new.apps["/x"].instances) == (expected, 3)


def test_role_of_the_top_level_group_is_taken_where_it_is_enforced() -> None:
    plain = put(RootGroup(V1), "/dev", {"apps": [{"id": "a", "cmd": "sleep 9"}]})
    assert plain.apps["/dev/a"].role == "*"
    assert plain.allowed_roles("/dev/a", "*") == {"*", "dev"}
    body = {"enforceRole": True, "groups": [{"id": "q", "apps": [{"id": "a", "cmd": "sleep 9"}]}]}
    assert put(RootGroup(V1), "/dev", body).apps["/dev/q/a"].role == "dev"
    with pytest.raises(NotValid, match="top-level"):
        put(RootGroup(V1), "/dev/q", {"enforceRole": True})


def test_group_json_nests_members_and_leaves_out_what_is_not_set() -> None:
    shown = group_json(root(app("/g/a")), app_json=lambda a: a.id)
    assert shown == {
        "id": "/",
        "dependencies": [],
        "apps": [],
        "pods": [],
        "groups": [
            {
                "id": "/g",
                "dependencies": [],
                "apps": ["/g/a"],
                "pods": [],
                "groups": [],
                "version": V1,
            }
        ],
        "version": V1,
    }
    assert "apps" not in group_json(root(), with_apps=False)


@pytest.mark.parametrize(
    ("change", "restart", "expected"),
    [
        pytest.param({"cmd": "other"}, False, (V2, V2, V2), id="configuration"),
        pytest.param({"instances": 5}, False, (V2, V2, V1), id="scaling"),
        pytest.param({}, True, (V2, V1, V2), id="restart"),
        pytest.param({}, False, (V1, V1, V1), id="nothing"),
    ],
)
def test_versions_tell_what_changed(
    change: dict[str, Any], restart: bool, expected: tuple[str, str, str]
) -> None:
    old = root(app("/a"))
    new = put_app(
        old, normalize.updated(old.apps["/a"], legacy_app.read_update(change), Defaults())
    )
    after = versions.stamp(old, new, V2, {"/a"} if restart else ()).apps["/a"]
    info = after.version_info
    assert info is not None
    assert (after.version, info.last_scaling_at, info.last_config_change_at) == expected


def test_service_ports_are_assigned_once_and_kept() -> None:
    old = versions.assign_service_ports(
        RootGroup(V1), root(app("/a", ports=[0, 10001]), app("/b", ports=[0])), 10000, 10005
    )
    assert old.apps["/a"].service_ports == (10000, 10001)
    assert old.apps["/b"].service_ports == (10002,)
    again = put_app(old, app("/a", ports=[0, 0, 0]))
    after = versions.assign_service_ports(old, again, 10000, 10005)
    assert after.apps["/a"].service_ports == (10000, 10001, 10003)


def test_service_ports_of_mappings_are_assigned_and_required_ports_are_not() -> None:
    bridge = app("/a", networks=[{"mode": "container/bridge"}])
    required = app("/b", requirePorts=True)
    after = versions.assign_service_ports(RootGroup(V1), root(bridge, required))
    assert after.apps["/a"].service_ports == (10000,)
    assert after.apps["/b"].service_ports == (0,)


def test_exhausted_service_ports_are_refused() -> None:
    with pytest.raises(IllegalArgument, match=r"range \[10000-10001\) are already in use"):
        versions.assign_service_ports(RootGroup(V1), root(app("/a", ports=[0] * 3)), 10000, 10001)


def test_layers_follow_apps_groups_and_inherited_dependencies() -> None:
    new = root(
        app("/db/one"),
        app("/db/two", dependencies=["/db/one"]),
        app("/web/front", dependencies=["/web/back"]),
        app("/web/back"),
        app("/free"),
        app("/late", dependencies=["/not/there"]),
    )
    new = put(new, "/web", {"dependencies": ["/db"]})
    assert layers(new) == [
        ["/db/one", "/free", "/late"],
        ["/db/two"],
        ["/web/back"],
        ["/web/front"],
    ]


@pytest.mark.parametrize(
    "apps",
    [
        (app("/a", dependencies=["/b"]), app("/b", dependencies=["/a"])),
        (app("/g/a", dependencies=["/g"]),),
        (app("/a", dependencies=["/a"]),),
        (app("/g/a", dependencies=["/h"]), app("/h/b", dependencies=["/g"])),
    ],
    ids=["two apps", "own group", "itself", "two groups"],
)
def test_cycles_are_found(apps: tuple[App, ...]) -> None:
    with pytest.raises(NotValid, match="Dependency graph has cyclic dependencies"):
        layers(root(*apps))


def test_a_long_chain_is_no_recursion() -> None:
    chain = [app(f"/a{i}", dependencies=[f"/a{i + 1}"]) for i in range(3000)]
    assert len(layers(root(*chain))) == 3000


def plan(old: RootGroup, new: RootGroup, **options: Any) -> list[list[tuple[ActionKind, str, int]]]:
    """Steps of a plan in short."""
    made = make_plan(old, versions.stamp(old, new, V2, options.get("restarts", ())), "p")
    return [[(a.kind, a.app, a.scale_to) for a in step] for step in made.steps]


def test_plan_stops_starts_and_then_goes_by_layer() -> None:
    old = root(app("/gone"), app("/same"), app("/scaled"), app("/changed"), app("/again"))
    new = root(
        app("/same"),
        app("/scaled", instances=4),
        app("/changed", cmd="other", instances=2),
        app("/again"),
        app("/new", instances=3, dependencies=["/changed"]),
    )
    assert plan(old, new, restarts={"/again"}) == [
        [(STOP, "/gone", 0)],
        [(START, "/new", 0)],
        [(RESTART, "/again", 1), (RESTART, "/changed", 2), (SCALE, "/scaled", 4)],
        [(SCALE, "/new", 3)],
    ]


def test_scaling_to_zero_is_a_scaling_whatever_else_changed() -> None:
    assert plan(root(app("/a")), root(app("/a", cmd="other", instances=0))) == [[(SCALE, "/a", 0)]]


def test_no_change_is_an_empty_plan() -> None:
    same = root(app("/a"))
    assert make_plan(same, versions.stamp(same, same, V2), "p").is_empty


def test_instances_to_kill_go_with_the_scaling() -> None:
    old = root(app("/a", instances=3))
    new = versions.stamp(old, put_app(old, scaled(old.apps["/a"], 2)), V2)
    assert make_plan(old, new, "p", {"/a": ["i1"]}).steps == ((Action(SCALE, "/a", 2, ("i1",)),),)


def test_next_step_is_found_from_what_is_true() -> None:
    made = Plan("p", V2, ((Action(START, "/a"),), (Action(SCALE, "/a", 1), Action(SCALE, "/b", 1))))
    done = {("/a", START)}
    assert planner.next_step(made, lambda a: (a.app, a.kind) in done) == 1
    done |= {("/a", SCALE), ("/b", SCALE)}
    assert planner.next_step(made, lambda a: (a.app, a.kind) in done) is None
    done -= {("/a", START)}
    assert planner.next_step(made, lambda a: (a.app, a.kind) in done) == 0


def test_deployments_that_share_an_app_exclude_each_other() -> None:
    running = [Plan("r1", V1, ((Action(SCALE, "/a"),),)), Plan("r2", V1, ((Action(SCALE, "/b"),),))]
    wanted = Plan("p", V2, ((Action(SCALE, "/a"),),))
    with pytest.raises(Locked) as caught:
        planner.admit(wanted, running, force=False)
    assert caught.value.deployment_ids == ("r1",)
    assert planner.admit(wanted, running, force=True) == [running[0]]
    other = Plan("q", V2, ((Action(SCALE, "/c"),),))
    assert planner.admit(other, running, force=False) == []
    with pytest.raises(TooManyDeployments):
        planner.admit(other, running, force=False, limit=2)


def test_deployment_json() -> None:
    made = Plan("p", V2, ((Action(START, "/a"),), (Action(SCALE, "/a", 1),)))
    shown = deployment_json(made, 1, {"/a": [{"ready": True}]})
    assert shown == {
        "id": "p",
        "version": V2,
        "affectedApps": ["/a"],
        "affectedPods": [],
        "steps": [
            {"actions": [{"action": "StartApplication", "app": "/a"}]},
            {"actions": [{"action": "ScaleApplication", "app": "/a"}]},
        ],
        "currentActions": [
            {
                "action": "ScaleApplication",
                "app": "/a",
                "readinessCheckResults": [{"ready": True}],
            }
        ],
        "currentStep": 2,
        "totalSteps": 2,
    }
    assert deployment_json(made, None)["currentStep"] == 0
    assert dry_run_json(made) == {"steps": shown["steps"]}
    light = {"id": "p", "version": V2, "steps": shown["steps"]}
    assert plan_json(made) == light
    heavy = plan_json(made, (RootGroup(V1), root(app("/a"))))
    assert {k: heavy[k] for k in light} == light
    assert [a["id"] for a in heavy["target"]["apps"]] == ["/a"]
    assert heavy["original"]["apps"] == []


def test_reversal_undoes_one_deployment_and_keeps_what_others_did() -> None:
    old = root(app("/keep"), app("/changed"), app("/g/removed"))
    new = root(app("/keep"), app("/changed", cmd="other"), app("/h/added"), version=V2)
    current = put_app(put_app(new, app("/meanwhile")), app("/h/second"))
    back = revert(old, new, current)
    back.check()
    assert sorted(back.apps) == ["/changed", "/g/removed", "/h/second", "/keep", "/meanwhile"]
    assert back.apps["/changed"].cmd == "sleep 9"
    empty = revert(old, new, new)
    assert "/h" not in empty.groups


#: Other work on the machine must not fail a test.
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.sampled_from(["/a", "/b", "/g/a", "/g/b", "/g/h/c"])
APPS = st.builds(
    lambda app_id, n, cmd, deps: app(app_id, instances=n, cmd=cmd, dependencies=sorted(deps)),
    NAMES,
    st.integers(0, 4),
    st.sampled_from(["sleep 1", "sleep 2"]),
    st.sets(st.sampled_from(["/a", "/g", "/g/h"]), max_size=1),
)
ROOTS = st.lists(APPS, max_size=5, unique_by=lambda a: a.id)


@CALM
@given(ROOTS, ROOTS)
def test_carrying_out_a_plan_reaches_the_target(before: list[App], after: list[App]) -> None:
    old = root(*before)
    new = RootGroup(V2)
    for one in after:
        new = put_app(new, one)
    new = versions.stamp(old, new, V2)
    try:
        made = make_plan(old, new, "p")
    except NotValid:
        return
    running = {a.id: (a.config_version, a.instances) for a in old.apps.values()}
    for step in made.steps:
        assert step
        for action in step:
            match action.kind:
                case ActionKind.STOP:
                    del running[action.app]
                case ActionKind.START:
                    running[action.app] = (new.apps[action.app].config_version, 0)
                case ActionKind.SCALE:
                    config = running[action.app][0]
                    if action.scale_to == 0:
                        config = new.apps[action.app].config_version
                    running[action.app] = (config, action.scale_to)
                case ActionKind.RESTART:
                    running[action.app] = (new.apps[action.app].config_version, action.scale_to)
    assert running == {a.id: (a.config_version, a.instances) for a in new.apps.values()}


@CALM
@given(ROOTS, ROOTS)
def test_reversing_at_once_restores_the_old_root(before: list[App], after: list[App]) -> None:
    old, new = root(*before), root(*after, version=V2)
    back = revert(old, new, new)
    back.check()
    assert {k: replace(a, version=None) for k, a in back.apps.items()} == {
        k: replace(a, version=None) for k, a in old.apps.items()
    }
