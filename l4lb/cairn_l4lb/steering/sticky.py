"""Clients that keep their backend, of all VIPs that are so set."""

from collections import OrderedDict
from collections.abc import Hashable

from cairn_l4lb.members import Member

#: Clients of all VIPs together; an entry is some 300 bytes.
MAX_STICKY = 200_000
#: How many are forgotten at a time for want of room, and how many that are over are looked for.
EVICTED, EXPIRED = 2_000, 5_000


class Sticky:
    """Which backend each client of a VIP keeps, and until when.

    Of each VIP those that came last stay.  When there are too many, the VIP with most of them gives
    way, so that one that half the world talks to takes nothing from the others.

    Invariant: there are at most `MAX_STICKY`.
    """

    def __init__(self) -> None:
        self._of: dict[Hashable, OrderedDict[bytes, tuple[Member, float]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, vip: Hashable, client: bytes, now: float) -> Member | None:
        """The backend that a client keeps."""
        clients = self._of.get(vip)
        found = clients.get(client) if clients is not None else None
        return found[0] if found is not None and now < found[1] else None

    def put(self, vip: Hashable, client: bytes, member: Member, until: float) -> None:
        """A client keeps this backend; of one VIP all for equally long."""
        clients = self._of.get(vip)
        if clients is None:
            clients = self._of[vip] = OrderedDict()
        if client in clients:
            clients.move_to_end(client)
        else:
            if self._count >= MAX_STICKY:
                most = max(self._of.values(), key=len)
                for _ in range(min(len(most), EVICTED)):
                    most.popitem(last=False)
                    self._count -= 1
            self._count += 1
        clients[client] = member, until

    def forget(self, vip: Hashable) -> None:
        """All clients of a VIP."""
        self._count -= len(self._of.pop(vip, ()))

    def expire(self, now: float) -> None:
        """Let go of those whose time is over, a bounded number of them."""
        left = EXPIRED
        for vip, clients in list(self._of.items()):
            while clients and left and next(iter(clients.values()))[1] <= now:
                clients.popitem(last=False)
                self._count -= 1
                left -= 1
            if not clients:
                del self._of[vip]
