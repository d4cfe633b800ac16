"""The cairn client finds its commands and survives broken ones."""

import sys
import types
from importlib.metadata import EntryPoint

import click
import pytest

from cairn_core import cli
from cairn_core.errors import Unavailable


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three components: one that works, one that cannot be imported, one that is no command."""

    @click.command()
    @click.option("--times", type=int, default=1)
    def good(times: int) -> None:
        """Say good."""
        if times < 0:
            raise Unavailable("no master answers")
        click.echo("good " * times)

    module = types.ModuleType("cairn_test_plugin")
    module.good = good  # type: ignore[attr-defined]  # a module made here
    module.number = 7  # type: ignore[attr-defined]  # likewise
    monkeypatch.setitem(sys.modules, "cairn_test_plugin", module)
    points = {
        "good": "cairn_test_plugin:good",
        "missing": "cairn_no_such_module:x",
        "number": "cairn_test_plugin:number",
    }
    found = {name: EntryPoint(name, value, cli.GROUP) for name, value in points.items()}
    monkeypatch.setattr(cli, "_found", lambda: found)


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("good --times 2", 0, "good good", ""),
        ("--help", 0, "Say good.", ""),
        ("--version", 0, "cairn, version ", ""),
        ("good --times -1", 1, "", "cairn: no master answers\n"),
        ("good --times x", 2, "", "cairn good: Invalid value for '--times'"),
        ("nothing", 2, "", "cairn: No such command 'nothing' (see --help)\n"),
        ("missing --anything", 1, "", "cannot be loaded from cairn_no_such_module:x"),
        ("number", 1, "", "cairn_test_plugin:number is not a command"),
        ("--debug good --times -1", 1, "", "Traceback"),
        ("", 2, "", "Usage: cairn"),
    ],
)
def test_the_client(
    line: str, code: int, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.split()) == code
    printed = capsys.readouterr()
    assert out in printed.out
    assert err in printed.err
    assert ("Traceback" in printed.err) == ("--debug" in line)
