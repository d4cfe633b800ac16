"""Everything that the kernel holds for us: planned, applied in phases, checked, and taken away."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from cairn_core.errors import Unavailable, cause

from . import io_nft, kernel, rules, ruleset
from .io_host import Host
from .io_ipset import Ipset
from .io_iptables import Iptables
from .kernel import Desired
from .model import BackendKey, Service, Vip
from .packet_filter import command_line
from .rules import SETS, KernelSettings

log = logging.getLogger(__name__)

#: Gone when the host starts anew, as what it remembers.
MEMORY = Path("/run/cairn/l4lb-host.json")


class Kernel:
    """The kernel's part of the balancer, in the network namespace of the thread that makes it.

    All methods block, and only one thread at a time may be in them.  An error is raised as
    Unavailable; what was asked stays asked, and the next call does it.

        start      tables, rules, sets; elements that are there stay
        grow       services new or changed; then tell the steering process; then `shrink`
        weigh      who is closed and who is hot; the steering process knows already
        resync     every 30 s: what somebody else changed is put right
    """

    def __init__(self, settings: KernelSettings, memory: Path = MEMORY) -> None:
        self._settings = settings
        self._nft, self._ipset = _open(settings)
        self._iptables, self._host = Iptables(settings), Host(settings, memory)
        self._desired = Desired(settings.shift)
        self._started = self._iptables_tells = False
        #: Something failed half-way: the next call compares everything.
        self._broken = False
        #: What cannot be put right, by name of its set; the rest works.
        self._problems: dict[str, str] = {}
        self._draining = False
        #: There may be routes to VIPs that are gone.
        self._tidy_routes = False

    def start(self) -> None:
        """Set up everything but VIPs.  Keeps what an earlier process left, so that connections go
        on as they did.  Raises Unavailable naming the program or module that is missing."""
        self._ensure_sets()
        self._tell(self._ipset.unfit)
        self._nft.install()
        self._iptables.apply(self._iptables.plan(self._ipset.unfit))
        self._iptables_tells = self._iptables.is_nft()
        for done in self._host.apply():
            log.info("host: %s", done)
        self._started = True

    @property
    def port(self) -> int:
        """Our netlink socket, as events of changes of the table name it."""
        return self._nft.port

    @property
    def problems(self) -> list[str]:
        """What others made and we cannot put right, one line each; also logged, once.  Everything
        else works, and it is looked at again by `resync`."""
        return list(self._problems.values())

    def read_slots(self) -> dict[Vip, dict[int, tuple[str, int]]]:
        """VIP -> slot -> address and port, as they are in the kernel now."""
        if not self._nft.means_the_same():
            return {}
        return rules.read_slots(self._nft.read(), self._settings.shift)

    def grow(
        self, services: Iterable[Service], gone: Iterable[Vip] = (), *, whole: bool = False
    ) -> None:
        """Add what these services need.  Nothing that the steering process may still choose is
        removed before `shrink`.  whole: all other VIPs are gone; the first call has to be it."""
        desired = self._desired
        if not whole and not desired.follows:
            raise ValueError("the first services have to be all: whole is False")
        services, gone = list(services), list(gone)
        desired.update(services, gone, whole=whole)
        self._host.serve(service.vip.address for service in services)
        self._tidy_routes |= whole or any(self._host.needs(vip.address) for vip in gone)
        if desired.follows:
            self._do()
            return
        # before it, elements of an earlier process are not ours to judge
        desired.follows = self._broken = True
        self._compare(keep_backends=True)

    def shrink(self) -> None:
        """Remove what `grow` left: the steering process no longer chooses it."""
        work = self._desired.work
        try:
            # first, so that what is gone is refused and not left to a table without it
            self._ipset.delete(work.unqueue)
            self._nft.change({}, {}, work.later)
        except Unavailable:
            self._broken = True
            work.later.clear()
            self._compare(keep_backends=False)
        work.unqueue.clear()
        work.later.clear()
        if self._tidy_routes:
            self._tidy_routes = False
            self._host.keep({vip.address for vip in self._desired.placed})

    def weigh(
        self,
        closed: Collection[BackendKey],
        promoted: Mapping[Vip, Sequence[int]],
        sampled: Collection[Vip] = (),
    ) -> None:
        """All backends that are closed, all VIPs that are left to the kernel, with the slot of
        each share as in `VipReport.slots`, and those of them of which little is told.
        O(changed)."""
        self._desired.weigh(closed, promoted, sampled)
        self._do()

    def resync(self) -> list[str]:
        """Put right what others changed; what was put right, one line each."""
        if not self._started:
            self.start()
        return self._host.apply() + self._compare(keep_backends=False)

    def preview(self, services: Iterable[Service]) -> list[str]:
        """What `start`, a whole `grow` and `shrink` would do now, as commands; changes nothing,
        and needs no `start`."""
        desired = Desired(self._settings.shift)
        services = list(services)
        desired.update(services, (), whole=True)
        actual = self._nft.read()
        plan = self._ipset.plan(self._iptables.users)
        sets = {name: members for name, members in self._ipset.read().items() if name not in plan}
        lines = [f"# {problem}" for problem in self._ipset.unfit.values()]
        lines += [command for commands in plan.values() for command in commands]
        if not self._nft.is_current():
            picks = ruleset.first_picks(self._settings.ipv6) | io_nft.picks_of(desired.elements())
            lines += [f"nft {line}" for line in ruleset.summary(self._settings, picks)]
            actual = {}
        work = kernel.difference(desired.elements(), actual, keep_backends=False)
        lines += [
            f"nft delete element inet {ruleset.TABLE} "
            + rules.element_text(key, actual[key], self._settings.shift)
            for key in sorted([*work.remove, *work.replace])
        ]
        new = {**work.add, **work.replace}
        lines += [
            f"nft add element inet {ruleset.TABLE} "
            + rules.element_text(key, new[key], self._settings.shift)
            for key in sorted(new)
        ]
        unfit = self._ipset.unfit
        wanted = {vip for vip in desired.queued() if SETS[vip.ipv6, vip.protocol] not in unfit}
        there = {vip for members in sets.values() for vip in members}
        for command, vips in (("add", wanted - there), ("del", there - wanted)):
            lines += [
                f"ipset {command} {SETS[vip.ipv6, vip.protocol]} "
                f"{vip.address},{vip.protocol}:{vip.port}"
                for vip in sorted(vips)
            ]
        lines += [command_line(*change) for change in self._iptables.plan(unfit)]
        addresses = [service.vip.address for service in services]
        return lines + [" ".join(command) for command in self._host.plan(addresses)]

    def open_for_drain(self) -> None:
        """Empty the sets, so that new connections are the kernel's while the queues drain."""
        self._draining = True
        self._ipset.flush()

    def close_after_drain(self) -> None:
        """Fill the sets again."""
        self._draining = False
        self._ipset.add(self._desired.queued())

    def close(self) -> None:
        """Close sockets; the kernel keeps what it has."""
        self._nft.close()
        self._ipset.close()

    def _do(self) -> None:
        """The part of the work that need not wait."""
        if self._broken:
            self._compare(keep_backends=False)
            return
        work = self._desired.work
        # the kernel has them for itself from now on, whatever the steering process knows
        hot = {vip for vip in work.unqueue if vip in self._desired.placed}
        try:
            self._nft.change(work.add, work.replace, work.remove)
            if not self._draining:
                self._ipset.add(work.queue)
            self._ipset.delete(hot)
        except Unavailable as error:
            log.warning("%s; comparing everything", error)
            self._broken = True
            self._compare(keep_backends=False)
            return
        work.unqueue -= hot
        self._done()

    def _done(self) -> None:
        work = self._desired.work
        for done in (work.add, work.replace, work.remove, work.queue):
            done.clear()

    def _ensure_sets(self) -> list[str]:
        """Have sets; lines for those that were made."""
        return [f"set {name}" for name in self._ipset.ensure(self._iptables.users)]

    def _tell(self, problems: Mapping[str, str]) -> None:
        """These are all problems there are now."""
        for name, text in problems.items():
            if self._problems.get(name) != text:
                log.error("%s", text)
        for name in self._problems.keys() - problems.keys():
            log.info("set %s can be used again", name)
        self._problems = dict(problems)

    def _compare(self, *, keep_backends: bool) -> list[str]:
        """Read what there is, and put right what is not as it should be; what that was."""
        unfit = self._ipset.unfit.keys()
        repaired = self._ensure_sets()
        # rules name the sets that can be used
        same_sets = not repaired and self._ipset.unfit.keys() == unfit
        problems = dict(self._ipset.unfit)
        clean = not self._broken and self._nft.is_clean()
        generation = self._nft.generation()
        if not clean and not self._nft.is_installed():
            self._nft.install()
            repaired.append(f"table inet {ruleset.TABLE}")
        if self._desired.follows:
            if not clean:
                repaired += self._compare_elements(keep_backends=keep_backends)
            repaired += self._compare_sets(problems)
        self._tell(problems)
        if not (clean and same_sets and self._iptables_tells):
            changes = self._iptables.plan(self._ipset.unfit)
            self._iptables.apply(changes)
            repaired += [command_line(*change) for change in changes]
        if not clean and not repaired:
            self._nft.mark_clean(generation)
        self._broken = False
        return repaired

    def _compare_elements(self, *, keep_backends: bool) -> list[str]:
        pending = self._desired.work.later
        found = kernel.difference(
            self._desired.elements(), self._nft.read(), pending, keep_backends=keep_backends
        )
        self._nft.change(found.add, found.replace, found.remove)
        pending.clear()
        pending |= found.later
        self._done()
        return kernel.counts(found)

    def _compare_sets(self, problems: dict[str, str]) -> list[str]:
        """What was put right; what could not be comes to `problems`, and stops no other set."""
        wanted = set() if self._draining else self._desired.queued()
        pending = self._desired.work.unqueue
        repaired = []
        for name, members in self._ipset.read().items():
            mine = {vip for vip in wanted if SETS[vip.ipv6, vip.protocol] == name}
            missing, extra = mine - members, members - mine - pending
            try:
                self._ipset.delete(extra)
                self._ipset.add(missing)
            except Unavailable as error:
                problems[name] = str(error)
                continue
            if missing or extra:
                repaired.append(f"set {name}: missing={len(missing)} extra={len(extra)}")
        return repaired


def uninstall(
    memory: Path = MEMORY, settings: KernelSettings | None = None
) -> tuple[list[str], list[str]]:
    """Remove everything of ours, whoever made it, and nothing else.

    memory: file of `Kernel`. settings: of `Kernel`, as far as they are known.
    Returns what was removed and what could not be, one line each.
    """
    settings = replace(settings or KernelSettings(), ipv6=True)
    nft, ipset = _open(settings)
    steps: tuple[Callable[[], list[str]], ...] = (
        lambda: _remove_rules(Iptables(settings), False),
        lambda: _remove_rules(Iptables(settings), True),
        lambda: [f"table inet {ruleset.TABLE}"] if nft.remove() else [],
        *(partial(_remove_set, ipset, name) for name in SETS.values()),
    )
    removed: list[str] = []
    problems: list[str] = []
    for step in steps:
        try:
            removed += step()
        except Unavailable as error:
            problems.append(str(error))
    nft.close()
    ipset.close()
    undone, not_undone = Host(settings, memory).remove()
    return removed + undone, problems + not_undone


def _remove_set(ipset: Ipset, name: str) -> list[str]:
    return [f"set {name}"] if ipset.remove(name) else []


def _remove_rules(iptables: Iptables, ipv6: bool) -> list[str]:
    changes = [("-D", rule) for rule in iptables.read(ipv6)]
    iptables.apply(changes)
    return [command_line(*change) for change in changes]


def _open(settings: KernelSettings) -> tuple[io_nft.Nft, Ipset]:
    try:
        return io_nft.Nft(settings), Ipset(settings)
    except OSError as error:
        raise Unavailable(f"netlink of netfilter, module nfnetlink: {cause(error)}") from None
