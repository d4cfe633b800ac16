"""What `/etc/resolv.conf` says while the proxy answers, and how the original is kept.

No I/O; `io_host` reads and writes.
"""

from collections.abc import Sequence
from urllib.parse import quote

#: First line of a file that is ours; how a fresh process knows it.
MARKER = "# Written by cairn-dns-proxy, which puts the original back when it is stopped."
#: First line of the saved original, and what it says of a symbolic link or of no file.
SAVED = "# Saved by cairn-dns-proxy"
_LINK = f"{SAVED}: link to "
_ABSENT = f"{SAVED}: no file"
#: glibc reads three servers.
MAX_SERVERS = 3


def render(servers: Sequence[str], search: Sequence[str]) -> str:
    """The file for proxies that answer; options as the original's `gen_resolvconf` has them."""
    lines = [MARKER]
    if search:
        lines.append("search " + " ".join(search))
    lines += ["options timeout:1", "options attempts:3"]
    lines += [f"nameserver {server}" for server in servers[:MAX_SERVERS]]
    return "\n".join(lines) + "\n"


def is_ours(text: str) -> bool:
    """Whether we wrote it."""
    return text.startswith(MARKER)


def saved_name(path: str) -> str:
    """Name of the file that keeps the original of this one: another for every path, for a proxy
    that was killed has not put back what it found.

    >>> saved_name("/etc/resolv.conf")
    '%2Fetc%2Fresolv.conf.saved'
    """
    return f"{quote(path, safe='')}.saved"


def to_saved(text: str | None, link: str | None) -> str:
    """The original as it is kept. text: None when there was no file. link: where it leads when it
    is a symbolic link."""
    if link is not None:
        return f"{_LINK}{link}\n"
    return f"{_ABSENT}\n" if text is None else f"{SAVED}\n{text}"


def from_saved(saved: str) -> tuple[str | None, str | None]:
    """The original's text, None when there is none, and where it leads when it was a link."""
    first, _, rest = saved.partition("\n")
    if first.startswith(_LINK):
        return None, first.removeprefix(_LINK)
    if first == _ABSENT:
        return None, None
    return (rest, None) if first == SAVED else (saved, None)
