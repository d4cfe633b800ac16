"""What the kernel shall hold for all VIPs together, and the least work to get there: pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from .model import BackendKey, Service, Vip
from .rules import Key, Placed, Work, compare, contents, is_backend, place


class Desired:
    """All VIPs.  Each change costs what it changes, not what there is.

    Invariant: once it `follows`, the kernel holds what `placed` says when all of `work` is done.
    """

    def __init__(self, shift: int) -> None:
        self.placed: dict[Vip, Placed] = {}
        self.work = Work()
        #: Whether changes become work; before, somebody compares all of it at once.
        self.follows = False
        self._shift = shift
        self._services: dict[Vip, Service] = {}
        self._closed: frozenset[BackendKey] = frozenset()
        #: VIPs that are the kernel's: shares, and whether it tells of few connections.
        self._hot: dict[Vip, tuple[tuple[int, ...], bool]] = {}
        #: Who has a backend, to know whom its closing concerns.
        self._users: dict[BackendKey, set[Vip]] = {}

    def update(self, services: Iterable[Service], gone: Iterable[Vip], *, whole: bool) -> None:
        """Services that are new or changed, and VIPs that are gone; `whole`: all others too."""
        services = list(services)
        if whole:
            gone = self._services.keys() - {service.vip for service in services}
        for vip in list(gone):
            old = self._services.pop(vip, None)
            if old is not None:
                self._forget(old)
                self._place(vip)
        for service in services:
            old = self._services.get(service.vip)
            if old is not None:
                self._forget(old)
            self._services[service.vip] = service
            for key in _keys(service):
                self._users.setdefault(key, set()).add(service.vip)
            self._place(service.vip)

    def weigh(
        self,
        closed: Collection[BackendKey],
        hot: Mapping[Vip, Sequence[int]],
        sampled: Collection[Vip] = (),
    ) -> None:
        """All backends that are closed, and all VIPs that are the kernel's, with their shares.
        sampled: those of them of whose connections few are reported."""
        now_closed = frozenset(closed)
        now_hot = {vip: (tuple(shares), vip in sampled) for vip, shares in hot.items() if shares}
        concerned = {vip for key in now_closed ^ self._closed for vip in self._users.get(key, ())}
        concerned |= {
            vip
            for vip in self._hot.keys() | now_hot.keys()
            if self._hot.get(vip) != now_hot.get(vip)
        }
        self._closed, self._hot = now_closed, now_hot
        for vip in concerned:
            self._place(vip)

    def elements(self) -> dict[Key, bytes | None]:
        """All elements.  O(everything)."""
        result: dict[Key, bytes | None] = {}
        for vip, placed in self.placed.items():
            result.update(contents(vip, placed, self._shift))
        return result

    def queued(self) -> set[Vip]:
        """All VIPs whose connections user space decides."""
        return {vip for vip, placed in self.placed.items() if not placed.hot}

    def _place(self, vip: Vip) -> None:
        service = self._services.get(vip)
        old = self.placed.get(vip)
        if service is None:
            new = None
            self.placed.pop(vip, None)
        else:
            new = place(service, self._closed, *self._hot.get(vip, ()))
            self.placed[vip] = new
        if old != new and self.follows:
            compare(self.work, vip, old, new, self._shift)

    def _forget(self, service: Service) -> None:
        for key in _keys(service):
            users = self._users.get(key)
            if users is not None:
                users.discard(service.vip)
                if not users:
                    del self._users[key]


def _keys(service: Service) -> Iterable[BackendKey]:
    return ((service.vip.protocol, one.address, one.port) for one in service.backends)


def difference(
    desired: Mapping[Key, bytes | None],
    actual: Mapping[Key, bytes | None],
    keep: Collection[Key] = (),
    *,
    keep_backends: bool,
) -> Work:
    """The work on elements that turns one into the other.  keep: stay for now.
    keep_backends: those that are too many are not removed before the steering process has heard of
    it."""
    work = Work()
    for key, data in desired.items():
        if key not in actual:
            work.add[key] = data
        elif actual[key] != data:
            work.replace[key] = data
    for key in actual.keys() - desired.keys():
        if key in keep or (keep_backends and is_backend(key)):
            work.later.add(key)
        else:
            work.remove.add(key)
    return work


def counts(work: Work) -> list[str]:
    """What the work on elements amounts to, one line a map."""
    names: dict[str, list[int]] = {}
    for n, keys in enumerate((work.add, work.replace, work.remove)):
        for name, _ in keys:
            names.setdefault(name, [0, 0, 0])[n] += 1
    return [
        f"map {name}: missing={missing} wrong={wrong} extra={extra}"
        for name, (missing, wrong, extra) in sorted(names.items())
    ]
