"""Which zone is in which table, and that replacing gives what making anew gives."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from cairn_dns.proxy.tables import SLICE, LocalTables, far_names
from cairn_dns.proxy.zones import LocalZone
from cairn_dns.table import Table
from cairn_dns.wire import CNAME, A
from cairn_dns.zone import Record


def zone(name: str, *values: int, alias: str = "", ttl: int = 5) -> LocalZone:
    records: list[Record] = [(f"h{value}.{name}", A, bytes([10, 0, 0, value])) for value in values]
    if alias:
        records.append((f"alias.{name}", CNAME, alias))
    return LocalZone.of(name, records, ttl)


def apply(
    tables: LocalTables,
    put: Sequence[LocalZone],
    drop: Sequence[str] = (),
    foreign: Sequence[str] = (),
) -> None:
    for table, update in tables.replace(put, drop, now=1_000.0, foreign=foreign):
        if update is not None:
            table.apply(update)


def without_serial(table: Table) -> tuple[object, ...]:
    """What is answered, apart from SOA records, and from who counts it."""
    entries = {
        key: [variant[1:] for variant in (entry if isinstance(entry, tuple) else (entry,))]
        for key, entry in table.entries.items()
        if key[-4:-2] != b"\0\6"
    }
    return entries, table.ancestors, set(table.zones)


def test_zones_with_something_of_others_below_are_far() -> None:
    zones = [
        zone("spartan", 1), zone("corp", 1), zone("a.corp", alias="x.mesos"), zone("b.corp", 2),
        zone("example", 1), zone("thisdcos.directory"),
    ]  # fmt: skip
    assert far_names(zones, ["mesos", "intern.example"]) == {
        "a.corp", "corp", "example", "thisdcos.directory",
    }  # fmt: skip


def test_a_zone_moves_when_it_leads_away() -> None:
    tables = LocalTables()
    apply(tables, [zone("corp", 1)])
    assert set(tables.near.zones) == {"corp"}
    apply(tables, [zone("corp", 1, alias="a.mesos")])
    assert (set(tables.near.zones), set(tables.far.zones)) == (
        set(), {"corp", "thisdcos.directory"},
    )  # fmt: skip
    apply(tables, [zone("corp", 1)])
    assert set(tables.near.zones) == {"corp"}


def test_a_large_zone_is_changed_in_slices_and_shows_at_once() -> None:
    def large(first: int) -> LocalZone:
        records: list[Record] = [
            (f"h{n}.corp", A, n.to_bytes(4, "big")) for n in range(first, first + 5 * SLICE)
        ]
        return LocalZone.of("corp", records)

    tables = LocalTables()
    for first in (0, 2 * SLICE):
        turns = [update for _, update in tables.replace([large(first)], now=1_000.0)]
        assert turns.count(None) >= (5 if first == 0 else 4)
        for update in turns:
            if update is not None:
                assert len(update.put) + len(update.drop) <= 3 * SLICE
                tables.near.table.apply(update)
    fresh = LocalTables()
    apply(fresh, [large(2 * SLICE)])
    assert without_serial(tables.near.table) == without_serial(fresh.near.table)


NAMES = ["corp", "a.corp", "spartan", "l4lb.thisdcos.directory"]
ZONE = st.builds(
    lambda name, values, alias, ttl: zone(name, *values, alias=alias, ttl=ttl),
    st.sampled_from(NAMES),
    st.sets(st.integers(1, 4)),
    st.sampled_from(["", "", "x.mesos"]),
    st.sampled_from([5, 5, 60]),
)


@given(st.lists(st.tuples(st.lists(ZONE, max_size=2), st.sets(st.sampled_from(NAMES), max_size=1))))
def test_replaced_is_as_made_anew(steps: list[tuple[list[LocalZone], set[str]]]) -> None:
    tables = LocalTables()
    wanted: dict[str, LocalZone] = {}
    for put, drop in steps:
        apply(tables, put, sorted(drop))
        for name in drop - {one.name for one in put}:
            wanted.pop(name, None)
        wanted |= {one.name: one for one in put}
    fresh = LocalTables()
    apply(tables, [])
    apply(fresh, list(wanted.values()))
    assert tables.zones == wanted
    assert without_serial(tables.near.table) == without_serial(fresh.near.table)
    assert without_serial(tables.far.table) == without_serial(fresh.far.table)
