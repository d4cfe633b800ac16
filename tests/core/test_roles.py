"""Role names and their order."""

import pytest

from cairn_core.roles import (
    RoleError,
    ancestors,
    is_subrole,
    lineage,
    top_level,
    validate,
    validate_all,
)


@pytest.mark.parametrize("role", ["*", "web", "eng/web", "a/b/c", "a-b", "日本", ".a", "a*"])
def test_valid_roles_are_accepted(role: str) -> None:
    assert validate(role) == role


@pytest.mark.parametrize(
    "role",
    ["", "/", "/a", "a/", "a//b", "a/./b", "..", ".", "a/*", "-a", "a/-b", "a b", "a\tb", "a\x08"],
)
def test_invalid_roles_are_refused_with_the_role_named(role: str) -> None:
    with pytest.raises(RoleError) as caught:
        validate(role)
    assert caught.value.role == role
    assert repr(role) in str(caught.value)


def test_a_role_given_twice_is_refused() -> None:
    assert validate_all(["a", "a/b"]) == {"a", "a/b"}
    with pytest.raises(RoleError, match="twice"):
        validate_all(["a", "b", "a"])


def test_the_tree_of_roles() -> None:
    assert ancestors("a/b/c") == ["a/b", "a"]
    assert lineage("a/b") == ["a/b", "a"]
    assert top_level("a/b/c") == "a"
    assert is_subrole("a/b", "a")
    assert is_subrole("a/b/c", "a")
    assert not is_subrole("a", "a")
    assert not is_subrole("ab", "a")
    assert not is_subrole("a", "a/b")
