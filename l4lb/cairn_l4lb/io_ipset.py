"""Our sets of ipset as the kernel has them: made by ipset(8), filled by netlink."""

import errno
from collections.abc import Iterable

from cairn_core.errors import Unavailable, cause

from . import ipset_messages
from .io_netlink import Netlink
from .io_programs import run
from .model import Vip
from .netlink import INET, INET6, Malformed
from .rules import SETS, KernelSettings

_TYPE = "hash:ip,port"
#: The default of 65,536 VIPs is too few for a large cluster; memory is taken only when needed.
_MOST = 1 << 20


class Ipset:
    """The sets of `rules.SETS`: whatever has these names is ours.  An error is raised as
    Unavailable.  Not for several threads at a time."""

    def __init__(self, settings: KernelSettings) -> None:
        self._sets = {key: name for key, name in SETS.items() if settings.ipv6 or not key[0]}
        self._netlink = Netlink()

    def read(self) -> dict[str, set[Vip] | None]:
        """VIPs in each set; None: there is no such set, or it is of another type."""
        result: dict[str, set[Vip] | None] = {}
        for (ipv6, _), name in self._sets.items():
            try:
                found = ipset_messages.listing(self._netlink.request(ipset_messages.dump(name)))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise Unavailable(_failure("reading", name, error)) from None
                result[name] = None
            except Malformed as error:
                raise Unavailable(_failure("reading", name, error)) from None
            else:
                fits = found.typename == _TYPE and found.family == (INET6 if ipv6 else INET)
                result[name] = found.vips if fits else None
        return result

    def create(self, name: str) -> None:
        """Make one that `read` does not find.  One of another type is replaced, which fails while
        a rule names it."""
        key = next(key for key, one in self._sets.items() if one == name)
        if self._exists(name):
            run(("ipset", "destroy", name))
        run(create_command(name, key[0]))

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
        for name in self._sets.values():
            self._send(name, [ipset_messages.flush(name)])

    def remove(self) -> list[str]:
        """Remove all sets; which there were.  Fails while a rule names one."""
        found = [name for name in SETS.values() if self._exists(name)]
        for name in found:
            run(("ipset", "destroy", name))
        return found

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def _exists(self, name: str) -> bool:
        try:
            self._netlink.request(ipset_messages.dump(name))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise Unavailable(_failure("reading", name, error)) from None
        return True

    def _by_set(self, vips: Iterable[Vip]) -> dict[str, list[Vip]]:
        result: dict[str, list[Vip]] = {}
        for vip in vips:
            name = self._sets.get((vip.ipv6, vip.protocol))
            if name is not None:
                result.setdefault(name, []).append(vip)
        return result

    def _send(self, name: str, messages: Iterable[bytes]) -> None:
        try:
            for message in messages:
                self._netlink.request(message)
        except (OSError, Malformed) as error:
            raise Unavailable(_failure("changing", name, error)) from error


def create_command(name: str, ipv6: bool) -> tuple[str, ...]:
    """How a set is made."""
    family = "inet6" if ipv6 else "inet"
    return ("ipset", "create", name, _TYPE, "family", family, "maxelem", str(_MOST))


def _failure(what: str, name: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP):
        return f"{what} set {name}: no ipset in this kernel: load the module ip_set"
    return f"{what} set {name}: {cause(error)}"
