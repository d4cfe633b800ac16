"""Our rules of iptables and ip6tables as the kernel has them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from cairn_core.errors import Unavailable

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

    def read(self, ipv6: bool) -> list[Rule]:
        """Our rules of one family, duplicates and other variants too."""
        program = _PROGRAMS[ipv6]
        return [
            rule
            for table in packet_filter.TABLES
            for rule in packet_filter.parse(run((program, "-w", "-t", table, "-S")), ipv6, table)
        ]

    def plan(self, without: Collection[str] = ()) -> list[tuple[str, Rule]]:
        """What is to be changed.  without: sets that no rule of ours may name."""
        wanted = packet_filter.desired(self._settings, without)
        return packet_filter.changes(self._read_all(), wanted)

    def users(self) -> Mapping[str, int]:
        """How many rules of ours name each set."""
        return Counter(map(packet_filter.set_of, self._read_all()))

    def _read_all(self) -> list[Rule]:
        found = self.read(False)
        try:
            return found + self.read(True)
        except Unavailable:
            if self._settings.ipv6:
                raise
        return found  # otherwise there is nothing of ours to remove

    def apply(self, changes: Sequence[tuple[str, Rule]]) -> None:
        """Make the changes, each table at once."""
        for ipv6, text in packet_filter.restore(changes).items():
            run((f"{_PROGRAMS[ipv6]}-restore", "-w", "-n"), text)
