"""Decodes JSON of which some part makes no sense: that part is left out and counted.

For the rare case only; whoever reads decodes the whole first and comes here when that failed.
A value that does not fit its field takes the field's default; where there is none, it takes what
it stands in along, up to the nearest element of a list.  So one odd port costs a task that port,
and one odd task costs a framework that task.  Half a surrogate pair, at which a decoder gives up,
becomes U+FFFD; what is nested too deep for the decoder is refused as a whole, for no master nests
what users name.  No I/O.
"""

import re
from collections import Counter
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import FieldInfo, fields

T = TypeVar("T")

_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)
_NULL = b"null"
#: Escapes of JSON, so that none is taken for another: pairs of surrogates are passed over together.
_ESCAPE = re.compile(
    rb"\\(?:[^u]|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<alone>u[dD][89a-fA-F][0-9a-fA-F]{2}))",
    re.DOTALL,
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_members: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])
_elements: msgspec.json.Decoder[list[Raw]] = msgspec.json.Decoder(list[Raw])
#: By type, which is a class or a generic alias.
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_fields: dict[type, tuple[FieldInfo, ...]] = {}


class Unreadable(Exception):
    """Nothing of a value can be read.  `problem` names the place."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def decode_lenient(kind: type[T], body: bytes | memoryview, skipped: "Counter[str]") -> T:
    """A struct of the type, without what cannot be read of it.

    kind: a msgspec struct. skipped: counts by name, that of the struct in lower case for elements
    of lists, `struct.field` for fields and `surrogate` for halves of pairs. Raises Unreadable when
    the value is not even an object, lacks something that it must have, or is nested too deep.
    Costs some three times what decoding does.
    """
    value: T = _struct(kind, _without_lone_surrogates(body, skipped), skipped)
    return value


def _without_lone_surrogates(
    body: bytes | memoryview, skipped: "Counter[str]"
) -> bytes | memoryview:
    """The same JSON with U+FFFD for each half of a surrogate pair."""
    if not _SURROGATE.search(body):
        return body

    def mended(match: "re.Match[bytes]") -> bytes:
        if match["alone"] is None:
            return match[0]
        skipped["surrogate"] += 1
        return rb"\ufffd"

    return _ESCAPE.sub(mended, bytes(body))


def _struct(kind: Any, body: bytes | memoryview, skipped: "Counter[str]") -> Any:
    try:
        members = _members.decode(body)
    except _ERRORS as error:
        raise Unreadable(_problem(error)) from None
    if kind not in _fields:
        _fields[kind] = fields(kind)
    values: dict[str, Any] = {}
    for field in _fields[kind]:
        raw = members.get(field.encode_name)
        if raw is None or memoryview(raw) == _NULL:
            if field.required:
                raise Unreadable(f"no {field.encode_name}")
            continue
        try:
            values[field.name] = _value(field.type, raw, skipped)
        except Unreadable as error:
            if field.required:
                raise Unreadable(f"{field.encode_name}: {error.problem}") from None
            skipped[f"{_name(kind)}.{field.encode_name}"] += 1
    return kind(**values)


def _value(kind: Any, raw: Raw, skipped: "Counter[str]") -> Any:
    """A value of a type: the whole if that goes, else what can be read of it."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind, strict=False)
    try:
        return decoder.decode(raw)
    except _ERRORS as error:
        problem = _problem(error)
    part = _without_none(kind)
    if isinstance(part, type) and issubclass(part, Struct):
        return _struct(part, memoryview(raw), skipped)
    if get_origin(part) in (list, tuple):
        return get_origin(part)(_items(get_args(part)[0], raw, skipped))
    raise Unreadable(problem)


def _items(kind: Any, raw: Raw, skipped: "Counter[str]") -> list[Any]:
    try:
        elements = _elements.decode(raw)
    except _ERRORS as error:
        raise Unreadable(_problem(error)) from None
    items = []
    for element in elements:
        try:
            items.append(_value(kind, element, skipped))
        except Unreadable:
            skipped[_name(kind)] += 1
    return items


def _problem(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def _without_none(kind: Any) -> Any:
    """The other type of an optional one."""
    if get_origin(kind) in (Union, UnionType):
        others = [one for one in get_args(kind) if one is not NoneType]
        return others[0] if len(others) == 1 else kind
    return kind


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", "element")).removeprefix("_").lower()
