"""The laws of resource arithmetic, and round trips through the wire forms."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_core.mesos import types
from cairn_core.resources import (
    EMPTY,
    Reservation,
    ResourceError,
    Resources,
    attributes_endpoint,
    quantities,
    read_attributes,
    show_attributes,
    spans,
)

STACKS = [
    {},
    {"role": "a"},
    {"role": "a", "reservation": types.ReservationInfo(principal="p")},
    {
        "reservations": (
            types.ReservationInfo(type="STATIC", role="a"),
            types.ReservationInfo(type="DYNAMIC", role="a/b", principal="p"),
        )
    },
]
DISKS = [
    types.DiskInfo(persistence=types.Persistence(id="v1")),
    types.DiskInfo(source=types.DiskSource(type="MOUNT", mount=types.DiskSourceRoot(root="/m"))),
    types.DiskInfo(source=types.DiskSource(type="PATH", path=types.DiskSourceRoot(root="/p"))),
]


def scalar(name: str, value: float, **more: object) -> types.Resource:
    return types.Resource(name=name, type="SCALAR", scalar=types.Scalar(value=value), **more)  # type: ignore[arg-type]  # by name


def ports(*pairs: tuple[int, int], **more: object) -> types.Resource:
    ranges = types.Ranges(range=tuple(types.Range(begin=a, end=b) for a, b in pairs))
    return types.Resource(name="ports", type="RANGES", ranges=ranges, **more)  # type: ignore[arg-type]  # by name


milli = st.integers(0, 5_000_000).map(lambda n: n / 1000)
plain_scalar = st.builds(
    lambda name, value, stack: scalar(name, value, **stack),
    st.sampled_from(["cpus", "mem", "disk", "bandwidth"]),
    milli,
    st.sampled_from(STACKS),
)
pairs = st.tuples(st.integers(0, 200), st.integers(0, 20)).map(lambda p: (p[0], p[0] + p[1]))
range_set = st.lists(pairs, max_size=6).map(spans.normalise)
ranges = st.builds(lambda s, stack: ports(*s, **stack), range_set, st.sampled_from(STACKS))
words = st.builds(
    lambda items: types.Resource(name="zones", type="SET", set=types.ValueSet(item=tuple(items))),
    st.sets(st.sampled_from("abcd")),
)
disks = st.builds(
    lambda value, disk, stack: scalar("disk", value, disk=disk, **stack),
    st.sampled_from([10.0, 20.5]),
    st.sampled_from(DISKS[1:]),
    st.sampled_from(STACKS),
)
resources = st.lists(st.one_of(plain_scalar, ranges, words, disks), max_size=6).map(
    Resources.from_wire
)


@given(resources, resources, resources)
def test_addition_is_commutative_and_associative(a: Resources, b: Resources, c: Resources) -> None:
    assert a + b == b + a
    assert hash(a + b) == hash(b + a)
    assert (a + b) + c == a + (b + c) == Resources.sum([a, b, c])
    assert a + EMPTY == a


@given(resources, resources)
def test_a_sum_contains_its_parts(a: Resources, b: Resources) -> None:
    assert (a + b).contains(a)
    assert (a + b).contains(b)
    if a.contains(b):
        assert b.quantities().keys() <= a.quantities().keys()


@given(resources, resources)
def test_taking_off_what_was_added_gives_the_first_back(a: Resources, b: Resources) -> None:
    scalars = a.scalars_only()
    assert (scalars + b.scalars_only()) - b.scalars_only() == scalars
    disjoint = b.minus_common(a.non_scalars())
    assert (a + disjoint) - disjoint == a
    assert a - a == EMPTY
    assert not (a - a)


@given(resources, resources)
def test_taking_off_needs_containment(a: Resources, b: Resources) -> None:
    if a.contains(b):
        left = a - b
        assert left + b == a
        assert left == a.minus_common(b)
    else:
        with pytest.raises(ResourceError, match="is not contained in"):
            _ = a - b


@given(resources)
def test_wire_forms_round_trip(a: Resources) -> None:
    assert Resources.from_wire(a.to_wire()) == a
    assert Resources.from_wire(a.to_endpoint_wire()) == a
    simple = a.filter(lambda kind: len(kind.reservations) < 2)
    assert Resources.from_wire(simple.to_wire(refined=False)) == simple
    for resource in a.to_wire(allocation_role="x"):
        assert resource.allocation_info == types.AllocationInfo(role="x")
        assert resource.role is None


@given(resources)
def test_parts_add_up(a: Resources) -> None:
    assert a.unreserved() + a.reserved() == a
    assert a.scalars_only() + a.non_scalars() == a
    assert a.unreserved() + Resources.sum(a.reservations().values()) == a
    assert sum(a.quantities().values()) == sum(
        sum(p.quantities().values()) for p in (a.unreserved(), a.reserved())
    )


@given(range_set, range_set)
def test_spans_behave_like_sets_of_numbers(a: spans.Spans, b: spans.Spans) -> None:
    def numbers(s: spans.Spans) -> set[int]:
        return {n for first, last in s for n in range(first, last + 1)}

    for result, expected in [
        (spans.union(a, b), numbers(a) | numbers(b)),
        (spans.difference(a, b), numbers(a) - numbers(b)),
        (spans.intersection(a, b), numbers(a) & numbers(b)),
    ]:
        assert numbers(result) == expected
        assert result == spans.normalise(result)
        assert spans.size(result) == len(expected)
    assert spans.contains(a, b) == (numbers(b) <= numbers(a))


@given(st.floats(0, 1e9))
def test_scalars_are_rounded_to_three_digits(value: float) -> None:
    amount = quantities.to_milli(value)
    assert abs(amount - value * 1000) <= 0.5 + 1e-6 * value
    assert quantities.to_milli(quantities.from_milli(amount)) == amount


def test_tenths_add_up_exactly() -> None:
    total = Resources.from_wire([scalar("cpus", 0.1)] * 3)
    assert total.to_wire() == [scalar("cpus", 0.3)]
    assert Resources.from_wire([scalar("cpus", 0.0004)]) == EMPTY
    assert quantities.to_milli(0.0005) == 1


@pytest.mark.parametrize(
    ("resource", "field"),
    [
        (scalar("cpus", -1), "scalar.value"),
        (scalar("cpus", math.nan), "scalar.value"),
        (scalar("cpus", math.inf), "scalar.value"),
        (scalar("cpus", 1e300), "scalar.value"),
        (scalar("gpus", 0.5), "scalar.value"),
        (scalar("", 1), "name"),
        (scalar("ports", 1), "type"),
        (types.Resource(name="cpus", type="SCALAR"), "scalar"),
        (types.Resource(name="cpus", type="TEXT"), "type"),
        (types.Resource(name="cpus", type="RANGES", ranges=types.Ranges()), "type"),
        (ports((5, 4)), "ranges.range"),
        (ports((-1, 4)), "ranges.range"),
        (ports((0, 1 << 64)), "ranges.range"),
        (ports((1, 5), (5, 6)), "ranges.range"),
        (types.Resource(name="z", type="SET", set=types.ValueSet(item=("a", "a"))), "set.item"),
        (types.Resource(name="z", type="SET", set=types.ValueSet(item=("a\nb",))), "set.item"),
        (scalar("cpus", 1, role="a//b"), "role"),
        (scalar("cpus", 1, role="*", reservation=types.ReservationInfo()), "role"),
        (scalar("cpus", 1, disk=DISKS[0]), "disk"),
        (scalar("cpus", 1, shared=types.SharedInfo()), "shared"),
        (
            scalar("cpus", 1, reservations=(types.ReservationInfo(type="ODD", role="a"),)),
            "reservations.type",
        ),
        (
            scalar(
                "cpus",
                1,
                reservations=(
                    types.ReservationInfo(type="STATIC", role="a"),
                    types.ReservationInfo(type="DYNAMIC", role="b"),
                ),
            ),
            "reservations.role",
        ),
        (
            scalar("disk", 1, disk=types.DiskInfo(persistence=types.Persistence(id="../x"))),
            "disk.persistence.id",
        ),
        (
            scalar("disk", 1, disk=types.DiskInfo(source=types.DiskSource(type="TAPE"))),
            "disk.source.type",
        ),
    ],
)
def test_malformed_resources_are_refused_with_the_field_named(
    resource: types.Resource, field: str
) -> None:
    with pytest.raises(ResourceError) as caught:
        Resources.from_wire([resource])
    assert caught.value.field == field


def test_a_volume_id_may_come_once_per_role() -> None:
    one = scalar("disk", 10, role="a", disk=DISKS[0])
    other = scalar("disk", 10, role="b", disk=DISKS[0])
    assert len(Resources.from_wire([one, other]).to_wire()) == 2
    with pytest.raises(ResourceError, match="twice"):
        Resources.from_wire([one, scalar("disk", 20, role="a", disk=DISKS[0])])


def test_volumes_and_mount_disks_are_only_taken_whole() -> None:
    mount = Resources.from_wire([scalar("disk", 100, disk=DISKS[1])])
    part = Resources.from_wire([scalar("disk", 50, disk=DISKS[1])])
    assert not mount.contains(part)
    assert (mount + mount).contains(mount)
    assert (mount + mount).scalar("disk") == 200_000
    path = Resources.from_wire([scalar("disk", 100, disk=DISKS[2])])
    assert path.contains(Resources.from_wire([scalar("disk", 50, disk=DISKS[2])]))


def test_a_shared_volume_counts_once_however_often_it_is_used() -> None:
    volume = Resources.from_wire(
        [scalar("disk", 10, role="a", disk=DISKS[0], shared=types.SharedInfo())]
    )
    assert (volume + volume).scalar("disk") == 10_000
    assert (volume + volume) - volume == volume


def test_a_volume_is_made_of_the_disk_below_it() -> None:
    made = Resources.from_wire([scalar("disk", 10, role="a", disk=DISKS[0])])
    assert made.without_volumes() == Resources.parse("disk(a):10")
    assert list(made.volumes()) == ["v1"]
    on_mount = types.DiskInfo(persistence=types.Persistence(id="v"), source=DISKS[1].source)
    volume = Resources.from_wire([scalar("disk", 10, role="a", disk=on_mount)])
    bare = Resources.from_wire([scalar("disk", 10, role="a", disk=DISKS[1])])
    assert volume.without_volumes() == bare


def test_reservations_are_pushed_and_popped() -> None:
    free = Resources.parse("cpus:2;ports:[1-5]")
    mine = free.push_reservation(Reservation("a", dynamic=True, principal="p"))
    assert mine.reserved_to("a") == mine
    deeper = mine.push_reservation(Reservation("a/b", dynamic=True))
    assert deeper.reserved_to("a/b") == deeper
    assert deeper.reserved_to("a") == EMPTY
    assert deeper.refined() == deeper
    with pytest.raises(ResourceError, match="without refinement"):
        deeper.to_wire(refined=False)
    assert deeper.pop_reservation().pop_reservation() == free
    with pytest.raises(ResourceError, match="is not reserved"):
        free.pop_reservation()


def test_labels_of_a_reservation_are_identity_but_their_order_is_not() -> None:
    def reserved(*labels: tuple[str, str | None]) -> Resources:
        return Resources.scalars(cpus=1000).push_reservation(
            Reservation("a", dynamic=True, labels=labels)
        )

    assert reserved(("x", "1"), ("y", None)) == reserved(("y", None), ("x", "1"))
    assert reserved(("x", "1")) != reserved(("x", "2"))


def test_allocatable_to_a_role_is_free_or_reserved_to_it_or_above() -> None:
    everything = Resources.parse("cpus:1;cpus(a):2;cpus(a/b):4;cpus(a/b/c):8;cpus(z):16")
    assert everything.allocatable_to("a/b").scalar("cpus") == 7000
    assert everything.allocatable_to("a").scalar("cpus") == 3000
    assert everything.allocatable_to("*").scalar("cpus") == 1000


def test_flags_text_and_json_are_read() -> None:
    text = Resources.parse(
        " cpus : 2.5 ; mem:1024;ports:[31000-32000, 1-2];cpus( role ):1; z:{a,b};"
    )
    assert text.scalar("cpus") == 3500
    assert text.reserved_to("role").scalar("cpus") == 1000
    assert text.ranges("ports") == ((1, 2), (31000, 32000))
    assert text.items("z") == {"a", "b"}
    assert Resources.parse('[{"name":"cpus","type":"SCALAR","scalar":{"value":"2"}}]') == (
        Resources.scalars(cpus=2000)
    )
    assert Resources.parse("cpus:1;mem(*):2", "ads").reserved_to("ads").scalar("cpus") == 1000
    assert Resources.parse("cpus:1;mem(*):2", "ads").unreserved().scalar("mem") == 2000
    assert Resources.parse("") == EMPTY


@pytest.mark.parametrize(
    "text",
    ["cpus", "cpus:", ":1", "cpus:x", "ports:[1]", "ports:[2-1]", "z:{a", "[{}]", "[1", "a(b:1"],
)
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(ResourceError):
        Resources.parse(text)


def test_endpoint_form() -> None:
    assert EMPTY.endpoint() == {"cpus": 0.0, "gpus": 0.0, "mem": 0.0, "disk": 0.0}
    revocable = Resources.from_wire([scalar("cpus", 4, revocable=types.RevocableInfo())])
    both = Resources.parse("cpus:1.5;cpus(a):1;ports:[31010-31010,31000-31005];z:{b,a}") + revocable
    assert both.endpoint() == {
        "cpus": 2.5,
        "gpus": 0.0,
        "mem": 0.0,
        "disk": 0.0,
        "cpus_revocable": 4.0,
        "ports": "[31000-31005, 31010-31010]",
        "z": "{a, b}",
    }


def test_text_for_messages() -> None:
    assert str(EMPTY) == "{}"
    assert str(Resources.parse("cpus:1.5;mem(a):32;ports:[1-2]")) == (
        "cpus:1.5; mem[a]:32; ports:[1-2]"
    )


def test_attributes_round_trip() -> None:
    source = "rack:abc;level:10;ports:[1-2, 5-6];set:{a, b};rack:x:y"
    attributes = read_attributes(source)
    assert [a.type for a in attributes] == ["TEXT", "SCALAR", "RANGES", "SET", "TEXT"]
    assert show_attributes(attributes) == source
    assert read_attributes(show_attributes(attributes)) == attributes
    assert attributes_endpoint(attributes[:4]) == {
        "rack": "abc",
        "level": 10.0,
        "ports": "[1-2, 5-6]",
        "set": "{a, b}",
    }
    with pytest.raises(ResourceError):
        read_attributes("rack")


def test_minimum_amounts_are_read() -> None:
    assert quantities.parse("cpus:0.01|mem:32") == ({"cpus": 10}, {"mem": 32_000})
    assert quantities.parse("cpus:1;mem:2") == ({"cpus": 1000, "mem": 2000},)
    assert quantities.parse("") == ()
    for bad in ("cpus", "cpus:x", "cpus:-1", "cpus:1;cpus:2"):
        with pytest.raises(ResourceError):
            quantities.parse(bad)


names = st.sampled_from(["cpus", "mem", "disk", "ports", "gpus", "x", "", "\x00", "y" * 300])
texts = st.one_of(names, st.sampled_from(["*", "a", "a/b", "..", "STATIC", "DYNAMIC"]))
reservation = st.builds(
    types.ReservationInfo,
    type=st.none() | texts,
    role=st.none() | texts,
    principal=st.none() | texts,
    labels=st.none()
    | st.builds(
        types.Labels,
        labels=st.lists(st.builds(types.Label, key=texts, value=st.none() | texts), max_size=2).map(
            tuple
        ),
    ),
)
disk_info = st.builds(
    types.DiskInfo,
    persistence=st.none() | st.builds(types.Persistence, id=texts),
    source=st.none()
    | st.builds(
        types.DiskSource,
        type=st.sampled_from(["PATH", "MOUNT", "BLOCK", "RAW", "odd"]),
        id=st.none() | texts,
        mount=st.none() | st.builds(types.DiskSourceRoot, root=st.none() | texts),
    ),
)
anything = st.builds(
    types.Resource,
    name=names,
    type=st.sampled_from(["SCALAR", "RANGES", "SET", "TEXT", ""]),
    scalar=st.none() | st.builds(types.Scalar, value=st.floats()),
    ranges=st.none()
    | st.builds(
        types.Ranges,
        range=st.lists(
            st.builds(types.Range, begin=st.integers(), end=st.integers()), max_size=3
        ).map(tuple),
    ),
    set=st.none() | st.builds(types.ValueSet, item=st.lists(texts, max_size=3).map(tuple)),
    role=st.none() | texts,
    reservation=st.none() | reservation,
    reservations=st.lists(reservation, max_size=2).map(tuple),
    disk=st.none() | disk_info,
    revocable=st.none() | st.just(types.RevocableInfo()),
    shared=st.none() | st.just(types.SharedInfo()),
)


def refusal(read: Callable[[Any], object], source: object) -> str:
    """The text of the refusal; empty when it was read."""
    try:
        read(source)
    except ResourceError as error:
        return str(error)
    return ""


@settings(max_examples=300)
@given(st.lists(anything, max_size=2))
def test_whatever_comes_is_read_or_refused_in_one_line(given_: list[types.Resource]) -> None:
    refused = refusal(Resources.from_wire, given_)
    assert "\n" not in refused
    if not refused:
        value = Resources.from_wire(given_)
        assert Resources.from_wire(value.to_wire()) == value
        assert value - value == EMPTY
        assert set(value.endpoint()) >= {"cpus", "mem", "disk", "gpus"}
        assert "\n" not in str(value)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for read in (Resources.parse, read_attributes, quantities.parse):
        assert "\n" not in refusal(read, text)
