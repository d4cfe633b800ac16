"""What the commands print.  Works for whatever JSON of the right kind a daemon sends."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, TypeAlias

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from cairn_core.vips.names import ZONE


class Fitting:
    """The first of several renderings that fits the screen; the last where none does."""

    def __init__(self, *ways: RenderableType) -> None:
        self._ways = ways

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        wide = options.update(width=10_000)
        for way in self._ways[:-1]:
            if Measurement.get(console, wide, way).maximum <= options.max_width:
                yield way
                return
        yield self._ways[-1]


Part: TypeAlias = str | RenderableType
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
        rows = [
            {
                "VIP": _vip(one), "NAME": _text(_short(one.get("name"))), "BACKENDS": _health(one),
                "RATE/s": _text(one.get("rate")), "PICKS": _about(one) + _text(one.get("picks")),
                "REFUSED": _text(one.get("refused")), "POLICY": _policy(one),
            }
            for one in vips
        ]  # fmt: skip
        titles = ("VIP", "NAME", "BACKENDS", ">RATE/s", ">PICKS", ">REFUSED", "POLICY")
        # what is on the right goes first where the screen is narrow
        yield Fitting(*(_table(titles[:count], rows) for count in (7, 6, 5, 4, 3)))
    count = told.get("problems")
    if isinstance(count, int) and count:
        yield f"[yellow]{_labels_are(count)} wrong: see 'cairn l4lb problems'[/yellow]"
    yield from _source(told)


def _labels_are(count: int) -> str:
    return "labels of 1 task or VIP are" if count == 1 else f"labels of {count} tasks or VIPs are"


def problems(told: dict[str, Any]) -> Iterator[Part]:
    """What is not served as somebody wanted."""
    found = _dicts(told.get("problems"))
    for one in found:
        who = f"task {_text(one['task'])}" if one.get("task") else f"VIP {_text(one.get('vip'))}"
        yield f"{who}: [yellow]{_text(one.get('reason'))}[/yellow]"
    if not found:
        yield "nothing is wrong with labels"


def shown(told: dict[str, Any]) -> Iterator[Part]:
    """A VIP with its backends."""
    any_backend = False
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
        any_backend = True
        rows = [
            {
                "BACKEND": _text(each.get("backend")), "STATE": _state(each),
                "WEIGHT": _text(each.get("weight")),
                "PICKS": _about(one) + _text(each.get("picks")),
                "FAILED": _text(each.get("failures")), "PEND": _text(each.get("pending")),
                "p50 ms": _ms(each.get("p50_ms")), "p99 ms": _ms(each.get("p99_ms")),
                "TASK": _text(each.get("task")),
            }
            for each in backends
        ]  # fmt: skip
        figures = (">PICKS", ">FAILED", ">PEND", ">p50 ms", ">p99 ms")
        tasks = _table(("BACKEND", "TASK"), rows, folded="TASK")
        yield Fitting(
            _table(("BACKEND", "STATE", ">WEIGHT", *figures, "TASK"), rows),
            Group(_table(("BACKEND", "STATE", ">WEIGHT", *figures), rows), tasks),
            Group(_table(("BACKEND", "STATE", *figures[:3]), rows), tasks),
        )
    if any_backend:
        yield "[dim]PICKS to p99 are a backend's, by whatever VIP its connections came[/dim]"
    yield from _source(told)


def rates(data: dict[str, Any]) -> Group:
    """Rates of one second."""
    wide, narrow = list[dict[str, str]](), list[dict[str, str]]()
    count = 0
    for one in _dicts(data.get("vips")):
        label = _text(_short(one.get("name") or one.get("vip")))
        if count < WATCHED_ROWS:
            narrow.append({"BACKEND": f"[bold]{label}[/bold]"})
        for each in _dicts(one.get("backends")):
            count += 1
            if count <= WATCHED_ROWS:
                row = {
                    "BACKEND": _text(each.get("backend")), "STATE": _state(each),
                    "NEW/s": _about(one) + _text(each.get("rate")),
                    "FAILED/s": _text(each.get("failures")), "PENDING": _text(each.get("pending")),
                    "p50 ms": _ms(each.get("p50_ms")), "p99 ms": _ms(each.get("p99_ms")),
                }  # fmt: skip
                wide.append({**row, "VIP": label})
                narrow.append({**row, "BACKEND": f" {row['BACKEND']}"})
                label = ""
    titles = ("BACKEND", "STATE", ">NEW/s", ">FAILED/s", ">PENDING", ">p50 ms", ">p99 ms")
    table = Fitting(
        _table(("VIP", *titles), wide), *(_table(titles[:count], narrow) for count in (7, 6, 5, 4))
    )
    if not count:
        return Group(table, "[dim]no new connections; Ctrl-C ends[/dim]")
    more = f"{count - WATCHED_ROWS} more; " if count > WATCHED_ROWS else ""
    return Group(table, f"[dim]{more}Ctrl-C ends[/dim]")


def rate_lines(data: dict[str, Any]) -> Iterator[str]:
    """Rates of one second for a pipe: one line a backend, `key=value` after what it is of."""
    at = data.get("at")
    when = f"{datetime.fromtimestamp(at):%H:%M:%S}" if isinstance(at, int | float) else "-"
    for one in _dicts(data.get("vips")):
        label = _clean(_short(one.get("name") or one.get("vip")))
        for each in _dicts(one.get("backends")):
            state = _clean(each.get("why") or each.get("state")).replace(" ", "-")
            figures = " ".join(
                f"{key}={_clean(each.get(name))}"
                for key, name in (
                    ("new/s", "rate"), ("failed/s", "failures"), ("pending", "pending"),
                    ("p50_ms", "p50_ms"), ("p99_ms", "p99_ms"),
                )
            )  # fmt: skip
            yield f"{when} {label} {_clean(each.get('backend'))} state={state} {figures}"


def explained(told: dict[str, Any]) -> Iterator[Part]:
    """Which backend, and why."""
    for one in _dicts(told.get("explained")):
        name = f"  {_text(one['name'])}" if one.get("name") else ""
        yield f"[bold]{_vip(one)}[/bold]{name}"
        backend, reasons = one.get("backend"), _list(one.get("reasons"))
        if backend:
            yield f"a new connection goes to [green]{_text(backend)}[/green]"
        else:
            yield f"[yellow]{_text(reasons.pop()) if reasons else 'refused'}[/yellow]"
        for reason in reasons:
            yield f"  {_text(reason)}"
        for line in _list(one.get("left_out")):
            yield f"  no new connections for what is {_text(line)}"
        recent = [x for x in _list(one.get("recent")) if isinstance(x, list) and len(x) == 4]
        if recent:
            rows = [
                {
                    "AGO": f"{ago:.1f} s" if isinstance(ago, int | float) else _text(ago),
                    "CLIENT": _text(client), "BACKEND": _text(chosen), "WHY": _text(why),
                }
                for client, chosen, why, ago in recent[:RECENT]
            ]  # fmt: skip
            yield "latest decisions:"
            yield _table((">AGO", "CLIENT", "BACKEND", "WHY"), rows)
    yield from _source(told)


def drains(told: dict[str, Any]) -> Iterator[Part]:
    """What is drained."""
    found = _list(told.get("drained"))
    if not found:
        yield "nothing is drained"
    for one in found:
        yield f"drained: {_text(one)}"
    if told.get("matches") == 0:
        yield "[yellow]it matches nothing now[/yellow], and holds for what comes, until undrain"


def removed(told: dict[str, Any]) -> Iterator[Part]:
    """What was uninstalled."""
    lines = _list(told.get("removed"))
    for line in lines:
        yield f"removed {_text(line)}"
    if not lines:
        yield "there was nothing of ours"
    if told.get("daemon"):
        yield "the daemon runs on and leaves the kernel alone; a restart of it brings all back"


def _table(titles: tuple[str, ...], rows: list[dict[str, str]], folded: str = "") -> Table:
    """Cells by title; numbers, with a `>`, to the right.  What is too long for the screen ends in
    an ellipsis, but for `folded`, which goes on in the next line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = [title.removeprefix(">") for title in titles]
    for title, name in zip(titles, names, strict=True):
        table.add_column(
            name,
            justify="right" if title.startswith(">") else "left",
            no_wrap=name != folded,
            overflow="fold" if name == folded else "ellipsis",
        )
    for row in rows:
        table.add_row(*(row.get(name, "") for name in names))
    return table


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
    state = one.get("state")
    colour = _COLOURS.get(str(state))
    text = _text(one.get("why") or state)
    closed = one.get("closed_for_s")
    if state == "closed" and isinstance(closed, int | float) and closed > 0:
        text = f"{text} {closed:.0f} s"
    return f"[{colour}]{text}[/{colour}]" if colour else text


def _about(one: dict[str, Any]) -> str:
    """What stands before counts of a VIP: what the kernel decides is sampled."""
    return "~" if one.get("decided_by") == "kernel" else ""


def _policy(one: dict[str, Any]) -> str:
    if one.get("decided_by") == "kernel":
        return "kernel"
    return _text(_dict(one.get("options")).get("policy"))


def _ms(value: Any) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


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
