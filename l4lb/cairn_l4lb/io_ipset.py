"""Our sets of ipset as the kernel has them: made by ipset(8), filled by netlink."""

import errno
from collections.abc import Callable, Iterable, Mapping

from cairn_core.errors import Unavailable, cause

from . import ipset_messages
from .io_netlink import Netlink
from .io_programs import run
from .ipset_messages import Listing
from .model import Vip
from .netlink import INET, INET6, Malformed
from .rules import SETS, KernelSettings

_TYPE = "hash:ip,port"
_FAMILIES = {INET: "inet", INET6: "inet6"}
#: The default of 65,536 VIPs is too few for a large cluster; memory is taken only when needed.
_MOST = 1 << 20
#: The original's sets have the default, and are as good as ours.
_ENOUGH = 1 << 16
_MEANWHILE = "until then the kernel chooses for the VIPs of this set"


class Ipset:
    """The sets of `rules.SETS`.  Those of our type are ours, whoever made them; one of another type
    is somebody else's.  An error is raised as Unavailable.  Not for several threads at a time.

    unfit: why sets cannot be used, by name. Nothing is put into these, and no rule may name them.
    """

    def __init__(self, settings: KernelSettings) -> None:
        self._sets = {name: key[0] for key, name in SETS.items() if settings.ipv6 or not key[0]}
        self._names = {key: name for key, name in SETS.items() if name in self._sets}
        self._netlink = Netlink()
        self.unfit: dict[str, str] = {}

    def read(self) -> dict[str, set[Vip]]:
        """VIPs in each set that can be used and is there."""
        found = {name: self._look(name) for name in self._sets if name not in self.unfit}
        return {name: one.vips for name, one in found.items() if one is not None}

    def plan(self, rules: Callable[[], Mapping[str, int]]) -> dict[str, list[str]]:
        """The commands that sets need; sets `unfit` for them get to be known.

        rules: how many rules of ours name each set.
        """
        self.unfit = {}
        result = {}
        for name, ipv6 in self._sets.items():
            found = self._look(name)
            if found is None:
                result[name] = [create_command(name, ipv6)]
            elif not _is_ours(found, ipv6):
                self.unfit[name] = (
                    f"set {name} is not ours, its type is {_kind(found)}: "
                    f"destroy or rename it; {_MEANWHILE}"
                )
            elif flaw := _flaw(found):
                if found.references > rules().get(name, 0):
                    self.unfit[name] = (
                        f"set {name} has {flaw}, and others use it: "
                        f"have them use another set; {_MEANWHILE}"
                    )
                    continue
                new = f"{name}-cairn"
                result[name] = [
                    # there may be one that another process had no time to swap
                    create_command(new, ipv6).replace("ipset", "ipset -exist"),
                    f"ipset swap {new} {name}",
                    f"ipset destroy {new}",
                ]
        return result

    def ensure(self, rules: Callable[[], Mapping[str, int]]) -> list[str]:
        """Do what `plan` says; which sets were made or made anew.  Those that could not are
        `unfit`."""
        made = []
        for name, commands in self.plan(rules).items():
            try:
                for command in commands:
                    run(command.split())
            except Unavailable as error:
                self.unfit[name] = f"{error}; {_MEANWHILE}"
            else:
                made.append(name)
        return made

    def add(self, vips: Iterable[Vip]) -> None:
        """Add to the sets they belong to."""
        for name, members in self._by_set(vips).items():
            self._send(name, ipset_messages.add(name, members))

    def delete(self, vips: Iterable[Vip]) -> None:
        """Delete from the sets they belong to."""
        for name, members in self._by_set(vips).items():
            self._send(name, ipset_messages.delete(name, members))

    def flush(self) -> None:
        """Empty all sets."""
        for name in self._sets:
            if name not in self.unfit:
                self._send(name, [ipset_messages.flush(name)])

    def remove(self, name: str) -> bool:
        """Remove a set, which fails while a rule names it; False: there is none of ours."""
        found = self._look(name)
        if found is None or not _is_ours(found, self._sets[name]):
            return False
        run(("ipset", "destroy", name))
        return True

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def _look(self, name: str) -> Listing | None:
        """A set as it is; None: there is none."""
        try:
            return ipset_messages.listing(self._netlink.request(ipset_messages.dump(name)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise Unavailable(_failure("reading", name, error)) from None
        except Malformed as error:
            raise Unavailable(_failure("reading", name, error)) from None

    def _by_set(self, vips: Iterable[Vip]) -> dict[str, list[Vip]]:
        result: dict[str, list[Vip]] = {}
        for vip in vips:
            name = self._names.get((vip.ipv6, vip.protocol))
            if name is not None and name not in self.unfit:
                result.setdefault(name, []).append(vip)
        return result

    def _send(self, name: str, messages: Iterable[bytes]) -> None:
        try:
            for message in messages:
                self._netlink.request(message)
        except (OSError, Malformed) as error:
            raise Unavailable(_failure("changing", name, error)) from error


def create_command(name: str, ipv6: bool) -> str:
    """How a set is made."""
    return f"ipset create {name} {_TYPE} family {'inet6' if ipv6 else 'inet'} maxelem {_MOST}"


def _is_ours(found: Listing, ipv6: bool) -> bool:
    """Whether a set with a name of ours is."""
    return found.typename == _TYPE and found.family == (INET6 if ipv6 else INET)


def _kind(found: Listing) -> str:
    """The type of a set in words."""
    family = _FAMILIES.get(found.family)
    return f"{found.typename} of {family}" if family else found.typename


def _flaw(found: Listing) -> str:
    """Why a set of our type cannot serve; empty when it can."""
    if found.timeout is not None:
        return f"timeout {found.timeout}"
    return f"maxelem {found.maxelem}" if found.maxelem < _ENOUGH else ""


def _failure(what: str, name: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP):
        return f"{what} set {name}: no ipset in this kernel: load the module ip_set"
    return f"{what} set {name}: {ipset_messages.reason(number or 0) or cause(error)}"
