"""Settings of a daemon: one frozen struct, filled from defaults < file < environment < flags.

The struct's fields are the settings; `msgspec.Meta(description=...)` on a field is its help. The
first wrong setting stops the start with one line: source, problem, path. Flags of the command line
are made from the same struct by `flags`.

Texts (environment, flags) may be numbers, booleans, durations, sizes, JSON, comma-separated lists
or `file:///path`, as the original's flags are.
"""

import difflib
import json
import os
import re
import types
import typing
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from cairn_core.errors import LocalError, shorten
from cairn_core.kit.durations import parse_duration, parse_size

C = TypeVar("C", bound=msgspec.Struct)

#: Seconds; texts such as `10mins` are understood wherever the value comes from.
Seconds = Annotated[float, Meta(ge=0, description="seconds", extra={"cairn": "duration"})]
#: Bytes; texts such as `64MB` are understood.
Bytes = Annotated[int, Meta(ge=0, description="bytes", extra={"cairn": "size"})]
#: Text that is never printed.
Secret = Annotated[str, Meta(extra={"cairn": "secret"})]
Port = Annotated[int, Meta(ge=0, le=65535, description="port")]

#: How much alike two names are when one is probably the other, misspelt.
NEAR = 0.85
MAX_FILE_BYTES = 16 * 1024 * 1024


class CommonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings that every daemon has; the struct of a daemon derives from it."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severe level logged")
    ] = "info"
    log_format: Annotated[
        Literal["plain", "json"], Meta(description="one line of text or one JSON object per event")
    ] = "plain"


class ConfigError(LocalError):
    """A setting is wrong. `source` is a path, an environment variable or a flag."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source}: {problem}")
        self.source = source
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """The configuration, and per field where its value came from.

    ignored: keys of an original's file that say nothing to us.
    """

    config: C
    sources: Mapping[str, str]
    ignored: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """`name = value  # source` per field, secrets hidden, for `--print-config`."""
        kinds = {field.name: field for field in fields(type(self.config))}
        lines = []
        for name, source in self.sources.items():
            value = getattr(self.config, name)
            hidden = kinds[name].kind == "secret" and value not in ("", None)
            shown = "(hidden)" if hidden else json.dumps(msgspec.to_builtins(value))
            lines.append(f"{name} = {shown}  # {source}")
        return lines


@dataclass(frozen=True, slots=True)
class Field:
    """One setting: `name` in Python and in flags, `key` in the file."""

    name: str
    key: str
    type: Any
    kind: str  # "duration", "size", "secret" or ""
    description: str
    required: bool
    default: Any

    @property
    def is_bool(self) -> bool:
        """Whether a bare `--name` means true."""
        return bool in _alternatives(self.type)

    @property
    def is_text(self) -> bool:
        """Whether a text is taken as it is."""
        return str in _alternatives(self.type)


def fields(struct: type[msgspec.Struct]) -> list[Field]:
    """The settings of `struct` in the order of its definition."""
    hints = typing.get_type_hints(struct, include_extras=True)
    found = []
    for info in msgspec.structs.fields(struct):
        metas = _metas(hints[info.name])
        kind = next((m.extra["cairn"] for m in metas if m.extra and "cairn" in m.extra), "")
        # the outermost description is the most particular one
        text = next((m.description for m in reversed(metas) if m.description), "")
        default = info.default
        if info.default_factory is not msgspec.NODEFAULT:
            default = info.default_factory()
        found.append(
            Field(info.name, info.encode_name, hints[info.name], kind, text, info.required, default)
        )
    return found


def load(
    struct: type[C],
    *,
    program: str,
    file: Path | None = None,
    env_prefixes: Iterable[str] = (),
    ignore_prefixes: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    foreign_file: bool = False,
    foreign_keys: Container[str] = (),
) -> Loaded[C]:
    """The configuration of `program`; raises ConfigError for the first wrong setting.

    file: JSON; when None, `/etc/cairn/<component>.json` if that exists.
    env_prefixes: the first is our own (default from `program`: `cairn-dns` -> `CAIRN_DNS_`) and
        names under it must be settings; the others (`MESOS_`) belong to an original, are
        weaker, and may hold names that we do not know.
    ignore_prefixes: programs whose name begins like ours (`CAIRN_DNS_PROXY_`).
    flags: field name -> text.
    foreign_file: the file may be an original's, read as Go reads JSON: keys in any case, null for
        the default, unknown ones ignored. Unknown keys with an underscore that are nearly one of
        ours are misspelt, and remain errors.
    foreign_keys: keys of an original in whatever file, that say nothing to us.
    """
    known = fields(struct)
    values: dict[str, Any] = {}
    sources = {field.name: "default" for field in known}
    ignored = []

    path = file or Path("/etc/cairn") / f"{program.removeprefix('cairn-')}.json"
    if file is not None or path.exists():
        by_key = {field.key.lower() if foreign_file else field.key: field for field in known}
        for key, value in _read(path).items():
            name = key.lower() if foreign_file else key
            if name not in by_key and name in foreign_keys:
                ignored.append(name)
                continue
            if name not in by_key:
                near = difflib.get_close_matches(name[:60], by_key, 1, NEAR) if "_" in key else []
                if not foreign_file or near:
                    meant = f", did you mean {near[0]}?" if near else ""
                    raise ConfigError(str(path), f"unknown setting {shorten(key, 60)!r}{meant}")
                ignored.append(shorten(key, 60))
                continue
            if foreign_file and value is None:
                continue
            field = by_key[name]
            values[field.key] = _value(field, value, str(path), strict=True)
            sources[field.name] = str(path)

    own, *foreign = tuple(env_prefixes) or (program.upper().replace("-", "_") + "_",)
    environment = os.environ if environ is None else environ
    for prefix in (*reversed(foreign), own):
        _environment(
            prefix, prefix == own, tuple(ignore_prefixes), known, environment, values, sources
        )

    by_name = {field.name: field for field in known}
    for name, text in (flags or {}).items():
        source = "flag --" + name.replace("_", "-")
        values[by_name[name].key] = _from_text(by_name[name], text, source)
        sources[name] = source

    for field in known:
        if field.required and field.key not in values:
            flag = field.name.replace("_", "-")
            raise ConfigError(str(path), f"missing required setting {field.key} (flag --{flag})")
    try:
        return Loaded(msgspec.convert(values, struct), sources, tuple(ignored))
    except msgspec.ValidationError as error:
        # each value was checked alone: what is left are rules over several of them
        problem = shorten(str(error))
        raise ConfigError(_source_of(problem, known, sources), problem) from None


def _source_of(problem: str, known: list[Field], sources: Mapping[str, str]) -> str:
    """Where the setting comes from that a problem names first, as `key: what is wrong`."""
    name = problem.partition(":")[0]
    source = next((sources[x.name] for x in known if name in (x.key, x.name)), "default")
    return "settings" if source == "default" else source


def _environment(
    prefix: str,
    strict: bool,
    ignored: tuple[str, ...],
    known: list[Field],
    environ: Mapping[str, str],
    values: dict[str, Any],
    sources: dict[str, str],
) -> None:
    names = {field.key.upper(): field for field in known}
    names |= {field.name.upper(): field for field in known}
    for variable in sorted(environ):
        if not variable.startswith(prefix) or variable.startswith(ignored or ("\0",)):
            continue
        field = names.get(variable.removeprefix(prefix))
        if field is None:
            if strict:
                raise ConfigError(f"environment {variable}", "unknown setting")
            continue
        source = f"environment {variable}"
        values[field.key] = _from_text(field, environ[variable], source)
        sources[field.name] = source


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ConfigError(str(path), f"larger than {MAX_FILE_BYTES} bytes")
        return msgspec.json.decode(text, type=dict[str, Any])
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(str(path), shorten(str(error))) from None


def _from_text(field: Field, text: str, source: str) -> Any:
    """A value from an environment variable or a flag."""
    if text.startswith("file://"):
        # Compat: Mesos 3rdparty/stout flags/fetch.hpp: any value may be in a file
        try:
            text = Path(text.removeprefix("file://")).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(source, f"{shorten(text)}: {error}") from None
    if field.kind in ("duration", "size"):
        return _value(field, text, source, strict=False)
    if field.is_text:
        return _value(field, text, source, strict=True)
    if field.is_bool and text == "":
        return True  # Compat: Marathon reads an empty MARATHON_<FLAG> as true
    if text[:1] in ("{", "["):
        try:
            return _value(field, msgspec.json.decode(text), source, strict=True)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigError(source, _problem(str(error), field, text)) from None
    if {"list", "tuple", "set", "frozenset"} & {
        getattr(typing.get_origin(a) or a, "__name__", "") for a in _alternatives(field.type)
    }:
        items = [item.strip() for item in text.split(",") if item.strip()]
        return _value(field, items, source, strict=False)
    return _value(field, text, source, strict=False)


def _value(field: Field, value: Any, source: str, *, strict: bool) -> Any:
    """`value` checked against the field's type, as plain JSON types."""
    try:
        if isinstance(value, str) and field.kind == "duration" and not _is_number(value):
            value = parse_duration(value)
        elif isinstance(value, str) and field.kind == "size" and not _is_number(value):
            value = parse_size(value)
        return msgspec.to_builtins(msgspec.convert(value, field.type, strict=strict))
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(source, _problem(str(error), field, value)) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


#: How people call what the decoder calls otherwise.
_WORDS = {
    "int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false",
    "array": "a list", "object": "a map", "null": "null",
}  # fmt: skip
_NAMES = re.compile(r"`(\w+)((?: of length \d+)?)((?: \| \w+)*)`")


def _problem(message: str, field: Field, value: Any) -> str:
    """What the decoder says of a value, in our words: setting, problem, value."""
    if field.kind == "secret":
        return f"{field.key}: value not accepted"
    text, _, path = message.partition(" - at `$")
    if text.startswith("Invalid enum value"):
        text = f"not one of {', '.join(_choices(field.type))}"
    elif text.startswith("Expected "):
        text = _NAMES.sub(_in_words, text[:1].lower() + text[1:])
    told = shorten(repr(value), 60)
    # a map may have a secret somewhere in it
    shown = "" if told in text or isinstance(value, dict) else f": {told}"
    return f"{field.key}{path.removesuffix('`')}: {shorten(text)}{shown}"


def _in_words(found: re.Match[str]) -> str:
    kinds = [found[1], *found[3].split(" | ")[1:]]
    return " or ".join(_WORDS.get(kind, kind) for kind in kinds) + found[2]


def _choices(hint: Any) -> list[str]:
    """The values of literals in a type."""
    if typing.get_origin(hint) is Literal:
        return [str(one) for one in typing.get_args(hint)]
    return [text for part in typing.get_args(hint) for text in _choices(part)]


def _metas(hint: Any) -> list[Meta]:
    """Meta objects on `hint` and on the alternatives of a union, innermost first."""
    if typing.get_origin(hint) is Annotated:
        inner, *extra = typing.get_args(hint)
        return [*_metas(inner), *(e for e in extra if isinstance(e, Meta))]
    return [meta for arg in _union(hint) for meta in _metas(arg)]


def _union(hint: Any) -> tuple[Any, ...]:
    return (
        typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    )


def _alternatives(hint: Any) -> set[Any]:
    """The types that a value may have, without annotations."""
    if typing.get_origin(hint) is Annotated:
        return _alternatives(typing.get_args(hint)[0])
    parts = _union(hint)
    return {x for part in parts for x in _alternatives(part)} if parts else {hint}


def settings_table(struct: type[msgspec.Struct]) -> str:
    """Markdown table of the settings for a README."""
    rows = ["| Setting | Default | Meaning |", "|---|---|---|"]
    for field in fields(struct):
        if field.required:
            default = "required"
        else:
            default = f"`{json.dumps(msgspec.to_builtins(field.default))}`"
        meaning = field.description.replace("|", "\\|")
        rows.append(f"| `{field.key}` | {default} | {meaning} |")
    return "\n".join(rows) + "\n"
