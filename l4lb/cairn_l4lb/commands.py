"""`cairn l4lb ...`: the load balancer of a host, for people."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.live import Live

from cairn_core.errors import CairnError

from . import commands_show as show
from .io_ask import SOCKET, NotRunning, base_url, control, follow, get

F = TypeVar("F", bound=Callable[..., Any])


def _asking(command: F) -> F:
    """Options of commands that ask a daemon."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print what the daemon says."),
        click.option("--url", default="", help="URL of the daemon."),
        click.option("--host", default="", help="Host whose daemon is asked; else this one."),
    ):
        command = option(command)
    return command


def _controlling(command: F) -> F:
    """Options of commands that change something."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print what the daemon says."),
        click.option(
            "--socket", "place", type=click.Path(path_type=Path), default=SOCKET, show_default=True,
            help="Control socket of the daemon.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def l4lb() -> None:
    """Virtual addresses (VIPs) as the load balancer of a host serves them.

    A VIP is named web.marathon:80, by its full name in DNS, or by its address; the port may be
    left out.
    """


@l4lb.command("list")
@_asking
def list_vips(host: str, url: str, as_json: bool) -> None:
    """All VIPs."""
    told = get(base_url(host, url), "/v1/table")
    _print(told, as_json, show.listed)


@l4lb.command()
@_asking
def problems(host: str, url: str, as_json: bool) -> None:
    """Wrong labels, and VIPs that cannot be served, with the reason."""
    _print(get(base_url(host, url), "/v1/problems"), as_json, show.problems)


@l4lb.command("show")
@click.argument("vip")
@_asking
def show_vip(vip: str, host: str, url: str, as_json: bool) -> None:
    """Backends of VIP, their health and their figures."""
    told = get(base_url(host, url), "/v1/table", {"vip": vip})
    _print(told, as_json, show.shown)


@l4lb.command()
@click.argument("vip", required=False, default="")
@_asking
def watch(vip: str, host: str, url: str, as_json: bool) -> None:
    """Rates and latencies of busy backends, each second, of VIP or of all."""
    base = base_url(host, url)
    query = {"vip": vip} if vip else {}
    if vip:
        get(base, "/v1/table", query)  # so that a wrong name is told at once
    events = follow(base, "/v1/watch", query)
    try:
        _watch(events, as_json)
    except KeyboardInterrupt:
        click.echo()
        return
    if not as_json:
        raise CairnError(f"{base} ended the stream; ask again when it is back")


def _watch(events: Iterator[tuple[str, Any]], as_json: bool) -> None:
    """Show events until there are no more."""
    if as_json:
        for name, data in events:
            click.echo(json.dumps({"event": name, **data}))
        return
    console = _console()
    if not console.is_terminal:
        for name, data in events:
            for line in show.rate_lines(data) if name == "rates" else ():
                click.echo(line)
        return
    with Live(show.rates({"vips": []}), console=console, auto_refresh=False, screen=False) as live:
        for name, data in events:
            if name == "rates":
                live.update(show.rates(data), refresh=True)


@l4lb.command()
@click.argument("vip")
@click.option("--client", default="", help="Address of the client; needed for sticky policies.")
@click.option("--port", default=0, help="Source port of the client.")
@_asking
def explain(vip: str, client: str, port: int, host: str, url: str, as_json: bool) -> None:
    """Which backend a new connection to VIP would get, and why."""
    query = {"vip": vip, "client": client, "port": str(port)}
    told = get(
        base_url(host, url), "/explain", {k: v for k, v in query.items() if v not in ("", "0")}
    )
    _print(told, as_json, show.explained)


@l4lb.command()
@click.argument("target", required=False, default="")
@_controlling
def drain(target: str, place: Path, as_json: bool) -> None:
    """Give TARGET no new connections on this host; without it: what is drained.

    TARGET is a backend (ip:port), the address of a host, or the id of a task. It holds over
    restarts, until undrain. Connections that are there go on.
    """
    if target:
        told = control(place, "PUT", "/v1/drains", {"target": target})
    else:
        told = control(place, "GET", "/v1/drains")
    _print(told, as_json, show.drains)


@l4lb.command()
@click.argument("target")
@_controlling
def undrain(target: str, place: Path, as_json: bool) -> None:
    """Give TARGET new connections again."""
    _print(control(place, "DELETE", "/v1/drains", {"target": target}), as_json, show.drains)


@l4lb.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@_controlling
def uninstall(yes: bool, place: Path, as_json: bool) -> None:
    """Remove everything of ours from the kernel of this host, and nothing else.

    With the daemon or without. A running daemon then leaves the kernel alone until it is
    restarted.
    """
    if not yes:
        click.confirm("VIPs will not be served on this host any more. Go on?", abort=True)
    try:
        told = control(place, "POST", "/v1/uninstall")
        running = True
    except NotRunning:
        from .io_uninstall import uninstall as by_hand

        told, running = {"removed": by_hand()}, False
    _print({**told, "daemon": running}, as_json, show.removed)


def _console() -> Console:
    # an IPv6 address such as [fd00::b:1] has no emoji in it
    return Console(highlight=False, emoji=False)


def _print(told: Any, as_json: bool, shown: Callable[[Any], Any]) -> None:
    if as_json:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    console = _console()
    for part in shown(told):
        # a line stays one, for who copies it
        console.print(part, soft_wrap=isinstance(part, str))
