"""What the fetcher does with each URI, and what its cache keeps (mesos docs/fetcher.md). Pure.

The original's order holds: URIs one after the other; archives are unpacked by their name unless
`extract` is false or the file is `executable`; the cache is keyed by user and URI and gives up what
was used longest ago. Fetching `file:` works only below directories that the operator allows.
"""

import os.path
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote, urlsplit

from cairn_core.errors import RemoteError, shorten
from cairn_core.mesos.containers import URI


class FetchError(RemoteError):
    """A URI could not be fetched; `uri` and the cause are in the text."""

    def __init__(self, uri: str, cause: str) -> None:
        super().__init__(f"{shorten(uri)}: {cause}")
        self.uri = uri
        self.cause = cause


class Kind(Enum):
    """How a file is unpacked."""

    NONE = "none"
    TAR = "tar"
    ZIP = "zip"
    GZIP = "gzip"


SUFFIXES = (
    ((".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz"), Kind.TAR),
    ((".gz",), Kind.GZIP),
    ((".zip",), Kind.ZIP),
)


@dataclass(frozen=True, slots=True)
class Item:
    """One URI, understood."""

    uri: str
    path: str | None  #: of a local file; None: download
    name: str  #: in the sandbox, relative; may hold directories
    kind: Kind
    executable: bool
    cached: bool


def kind_of(name: str) -> Kind:
    """How a file of this name is unpacked."""
    for suffixes, kind in SUFFIXES:
        if name.lower().endswith(suffixes):
            return kind
    return Kind.NONE


def understand(uri: URI, allowed: Sequence[str], home: str = "") -> Item:
    """What to do for a URI. Raises FetchError for one that we do not fetch.

    allowed: directories below which local files may be taken; symbolic links are looked at when
    the file is opened. home: where paths that are not absolute start; it is allowed too.
    """
    value = uri.value
    try:
        parts = urlsplit(value)
    except ValueError as error:
        raise FetchError(value, str(error)) from None
    path: str | None = None
    if parts.scheme in ("http", "https"):
        if not parts.hostname:
            raise FetchError(value, "no host in it")
        base = os.path.basename(unquote(parts.path))
    elif parts.scheme == "file" or not parts.scheme:
        path = unquote(parts.path) if parts.scheme else value
        if home and not parts.scheme:
            allowed = (*allowed, home)
            path = os.path.join(home, path)
        path = os.path.normpath(path)
        if parts.scheme and parts.netloc not in ("", "localhost"):
            raise FetchError(value, f"file on another host: {parts.netloc!r}")
        if not os.path.isabs(path):
            raise FetchError(value, "not an absolute path")
        if not any(is_below(path, directory) for directory in allowed):
            raise FetchError(value, "not below a directory that fetcher_allowed_dirs names")
        base = os.path.basename(path)
    else:
        raise FetchError(value, f"scheme {parts.scheme!r} is not supported")
    name = uri.output_file or base
    if not name or name.startswith("/") or "\0" in name:
        raise FetchError(value, f"no usable file name: {name!r}")
    if ".." in name.split("/") or name in (".", "./"):
        raise FetchError(value, f"output_file leads out of the sandbox: {name!r}")
    executable = bool(uri.executable)
    kind = Kind.NONE if executable or not uri.extract else kind_of(base)
    return Item(value, path, name, kind, executable, bool(uri.cache) and path is None)


def is_below(path: str, directory: str) -> bool:
    """Whether an absolute normalised path is the directory or below it."""
    directory = os.path.normpath(directory)
    return path == directory or path.startswith(directory.rstrip("/") + "/")


Key = tuple[str, str]


@dataclass(slots=True)
class Entry:
    """A file in the cache, or one on its way there."""

    size: int
    used: int  #: number of its last use
    references: int = 1


@dataclass(slots=True)
class Cache:
    """Books of the cache; the files are the shell's.

    Invariant: the sizes of all entries together are at most `capacity` bytes. Entries in use are
    never given up.
    """

    capacity: int
    entries: dict[Key, Entry] = field(default_factory=dict)
    _clock: int = 0

    def used(self) -> int:
        """Bytes taken or reserved."""
        return sum(entry.size for entry in self.entries.values())

    def take(self, key: Key) -> bool:
        """Use an entry; False when it is not there. `release` follows."""
        entry = self.entries.get(key)
        if entry is None:
            return False
        self._clock += 1
        entry.used = self._clock
        entry.references += 1
        return True

    def reserve(self, key: Key, size: int) -> list[Key] | None:
        """Room for a new entry, in use at once; the keys given up for it, None: no room."""
        victims: list[Key] = []
        free = self.capacity - self.used()
        idle = [(e.used, k) for k, e in self.entries.items() if not e.references]
        for _, victim in sorted(idle):
            if free >= size:
                break
            victims.append(victim)
            free += self.entries[victim].size
        if free < size:
            return None
        for victim in victims:
            del self.entries[victim]
        self._clock += 1
        self.entries[key] = Entry(size, self._clock)
        return victims

    def release(self, key: Key) -> None:
        """A use has ended."""
        if (entry := self.entries.get(key)) is not None:
            entry.references -= 1

    def drop(self, key: Key) -> None:
        """The file did not come, or is damaged."""
        self.entries.pop(key, None)
