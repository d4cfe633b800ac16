"""`cairn log`: inspect, dump and restore a log file while its daemon is stopped.

A dump is text, one JSON object a line: a head with the name and the extent of the log, then one
line for each entry, its value in base64.
"""

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click
import msgspec

from cairn_core.errors import CairnError, Unavailable

from .interface import Bounds, Entry, Record
from .io_sqlite_file import FILE_NAME, SqliteFile

#: Version of the dump's lines.
DUMP_VERSION = 1
READ_CHUNK = 256


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """First line of a dump."""

    cairn_log: int
    name: str
    begin: int
    end: int
    epoch: int


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Any other line: one entry; no value means that the key was deleted."""

    position: int
    epoch: int
    write_id: str
    key: str
    schema: int
    value: str | None = None
    carried: bool = False


def dump_lines(file: SqliteFile, name: str) -> Iterator[bytes]:
    """The dump of one log, line by line.  Raises Corrupt."""
    bounds = file.bounds(name)
    yield msgspec.json.encode(
        Head(cairn_log=DUMP_VERSION, name=name, begin=bounds.begin, end=bounds.end,
             epoch=bounds.epoch)
    )  # fmt: skip
    position = bounds.begin
    while entries := file.read(name, position, bounds.end, READ_CHUNK):
        for entry in entries:
            record = entry.record
            value = None if record.value is None else base64.b64encode(record.value).decode()
            yield msgspec.json.encode(
                Line(position=entry.position, epoch=entry.epoch, write_id=entry.write_id,
                     key=record.key, schema=record.schema, value=value, carried=entry.carried)
            )  # fmt: skip
        position += len(entries)


def read_lines(lines: Iterator[bytes]) -> Iterator[Entry]:
    """Entries of a dump whose head was already taken.  Raises ValueError on a wrong line."""
    for line in lines:
        got = msgspec.json.decode(line, type=Line)
        value = None if got.value is None else base64.b64decode(got.value, validate=True)
        record = Record(got.key, value, got.schema)
        yield Entry(got.position, got.epoch, got.write_id, record, got.carried)


DIRECTORY = click.argument(
    "directory", type=click.Path(exists=True, file_okay=False, path_type=Path)
)


def _existing(directory: Path) -> SqliteFile:
    if not (directory / FILE_NAME).exists():
        raise click.ClickException(f"{directory} holds no {FILE_NAME}")
    return _opened(directory)


def _opened(directory: Path) -> SqliteFile:
    try:
        return SqliteFile(directory)
    except Unavailable as error:
        raise click.ClickException(str(error)) from error


@click.group()
def log() -> None:
    """Inspect, dump and restore the log of a stopped daemon."""


@log.command()
@DIRECTORY
def info(directory: Path) -> None:
    """List the logs in DIRECTORY: extent, entries and epoch."""
    file = _existing(directory)
    try:
        for name in file.names():
            bounds = file.bounds(name)
            click.echo(
                f"{name}: positions {bounds.begin}-{bounds.end}, "
                f"{bounds.end - bounds.begin} entries, epoch {bounds.epoch}"
            )
    except CairnError as error:
        raise click.ClickException(str(error)) from error
    finally:
        file.close()


@log.command()
@DIRECTORY
@click.argument("name")
@click.option("--output", type=click.File("wb"), default="-", help="File to write, - for stdout.")
def dump(directory: Path, name: str, output: IO[bytes]) -> None:
    """Write the log NAME of DIRECTORY as text."""
    file = _existing(directory)
    try:
        if name not in file.names():
            raise click.ClickException(f"{directory} holds no log {name!r}")
        for line in dump_lines(file, name):
            output.write(line + b"\n")
    except CairnError as error:
        raise click.ClickException(str(error)) from error
    finally:
        file.close()


@log.command()
@DIRECTORY
@click.option("--input", "source", type=click.File("rb"), default="-", help="Dump to read.")
@click.option("--replace", is_flag=True, help="Replace a log of the same name.")
def restore(directory: Path, source: IO[bytes], replace: bool) -> None:
    """Make a log in DIRECTORY from a dump; it fences every writer of the one that was dumped."""
    file = _opened(directory)
    try:
        head = msgspec.json.decode(source.readline(), type=Head)
        if head.cairn_log != DUMP_VERSION:
            raise click.ClickException(f"dump has version {head.cairn_log}, not {DUMP_VERSION}")
        if head.name in file.names() and not replace:
            raise click.ClickException(f"{directory} holds a log {head.name!r}; use --replace")
        bounds = Bounds(head.begin, head.end, head.epoch)
        file.restore(head.name, read_lines(iter(source)), bounds)
    except (CairnError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        file.close()
    print(f"restored {head.name}: {head.end - head.begin} entries", file=sys.stderr)
