"""The tree of shares: order, masks, weights, and the virtual child."""

from random import Random

from cairn_scheduler.allocator.shares import Tree, dominant_share


def test_the_dominant_share_is_the_largest_fraction_over_the_weight() -> None:
    totals = {"cpus": 10, "mem": 100, "disk": 0}
    assert dominant_share({"cpus": 1, "mem": 50, "disk": 9, "x": 9}, totals, 1.0) == 0.5
    assert dominant_share({"cpus": 1, "mem": 50}, totals, 2.0) == 0.25
    assert dominant_share({}, totals, 1.0) == 0.0


def test_ties_are_broken_by_count_and_then_by_path() -> None:
    tree = Tree()
    leaves = {name: tree.add_leaf("*", name, 1 << n) for n, name in enumerate("cab")}
    tree.add_total({"cpus": 100})
    assert [leaf for _, leaf in tree.listing()] == ["a", "b", "c"]
    tree.allocated(leaves["a"], {"cpus": 10})
    tree.released(leaves["a"], {"cpus": 10})
    assert [leaf for _, leaf in tree.listing()] == ["b", "c", "a"]


def test_a_whole_subtree_is_served_before_its_next_sibling() -> None:
    tree = Tree()
    order = ["a", "a/x", "a/y", "b"]
    leaves = {role: tree.add_leaf(role, "f", 1 << n) for n, role in enumerate(order)}
    tree.add_total({"cpus": 100})
    tree.allocated(leaves["b"], {"cpus": 30})
    tree.allocated(leaves["a/x"], {"cpus": 25})
    tree.allocated(leaves["a"], {"cpus": 1})
    assert [role for role, _ in tree.listing()] == ["a/y", "a/.", "a/x", "b"]
    tree.set_weight("b", 10.0)
    assert [role for role, _ in tree.listing()] == ["b", "a/y", "a/.", "a/x"]
    assert tree.mask_of("a") == 0b0111
    assert tree.mask_of("a/x") == 0b0010
    assert tree.mask_of("z") == 0
    tree.released(leaves["a/x"], {"cpus": 25})
    tree.remove_leaf("a/x", "f")
    tree.remove_leaf("a/y", "f")
    assert [role for role, _ in tree.listing()] == ["a", "b"]
    assert tree.role_shares() == {"a": 0.01, "b": 0.03}


def test_excluded_names_count_for_nothing() -> None:
    tree = Tree(frozenset({"gpus"}))
    leaf = tree.add_leaf("*", "f", 1)
    tree.add_total({"gpus": 2, "cpus": 10})
    tree.allocated(leaf, {"gpus": 2, "cpus": 1})
    assert tree.role_shares() == {"*": 0.1}


def test_first_finds_what_a_plain_search_finds() -> None:
    """Many leaves, so that blocks of siblings fill, split and empty."""
    rng = Random(5)
    tree = Tree()
    roles = ["a", "a/b", "c", "*"]
    leaves = {}
    for n in range(600):
        role = roles[0] if n < 400 else rng.choice(roles)
        leaves[role, f"f{n:03}"] = tree.add_leaf(role, f"f{n:03}", 1 << n)
    tree.add_total({"cpus": 1000, "mem": 1000})
    held: dict[tuple[str, str], int] = {}
    for _ in range(600):
        tree.refresh()
        for _ in range(rng.randint(1, 8)):
            eligible = rng.getrandbits(600) if rng.random() < 0.5 else 1 << rng.randrange(600)
            found = tree.first(eligible)
            assert found is not None
            expected = next(
                (role.removesuffix("/."), name)
                for role, name in tree.listing()
                if leaves[role.removesuffix("/."), name].mask & eligible
            )
            assert leaves[expected] is found
            tree.allocated(found, {"cpus": 2, "mem": 1})
            held[expected] = held.get(expected, 0) + 1
        if rng.random() < 0.3:
            back = rng.choice(sorted(held))
            tree.released(leaves[back], {"cpus": 2 * held[back], "mem": held[back]})
            del held[back]
    assert tree.first(0) is None
    assert tree.first(1 << 700) is None


def test_amounts_of_roles_are_the_sum_of_their_leaves() -> None:
    tree = Tree()
    one = tree.add_leaf("a/b", "f", 1)
    tree.add_total({"cpus": 10})
    tree.refresh()
    tree.allocated(one, {"cpus": 2})
    two = tree.add_leaf("a", "g", 2)
    tree.allocated(two, {"cpus": 3})
    assert tree.role_shares() == {"a/b": 0.2, "a": 0.5}
    assert tree.allocated_amounts() == {"cpus": 5}
    tree.released(one, {"cpus": 2})
    assert tree.role_shares() == {"a/b": 0.0, "a": 0.3}
