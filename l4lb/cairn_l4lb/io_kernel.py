"""Everything that the kernel holds for us: planned, applied in phases, checked, and taken away."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from .model import BackendKey, Service, Vip
from .rules import KernelSettings


class Kernel:
    """The kernel's part of the balancer, in the network namespace of the thread that starts it.

    All methods block, and only one thread at a time may be in them: run them in one thread.  An
    error is raised as Unavailable, and the next call repairs what was left half-way.

        start      tables, rules, sets; elements that are there stay
        grow       services new or changed; then tell the steering process; then `shrink`
        weigh      who is closed and who is hot; the steering process knows already
        resync     every 30 s: what somebody else changed is put right
    """

    def __init__(self, settings: KernelSettings) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Set up everything but VIPs.  Keeps what an earlier process left, so that connections go
        on as they did.  Raises Unavailable naming the program or module that is missing."""

    def read_slots(self) -> dict[Vip, dict[int, tuple[str, int]]]:
        """VIP -> slot -> address and port, as an earlier process left them; at any time."""
        raise NotImplementedError

    def grow(
        self, services: Iterable[Service], gone: Iterable[Vip] = (), *, whole: bool = False
    ) -> None:
        """Add what these services need.  Nothing that the steering process may still choose is
        removed before `shrink`.  whole: all other VIPs are gone; the first call has to be it."""

    def shrink(self) -> None:
        """Remove what `grow` left: the steering process no longer chooses it."""

    def weigh(self, closed: Collection[BackendKey], promoted: Mapping[Vip, Sequence[int]]) -> None:
        """All backends that are closed, and all VIPs that are left to the kernel, with the slot
        of each share as in `VipReport.slots`.  Cheap when little changed: O(changed)."""

    def resync(self) -> list[str]:
        """Put right what others changed; what was put right, one line each."""
        raise NotImplementedError

    def preview(self, services: Iterable[Service]) -> list[str]:
        """What `start` and a whole `grow` and `shrink` would do now, as commands; changes nothing,
        and needs no `start`."""
        raise NotImplementedError

    def open_for_drain(self) -> None:
        """Empty the sets, so that new connections are the kernel's while the queues drain."""

    def close_after_drain(self) -> None:
        """Fill the sets again."""

    def close(self) -> None:
        """Close sockets; the kernel keeps what it has."""


def uninstall(settings: KernelSettings) -> list[str]:
    """Remove everything of ours, whoever made it, and nothing else; what was removed, one line
    each.  Goes on after an error, which is a line too."""
    raise NotImplementedError
