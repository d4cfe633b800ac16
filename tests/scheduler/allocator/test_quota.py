"""Quota consumption and shrinking."""

from random import Random

from cairn_core.mesos import types
from cairn_core.resources import Resources
from cairn_scheduler.allocator.quota import Quotas, charged, shrink

MOUNT = Resources.from_wire(
    [
        types.Resource(
            name="disk",
            type="SCALAR",
            scalar=types.Scalar(value=50),
            disk=types.DiskInfo(
                source=types.DiskSource(type="MOUNT", mount=types.DiskSourceRoot(root="/m"))
            ),
        )
    ]
)


def test_required_is_what_guarantees_still_lack() -> None:
    quotas = Quotas()
    quotas.consume("a/b", {"cpus": 2})
    assert not quotas
    quotas.set("a", {"cpus": 5, "mem": 1}, {})
    quotas.set("b", {"cpus": 1}, {"cpus": 4})
    assert quotas.required == {"cpus": 4, "mem": 1}
    quotas.consume("a", {"cpus": 9, "mem": 1})
    assert quotas.required == {"cpus": 1}
    quotas.consume("a", {"cpus": 7}, -1)
    assert quotas.required == {"cpus": 2}
    quotas.consume("b/x", {"cpus": 3})
    quota = quotas.of("b/y")
    assert quota is not None
    assert quota.left() == {"cpus": 1}
    assert quotas.exactly("b/y") is None
    quotas.set("a", {}, {})
    assert quotas.required == {}
    assert quotas.of("a") is None


def test_only_unreserved_and_lasting_scalars_are_charged() -> None:
    everything = Resources.parse("cpus:1;cpus(a):2;ports:[1-2]")
    assert charged(everything) == Resources.scalars(cpus=1000)


def test_shrinking_cuts_to_the_target_and_drops_or_keeps_other_names() -> None:
    have = Resources.scalars(cpus=4000, mem=1000)
    rng = Random(1)
    assert shrink(have, {"cpus": 1500}, rng, absent=0) == Resources.scalars(cpus=1500)
    assert shrink(have, {"cpus": 1500}, rng, absent=None) == Resources.scalars(cpus=1500, mem=1000)
    assert shrink(have, {"cpus": 9000}, rng, absent=None) is have
    assert not shrink(have, {"cpus": 0}, rng, absent=0)


def test_what_cannot_be_cut_is_kept_whole_or_dropped() -> None:
    have = MOUNT + Resources.scalars(disk=20_000)
    seen = set()
    for seed in range(20):
        left = shrink(have, {"disk": 60_000}, Random(seed), absent=0)
        assert have.contains(left)
        assert left.scalar("disk") <= 60_000
        seen.add(left)
    assert seen == {
        Resources.scalars(disk=20_000),
        MOUNT + Resources.scalars(disk=10_000),
    }
