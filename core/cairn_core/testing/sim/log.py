"""The replicated log of the simulation: the log's rules, slow and unreliable by chance.

`KeyedStore` works on it as on any engine. An append takes some virtual time; `trouble` of them end
badly: refused, lost, or written with the answer lost. Older writers are fenced by newer ones.
"""

from cairn_core.replog.io_memory import Fault, MemoryLog
from cairn_core.testing.sim.world import Pause, World

APPEND_S = 0.01
FAULTS = (Fault.REFUSED, Fault.LOST, Fault.UNANSWERED)


class SimLog(MemoryLog):
    """One storage for all masters of a simulation.

    trouble: the part of all appends that end badly, 0 to 1. failed: how many did.
    """

    def __init__(self, world: World, *, trouble: float = 0.0) -> None:
        super().__init__()
        self.trouble = trouble
        self.failed = 0
        self._world = world

    async def passing(self) -> None:
        """See `MemoryLog.passing`: the way to the log."""
        await Pause(APPEND_S)
        self.faults.clear()
        if self.trouble and self._world.rng.random() < self.trouble:
            self.failed += 1
            self.faults.append(self._world.rng.choice(FAULTS))
