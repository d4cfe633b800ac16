"""Our rules of iptables and ip6tables as the kernel has them."""

from collections.abc import Sequence

from . import packet_filter
from .io_programs import run
from .packet_filter import Rule
from .rules import KernelSettings

_PROGRAMS = {False: "iptables", True: "ip6tables"}


class Iptables:
    """Rules that `packet_filter` knows as ours.  An error is raised as Unavailable."""

    def __init__(self, settings: KernelSettings) -> None:
        self._settings = settings

    def is_nft(self) -> bool:
        """Whether the programs change nftables, whose generation then tells of changes."""
        return "nf_tables" in run(("iptables", "-V"))

    def read(self, *, all_families: bool = False) -> list[Rule]:
        """Our rules, duplicates and strangers' variants too."""
        both = all_families or self._settings.ipv6
        return [
            rule
            for ipv6 in ((False, True) if both else (False,))
            for table in packet_filter.TABLES
            for rule in packet_filter.parse(
                run((_PROGRAMS[ipv6], "-w", "-t", table, "-S")), ipv6, table
            )
        ]

    def plan(self) -> list[tuple[str, Rule]]:
        """What is to be changed."""
        return packet_filter.changes(self.read(), packet_filter.desired(self._settings))

    def apply(self, changes: Sequence[tuple[str, Rule]]) -> None:
        """Make the changes, each table at once."""
        for ipv6, text in packet_filter.restore(changes).items():
            run((f"{_PROGRAMS[ipv6]}-restore", "-w", "-n"), text)
