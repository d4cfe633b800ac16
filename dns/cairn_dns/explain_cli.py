"""`cairn dns explain NAME`: why a name is answered as it is, for people."""

import json
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .io_explain import SERVERS, ask


@click.group()
def dns() -> None:
    """Names of the cluster."""


@dns.command()
@click.argument("name")
@click.option(
    "--server",
    metavar="URL",
    help=f"daemon to ask; without it {SERVERS[0]}, then {SERVERS[1]}",
)
@click.option("--json", "as_json", is_flag=True, help="print what the daemon says")
def explain(name: str, server: str | None, as_json: bool) -> None:
    """Why NAME has the records that it has, or has none."""
    asked, told = ask([server] if server else SERVERS, name)
    if as_json:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    for part in shown(asked, told):
        console.print(part)


def shown(server: str, told: dict[str, Any]) -> Iterator[str | Table]:
    """What is printed, from top to bottom.  Works for whatever JSON object a daemon sends."""
    yield f"[bold]{_text(told.get('name'))}[/bold]  [dim]asked at {_text(server)}[/dim]"
    if isinstance(told.get("route"), dict):
        yield from _proxy(told)
        master = told.get("master")
        if not isinstance(master, dict):
            return
        told = master
    yield from _records(told)
    if told.get("reason"):
        yield f"[yellow]{_text(told['reason'])}[/yellow]"
    near = _list(told.get("nearest"))
    if near:
        yield "did you mean " + ", ".join(_text(name) for name in near) + "?"
    if told.get("changed"):
        yield f"changed {_text(told['changed'])}"
    source = told.get("source")
    if isinstance(source, dict):
        yield _source(source)


def _proxy(told: dict[str, Any]) -> Iterator[str]:
    route = told["route"]
    line = f"{_text(route.get('reason'))} (zone {_text(route.get('zone'))})"
    if route.get("asked_as") not in (None, told.get("name")):
        line += f", as {_text(route['asked_as'])}"
    yield line
    for server in _list(told.get("servers")):
        if isinstance(server, dict):
            state = "dead" if server.get("dead") else "asked" if server.get("asked") else "unused"
            yield f"  server {_text(server.get('address'))}: {state}"
    if told.get("cache"):
        yield f"  in the cache: {len(_list(told['cache']))} answers"
    if route.get("kind") == "masters" and not isinstance(told.get("master"), dict):
        yield "[yellow]no master answered, so nothing more is known[/yellow]"


def _records(told: dict[str, Any]) -> Iterator[Table]:
    records = [one for one in _list(told.get("records")) if isinstance(one, dict)]
    if not records:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("TYPE", "VALUE", "TTL", "FROM"):
        table.add_column(title, overflow="fold")
    for one in records:
        givers = [_giver(giver) for giver in _list(one.get("by")) if isinstance(giver, dict)]
        table.add_row(
            _text(one.get("type")), _text(one.get("value")), _text(one.get("ttl")),
            "\n".join(givers),
        )  # fmt: skip
    yield table


def _giver(giver: dict[str, Any]) -> str:
    """One row that gives a record: `task web.1 (marathon, on c-S0, TASK_RUNNING, by netinfo)`."""
    details = [_text(giver["framework"])] if giver.get("framework") else []
    for word, key in (("on", "agent"), ("", "state"), ("by", "ip_source")):
        if giver.get(key):
            details.append(f"{word} {_text(giver[key])}".strip())
    if giver.get("healthy") is not None:
        details.append("healthy" if giver["healthy"] else "not healthy")
    what = f"{_text(giver.get('kind'))} {_text(giver.get('id') or giver.get('name'))}".strip()
    return f"{what} ({', '.join(details)})" if details else what


def _source(source: dict[str, Any]) -> str:
    age = source.get("age_s")
    told = f", {age:.1f} s old" if isinstance(age, int | float) else ""
    master = f" of {_text(source['master'])}" if source.get("master") else ""
    return f"[dim]known by {_text(source.get('kind'))}{master}{told}[/dim]"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    text = "-" if value is None else str(value)
    # names and ids come from frameworks; a terminal must not take them for commands
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
