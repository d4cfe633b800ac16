"""Resources and attributes as people and the JSON endpoints write them.

`cpus:2;mem:1024;ports:[31000-32000];cpus(role):1` is the form of the agent's flags; a number is
a scalar, `[..]` ranges, `{..}` a set; attributes may also be plain text. Source: Apache Mesos
`docs/attributes-resources.md`.
"""

import re
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from cairn_core.mesos import codec, types
from cairn_core.resources import spans
from cairn_core.resources.errors import ResourceError
from cairn_core.resources.kinds import Kind
from cairn_core.resources.quantities import from_milli, text_milli
from cairn_core.resources.spans import Spans
from cairn_core.roles import DEFAULT_ROLE

_ALWAYS = ("cpus", "gpus", "mem", "disk")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_NAME_AND_ROLE = re.compile(r"([^()]+?)\s*(?:\(\s*([^()]*?)\s*\))?")
_RANGE = re.compile(r"(\d{1,20})\s*-\s*(\d{1,20})")


def read(source: str, default_role: str) -> list[types.Resource]:
    """Parse the agent's `--resources`. Raises ResourceError."""
    source = source.strip()
    if source.startswith("["):
        return _read_json(source, default_role)
    out = []
    for item, name, value in _items(source):
        match = _NAME_AND_ROLE.fullmatch(name)
        if match is None:
            raise ResourceError("resources", item, "is not name:value or name(role):value")
        role = match[2] if match[2] is not None else default_role
        parsed = _value(item, value)
        if parsed.text is not None:
            raise ResourceError("resources", item, "has a value that is no amount")
        out.append(
            types.Resource(
                name=match[1],
                type=parsed.type,
                scalar=parsed.scalar,
                ranges=parsed.ranges,
                set=parsed.set,
                role=role,
            )
        )
    return out


def _read_json(source: str, default_role: str) -> list[types.Resource]:
    try:
        given = codec.decode(list[types.Resource], source.encode())
    except codec.DecodeError as error:
        raise ResourceError("resources", source, f"is not a list of resources: {error}") from None
    if default_role == DEFAULT_ROLE:
        return given
    return [
        r if r.reservations or r.role is not None else replace(r, role=default_role) for r in given
    ]


def read_attributes(source: str) -> tuple[types.Attribute, ...]:
    """Parse the agent's `--attributes`: `rack:abc;level:10;ports:[1-2];zones:{a,b}`.

    A name may come more than once. Raises ResourceError.
    """
    return tuple(replace(_value(item, value), name=name) for item, name, value in _items(source))


def _items(source: str) -> Iterable[tuple[str, str, str]]:
    for item in source.replace("\n", ";").split(";"):
        item = item.strip()
        if not item:
            continue
        name, colon, value = (part.strip() for part in item.partition(":"))
        if not name or not colon or not value:
            raise ResourceError("resources", item, "is not name:value")
        yield item, name, value


def _value(item: str, value: str) -> types.Attribute:
    """The value of an item, as an attribute without its name."""
    if value[0] == "[" and value[-1] == "]":
        ranges = types.Ranges(range=tuple(_ranges(item, value[1:-1])))
        return types.Attribute(name="", type="RANGES", ranges=ranges)
    if value[0] == "{" and value[-1] == "}":
        words = tuple(w for w in (w.strip() for w in value[1:-1].split(",")) if w)
        return types.Attribute(name="", type="SET", set=types.ValueSet(item=words))
    if _NUMBER.fullmatch(value):
        return types.Attribute(name="", type="SCALAR", scalar=types.Scalar(value=float(value)))
    if value[0] in "[{":
        raise ResourceError("resources", item, "has a bracket that does not end")
    return types.Attribute(name="", type="TEXT", text=types.Text(value=value))


def _ranges(item: str, body: str) -> Iterable[types.Range]:
    for part in filter(None, (p.strip() for p in body.split(","))):
        match = _RANGE.fullmatch(part)
        if match is None or int(match[1]) > int(match[2]):
            raise ResourceError("resources", item, f"has the range {part[:64]!r}")
        yield types.Range(begin=int(match[1]), end=int(match[2]))


def endpoint(
    scalars: Mapping[Kind, int],
    ranges: Mapping[Kind, Spans],
    sets: Mapping[Kind, frozenset[str]],
) -> dict[str, float | str]:
    """The resources object of the JSON endpoints."""
    amounts = dict.fromkeys(_ALWAYS, 0)
    for kind, amount in scalars.items():
        name = _suffixed(kind)
        if kind.unit:
            amount = kind.unit if kind.shared else kind.unit * amount
        amounts[name] = amounts.get(name, 0) + amount
    out: dict[str, float | str] = {name: from_milli(amount) for name, amount in amounts.items()}
    merged: dict[str, Spans] = {}
    for kind, have in ranges.items():
        name = _suffixed(kind)
        merged[name] = spans.union(merged.get(name, spans.EMPTY), have)
    out.update((name, spans.text(have)) for name, have in merged.items())
    words: dict[str, frozenset[str]] = {}
    for kind, items in sets.items():
        name = _suffixed(kind)
        words[name] = words.get(name, frozenset()) | items
    out.update((name, _set_text(items)) for name, items in words.items())
    return out


def attributes_endpoint(attributes: Iterable[types.Attribute]) -> dict[str, float | str]:
    """The attributes object of the JSON endpoints: numbers as numbers, all else as text."""
    out: dict[str, float | str] = {}
    for attribute in attributes:
        if attribute.scalar is not None:
            out[attribute.name] = attribute.scalar.value
        elif attribute.ranges is not None:
            pairs = tuple((r.begin, r.end) for r in attribute.ranges.range)
            out[attribute.name] = spans.text(pairs)
        elif attribute.set is not None:
            out[attribute.name] = _set_text(attribute.set.item)
        elif attribute.text is not None:
            out[attribute.name] = attribute.text.value
    return out


def show_attributes(attributes: Iterable[types.Attribute]) -> str:
    """Attributes in the form that `read_attributes` reads."""
    return ";".join(f"{a.name}:{_attribute_text(a)}" for a in attributes)


def _attribute_text(attribute: types.Attribute) -> str:
    if attribute.scalar is not None:
        return f"{attribute.scalar.value:.15g}"
    return str(next(iter(attributes_endpoint([attribute]).values()), ""))


def show(
    scalars: Mapping[Kind, int],
    ranges: Mapping[Kind, Spans],
    sets: Mapping[Kind, frozenset[str]],
) -> str:
    """One line for logs and messages."""
    parts = []
    for kind, amount in scalars.items():
        times = f" x{amount}" if kind.unit and amount != 1 else ""
        parts.append(f"{kind}:{text_milli(kind.unit or amount)}{times}")
    parts.extend(f"{kind}:{spans.text(have)}" for kind, have in ranges.items())
    parts.extend(f"{kind}:{_set_text(words)}" for kind, words in sets.items())
    return "; ".join(parts) or "{}"


def _set_text(words: Iterable[str]) -> str:
    return "{" + ", ".join(sorted(words)) + "}"


def _suffixed(kind: Kind) -> str:
    return kind.name + "_revocable" if kind.revocable else kind.name
