"""What the proxy does to its host: its addresses on a link, and `/etc/resolv.conf`.

How a fresh process knows its own: the addresses are the proxy's on every host; the link has our
alias; the file has our first line.
"""

import asyncio
import contextlib
import errno
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

import msgspec

from cairn_core.errors import Unavailable, cause, shorten

from .resolvconf import from_saved, is_ours, render, to_saved

log = logging.getLogger(__name__)

ALIAS = "cairn-dns-proxy"
#: Label of IPv4 addresses on `lo`, where there are no dummy links.
LABEL = "lo:cairn"
IP_TIMEOUT_S = 10.0
#: How often the proxy's addresses are asked whether they answer, seconds.
CHECK_S = 10.0
MAX_FILE_BYTES = 64 * 1024


async def _ip(*argv: str) -> str:
    """Run `ip`; raises Unavailable with what it says."""
    try:
        process = await asyncio.create_subprocess_exec(
            "ip",
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise Unavailable(f"cannot run ip: {cause(error)}") from None
    try:
        async with asyncio.timeout(IP_TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Unavailable(f"ip {' '.join(argv)}: not done within {IP_TIMEOUT_S} s") from None
    if process.returncode:
        raise Unavailable(f"ip {' '.join(argv)}: {shorten(err.decode(errors='replace'))}")
    return out.decode(errors="replace")


async def addresses_by_link() -> dict[str, list[str]]:
    """The addresses of this host; raises Unavailable."""
    found: dict[str, list[str]] = {}
    for link in msgspec.json.decode(await _ip("-j", "addr", "show") or "[]"):
        if isinstance(link, dict) and "ifname" in link:
            found[link["ifname"]] = [
                str(one["local"])
                for one in link.get("addr_info", ())
                if "local" in one and one.get("scope") != "link"
            ]
    return found


class Addresses:
    """The proxy's addresses on this host.

    Invariant: after `add` all are there, whoever put them there; `remove` takes away what is on
    our link, and the link when we made it.
    """

    def __init__(self, wanted: Sequence[str], link: str) -> None:
        self.wanted = tuple(str(ip_address(text)) for text in wanted)
        self.link = link
        #: Why the addresses are not all there, or None.
        self.problem: str | None = None

    async def add(self) -> None:
        """Add what is missing; a problem is kept and logged, for the rest can work without."""
        self.problem = None
        try:
            there = await addresses_by_link()
            have = {address for addresses in there.values() for address in addresses}
            missing = [address for address in self.wanted if address not in have]
            if missing:
                link = await self._link(there)
                for address in missing:
                    await self._try(address, link)
        except Unavailable as error:
            self._failed(error)

    async def _try(self, address: str, link: str) -> None:
        try:
            await self._put(address, link)
        except Unavailable as error:
            if ":" not in address:
                self._failed(error)
            else:  # a kernel without IPv6
                log.warning("address left out address=%s reason=%s", address, error)

    def _failed(self, error: Unavailable) -> None:
        self.problem = str(error)
        log.error("addresses not added reason=%s", error)

    async def _link(self, there: dict[str, list[str]]) -> str:
        if self.link == "lo" or self.link in there:
            return self.link
        try:
            await _ip("link", "add", self.link, "type", "dummy")
        except Unavailable as error:
            log.info("no dummy link, using lo reason=%s", error)
            return "lo"
        await _ip("link", "set", self.link, "alias", ALIAS)
        await _ip("link", "set", self.link, "up")
        return self.link

    async def _put(self, address: str, link: str) -> None:
        if ":" in address:
            await _ip("addr", "replace", f"{address}/128", "dev", link, "nodad")
        elif link == "lo":
            await _ip("addr", "replace", f"{address}/32", "dev", link, "label", LABEL)
        else:
            await _ip("addr", "replace", f"{address}/32", "dev", link)

    async def remove(self) -> None:
        """Take our addresses away."""
        try:
            there = await addresses_by_link()
            for link in {self.link, "lo"} & there.keys():
                for address in there[link]:
                    if address in self.wanted:
                        size = 128 if ":" in address else 32
                        with contextlib.suppress(Unavailable):
                            await _ip("addr", "del", f"{address}/{size}", "dev", link)
            if self.link in there and self.link != "lo" and await self._made(self.link):
                await _ip("link", "del", self.link)
        except Unavailable as error:
            log.warning("addresses not removed reason=%s", error)

    async def _made(self, link: str) -> bool:
        shown = msgspec.json.decode(await _ip("-j", "link", "show", "dev", link) or "[]")
        return any(isinstance(one, dict) and one.get("ifalias") == ALIAS for one in shown)


class ResolvConf:
    """Keeps a `resolv.conf` pointed at those of our addresses that answer.

    saved: where the original is kept. answers: whether an address answers now.
    After a kill the file stays as it is, for the supervisor starts us again.
    """

    def __init__(
        self,
        path: Path,
        saved: Path,
        addresses: Sequence[str],
        search: Sequence[str],
        answers: Callable[[str], Awaitable[bool]],
    ) -> None:
        # Where the place that a link leads to is mounted, as in containers, the link is not ours to
        # replace: others may see it too.
        real = path.resolve()
        self.path, self.saved = (real if _is_mounted(real) else path), saved
        self.addresses, self.search = tuple(addresses), tuple(search)
        #: Those that answered when last asked.
        self.answering: list[str] = []
        self.writes = 0
        self._answers = answers

    async def check(self) -> None:
        """Ask the addresses, and write the file when it should say something else.

        When none answers it is left alone: with any other server in it, names of the cluster
        would not exist.
        """
        told = await asyncio.gather(*(self._answers(address) for address in self.addresses))
        self.answering = [
            address for address, answers in zip(self.addresses, told, strict=True) if answers
        ]
        if not self.answering:
            return
        try:
            self._write_if_changed(render(self.answering, self.search))
        except OSError as error:
            log.error("resolv.conf not written path=%s reason=%s", self.path, cause(error))

    def restore(self) -> None:
        """Put the original back, if the file is still ours."""
        try:
            if self.saved.exists() and is_ours(_read(self.path)):
                text, link = from_saved(_read(self.saved))
                if link is not None:
                    self._relink(link)
                elif text is None:
                    self.path.unlink()
                else:
                    _write(self.path, text)
                self.saved.unlink()
        except OSError as error:
            log.error("resolv.conf not put back path=%s reason=%s", self.path, cause(error))

    def _relink(self, target: str) -> None:
        beside = self.path.with_name(f".{self.path.name}.cairn")
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        beside.replace(self.path)

    def _write_if_changed(self, text: str) -> None:
        now: str | None = None
        with contextlib.suppress(FileNotFoundError):
            now = _read(self.path)
        if now == text:
            return
        if now is None or not is_ours(now):
            # Whoever wrote it meanwhile (a DHCP client) knows better than what we saved once.
            link = os.readlink(self.path) if self.path.is_symlink() else None
            self.saved.parent.mkdir(parents=True, exist_ok=True)
            _write(self.saved, to_saved(now, link), 0o600)
        _write(self.path, text)
        self.writes += 1
        log.info("resolv.conf written path=%s servers=%s", self.path, ",".join(self.answering))

    async def run(self, stop: asyncio.Event) -> None:
        """Check until `stop`, then put the original back."""
        try:
            while not stop.is_set():
                await self.check()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_S if self.answering else 0.2):
                        await stop.wait()
        finally:
            self.restore()


def _read(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(MAX_FILE_BYTES).decode("utf-8", "surrogateescape")


def _is_mounted(path: Path) -> bool:
    """Whether a file is mounted in the place of another, mountinfo in proc(5)."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    return any(line.split(" ", 5)[4] == str(path) for line in lines)


def _write(path: Path, text: str, mode: int | None = None) -> None:
    """Replace a file at once, or in place where it is mounted or its folder may not be written.

    mode: of a new file; None for that of the one that is replaced.
    """
    data = text.encode("utf-8", "surrogateescape")
    if not _is_mounted(path):
        try:
            _replace(path, data, _mode(path) if mode is None else mode)
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EROFS):
                raise
    with path.open("r+b") as stream:
        stream.write(data)
        stream.truncate()


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0o644


def _replace(path: Path, data: bytes, mode: int) -> None:
    beside = path.with_name(f".{path.name}.cairn")
    beside.unlink(missing_ok=True)  # of a process that was killed
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(beside, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
