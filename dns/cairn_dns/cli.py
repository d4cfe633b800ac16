"""The command `cairn-dns`."""

from collections.abc import Sequence

from cairn_core.kit import daemon as kit

from .config import DnsConfig
from .daemon import build


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; see `cairn-dns --help`."""
    return kit.main("cairn-dns", DnsConfig, build, argv, ignore_prefixes=("CAIRN_DNS_PROXY_",))
