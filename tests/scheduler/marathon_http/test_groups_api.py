"""`/v2/groups`: trees, versions, scaling, dry runs."""

from typing import Any

TREE = {
    "id": "/shop",
    "groups": [{"id": "data", "apps": [{"id": "db", "cmd": "run-db"}]}],
    "apps": [
        {"id": "web", "cmd": "run-web", "instances": 2, "dependencies": ["/shop/data"]},
    ],
}


async def make_tree(site: Any) -> Any:
    answer = await site("POST", "/v2/groups", TREE)
    assert answer.status == 201, answer.body
    return answer


def finish(site: Any) -> None:
    """Let deployments come to their end."""
    while site.rig.tables.deployments:
        site.rig.run()


async def test_the_root_group_is_always_there(site: Any) -> None:
    root = await site.get("/v2/groups")
    assert root.pop("version")
    assert root == {"id": "/", "apps": [], "pods": [], "groups": [], "dependencies": []}


async def test_a_tree_is_created_in_order_of_its_dependencies(site: Any) -> None:
    answer = await make_tree(site)
    assert answer.headers["Location"] == "/v2/groups/shop"
    assert answer.headers["Marathon-Deployment-Id"] == answer.json["deploymentId"]
    (deployment,) = await site.get("/v2/deployments")
    assert [[(a["action"], a["app"]) for a in step["actions"]] for step in deployment["steps"]] == [
        [("StartApplication", "/shop/data/db"), ("StartApplication", "/shop/web")],
        [("ScaleApplication", "/shop/data/db")],
        [("ScaleApplication", "/shop/web")],
    ]
    assert (deployment["currentStep"], deployment["totalSteps"]) == (2, 3)
    (action,) = deployment["currentActions"]
    assert action == {
        "action": "ScaleApplication", "app": "/shop/data/db", "readinessCheckResults": [],
    }  # fmt: skip
    finish(site)
    group = await site.get("/v2/groups/shop?embed=group.groups&embed=group.apps"
                           "&embed=group.apps.counts&embed=group.apps.tasks")  # fmt: skip
    assert "pods" not in group
    assert group["apps"][0]["tasksRunning"] == len(group["apps"][0]["tasks"]) == 2
    assert group["groups"][0]["apps"][0]["id"] == "/shop/data/db"
    bare = await site.get("/v2/groups/shop?embed=group.groups")
    assert "apps" not in bare
    assert "tasks" not in (await site.get("/v2/groups/shop"))["apps"][0]
    assert [a["id"] for a in await site.get("/v2/groups/shop/apps")] == [
        "/shop/data/db", "/shop/web",
    ]  # fmt: skip


async def test_what_exists_is_not_created_again(site: Any) -> None:
    await make_tree(site)
    again = await site("POST", "/v2/groups", TREE)
    assert again.status == 409
    assert again.json == {
        "message": "Group /shop is already created. Use PUT to change this group."
    }
    on_app = await site("POST", "/v2/groups", {"id": "/shop/web"})
    assert on_app.json == {"message": "An app with the path /shop/web already exists."}


async def test_a_dry_run_changes_nothing(site: Any) -> None:
    answer = await site("PUT", "/v2/groups/?dryRun=true", TREE)
    assert answer.status == 200
    assert answer.json["steps"][0]["actions"][0] == {
        "action": "StartApplication", "app": "/shop/data/db",
    }  # fmt: skip
    assert (await site.get("/v2/apps"))["apps"] == []


async def test_scaling_versions_and_the_way_back(site: Any) -> None:
    await make_tree(site)
    finish(site)
    version = (await site.get("/v2/groups/shop"))["version"]
    scaled = await site("PUT", "/v2/groups/shop", {"scaleBy": 1.5})
    assert (scaled.status, set(scaled.json)) == (200, {"version", "deploymentId"})
    counts = {a["id"]: a["instances"] for a in (await site.get("/v2/apps"))["apps"]}
    assert counts == {"/shop/data/db": 2, "/shop/web": 3}
    finish(site)
    versions = await site.get("/v2/groups/shop/versions")
    assert versions[-1] == version
    assert versions == sorted(versions, reverse=True)
    old = await site.get(f"/v2/groups/shop/versions/{version}")
    assert old["apps"][0]["instances"] == 2
    back = await site("PUT", "/v2/groups/shop?force=true", {"version": version})
    assert back.status == 200
    assert (await site.get("/v2/apps/shop/web"))["app"]["instances"] == 2
    mixed = await site("PUT", "/v2/groups/shop", {"scaleBy": 2, "apps": []})
    assert mixed.status == 422
    assert mixed.json["details"] == [
        {"path": "/scaleBy", "errors": ["not allowed in conjunction with other properties."]}
    ]
    unknown = await site("PUT", "/v2/groups/shop", {"version": "2001-01-01T00:00:00.000Z"})
    assert unknown.status == 404


async def test_the_way_back_brings_removed_apps_back_and_takes_new_ones_away(site: Any) -> None:
    await make_tree(site)
    finish(site)
    version = (await site.get("/v2/groups/shop"))["version"]
    await site("DELETE", "/v2/apps/shop/web")
    await site.sleeper("/shop/new")
    await site.sleeper("/other")
    answer = await site("PUT", f"/v2/groups/shop/versions/{version}?force=true")
    assert answer.status == 200
    names = [a["id"] for a in (await site.get("/v2/apps"))["apps"]]
    assert names == ["/other", "/shop/data/db", "/shop/web"]


async def test_a_group_is_removed_with_all_below_it(site: Any) -> None:
    await make_tree(site)
    locked = await site("DELETE", "/v2/groups/shop")
    assert locked.status == 409
    answer = await site("DELETE", "/v2/groups/shop?force=true")
    assert answer.status == 200
    assert (await site.get("/v2/groups"))["groups"] == []
    assert (await site("DELETE", "/v2/groups/shop")).status == 404


async def test_a_role_is_enforced_by_patch_and_hidden_from_strict_clients(site: Any) -> None:
    await make_tree(site)
    assert (await site("PATCH", "/v2/groups/shop", {"enforceRole": True})).status == 200
    assert (await site.get("/v2/groups/shop"))["enforceRole"] is True
    strict = {"User-Agent": "python-requests/2.31.0"}
    seen = await site.get("/v2/groups", headers=strict)
    assert "enforceRole" not in seen["groups"][0]
    assert (await site("PATCH", "/v2/groups/none", {"enforceRole": True})).status == 404
    assert (await site("PATCH", "/v2/groups/shop", {"apps": []})).status == 422
    await site.sleeper("/shop/later")
    assert (await site.get("/v2/apps/shop/later"))["app"]["role"] == "shop"


async def test_an_empty_group_is_made_and_a_useless_change_starts_nothing(site: Any) -> None:
    made = await site("POST", "/v2/groups", {"id": "/empty"})
    assert (made.status, set(made.json)) == (201, {"version", "deploymentId"})
    assert [g["id"] for g in (await site.get("/v2/groups"))["groups"]] == ["/empty"]
    version = (await site.get("/v2/groups"))["version"]
    assert (await site("PUT", "/v2/groups/empty", {"apps": []})).status == 200
    assert (await site.get("/v2/groups"))["version"] == version
    assert await site.get("/v2/deployments") == []


async def test_the_root_is_emptied_but_stays(site: Any) -> None:
    await make_tree(site)
    assert (await site("DELETE", "/v2/groups?force=true")).status == 200
    root = await site.get("/v2/groups")
    assert (root["groups"], root["apps"]) == ([], [])


async def test_circles_and_twins_are_refused(site: Any) -> None:
    circle = {
        "id": "/c",
        "apps": [
            {"id": "one", "cmd": "x1", "dependencies": ["two"]},
            {"id": "two", "cmd": "x2", "dependencies": ["one"]},
        ],
    }
    refused = await site("POST", "/v2/groups", circle)
    assert refused.status == 422
    (detail,) = refused.json["details"]
    assert detail["errors"] == ["Dependency graph has cyclic dependencies."]
    await make_tree(site)
    twin = await site("POST", "/v2/apps", {"id": "/shop/data", "cmd": "x3"})
    assert twin.json["details"] == [
        {
            "path": "/id",
            "errors": ["Groups and Applications may not have the same identifier."],
        }
    ]
