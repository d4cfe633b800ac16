"""Addresses that this node gives to names, where the master gives none.

A master of Apache Mesos knows nothing of VIPs, so each node chooses by itself, as in the original:
the hash of a name is the same everywhere, and names that collide are taken in their order.  What
was chosen is on disk before anybody hears of it, so that a restart changes no address.
"""

import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import msgspec

from cairn_core.errors import Unavailable, cause, shorten
from cairn_core.vips.addresses import Addresses, AddressRange, Given, OutOfAddresses

log = logging.getLogger(__name__)

#: Names that have an address; more than a cluster has VIPs, less than would hurt.
MAX_NAMES = 65_536
#: A name that nobody asked for so long loses its address, seconds of a process that runs.
RELEASE_S = 7 * 86_400.0
#: A larger file is none of ours, bytes.
_MAX_BYTES = 64 * 1024 * 1024


class NotKept(Unavailable):
    """The addresses are not on disk, so nobody may use them."""


class NodeAddresses:
    """The names and their addresses, and the file.

    Invariant: what `given` shows is on disk, or there is no file.
    ipv4, ipv6: ranges; None: no addresses of this family. file: None keeps nothing. Methods take as
    long as the disk does and may be called in a thread, one at a time.
    """

    def __init__(
        self, ipv4: AddressRange | None, ipv6: AddressRange | None, file: Path | None = None
    ) -> None:
        self._file = file
        self._ranges = (ipv4, ipv6)
        self._addresses = Addresses(ipv4, ipv6)
        self._wanted_at: dict[str, float] = {}
        self._given: dict[str, tuple[str, str]] = {}
        #: Names that got no address since the last `give`, with the reason.
        self.refused: dict[str, str] = {}

    @property
    def given(self) -> Mapping[str, tuple[str, str]]:
        """IPv4 and IPv6 address by name, as `Table.choose` takes them."""
        return self._given

    def load(self) -> None:
        """Take what the file has; a damaged one is logged and not used.

        A name whose addresses are not those of the ranges of now gets new ones.
        """
        kept = _read(self._file) if self._file is not None else {}
        for name in sorted(kept):
            fit = all(map(_fits, self._ranges, kept[name]))
            if not fit or not self._addresses.adopt(name, *kept[name]):
                log.warning("addresses are not used name=%s addresses=%s", name, kept[name])
        self._given = self._all()

    def give(self, names: Iterable[str], now: float) -> bool:
        """Give addresses to names that have none; whether `given` changed.

        names: full names, normalised. now: seconds on the monotonic clock. Names for which there
        is no address are in `refused`. Raises NotKept; `given` is as before then.
        """
        new, self.refused = [], {}
        for name in sorted(set(names) - self._given.keys()):
            if len(self._addresses) >= MAX_NAMES:
                self.refused[name] = f"more than {MAX_NAMES} names"
                continue
            try:
                self._addresses.give(name)
            except OutOfAddresses as error:
                self.refused[name] = str(error)
            else:
                new.append(name)
                self._wanted_at[name] = now
        return self._keep(undo=new) if new else False

    def release(self, wanted: Iterable[str], now: float) -> bool:
        """Take addresses back from names that were not wanted for `RELEASE_S`; as `give`.

        wanted: all names that have backends now.
        """
        for name in self._given.keys() & set(wanted):
            self._wanted_at[name] = now
        unwanted = {
            name: given
            for name, given in self._given.items()
            if now - self._wanted_at.setdefault(name, now) >= RELEASE_S
        }
        for name in unwanted:
            self._addresses.release(name)
        if not unwanted:
            return False
        self._keep(undo_release=unwanted)
        for name in unwanted:
            del self._wanted_at[name]
        return True

    def _all(self) -> dict[str, tuple[str, str]]:
        return {name: self._addresses.of(name) or Given("", "") for name in self._addresses}

    def _keep(
        self, *, undo: Iterable[str] = (), undo_release: Mapping[str, tuple[str, str]] | None = None
    ) -> bool:
        given = self._all()
        try:
            if self._file is not None:
                _write(self._file, given)
        except OSError as error:
            # Nobody heard of them, so others may have them.
            for name in undo:
                self._addresses.release(name)
            for name, addresses in (undo_release or {}).items():
                self._addresses.adopt(name, *addresses)
            raise NotKept(f"addresses not kept file={self._file}: {cause(error)}") from None
        self._given = given
        return True


def _fits(span: AddressRange | None, text: str) -> bool:
    """Whether a kept address is one of a range, or there is none of either."""
    if span is None or not text:
        return span is None and not text
    try:
        address = ip_address(text)
    except ValueError:
        return False
    low, high = span.bounds()
    return (address.version == 6) == span.ipv6 and low <= int(address) <= high


def _read(file: Path) -> dict[str, tuple[str, str]]:
    try:
        with file.open("rb") as stream:
            body = stream.read(_MAX_BYTES)
        return msgspec.json.decode(body, type=dict[str, tuple[str, str]])
    except FileNotFoundError:
        return {}
    except OSError as error:
        log.warning("addresses not read file=%s reason=%s", file, cause(error))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        log.warning("addresses not read file=%s reason=%s", file, shorten(str(error)))
    return {}


def _write(file: Path, given: Mapping[str, tuple[str, str]]) -> None:
    """Replace the file in one step, and have it on disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    body = msgspec.json.format(msgspec.json.encode(dict(sorted(given.items()))), indent=1)
    descriptor, new = tempfile.mkstemp(dir=file.parent, prefix=file.name + ".")
    try:
        with open(descriptor, "wb") as stream:
            stream.write(body)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(new, file)
    except OSError:
        with suppress(OSError):
            os.unlink(new)
        raise
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
