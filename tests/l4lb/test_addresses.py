"""Addresses that this node gives to names, and their file."""

import logging
from pathlib import Path

import msgspec
import pytest

from cairn_core.vips.addresses import AddressRange
from cairn_l4lb.io_addresses import RELEASE_S, NodeAddresses, NotKept

#: Small ones of the original's tests.
RANGE = AddressRange.parse("11.0.0.0", "11.0.0.254", "nfq")
SIX = AddressRange.parse("fd01:c::", "fd01:c::ffff:ffff:ffff:ffff", "ipvs")


def node(file: Path | None = None, ipv6: AddressRange | None = None) -> NodeAddresses:
    found = NodeAddresses(RANGE, ipv6, file)
    found.load()
    return found


def test_addresses_are_those_of_the_hash_and_survive_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "state" / "addresses.json"
    addresses = node(file)
    assert addresses.give(["foo.marathon"], 0.0)
    assert addresses.given == {"foo.marathon": ("11.0.0.36", "")}
    assert not addresses.give(["foo.marathon"], 1.0)
    assert msgspec.json.decode(file.read_bytes()) == {"foo.marathon": ["11.0.0.36", ""]}
    assert node(file).given == addresses.given
    assert [one.name for one in file.parent.iterdir()] == ["addresses.json"]


def test_names_that_collide_are_taken_in_their_order(tmp_path: Path) -> None:
    names = [f"n{number}.marathon" for number in range(200)]
    first, second = node(), node()
    first.give(names, 0.0)
    second.give(reversed(names), 0.0)
    assert first.given == second.given
    assert len({ipv4 for ipv4, _ in first.given.values()}) == 200
    # one that is there keeps its address, whoever comes
    file = tmp_path / "addresses"
    third = node(file)
    third.give([names[-1]], 0.0)
    kept = third.given[names[-1]]
    again = node(file)
    again.give(names, 0.0)
    assert again.given[names[-1]] == kept


def test_without_addresses_the_others_still_get_theirs() -> None:
    addresses = NodeAddresses(AddressRange.parse("11.0.0.0", "11.0.0.3", "nfq"), None)
    assert addresses.give(["a", "b", "c", "d"], 0.0)
    assert list(addresses.given) == ["a", "b", "c"]
    assert list(addresses.refused) == ["d"]
    assert "no address of 11.0.0.0 to 11.0.0.3 is free" in addresses.refused["d"]
    assert not addresses.give(["a"], 0.0)
    assert addresses.refused == {}


def test_what_is_not_on_disk_is_not_given(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a directory should be")
    addresses = NodeAddresses(RANGE, None, blocked / "addresses.json")
    with pytest.raises(NotKept, match="addresses not kept file="):
        addresses.give(["foo.marathon"], 0.0)
    assert addresses.given == {}
    blocked.unlink()
    assert addresses.give(["foo.marathon"], 0.0)
    assert addresses.given == {"foo.marathon": ("11.0.0.36", "")}


def test_a_name_that_nobody_wants_loses_its_address_in_the_end(tmp_path: Path) -> None:
    file = tmp_path / "dir" / "addresses.json"
    addresses = node(file)
    addresses.give(["a", "b"], 0.0)
    assert not addresses.release(["a"], RELEASE_S - 1)
    before = addresses.given
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("in the way")
    with pytest.raises(NotKept):
        addresses.release(["a"], RELEASE_S)
    assert addresses.given == before
    file.parent.unlink()
    assert addresses.release(["a"], RELEASE_S)
    assert list(addresses.given) == ["a"]
    assert node(file).given == addresses.given
    # after a restart its time begins anew
    restarted = node(file)
    assert not restarted.release([], 5.0)
    assert not restarted.release([], RELEASE_S)
    assert restarted.release([], RELEASE_S + 5.0)
    assert restarted.given == {}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"a": "b"}', b'{"a": ["1", "2", "3"]}', b"\xff"]
)
def test_a_damaged_file_counts_as_none(
    tmp_path: Path, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "addresses.json"
    file.write_bytes(body)
    addresses = node(file)
    assert addresses.given == {}
    assert "addresses not read" in caplog.text
    assert addresses.give(["foo.marathon"], 0.0)


def test_kept_addresses_that_do_not_fit_any_more_are_chosen_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "addresses.json"
    kept = {
        "a": ("11.0.0.7", ""),
        "b": ("11.0.0.7", ""),
        "c": ("12.0.0.1", ""),
        "d": ("x", ""),
        "e": ("11.0.0.8", "fd01:c::8"),
        "f": ("fd01:c::9", ""),
        "g": ("", ""),
    }
    file.write_bytes(msgspec.json.encode(kept))
    with caplog.at_level(logging.WARNING):
        assert node(file).given == {"a": ("11.0.0.7", "")}
    assert len(caplog.records) == 6
    assert node(file, SIX).given == {"e": ("11.0.0.8", "fd01:c::8")}


def test_both_families() -> None:
    addresses = node(ipv6=SIX)
    addresses.give(["qux.ipv6"], 0.0)
    assert addresses.given["qux.ipv6"][1] == "fd01:c::6d6d:9c64:fd19:f251"
