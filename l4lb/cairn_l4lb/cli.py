"""The command `cairn-l4lb`: the daemon, and what it would do."""

import sys
from collections.abc import Sequence

import click

from cairn_core.kit import daemon as kit

from .config import FOREIGN, L4lbConfig
from .daemon import L4lb, build

DRY_RUN = "--dry-run"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; see `cairn-l4lb --help`.  With `--dry-run` print what it would change."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments and DRY_RUN not in arguments:
        click.echo(f"With {DRY_RUN}, prints what would be changed in the kernel, and ends.\n")
    chosen = dry_run if DRY_RUN in arguments else build
    arguments = [one for one in arguments if one != DRY_RUN]
    return kit.main("cairn-l4lb", L4lbConfig, chosen, arguments, foreign_keys=FOREIGN)


async def dry_run(config: L4lbConfig) -> kit.Daemon[L4lbConfig]:
    """Print the plan, and end with code 0."""
    lines = await L4lb(config, dry=True).plan()
    click.echo("\n".join(lines) if lines else "nothing to change")
    raise click.exceptions.Exit(0)
