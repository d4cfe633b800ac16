"""Which name an address leads back to (PTR), kept up to date at constant cost.

An address of a container leads to the host name of its task as long as no other task and no agent
has it; what many share tells nobody who it is.  The address of a master leads to its number.
"""

from collections.abc import Mapping

from .addresses import Address, reverse_name
from .bags import added, only, removed
from .wire import PTR
from .zone import Record


class Reverse:
    """Claims on addresses, and the PTR records that follow.

    Invariant: after `take` the records it gave, less those it took back, are what the claims say.
    """

    def __init__(self) -> None:
        #: Bags of the host names of the tasks that have an address.
        self._tasks: dict[Address, object] = {}
        self._agents: dict[Address, int] = {}
        self._masters: Mapping[Address, str] = {}
        self._shown: dict[Address, str] = {}
        self._touched: set[Address] = set()

    def claim(self, address: Address, host: str) -> None:
        """A task with this host name has the address."""
        self._tasks[address], _ = added(self._tasks.get(address), host)
        self._touched.add(address)

    def release(self, address: Address, host: str) -> None:
        """It has it no longer.  KeyError when it never had."""
        bag, _ = removed(self._tasks.pop(address), host)
        if bag is not None:
            self._tasks[address] = bag
        self._touched.add(address)

    def add_agent(self, address: Address) -> None:
        """An agent has the address; several may."""
        self._agents[address] = self._agents.get(address, 0) + 1
        self._touched.add(address)

    def remove_agent(self, address: Address) -> None:
        """One agent less has it."""
        count = self._agents.pop(address) - 1
        if count:
            self._agents[address] = count
        self._touched.add(address)

    def set_masters(self, names: Mapping[Address, str]) -> None:
        """Names of the masters."""
        self._touched |= names.keys() | self._masters.keys()
        self._masters = dict(names)

    def take(self) -> tuple[list[Record], list[Record]]:
        """Records to remove and to add since the last call."""
        remove: list[Record] = []
        add: list[Record] = []
        if not self._touched:
            return remove, add
        for address in self._touched:
            name, shown = self._name(address), self._shown.get(address)
            if name != shown:
                owner = reverse_name(address)
                if shown is not None:
                    remove.append((owner, PTR, shown))
                    del self._shown[address]
                if name is not None:
                    add.append((owner, PTR, name))
                    self._shown[address] = name
        self._touched.clear()
        return remove, add

    def _name(self, address: Address) -> str | None:
        name = self._masters.get(address)
        if name is not None or address in self._agents:
            return name
        host: str | None = only(self._tasks.get(address))
        return host
