"""What the commands print.  Works for whatever JSON of the right kind a daemon sends."""

from collections.abc import Iterator
from typing import Any, TypeAlias

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cairn_core.vips.names import ZONE

Part: TypeAlias = str | Table
_COLOURS = {"open": "green", "closed": "red", "drained": "yellow", "unreachable": "yellow"}
#: Rows of the live table, so that it fits a screen.
WATCHED_ROWS = 40
#: Latest decisions that are printed.
RECENT = 10


def listed(told: dict[str, Any]) -> Iterator[Part]:
    """All VIPs, one line each."""
    vips = _dicts(told.get("vips"))
    if not vips:
        yield "[yellow]no VIPs[/yellow]: give a port of an app the label VIP_0=/web:80"
    else:
        table = _table("VIP", "NAME…", "BACKENDS", ">RATE/s", ">PICKS", ">REFUSED", "POLICY")
        for one in vips:
            options = _dict(one.get("options"))
            table.add_row(
                _vip(one), _cut(_short(one.get("name"))), _health(one), _text(one.get("rate")),
                _text(one.get("picks")), _text(one.get("refused")), _text(options.get("policy")),
            )  # fmt: skip
        yield table
    yield from _source(told)


def shown(told: dict[str, Any]) -> Iterator[Part]:
    """A VIP with its backends."""
    for one in _dicts(told.get("vips")):
        name = f"  {_text(one['name'])}" if one.get("name") else ""
        yield f"[bold]{_vip(one)}[/bold]{name}"
        options = one.get("options")
        if isinstance(options, dict):
            told_options = ", ".join(
                f"{_text(key)} {_text(value)}"
                for key, value in options.items()
                if value not in (0, 0.0, None, "")
            )
            yield f"[dim]{told_options}; decided by the {_text(one.get('decided_by'))}[/dim]"
        backends = _dicts(one.get("backends"))
        if not backends:
            yield "[yellow]no backend: connections are refused[/yellow]"
            continue
        table = _table(
            "BACKEND", "STATE", ">WEIGHT", ">PICKS", ">FAILED", ">PEND", ">p50 ms", ">p99 ms",
            "TASK…",
        )  # fmt: skip
        for each in backends:
            table.add_row(
                _text(each.get("backend")), _state(each), _text(each.get("weight")),
                _text(each.get("picks")), _text(each.get("failures")), _text(each.get("pending")),
                _text(each.get("p50_ms")), _text(each.get("p99_ms")), _cut(each.get("task")),
            )  # fmt: skip
        yield table
    yield from _source(told)


def rates(data: dict[str, Any]) -> Group:
    """Rates of one second."""
    table = _table(
        "VIP", "BACKEND", "STATE", ">NEW/s", ">FAILED/s", ">PENDING", ">p50 ms", ">p99 ms"
    )
    rows = 0
    for one in _dicts(data.get("vips")):
        label = _text(_short(one.get("name") or one.get("vip")))
        for each in _dicts(one.get("backends")):
            rows += 1
            if rows <= WATCHED_ROWS:
                table.add_row(
                    label, _text(each.get("backend")), _state(each), _text(each.get("rate")),
                    _text(each.get("failures")), _text(each.get("pending")),
                    _text(each.get("p50_ms")), _text(each.get("p99_ms")),
                )  # fmt: skip
                label = ""
    if not rows:
        return Group(table, "[dim]no new connections; Ctrl-C ends[/dim]")
    more = f"{rows - WATCHED_ROWS} more; " if rows > WATCHED_ROWS else ""
    return Group(table, f"[dim]{more}Ctrl-C ends[/dim]")


def explained(told: dict[str, Any]) -> Iterator[Part]:
    """Which backend, and why."""
    for one in _dicts(told.get("explained")):
        name = f"  {_text(one['name'])}" if one.get("name") else ""
        yield f"[bold]{_vip(one)}[/bold]{name}"
        backend = one.get("backend")
        yield (
            f"a new connection goes to [green]{_text(backend)}[/green]"
            if backend
            else ("a new connection is [red]refused[/red]")
        )
        for reason in _list(one.get("reasons")):
            yield f"  {_text(reason)}"
        recent = [x for x in _list(one.get("recent")) if isinstance(x, list) and len(x) == 4]
        if recent:
            table = _table(">AGO", "CLIENT", "BACKEND", "WHY…")
            for client, chosen, why, ago in recent[:RECENT]:
                seconds = f"{ago:.1f} s" if isinstance(ago, int | float) else _text(ago)
                table.add_row(seconds, _text(client), _text(chosen), _cut(why))
            yield "latest decisions:"
            yield table
    yield from _source(told)


def drains(told: dict[str, Any]) -> Iterator[Part]:
    """What is drained."""
    found = _list(told.get("drained"))
    if not found:
        yield "nothing is drained"
    for one in found:
        yield f"drained: {_text(one)}"


def removed(told: dict[str, Any]) -> Iterator[Part]:
    """What was uninstalled."""
    lines = _list(told.get("removed"))
    for line in lines:
        yield f"removed {_text(line)}"
    if not lines:
        yield "there was nothing of ours"
    if told.get("daemon"):
        yield "the daemon runs on and leaves the kernel alone; a restart of it brings all back"


def _table(*titles: str) -> Table:
    """Numbers, with a `>`, to the right.  What ends in `…` gives way where the screen is narrow."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(
            title.strip(">…"),
            justify="right" if title.startswith(">") else "left",
            no_wrap=not title.endswith("…"),
            overflow="fold",
        )
    return table


def _cut(value: Any) -> Text:
    """A cell of one line, cut where the screen is narrow."""
    return Text(_clean(value), no_wrap=True, overflow="ellipsis")


def _vip(one: dict[str, Any]) -> str:
    protocol = one.get("protocol")
    vip = _text(one.get("vip"))
    return vip if protocol in (None, "tcp") else f"{_text(protocol)}/{vip}"


def _health(one: dict[str, Any]) -> str:
    backends = _dicts(one.get("backends"))
    usable = sum(each.get("state") == "open" for each in backends)
    text = f"{usable}/{len(backends)} open"
    return (
        f"[green]{text}[/green]"
        if usable and usable == len(backends)
        else (f"[{'yellow' if usable else 'red'}]{text}[/]")
    )


def _state(one: dict[str, Any]) -> str:
    state = _text(one.get("state"))
    colour = _COLOURS.get(state)
    closed = one.get("closed_for_s")
    if state == "closed" and isinstance(closed, int | float) and closed > 0:
        state = f"{state} {closed:.0f} s"
    return f"[{colour}]{state}[/{colour}]" if colour else state


def _short(name: Any) -> str:
    """A name without the zone, which all have."""
    return name.replace(f".{ZONE}", "") if isinstance(name, str) else "-"


def _source(told: dict[str, Any]) -> Iterator[str]:
    source = told.get("source")
    if isinstance(source, dict):
        age = source.get("age_s")
        old = f", {age:.1f} s old" if isinstance(age, int | float) else ""
        master = f" of {_text(source['master'])}" if source.get("master") else ""
        yield f"[dim]known by {_text(source.get('kind'))}{master}{old}[/dim]"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in _list(value) if isinstance(one, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return escape(_clean(value))


def _clean(value: Any) -> str:
    text = "-" if value is None else str(value)
    # names and ids come from frameworks; a terminal must not take them for commands
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
