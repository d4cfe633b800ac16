"""What `/etc/resolv.conf` says while the proxy answers, and how the original is kept.

No I/O; `io_host` reads and writes.
"""

from collections.abc import Sequence

#: First line of a file that is ours; how a fresh process knows it.
MARKER = "# Written by cairn-dns-proxy, which puts the original back when it is stopped."
#: First line of the saved original, and what it says of a symbolic link.
SAVED = "# Saved by cairn-dns-proxy"
_LINK = f"{SAVED}: link to "
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


def to_saved(text: str, link: str | None) -> str:
    """The original as it is kept. link: where it leads when it is a symbolic link."""
    return f"{_LINK}{link}\n" if link is not None else f"{SAVED}\n{text}"


def from_saved(saved: str) -> tuple[str, str | None]:
    """The original's text, and where it leads when it was a link."""
    first, _, rest = saved.partition("\n")
    if first.startswith(_LINK):
        return "", first.removeprefix(_LINK)
    return (rest, None) if first == SAVED else (saved, None)
