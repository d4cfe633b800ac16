"""Command-line flags of a daemon, made from its settings.

Every setting is `--name-with-dashes`, and `--name_with_underscores` as the original's programs
spell it. Values stay text here; `config` understands them.
"""

import json
from typing import Any

import click
import msgspec

from cairn_core.kit.config import fields


def command(program: str, struct: type[msgspec.Struct], version: str) -> click.Command:
    """A click command whose result is a dict: the flags given, as text, by field name.

    Beside them the dict has `config` (a path or None), `check_config` and `print_config`.
    """

    def collect(**given: Any) -> dict[str, Any]:
        return {
            name: value for name, value in given.items() if value is not None or name == "config"
        }

    options: list[click.Parameter] = [
        click.Option(["--config"], metavar="FILE", help="settings in JSON"),
        click.Option(["--check-config"], is_flag=True, help="check the settings and exit"),
        click.Option(
            ["--print-config"], is_flag=True, help="print settings and their sources, and exit"
        ),
    ]
    for field in fields(struct):
        names = [f"--{field.name.replace('_', '-')}", field.name]
        if "_" in field.name:
            names.insert(1, f"--{field.name}")
        text = field.description
        if not field.required and field.default not in (None, "", [], {}):
            text = f"{text} [{json.dumps(msgspec.to_builtins(field.default))}]".lstrip()
        if field.is_bool:
            # a bare --flag is true, --flag=false is possible, as in the original
            options.append(
                click.Option(names, is_flag=False, flag_value="true", metavar="BOOL", help=text)
            )
        else:
            options.append(click.Option(names, metavar=field.kind.upper() or "VALUE", help=text))
    doc = (struct.__doc__ or "").strip().partition("\n")[0]
    made = click.Command(program, params=options, callback=collect, help=doc)
    return click.version_option(version, prog_name=program)(made)
