"""How a VIP is to be served, as labels say: `L4LB_0_POLICY=maglev` beside `VIP_0=/web:80`.

A label with the number of a VIP is for that one, `L4LB_POLICY` for all VIPs of the port; the first
wins over the second.  Keys are in any case, and have no VIP in them, since the original takes
every key that has for the declaration of one.  A wrong label is reported and all others hold.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple, get_args

from cairn_core.errors import shorten
from cairn_core.kit.durations import parse_duration

from .model import Cost, Locality, Mode, Options, Policy

PREFIX = "L4LB_"
MAX_WEIGHT = 100
#: Longest stickiness and slow start, seconds; longest hedge, milliseconds.
MAX_STICKY_S, MAX_SLOW_START_S, MAX_HEDGE_MS = 86_400.0, 3_600.0, 10_000.0
#: Labels of ours that are read of one port.
MAX_LABELS = 64


class Read(NamedTuple):
    """What the labels of a port say of one of its VIPs.

    weight: 0 to `MAX_WEIGHT`; None where nothing is said. problems: one line each.
    """

    options: Options = Options()
    weight: int | None = None
    problems: tuple[str, ...] = ()


_NOTHING = Read()


def read_options(labels: Iterable[tuple[str, str]], index: str, declared: Iterable[str]) -> Read:
    """What the labels of a port say of its VIP `VIP_<index>`.

    declared: the indices of all VIPs of the port, so that a label for none of them is a problem.
    Never raises.
    """
    ours = tuple(one for one in labels if one[0][:5].upper() == PREFIX)
    return _read(ours, index.upper(), frozenset(map(str.upper, declared))) if ours else _NOTHING


@lru_cache(maxsize=4096)
def _read(labels: tuple[tuple[str, str], ...], index: str, declared: frozenset[str]) -> Read:
    general: dict[str, Any] = {}
    own: dict[str, Any] = {}
    problems = []
    if len(labels) > MAX_LABELS:
        problems.append(f"more than {MAX_LABELS} labels {PREFIX}...: the others are not read")
    for key, value in labels[:MAX_LABELS]:
        number, name = _split(key)
        if name is None:
            problems.append(f"label {shorten(key, 60)!r}: no option; there are {_NAMES}")
            continue
        if number is not None and number not in declared:
            problems.append(f"label {shorten(key, 60)!r}: no VIP_{number} at this port")
            continue
        if number is not None and number != index:
            continue
        option, parse, allowed = _OPTIONS[name]
        try:
            parsed = parse(value.strip())
        except ValueError:
            problems.append(
                f"label {shorten(key, 60)!r}: value {shorten(value, 60)!r} is none of: {allowed}"
            )
            continue
        (general if number is None else own)[option] = parsed
    told = general | own
    weight = told.pop("weight", None)
    return Read(Options(**told), weight, tuple(problems))


def _split(key: str) -> tuple[str | None, str | None]:
    """Number of the VIP (None: all of them) and name of the option (None: there is no such)."""
    rest = key.upper()[len(PREFIX) :]
    for name in _OPTIONS:
        if rest == name:
            return None, name
        if rest.endswith("_" + name):
            return rest[: -len(name) - 1], name
    return None, None


class Merged(NamedTuple):
    """Options of a VIP, and where its tasks differ: one line for each option."""

    options: Options
    conflicts: tuple[str, ...]


def merge(told: Iterable[Options]) -> Merged:
    """Options of a VIP from those that its backends tell, in no order.

    Of each option the value that most of them tell, telling nothing included, so that a new
    version of an app changes it once, when half of it is there; of equally frequent ones a told
    one, then the one that comes first as text.
    """
    all_told = list(told)
    first = all_told[0] if all_told else Options()
    # Nearly always they agree, and most often are one object.
    if all(one is first or one == first for one in all_told):
        return Merged(first, ())
    counted = Counter(all_told)
    values: dict[str, Any] = {}
    conflicts = []
    for name in Options.__struct_fields__:
        votes: Counter[Any] = Counter()
        for options, number in counted.items():
            votes[getattr(options, name)] += number
        ranked = sorted(votes, key=lambda one: (-votes[one], one is None, str(one)))
        values[name] = ranked[0]
        if len(ranked) > 1:
            told_apart = ", ".join(f"{_shown(one)} ({votes[one]})" for one in ranked[:4])
            conflicts.append(f"tasks differ in {name}: {told_apart}; {_shown(ranked[0])} holds")
    return Merged(Options(**values), tuple(conflicts))


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)


def _one_of(values: tuple[str, ...]) -> tuple[Callable[[str], str], str]:
    def parse(text: str) -> str:
        if text.lower() not in values:
            raise ValueError(text)
        return text.lower()

    return parse, ", ".join(values)


def _duration(most_s: float, text: str) -> tuple[Callable[[str], float], str]:
    def parse(value: str) -> float:
        seconds = 0.0 if value == "0" else parse_duration(value)
        if not 0 <= seconds <= most_s:
            raise ValueError(value)
        return seconds

    return parse, f"durations such as 10mins or 5secs, 0 to {text}"


def _hedge(text: str) -> float:
    value = float(text) if text.isascii() and "_" not in text else -1.0
    if not 0 <= value <= MAX_HEDGE_MS:
        raise ValueError(text)
    return value


def _weight(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else -1
    if not 0 <= value <= MAX_WEIGHT:
        raise ValueError(text)
    return value


#: By the end of a key: field, parser that raises ValueError, and what is allowed.
_OPTIONS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "POLICY": ("policy", *_one_of(get_args(Policy))),
    "COST": ("cost", *_one_of(get_args(Cost))),
    "MODE": ("mode", *_one_of(get_args(Mode))),
    "LOCALITY": ("locality", *_one_of(get_args(Locality))),
    "STICKY": ("sticky_s", *_duration(MAX_STICKY_S, "24hrs")),
    "SLOW_START": ("slow_start_s", *_duration(MAX_SLOW_START_S, "1hrs")),
    "HEDGE_MS": ("hedge_ms", _hedge, f"milliseconds from 0 to {MAX_HEDGE_MS:g}"),
    "WEIGHT": ("weight", _weight, f"whole numbers from 0 to {MAX_WEIGHT}"),
}
_NAMES = ", ".join(_OPTIONS)
