"""An agent's end of its connection to a master: found, watched, lost, found again.

As `cairn_core.agent.io_master` does it, under the virtual clock. A peer looks for the place in
`master`, which may change while it is connected to another.
"""

from collections.abc import Callable

from cairn_core.mesos import agent_api
from cairn_core.mesos.agent_api import AgentMessage, MasterMessage
from cairn_core.testing.sim.master import MASTER_END, PEER_END, SimMaster
from cairn_core.testing.sim.world import Connection, World

BACKOFF_S = 1.0


class LinkedAgent:
    """What agents of all kinds have in common. Derive and fill in the hooks.

    up: its process runs. registered: a master said so on this connection. shut_down: told to
    leave the cluster; it does not come back.
    """

    def __init__(self, world: World, master: SimMaster, number: int) -> None:
        self.world = world
        self.master = self._place = master
        self.number = number
        self.up = False
        self.cut_off = False
        self.shut_down = False
        self.registered = False
        self._connection: Connection | None = None
        self._to_master: Callable[[AgentMessage], None] | None = None
        self._session = ""
        self._life = 0
        self._heard = 0.0
        self._ping_timeout_s = 75.0

    @property
    def pid(self) -> str:
        """Where it is: an address of its own."""
        number = self.number
        return f"slave(1)@10.{number >> 16}.{number >> 8 & 255}.{number & 255}:5051"

    # Hooks

    def hello(self) -> agent_api.Hello:
        """What to say first."""
        raise NotImplementedError

    def received(self, message: MasterMessage) -> None:
        """The master says something, on the present connection."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection is gone."""

    # Life

    def _begin_life(self) -> None:
        self.up = True
        self._life += 1
        self._session = f"session-{self.number}-{self._life}"

    def _end_life(self) -> None:
        self.up = False
        self._life += 1
        self._drop()

    def cut(self) -> None:
        """The network to the master is gone, and nobody is told: packets vanish."""
        self.cut_off = True
        if self._connection is not None:
            self._connection.vanish()

    def heal(self) -> None:
        """The network is back."""
        self.cut_off = False

    def leave(self, master: SimMaster) -> None:
        """Follow another place, at once when connected elsewhere."""
        self.master = master
        if self._connection is not None and self._place is not master:
            self._lose()

    def _drop(self) -> None:
        self.registered = False
        if self._connection is not None:
            self._connection.cut(silent=PEER_END)
            self._connection = None

    def _lose(self) -> None:
        """Drop the connection and look for one anew."""
        self._drop()
        self.lost()
        self._connect_later()

    def _connect_later(self) -> None:
        life = self._life
        delay = BACKOFF_S * (0.5 + self.world.rng.random())
        self.world.after(delay, lambda: self._connect() if life == self._life else None)

    def _connect(self) -> None:
        if not self.up or self._connection is not None or self.shut_down:
            return
        if self.cut_off or self.master.core is None:
            self._connect_later()
            return
        connection = self._connection = Connection(self.world)

        def cut() -> None:
            if self._connection is connection:
                self._connection = None
                self.registered = False
                self.lost()
                self._connect_later()

        connection.on_cut[PEER_END] = cut
        self._place = self.master
        self._to_master = self.master.open_link(
            connection, lambda message: self._take(connection, message)
        )
        self._heard = self.world.now
        self._watch(connection)
        self._send(self.hello())

    def _watch(self, connection: Connection) -> None:
        """Look for a master anew when this one is silent."""

        def look() -> None:
            if self._connection is not connection:
                return
            if self.world.now - self._heard > self._ping_timeout_s:
                self._lose()
            else:
                self._watch(connection)

        self.world.after(self._ping_timeout_s / 2, look)

    def _send(self, message: AgentMessage) -> None:
        connection, take = self._connection, self._to_master
        if connection is not None and take is not None:
            connection.send(MASTER_END, lambda: take(message))

    def _take(self, connection: Connection, message: MasterMessage) -> None:
        if connection is not self._connection:
            return
        self._heard = self.world.now
        match message:
            case agent_api.Admission(retry_after_s, problem):
                # One that leads no more says so itself when it hears of a newer epoch.
                assert problem is None or "not the leader" in problem, problem
                self.world.after(
                    retry_after_s,
                    lambda: self._send(self.hello()) if connection is self._connection else None,
                )
            case agent_api.Welcome():
                self._ping_timeout_s = message.ping_timeout_s
        self.received(message)
