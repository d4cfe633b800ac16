"""The command `cairn-dns-proxy`."""

from collections.abc import Sequence

from cairn_core.kit import daemon as kit

from .config import ProxyConfig
from .daemon import build


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; see `cairn-dns-proxy --help`."""
    return kit.main("cairn-dns-proxy", ProxyConfig, build, argv, foreign_file=True)
