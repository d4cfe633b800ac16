"""Records are counted, and every name whose answers may differ is told."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_dns.bags import LIST_LIMIT, added, only, removed, things
from cairn_dns.wire import AAAA, PTR, SRV, A
from cairn_dns.zone import Record, RecordSet

V4, V4_B, V6 = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02", bytes(15) + b"\x01"
NAMES = ("a.mesos", "b.mesos", "_s._tcp.mesos")


def test_a_shared_record_stays_until_the_last_of_its_givers_has_gone() -> None:
    records = RecordSet()
    records.change((), [("a.mesos", A, V4), ("a.mesos", A, V4), ("a.mesos", AAAA, V6)], now=1.0)
    assert records.take_changed() == {"a.mesos"}
    assert records.counts == {A: 1, AAAA: 1}
    records.change([("a.mesos", A, V4)], (), now=2.0)
    assert records.take_changed() == set()
    assert (records.values("a.mesos", A), records.changed_at("a.mesos")) == ([V4], 1.0)
    records.change([("a.mesos", A, V4)], (), now=3.0)
    assert records.take_changed() == {"a.mesos"}
    assert (records.kinds("a.mesos"), records.changed_at("a.mesos")) == ({AAAA}, 3.0)
    records.change([("a.mesos", AAAA, V6)], (), now=4.0)
    assert (len(records), records.changed_at("a.mesos"), list(records.names())) == (0, None, [])


def test_services_change_with_the_addresses_they_lead_to() -> None:
    records = RecordSet()
    records.change((), [("_s._tcp.mesos", SRV, ("a.mesos", 80))], now=1.0)
    records.take_changed()
    records.change((), [("a.mesos", A, V4)], now=2.0)
    assert records.take_changed() == {"a.mesos", "_s._tcp.mesos"}
    assert records.changed_at("_s._tcp.mesos") == 1.0
    records.change([("_s._tcp.mesos", SRV, ("a.mesos", 80))], (), now=3.0)
    records.take_changed()
    records.change([("a.mesos", A, V4)], [("a.mesos", A, V4_B)], now=4.0)
    assert records.take_changed() == {"a.mesos"}


def test_what_is_removed_and_added_at_once_does_not_change() -> None:
    records = RecordSet()
    one: list[Record] = [("a.mesos", A, V4), ("1.in-addr.arpa", PTR, "a.mesos")]
    records.change((), one, now=1.0)
    records.take_changed()
    records.change(one, [*one, ("b.mesos", A, V4)], now=2.0)
    assert records.take_changed() == {"b.mesos"}
    assert records.changed_at("a.mesos") == 1.0


def test_values_are_sorted() -> None:
    records = RecordSet()
    some: list[Record] = [("s", SRV, ("b", 1)), ("s", SRV, ("a", 9)), ("s", SRV, ("a", 2))]
    records.change((), some, now=0.0)
    assert records.values("s", SRV) == [("a", 2), ("a", 9), ("b", 1)]
    assert records.values("s", A) == records.values("nobody", SRV) == []


@pytest.mark.parametrize("record", [("b", A, V4), ("a", A, V4_B), ("a", PTR, "x")])
def test_to_remove_what_is_not_there_is_a_bug(record: Record) -> None:
    records = RecordSet()
    records.change((), [("a", A, V4)], now=0.0)
    with pytest.raises(KeyError):
        records.change([record], (), now=1.0)


RECORDS = st.one_of(
    st.tuples(st.sampled_from(NAMES), st.just(A), st.sampled_from((V4, V4_B))),
    st.tuples(st.sampled_from(NAMES), st.just(AAAA), st.just(V6)),
    st.tuples(st.sampled_from(NAMES), st.just(PTR), st.sampled_from(NAMES)),
    st.tuples(
        st.sampled_from(NAMES),
        st.just(SRV),
        st.tuples(st.sampled_from(NAMES), st.integers(1, LIST_LIMIT * 2)),
    ),
)


def answers(records: Counter[Record]) -> dict[str, object]:
    """What each name answers: its records, and the addresses that its services lead to."""

    def addresses(name: str) -> set[object]:
        return {one[2] for one in records if one[0] == name and one[1] in (A, AAAA)}

    return {
        name: (
            {(kind, value) for owner, kind, value in records if owner == name},
            {
                value[0]: frozenset(addresses(value[0]))
                for owner, _, value in records
                if owner == name and isinstance(value, tuple)
            },
        )
        for name in NAMES
    }


@given(st.lists(st.tuples(st.lists(RECORDS, max_size=30), st.data()), max_size=6))
def test_the_set_is_what_was_added_and_not_removed(
    steps: list[tuple[list[Record], st.DataObject]],
) -> None:
    records, expected = RecordSet(), Counter[Record]()
    for now, (add, data) in enumerate(steps):
        before = answers(expected)
        remove = data.draw(st.permutations(list(expected.elements())))
        remove = remove[: data.draw(st.integers(0, len(remove)))]
        records.change(remove, add, now=float(now))
        expected = (expected - Counter(remove)) + Counter(add)
        after = answers(expected)
        assert {name for name in NAMES if before[name] != after[name]} <= records.take_changed()
    for name in NAMES:
        kinds = {kind for owner, kind, _ in expected if owner == name}
        assert records.kinds(name) == kinds
        assert (records.changed_at(name) is None) == (not kinds)
        for kind in (A, AAAA, PTR, SRV):
            values = [value for owner, one, value in expected if (owner, one) == (name, kind)]
            assert records.values(name, kind) == sorted(values)
    assert {kind: n for kind, n in records.counts.items() if n} == Counter(
        k for _, k, _ in expected
    )
    records.change(list(expected.elements()), (), now=9.0)
    assert len(records) == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=120))
def test_bags_count(steps: list[tuple[bool, int]]) -> None:
    bag, expected = None, Counter[int]()
    for add, thing in steps:
        if add:
            bag, new = added(bag, thing)
            assert new == (thing not in expected)
            expected[thing] += 1
        elif thing in expected:
            bag, last = removed(bag, thing)
            expected -= Counter([thing])
            assert last == (thing not in expected)
        else:
            with pytest.raises(KeyError):
                removed(bag, thing)
        assert set(things(bag)) == set(expected)
        assert only(bag) == (next(iter(expected)) if expected.total() == 1 else None)
    assert (bag is None) == (not expected)
