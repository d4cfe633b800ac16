"""The routing table: longest prefix by component, twins, methods."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.kit.json_depth import too_deep
from cairn_core.kit.routes import Match, NoRoute, Options, Router, WrongMethod


def table() -> Router[str]:
    router: Router[str] = Router(twins=("/master", "/slave(1)"))
    router.add("/", "index", options=Options(exact=True))
    router.add("/state", "state", json_twin=True)
    router.add("/api/v1", "operator", ("POST",))
    router.add("/api/v1/scheduler", "scheduler", ("POST",))
    router.add("/redirect", "redirect", options=Options(exact=True))
    router.add("/v2/apps", "apps", ("GET", "POST"))
    router.add("/v2/tasks/{id}", "task")
    router.add("/v2/tasks/delete", "delete", ("POST",))
    router.add("/v2/tasks/{id}/logs/{name}", "logs")
    return router


@pytest.mark.parametrize(
    ("request_line", "handler", "params", "rest"),
    [
        ("GET /state", "state", {}, ""),
        ("GET /state/", "state", {}, ""),
        ("HEAD /state", "state", {}, ""),
        ("GET /state.json", "state", {}, ""),
        ("GET /master/state", "state", {}, ""),
        ("GET /master/state.json", "state", {}, ""),
        ("GET /slave(1)/state", "state", {}, ""),
        ("GET /slave%281%29/state", "state", {}, ""),
        ("POST /api/v1", "operator", {}, ""),
        ("POST /api/v1/operator", "operator", {}, "operator"),
        ("POST /api/v1/scheduler", "scheduler", {}, ""),
        ("POST /master/api/v1/scheduler/", "scheduler", {}, ""),
        ("GET /", "index", {}, ""),
        ("GET /master", "index", {}, ""),
        ("GET /redirect", "redirect", {}, ""),
        ("GET /v2/apps//group/app", "apps", {}, "group/app"),
        ("GET /v2/apps/a%2Fb", "apps", {}, "a/b"),
        ("GET /v2/tasks/t%201", "task", {"id": "t 1"}, ""),
        ("POST /v2/tasks/delete", "delete", {}, ""),
        ("GET /v2/tasks/delete/logs/x", "logs", {"id": "delete", "name": "x"}, ""),
        ("GET /v2/tasks/t/logs/stdout/more", "logs", {"id": "t", "name": "stdout"}, "more"),
    ],
)
def test_the_longest_prefix_answers(
    request_line: str, handler: str, params: dict[str, str], rest: str
) -> None:
    found = table().find(*request_line.split(" ", 1))
    assert isinstance(found, Match)
    assert (found.handler, found.params, found.rest) == (handler, params, rest)


@pytest.mark.parametrize("path", ["/nothing", "/statex", "/redirect/deeper", "/v2", "/master/x"])
def test_what_nobody_owns_is_not_found(path: str) -> None:
    assert table().find("GET", path) == NoRoute()


@pytest.mark.parametrize(
    ("request_line", "allow"),
    [("GET /api/v1/scheduler", "POST"), ("PUT /v2/apps", "GET, POST"), ("HEAD /api/v1", "POST")],
)
def test_a_wrong_method_says_which_are_right(request_line: str, allow: str) -> None:
    assert table().find(*request_line.split()) == WrongMethod(allow)


def test_a_route_cannot_be_added_twice() -> None:
    router = table()
    with pytest.raises(ValueError, match="exists already: GET /state"):
        router.add("/state/", "other")
    with pytest.raises(ValueError, match="was called"):
        router.add("/v2/tasks/{other}/x", "other")
    with pytest.raises(ValueError, match="does not start"):
        router.add("state", "other")


def test_paths_lists_every_route() -> None:
    assert "POST /slave(1)/api/v1" in table().paths()
    assert "GET /v2/tasks/{id}/logs/{name}" in table().paths()


@given(st.text(max_size=40))
def test_any_path_is_answered_one_way_or_another(path: str) -> None:
    assert isinstance(table().find("GET", path), Match | NoRoute | WrongMethod)


@given(st.integers(0, 130), st.booleans())
def test_depth_is_counted_exactly(depth: int, objects: bool) -> None:
    opening, closing = (b'{"a":', b"}") if objects else (b"[", b"]")
    assert too_deep(opening * depth + b"1" + closing * depth) == (depth > 64)


@pytest.mark.parametrize(
    ("text", "deep"),
    [
        (b'{"a": "' + b"[" * 1000 + b'"}', False),
        (b'{"a": "\\"' + b"[" * 1000 + b'"}', False),
        (b"[" + b"[]," * 1000 + b"{}]", False),
        (b"[" * 100_000, True),
        (b'"' + b'\\"[' * 100_000, False),
        (b'{"a":' * 100_000, True),
    ],
    ids=["string", "escaped quote", "wide", "unclosed", "unterminated string", "objects"],
)
def test_brackets_in_strings_do_not_nest(text: bytes, deep: bool) -> None:
    assert too_deep(text) == deep
