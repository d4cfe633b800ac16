"""The `cairn` client: one command, whose subcommands the components bring along.

A component names a click command in the entry-point group `cairn.commands`. Commands are found by
name and imported when they are used, so that `cairn --help` is quick and a broken component cannot
take the others with it.
"""

import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.metadata import version as package_version

import click

from cairn_core.errors import CairnError

GROUP = "cairn.commands"


def _found() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


class Commands(click.Group):
    """A group that looks its subcommands up among the installed components."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names, sorted; nothing is imported."""
        return sorted({*super().list_commands(context), *_found()})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command, or one that says why it cannot be loaded."""
        own = super().get_command(context, name)
        point = _found().get(name)
        if own is not None or point is None:
            return own
        try:
            command = point.load()
        except (Exception, SystemExit) as error:
            # whatever a component raises on import must not break the other commands
            return _broken(name, point, f"{type(error).__name__}: {error}")
        if not isinstance(command, click.Command):
            return _broken(name, point, f"{point.value} is not a command")
        return command


def _broken(name: str, point: EntryPoint, reason: str) -> click.Command:
    def refuse(**_: object) -> None:
        raise CairnError(f"command {name} cannot be loaded from {point.value}: {reason}")

    return click.Command(
        name,
        callback=refuse,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
        short_help=f"(not available: {reason})",
    )


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_version("cairn"), prog_name="cairn")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cairn(debug: bool) -> None:
    """Cairn, a data-centre operating system."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the client; returns the exit code: 0 done, 1 refused or failed, 2 wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments[:1]
    try:
        result = cairn.main(args=arguments, prog_name="cairn", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "cairn"
        print(f"{where}: {error.format_message().rstrip('.')} (see --help)", file=sys.stderr)
        return 2
    except click.ClickException as error:
        print(f"cairn: {error.format_message()}", file=sys.stderr)
        return 1
    except (click.Abort, KeyboardInterrupt):
        print("cairn: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # the reader of a pipe has seen enough; keep the interpreter from complaining at exit
        sys.stderr.close()
        return 1
    except (CairnError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"cairn: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
