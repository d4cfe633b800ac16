"""`cairn lab`: a virtual data centre on this machine, for trying Cairn out and for its tests."""

import json
import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from cairn_core.errors import CairnError
from cairn_lab import hosts, roles, topology
from cairn_lab import lab as labs
from cairn_lab.demo import show
from cairn_lab.errors import LabError
from cairn_lab.starting import environment
from cairn_lab.supervisor import Supervisor

_name = click.option(
    "--name", default=topology.DEFAULT_NAME, show_default=True, help="Which lab; several can run."
)

#: Seconds that daemons have to get ready.
_READY_S = 60.0
#: What is worth looking at behind each door.
_PAGES = {"master": "/state-summary", "marathon": "/v2/apps"}


def _one_line_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            if os.geteuid() != 0:
                raise LabError("a lab is made of namespaces and cgroups, which needs root")
            return function(*args, **kwargs)
        except CairnError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


@click.group()
def lab() -> None:
    """Run a virtual data centre on this machine."""


@lab.command()
@click.option("--masters", default=1, show_default=True, help="Hosts with master and Marathon.")
@click.option("--agents", default=2, show_default=True, help="Private agents.")
@click.option("--public", default=1, show_default=True, help="Agents with the role slave_public.")
@click.option("--zookeeper", is_flag=True, help="Keep the masters' state in ZooKeeper.")
@click.option(
    "--port", "ports", multiple=True, metavar="NAME=PORT",
    help="Another port on 127.0.0.1 for a door: master (5050) or marathon (8080).",
)  # fmt: skip
@click.option("--no-relays", is_flag=True, help="Open nothing on 127.0.0.1.")
@click.option("--bare", is_flag=True, help="Hosts without any daemon.")
@_name
@_one_line_errors
def up(
    name: str,
    masters: int,
    agents: int,
    public: int,
    zookeeper: bool,
    ports: tuple[str, ...],
    no_relays: bool,
    bare: bool,
) -> None:
    """Bring the lab up and wait for its daemons; changes nothing when it is up."""
    labs.require_programs()
    if zookeeper:
        raise LabError(
            "--zookeeper: this version keeps the state of its one master in a file; "
            "leave the flag out"
        )
    if no_relays and ports:
        raise LabError("--port moves a relay, but --no-relays asks for none; use one of them")
    console = Console(stderr=True)
    with console.status("") as spinner:
        made, changed = labs.up(
            name,
            masters=masters,
            agents=agents,
            public=public,
            ports=None if no_relays or bare else topology.parse_ports(ports),
            bare=bare,
            progress=lambda text: spinner.update(f"lab {name}: {text}"),
        )
        if not bare:
            _await_daemons(made, lambda text: spinner.update(f"lab {name}: {text}"))
    names = ", ".join(host.name for host in made.topology.hosts)
    click.echo(f"lab {name} {'is up' if changed else 'was up already'}: {names}")
    for relay in made.topology.relays if changed else ():
        click.echo(f"  {_address(relay)}")


@lab.command()
@_name
@_one_line_errors
def down(name: str) -> None:
    """Remove the lab: every process, namespace, mount, cgroup and file that it made."""
    click.echo(f"lab {name} {'is down' if labs.down(name) else 'was not up'}")


@lab.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@_name
@_one_line_errors
def status(name: str, as_json: bool) -> None:
    """Show the hosts and what runs on them; exit status 1 when something is dead."""
    found = labs.find(name)
    broken = found.broken()
    rows: list[dict[str, Any]] = [
        {
            "host": one.host.name,
            "role": one.host.role,
            "ipv4": str(one.host.ipv4),
            "ipv6": str(one.host.ipv6),
            "pid": one.pid,
            "cut": one.cut,
            "units": _units(one) if not found.state.bare else {},
        }
        for one in found.status()
    ]
    if as_json:
        doors = {r.name: f"http://127.0.0.1:{r.port}" for r in found.topology.relays}
        document = {"name": name, "hosts": rows, "relays": doors, "broken": broken}
        click.echo(json.dumps(document, indent=2))
    else:
        table = Table("host", "role", "address", "state", "daemons")
        for row in rows:
            state = "gone" if row["pid"] is None else "cut off" if row["cut"] else "up"
            units = ", ".join(
                unit if shown["state"] == "running" else f"{unit} ({shown['state']})"
                for unit, shown in row["units"].items()
            )
            table.add_row(row["host"], row["role"], row["ipv4"], state, units)
        Console().print(table)
        for relay in found.topology.relays:
            click.echo(_address(relay))
    if broken:
        raise LabError(
            f"lab {name!r} is partly dead ({', '.join(broken)}); run 'cairn lab down', then 'up'"
        )


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_name
@_one_line_errors
def exec_(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on HOST: cairn lab exec agent1 -- ip address"""
    found = labs.find(name)
    argv = hosts.enter(found.pid(host), command)
    os.execvpe(argv[0], argv, environment())


@lab.command()
@click.argument("host")
@_name
@_one_line_errors
def cut(name: str, host: str) -> None:
    """Cut HOST off from the network: the switch drops all its frames."""
    found = labs.find(name)
    found.topology.host(host)
    hosts.cut(found.switch_pid(), host)
    click.echo(f"{host} is cut off; undo with 'cairn lab heal{_named(name)} {host}'")


@lab.command()
@click.argument("host")
@_name
@_one_line_errors
def heal(name: str, host: str) -> None:
    """Connect HOST again."""
    found = labs.find(name)
    found.topology.host(host)
    hosts.heal(found.switch_pid(), host)
    click.echo(f"{host} is connected")


@lab.command()
@click.argument("target", metavar="HOST/DAEMON")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is added.")
@click.option("--lines", "-n", default=100, show_default=True, help="How many of the last lines.")
@_name
@_one_line_errors
def logs(name: str, target: str, follow: bool, lines: int) -> None:
    """Show the log of a daemon: cairn lab logs agent1/cairn-agent -f"""
    found = labs.find(name)
    host, unit = _target(found, target)
    path = found.folder(host) / "log" / f"{unit}.log"
    if not path.exists():
        there = sorted(p.stem for p in path.parent.glob("*.log"))
        raise LabError(f"{host} has no log of {unit}; there are {', '.join(there) or 'none'}")
    argv = ["tail", "-n", str(max(lines, 0)), *(["-F"] if follow else []), str(path)]
    os.execvp(argv[0], argv)


@lab.command()
@click.argument("target", metavar="HOST/DAEMON")
@click.option("--signal", "-s", "number", default=9, show_default=True, help="Which signal.")
@_name
@_one_line_errors
def kill(name: str, target: str, number: int) -> None:
    """Send a signal to a daemon; its supervisor starts it again when it ends."""
    found = labs.find(name)
    host, unit = _target(found, target)
    Supervisor(found.pid(host)).kill(unit, number)
    click.echo(f"sent signal {number} to {unit} on {host}")


@lab.command()
@click.argument(
    "example", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False
)
@_name
@_one_line_errors
def demo(name: str, example: Path | None) -> None:
    """Deploy an EXAMPLE (default: examples/web.json) and show it at work."""
    found = labs.find(name)
    if found.state.bare:
        raise LabError(f"lab {name!r} has no daemons; bring it up without --bare")
    path = example or roles.repository() / "examples/web.json"
    console = Console(stderr=True)
    with console.status("") as spinner:

        def say(text: str) -> None:
            # The spinner stands on the same terminal, so it has to make room.
            spinner.stop()
            click.echo(f"  ✓ {text}")
            spinner.start()

        show(found, path, say, spinner.update)


def _address(relay: topology.Relay) -> str:
    """What to open in a browser."""
    return f"{relay.name:10} http://127.0.0.1:{relay.port}{_PAGES[relay.name]}"


def _await_daemons(made: labs.Lab, progress: Callable[[str], None]) -> None:
    """Return when every daemon is ready, so that what is typed next does not come too early."""
    deadline = time.monotonic() + _READY_S
    while not made.broken():
        late = [
            f"{one.host.name}/{unit} ({shown['state']})"
            for one in made.status()
            for unit, shown in (_units(one) or {"supervisor": {"state": "starting"}}).items()
            if shown["state"] != "running"
        ]
        if not late:
            return
        if time.monotonic() > deadline:
            raise LabError(
                f"not ready after {_READY_S:g} s: {', '.join(late)}; see 'cairn lab logs'"
            )
        progress(f"waiting for {', '.join(late)}")
        time.sleep(0.1)


def _named(name: str) -> str:
    return "" if name == topology.DEFAULT_NAME else f" --name {name}"


def _units(status: labs.HostStatus) -> dict[str, Any]:
    """Units of a host as its supervisor shows them; empty when it does not answer."""
    if status.pid is None:
        return {}
    try:
        return {n: msgspec.to_builtins(u) for n, u in Supervisor(status.pid).status().items()}
    except LabError:
        return {}


def _target(found: labs.Lab, text: str) -> tuple[str, str]:
    """Host and unit of `agent1/cairn-agent`; the `cairn-` may be left out."""
    host, slash, unit = text.partition("/")
    found.topology.host(host)
    if not slash or not unit or "/" in unit or unit.startswith("."):
        raise LabError(f"{text!r} does not name a daemon; write HOST/DAEMON as in {host}/agent")
    known = {*roles.UNITS[found.topology.host(host).role], "supervisor"}
    for candidate in (unit, f"cairn-{unit}"):
        if candidate in known:
            return host, candidate
    raise LabError(f"{host} does not run {unit!r}; it runs {', '.join(sorted(known))}")
