"""What is served: VIPs by destination, backends by where answers come from, and who has news."""

from collections import OrderedDict

from cairn_l4lb.channel import BackendReport, SteerSettings, Update, VipReport
from cairn_l4lb.ewma import PeakEwma
from cairn_l4lb.health import Gate
from cairn_l4lb.members import State
from cairn_l4lb.model import BackendKey, Protocol, Service, Vip

from .flows import TCP, UDP
from .sticky import Sticky
from .vips import Place, VipState, destination

#: Backends and VIPs that left and whose counts are kept, should they come back.
MAX_LEFT = 10_000
NUMBERS: dict[Protocol, int] = {"tcp": TCP, "udp": UDP}


class Table:
    """VIPs and backends, of each one object however often they are named.

    at, sources: by protocol number, then by address and port as on the wire.
    busy: VIPs that have connections, or had a moment ago.
    """

    def __init__(self, settings: SteerSettings) -> None:
        self._settings = settings
        self._place = _place(settings)
        self.vips: dict[Vip, VipState] = {}
        self.at: dict[int, dict[bytes, VipState]] = {TCP: {}, UDP: {}}
        self.sources: dict[int, dict[bytes, State]] = {TCP: {}, UDP: {}}
        self.busy: set[VipState] = set()
        self.sticky = Sticky()
        self._states: dict[BackendKey, State] = {}
        self._left: OrderedDict[BackendKey, State] = OrderedDict()
        self._left_vips: OrderedDict[Vip, tuple[int, int, int]] = OrderedDict()
        self._dirty: list[State] = []
        self._dirty_vips: list[VipState] = []

    def configure(self, settings: SteerSettings, now: float) -> None:
        """Go on with other settings; what is known is kept."""
        self._settings = settings
        self._place = _place(settings)
        for vip in self.vips.values():
            self._leave(self._serve(vip, vip.service, now))

    def update(self, update: Update, now: float) -> None:
        """Serve what it says.  Costs what changed; backends that stay keep their health."""
        named = {service.vip for service in update.services}
        gone = set(update.gone) | (self.vips.keys() if update.whole else set())
        left: list[State] = []
        for service in update.services:
            known = self.vips.get(service.vip)
            if known is None:
                known = self.vips[service.vip] = VipState(service, self.sticky)
                counts = self._left_vips.pop(service.vip, (0, 0, 0))
                known.picks, known.refused, known.failovers = counts
                place = destination(service.vip.address, service.vip.port)
                self.at[NUMBERS[service.vip.protocol]][place] = known
            elif known.service == service:
                continue
            left += self._serve(known, service, now)
        for key in gone - named:
            if vip := self.vips.get(key):
                left += self._remove(vip, now)
        # last, so that a backend that went from one VIP to another was never away
        self._leave(left)

    def _serve(self, vip: VipState, service: Service, now: float) -> list[State]:
        vip.service = service
        vip.configure(self._settings)
        protocol = service.vip.protocol
        states: list[State] = []
        for backend in service.backends:
            key: BackendKey = (protocol, backend.address, backend.port)
            state = self._states.get(key)
            if state is None:
                state = self._left.pop(key, None) or State(protocol, backend, now)
                # whatever listens there now is another one: of what was, counts are kept alone
                state.gate, state.ewma = Gate(), PeakEwma(now)
                self._states[key] = state
                self.sources[NUMBERS[protocol]][state.source] = state
            states.append(state)
        if vip.mode == "kernel":
            self.busy.add(vip)
        return vip.serve(service, states, self._place, now)

    def _remove(self, vip: VipState, now: float) -> list[State]:
        key = vip.service.vip
        left = vip.serve(Service(key), (), self._place, now)
        vip.promotion.slots, vip.promotion.sampled = (), False
        self.sticky.forget(vip)
        self.tell_vip(vip)
        self.busy.discard(vip)
        del self.vips[key]
        del self.at[NUMBERS[key.protocol]][destination(key.address, key.port)]
        self._left_vips[key] = (vip.picks, vip.refused, vip.failovers)
        if len(self._left_vips) > MAX_LEFT:
            self._left_vips.popitem(last=False)
        return left

    def _leave(self, states: list[State]) -> None:
        """Backends that a VIP has no more: those that no other has are forgotten but for counts."""
        for state in states:
            if state.watchers or self._states.get(state.key) is not state:
                continue
            del self._states[state.key]
            del self.sources[NUMBERS[state.key[0]]][state.source]
            state.gate = Gate()
            self.tell(state)
            self._left[state.key] = state
            if len(self._left) > MAX_LEFT:
                self._left.popitem(last=False)

    def tell(self, state: State) -> None:
        """It has news to report."""
        if not state.dirty:
            state.dirty = True
            self._dirty.append(state)

    def tell_vip(self, vip: VipState) -> None:
        """Likewise a VIP."""
        self.busy.add(vip)
        if not vip.dirty:
            vip.dirty = True
            self._dirty_vips.append(vip)

    def news(self, now: float) -> tuple[list[BackendReport], list[VipReport]]:
        """Reports of all that have news; then nobody has."""
        backends = [state.report(now) for state in self._dirty]
        vips = [vip.report() for vip in self._dirty_vips]
        for state in self._dirty:
            state.dirty = False
        for vip in self._dirty_vips:
            vip.dirty = False
        self._dirty, self._dirty_vips = [], []
        return backends, vips


def _place(settings: SteerSettings) -> Place:
    return Place(frozenset(settings.own_addresses), settings.zone)
