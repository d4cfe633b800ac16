"""Amounts per resource name, in thousandths: what quota, headroom and shares count with.

A quantity has no identity beside its name: no role, no disk, no ports. Plain dictionaries, so
that the allocator can work on them in place. A name that is absent counts as zero.
"""

from collections.abc import Iterable, Mapping
from math import isfinite

from cairn_core.resources.errors import ResourceError

MILLI = 1000
#: Largest scalar that is exact as thousandths in a double.
MAX_VALUE = (1 << 53) / MILLI


def to_milli(value: float, field: str = "scalar.value") -> int:
    """Thousandths of a wire value, rounded to nearest (half away from zero).

    Raises ResourceError for NaN, infinity, negative values and values above 2**53 / 1000.
    """
    if not isfinite(value):
        raise ResourceError(field, value, "is not a finite number")
    if value < 0:
        raise ResourceError(field, value, "is negative")
    if value > MAX_VALUE:
        raise ResourceError(field, value, "is too large")
    whole, rest = divmod(value * MILLI, 1.0)
    return int(whole) + (rest >= 0.5)


def from_milli(amount: int) -> float:
    """The wire value of an amount in thousandths."""
    return amount / MILLI


def text_milli(amount: int) -> str:
    """An amount in thousandths as people write it: 1500 -> `1.5`, 2000 -> `2`."""
    whole, rest = divmod(abs(amount), MILLI)
    digits = f"{whole}.{rest:03}".rstrip("0") if rest else str(whole)
    return f"-{digits}" if amount < 0 else digits


def add(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """Sum by name."""
    out = dict(a)
    for name, amount in b.items():
        out[name] = out.get(name, 0) + amount
    return out


def subtract(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """What of `a` is left after `b`: never below zero, names at zero left out."""
    out = {}
    for name, amount in a.items():
        left = amount - b.get(name, 0)
        if left > 0:
            out[name] = left
    return out


def contains(a: Mapping[str, int], b: Mapping[str, int]) -> bool:
    """Whether `a` holds at least `b`, name by name."""
    return all(a.get(name, 0) >= amount for name, amount in b.items())


def total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sum of many."""
    out: dict[str, int] = {}
    for part in parts:
        for name, amount in part.items():
            out[name] = out.get(name, 0) + amount
    return out


def parse(text: str) -> tuple[dict[str, int], ...]:
    """Read `cpus:0.01|mem:32`: alternatives split by `|`, amounts within one by `;`.

    This is the form of `--min_allocatable_resources`. Raises ResourceError. Empty text gives
    no alternative at all, which means that every amount will do.
    """
    alternatives = []
    for part in filter(None, (p.strip() for p in text.split("|"))):
        amounts: dict[str, int] = {}
        for item in filter(None, (i.strip() for i in part.split(";"))):
            name, colon, value = (s.strip() for s in item.partition(":"))
            if not name or not colon or name in amounts:
                raise ResourceError("quantities", item, "is not a new name:amount")
            try:
                amounts[name] = to_milli(float(value), name)
            except ValueError:
                raise ResourceError(name, value, "is not a number") from None
        alternatives.append(amounts)
    return tuple(alternatives)


def text(amounts: Mapping[str, int]) -> str:
    """For messages: `cpus:1.5; mem:1024`."""
    return "; ".join(f"{name}:{text_milli(amounts[name])}" for name in sorted(amounts))
