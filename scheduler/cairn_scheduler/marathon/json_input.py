"""Read JSON into our structs and say every fault at once, in the form clients know.

The form is that of the original's JSON library: `error.path.missing`, `error.expected.jsstring`,
`error.min` and so on, each with its path. `null` is the same as an absent key. Unknown keys are
ignored. Whole numbers stay whole: 1.0 becomes 1, as the original prints it.
"""

import re
from math import isfinite
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from cairn_scheduler.marathon.errors import Fault, InvalidJson, MalformedJson, UnmappableJson

T = TypeVar("T")
#: Most faults that one answer lists.
MAX_FAULTS = 100
#: Objects within objects; groups are the only ones that nest.
MAX_DEPTH = 64
#: Whole numbers beyond this are refused: most are seconds, MiB or ports.
MAX_INT = (1 << 53) - 1

_nodes: dict[Any, inspect.Type] = {}


def parse(body: bytes) -> Any:
    """The JSON value of a body. Raises MalformedJson."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJson(str(error)) from None


def read_object(kind: type[T], raw: Any, at: str = "") -> T:
    """Read a JSON object as a struct.

    at: path of the object inside the body, for instance `(3)`.
    Raises UnmappableJson where it is no object, InvalidJson with all faults.
    """
    if not isinstance(raw, dict):
        raise UnmappableJson("expected a JSON object")
    node = _nodes.get(kind)
    if node is None:
        node = _nodes[kind] = inspect.type_info(kind)
    reader = _Reader()
    value = reader.read(node, raw, at)
    if reader.faults:
        raise InvalidJson(reader.faults)
    result: T = value
    return result


def _expected(node: inspect.Type) -> str:
    """The error for a value of another type."""
    match node:
        case inspect.StrType() | inspect.LiteralType() | inspect.EnumType():
            return "error.expected.jsstring"
        case inspect.IntType() | inspect.FloatType():
            return "error.expected.jsnumber"
        case inspect.BoolType():
            return "error.expected.jsboolean"
        case inspect.VarTupleType() | inspect.ListType():
            return "error.expected.jsarray"
        case _:
            return "error.expected.jsobject"


class _Reader:
    """One pass over a value; collects faults and goes on."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.depth = 0

    def fail(self, path: str, error: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(path or "/", (error,)))

    def read(self, node: inspect.Type, raw: Any, path: str) -> Any:
        """The value, or None after a fault."""
        match node:
            case inspect.StructType():
                return self.struct(node, raw, path)
            case inspect.StrType():
                return self.text(node, raw, path)
            case inspect.IntType():
                return self.whole(node, raw, path)
            case inspect.FloatType():
                return self.number(node, raw, path)
            case inspect.BoolType():
                if not isinstance(raw, bool):
                    self.fail(path, _expected(node))
                return raw
            case inspect.LiteralType():
                return self.literal(node, raw, path)
            case inspect.VarTupleType():
                return self.array(node, raw, path)
            case inspect.DictType():
                return self.mapping(node, raw, path)
            case inspect.UnionType():
                return self.union(node, raw, path)
            case _:
                return raw

    def struct(self, node: inspect.StructType, raw: Any, path: str) -> Any:
        if not isinstance(raw, dict):
            return self.fail(path, _expected(node))
        if self.depth >= MAX_DEPTH:
            return self.fail(path, "error.max.depth")
        before = len(self.faults)
        values = {}
        self.depth += 1
        for field in node.fields:
            given = raw.get(field.encode_name)
            where = f"{path}/{field.encode_name}"
            if given is not None:
                values[field.name] = self.read(field.type, given, where)
            elif field.required:
                self.fail(where, "error.path.missing")
        self.depth -= 1
        return node.cls(**values) if len(self.faults) == before else None

    def text(self, node: inspect.StrType, raw: Any, path: str) -> Any:
        if not isinstance(raw, str):
            return self.fail(path, _expected(node))
        if node.min_length is not None and len(raw) < node.min_length:
            self.fail(path, "error.minLength")
        elif node.max_length is not None and len(raw) > node.max_length:
            self.fail(path, "error.maxLength")
        elif node.pattern is not None and not _matches(node.pattern, raw):
            self.fail(path, "error.pattern")
        return raw

    def whole(self, node: inspect.IntType, raw: Any, path: str) -> Any:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            return self.fail(path, _expected(node))
        if isinstance(raw, float):
            if not raw.is_integer():
                return self.fail(path, "error.expected.int")
            raw = int(raw)
        return self.bounded(node, raw, path)

    def number(self, node: inspect.FloatType, raw: Any, path: str) -> Any:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            return self.fail(path, _expected(node))
        if isinstance(raw, float):
            if not isfinite(raw):
                return self.fail(path, _expected(node))
            if raw.is_integer():
                raw = int(raw)
        return self.bounded(node, raw, path)

    def bounded(self, node: inspect.IntType | inspect.FloatType, raw: Any, path: str) -> Any:
        if raw < (node.ge if node.ge is not None else -MAX_INT):
            self.fail(path, "error.min")
        elif raw > (node.le if node.le is not None else MAX_INT):
            self.fail(path, "error.max")
        return raw

    def literal(self, node: inspect.LiteralType, raw: Any, path: str) -> Any:
        if not isinstance(raw, str):
            return self.fail(path, _expected(node))
        if raw in node.values:
            return raw
        # Compat: the original reads most enumerations without regard to case.
        for value in node.values:
            if isinstance(value, str) and value.lower() == raw.lower():
                return value
        return self.fail(path, "error.unknown.enum.literal")

    def array(self, node: inspect.VarTupleType, raw: Any, path: str) -> Any:
        if not isinstance(raw, list):
            return self.fail(path, _expected(node))
        return tuple(self.read(node.item_type, item, f"{path}({i})") for i, item in enumerate(raw))

    def mapping(self, node: inspect.DictType, raw: Any, path: str) -> Any:
        if not isinstance(raw, dict):
            return self.fail(path, _expected(node))
        return {
            key: self.read(node.value_type, item, f"{path}/{key}")
            for key, item in raw.items()
            if item is not None
        }

    def union(self, node: inspect.UnionType, raw: Any, path: str) -> Any:
        choices = [t for t in node.types if not isinstance(t, inspect.NoneType)]
        # A number stays whole only if it is: the float branch decides.
        numeric = [t for t in choices if isinstance(t, inspect.FloatType)]
        if numeric and isinstance(raw, int | float) and not isinstance(raw, bool):
            return self.read(numeric[0], raw, path)
        for choice in choices:
            if _fits(choice, raw):
                return self.read(choice, raw, path)
        return self.fail(path, _expected((numeric or choices)[0]))


def _fits(node: inspect.Type, raw: Any) -> bool:
    """Whether a value is of the JSON type that a branch of a union wants."""
    match node:
        case inspect.StructType() | inspect.DictType():
            return isinstance(raw, dict)
        case inspect.StrType() | inspect.LiteralType():
            return isinstance(raw, str)
        case inspect.VarTupleType():
            return isinstance(raw, list)
        case inspect.BoolType():
            return isinstance(raw, bool)
        case inspect.IntType() | inspect.FloatType():
            return isinstance(raw, int | float) and not isinstance(raw, bool)
        case _:
            return True


def _matches(pattern: str, text: str) -> bool:
    # `$` also matches before a last line break, which no name may have.
    return re.search(pattern, text) is not None and not text.endswith("\n")
