"""Our nft table as the kernel has it: rules by nft(8), elements by netlink."""

import contextlib
import errno
import logging
from collections.abc import Iterable, Iterator, Mapping

from cairn_core.errors import Unavailable, cause

from . import nft_messages, ruleset
from .io_netlink import Netlink
from .io_programs import run
from .netlink import Malformed, Message
from .rules import KernelSettings, Key, element_text, is_pick_chain, read_element
from .ruleset import TABLE

log = logging.getLogger(__name__)

#: For a hundred thousand elements in one batch.
_BUFFER_BYTES = 64 << 20


class Nft:
    """The table `inet cairn_l4lb`: whatever has this name is ours, whoever made it.

    An error is raised as Unavailable.  Not for several threads at a time.
    """

    def __init__(self, settings: KernelSettings) -> None:
        self._settings = settings
        self._maps = ruleset.maps(settings.ipv6)
        self._netlink = Netlink(buffer_bytes=_BUFFER_BYTES)
        #: The generation of all rules of the host when `mark_clean` was called, and as we alone
        #: changed it since; None: somebody else may have changed ours.
        self._clean: int | None = None
        self._rules = b""
        #: Chains `pick-N` that the table has, or shall have when it is made again.
        self._picks = ruleset.first_picks(settings.ipv6)

    @property
    def port(self) -> int:
        """Our socket, as events of what we change name it; programs that we run have others."""
        return self._netlink.port

    def install(self) -> None:
        """Make the table, or make it what it should be; elements stay where they mean the same."""
        keep: dict[Key, bytes | None] = {}
        if self.means_the_same():
            # in the same transaction, so that a new version costs no connection
            keep = self.read()
            self._picks |= picks_of(keep)
        ways = [(True, keep), (True, {})]
        # one that is as we left it, maybe before a restart, has only to have its rules
        if not self._rules and self.is_current() and self._has_our_chains():
            ways.insert(0, (False, {}))
        for anew, kept in ways:
            try:
                run(("nft", "-f", "-"), self._text(anew=anew, keep=kept))
                break
            except Unavailable as error:
                if (anew, kept) == ways[-1]:
                    raise
                log.warning("%s; making the table anew", error)
        self._rules = self._fingerprint()
        self._clean = None

    def _text(self, *, anew: bool, keep: Mapping[Key, bytes | None]) -> str:
        shift = self._settings.shift
        kept = [
            element_text(key, data, shift)
            for key, data in keep.items()
            if read_element(key, data, shift) is not None
        ]
        return ruleset.ruleset(self._settings, self._picks, anew=anew, elements=kept)

    def means_the_same(self) -> bool:
        """Whether there is a table whose marks are slots as ours are, whatever its form."""
        return ruleset.has_mask(self._comment() or "", self._settings.mark_mask)

    def is_current(self) -> bool:
        """Whether there is a table of this form and these settings; its rules are not looked at."""
        return self._comment() == ruleset.comment(self._settings)

    def is_installed(self) -> bool:
        """Whether table, chains and rules are those of `install`."""
        return self._fingerprint() == self._rules

    def generation(self) -> int:
        """What counts changes of any rules of the host."""
        with _told("nftables"):
            return nft_messages.generation(self._netlink.request(nft_messages.ask_generation())[0])

    def is_clean(self) -> bool:
        """Whether nobody but us changed any rules of the host since `mark_clean`."""
        return self._clean is not None and self.generation() == self._clean

    def mark_clean(self, generation: int) -> None:
        """All was found as it should be, by reading that began at this generation."""
        self._clean = generation

    def read(self) -> dict[Key, bytes | None]:
        """All elements; empty without a table."""
        return self._read(self._maps)

    def _read(self, maps: Iterable[str]) -> dict[Key, bytes | None]:
        result: dict[Key, bytes | None] = {}
        for name in maps:
            try:
                answers = self._netlink.request(nft_messages.dump(TABLE, name))
                is_set = name.startswith(ruleset.SETS)
                for answer in answers:
                    for key, data in nft_messages.elements(answer):
                        result[name, key] = None if is_set else data
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise Unavailable(f"reading {name} of {TABLE}: {cause(error)}") from None
            except Malformed as error:
                raise Unavailable(f"reading {name} of {TABLE}: {error}") from None
        return result

    def change(
        self,
        add: Mapping[Key, bytes | None],
        replace: Mapping[Key, bytes | None],
        remove: Iterable[Key],
    ) -> None:
        """All or nothing at once: no packet meets half of it."""
        new = {**add, **replace}
        if missing := picks_of(new) - self._picks:
            self._more_picks(missing)
        sequence = self._netlink.next_sequence()
        messages = []
        for name, keys in _by_map([*remove, *replace]).items():
            gone = (nft_messages.element(key) for key in keys)
            messages += nft_messages.delete(TABLE, name, gone, sequence)
        # a verdict needs nothing but its chain, so the order of maps does not matter
        for name, keys in _by_map(new).items():
            made = (nft_messages.element(key, new[name, key]) for key in keys)
            messages += nft_messages.add(TABLE, name, made, sequence)
        if messages:
            self._commit(messages, sequence)

    def _more_picks(self, picks: set[str]) -> None:
        """Add chains; whether others changed anything is known afterwards as it was before."""
        installed, clean = self.is_installed(), self.is_clean()
        run(("nft", "-f", "-"), ruleset.more_picks(self._settings, picks))
        self._picks |= picks
        if installed:
            self._rules = self._fingerprint()
        self._clean = _next(self._clean) if clean and self._clean is not None else None

    def remove(self) -> bool:
        """Remove the table; False: there was none."""
        if self._comment() is None:
            return False
        run(("nft", "delete", "table", "inet", TABLE))
        return True

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def _commit(self, messages: list[bytes], sequence: int) -> None:
        with _told(f"changing {TABLE}"):
            if self._clean is not None:
                batch = nft_messages.batch(messages, sequence, self._clean)
                try:
                    self._netlink.exchange(batch, sequence)
                except OSError as error:
                    if error.errno != errno.ERESTART:
                        raise
                    self._clean = None  # somebody changed rules; maybe not ours
                else:
                    self._clean = _next(self._clean)
                    return
            self._netlink.exchange(nft_messages.batch(messages, sequence), sequence)

    def _comment(self) -> str | None:
        """What the table says of itself; None: there is no table."""
        try:
            answers = self._netlink.request(nft_messages.ask_table(TABLE))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise Unavailable(f"nftables: {cause(error)}") from None
        return nft_messages.comment_of(answers[0])

    def _fingerprint(self) -> bytes:
        answers = self._ask([nft_messages.ask_table(TABLE), *nft_messages.ask_rules(TABLE)])
        return nft_messages.fingerprint(answers, TABLE) if answers else b""

    def _has_our_chains(self) -> bool:
        """Whether there is no chain of somebody else, and none is missing."""
        names = nft_messages.chain_names(self._ask(nft_messages.ask_rules(TABLE)), TABLE)
        return {name for name in names if not is_pick_chain(name)} == ruleset.chains(self._settings)

    def _ask(self, questions: Iterable[bytes]) -> list[Message]:
        """The answers about our table; none without one."""
        try:
            return [one for each in questions for one in self._netlink.request(each)]
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            raise Unavailable(f"reading {TABLE}: {cause(error)}") from None


def _next(generation: int) -> int:
    """The generation after this one: 32 bits, never 0."""
    return generation % 0xFFFFFFFF + 1


def picks_of(elements: Mapping[Key, bytes | None]) -> set[str]:
    """The chains `pick-N` that elements go to."""
    verdicts = {data for (name, _), data in elements.items() if data and name.startswith("vips")}
    return {chain for chain in map(nft_messages.chain_of, verdicts) if is_pick_chain(chain)}


def _by_map(keys: Iterable[Key]) -> dict[str, list[bytes]]:
    result: dict[str, list[bytes]] = {}
    for name, key in keys:
        result.setdefault(name, []).append(key)
    return result


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, Malformed) as error:
        raise Unavailable(f"{what}: {cause(error)}") from error
