"""Brings URIs into a sandbox: downloads, the cache's files, and the helper that delivers them.

The agent downloads into a directory of its own; only a helper that runs as the task's user touches
the sandbox, so no link in it can lead a privileged write astray. Give `Fetcher.fetch` to the
containerizer.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import aiohttp

from cairn_core.agent.containerizer.errors import LaunchFailed
from cairn_core.agent.containerizer.launch_spec import User, find_user
from cairn_core.agent.fetcher import Cache, FetchError, Item, Key, Kind, is_below, understand
from cairn_core.extensions import ContainerConfig

log = logging.getLogger(__name__)

DELIVER = Path(__file__).parent / "containerizer" / "helper" / "deliver.py"
BLOCK = 256 << 10
MAX_REDIRECTS = 10


@dataclass(frozen=True, slots=True)
class FetcherSettings:
    """directory: for downloads and the cache, emptied at the start. Sizes in bytes, times in
    seconds. stall_timeout_s: a download without a byte for so long fails (the original's 1 min).
    """

    directory: str
    allowed_dirs: tuple[str, ...] = ()
    home: str = ""  #: where relative paths start (`--frameworks_home`)
    cache_bytes: int = 2 << 30
    max_download_bytes: int = 16 << 30
    max_unpacked_bytes: int = 64 << 30
    stall_timeout_s: float = 60.0
    deliver_timeout_s: float = 600.0
    max_downloads: int = 16


class Fetcher:
    """All fetching of one agent."""

    def __init__(self, settings: FetcherSettings) -> None:
        self._settings = settings
        self._cache = Cache(settings.cache_bytes)
        self._coming: dict[Key, tuple[asyncio.Lock, int]] = {}  # with the number of its users
        self._downloads = asyncio.Semaphore(settings.max_downloads)
        self._directory = Path(settings.directory)

    def prepare(self) -> None:
        """Empty the directory; the cache's books start empty too."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True, mode=0o700)

    async def fetch(self, container_id: str, config: ContainerConfig) -> None:
        """Put all URIs of a container into its sandbox, in order. Raises LaunchFailed."""
        if not config.uris:
            return
        try:
            user = find_user(config.user)
            allowed, home = self._settings.allowed_dirs, self._settings.home
            items = [understand(uri, allowed, home) for uri in config.uris]
            for item in items:
                await self._fetch_one(item, config, user)
                log.info("fetched uri=%s container=%s", item.uri, container_id)
        except (FetchError, ValueError) as error:
            text = f"Failed to fetch all URIs for container '{container_id}': {error}"
            raise LaunchFailed(container_id, text) from error

    async def _fetch_one(self, item: Item, config: ContainerConfig, user: User) -> None:
        if item.path is not None:
            home = (self._settings.home,) if self._settings.home else ()
            with self._open_local(item, (*self._settings.allowed_dirs, *home)) as file:
                await self._deliver(item, file, config.sandbox, user, keep=True)
        elif item.cached:
            await self._from_cache(item, config, user)
        else:
            with tempfile.NamedTemporaryFile(dir=self._directory) as file:
                await self._download(item, file, None)
                await self._deliver(item, file, config.sandbox, user, keep=True)

    async def _from_cache(self, item: Item, config: ContainerConfig, user: User) -> None:
        key = (config.user or "", item.uri)
        async with self._one_at_a_time(key):
            if not self._cache.take(key):
                await self._into_cache(item, key, config, user)
                return
        try:
            with open(self._cached(key), "rb") as file:
                await self._deliver(item, file, config.sandbox, user, keep=False)
        finally:
            self._cache.release(key)

    @asynccontextmanager
    async def _one_at_a_time(self, key: Key) -> AsyncIterator[None]:
        """Two containers never download one file twice at the same time."""
        lock, users = self._coming.get(key, (asyncio.Lock(), 0))
        self._coming[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._coming.pop(key)
            if users > 1:
                self._coming[key] = (lock, users - 1)

    async def _into_cache(self, item: Item, key: Key, config: ContainerConfig, user: User) -> None:
        with tempfile.NamedTemporaryFile(dir=self._directory) as file:
            try:
                reserved = await self._download(item, file, key)
                if reserved:
                    os.link(file.name, self._cached(key))
            except BaseException:
                self._cache.drop(key)
                raise
            try:
                await self._deliver(item, file, config.sandbox, user, keep=not reserved)
            finally:
                self._cache.release(key)

    def _cached(self, key: Key) -> Path:
        return self._directory / hashlib.sha256("\0".join(key).encode()).hexdigest()

    def _reserve(self, key: Key, size: int) -> bool:
        victims = self._cache.reserve(key, size)
        for victim in victims or ():
            self._cached(victim).unlink(missing_ok=True)
        return victims is not None

    async def _download(self, item: Item, file: IO[bytes], key: Key | None) -> bool:
        """Write the body to `file`. With `key`: whether the cache has room for it."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.stall_timeout_s,
            sock_read=self._settings.stall_timeout_s,
        )  # fmt: skip
        # Taken as it is: a file named .gz must stay compressed.
        session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=True)
        try:
            async with self._downloads, session:
                answer = session.get(item.uri, max_redirects=MAX_REDIRECTS)
                async with answer as response:
                    return await self._receive(item, response, file, key)
        except TimeoutError:
            cause = f"no byte for {self._settings.stall_timeout_s:g} s"
            raise FetchError(item.uri, cause) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError(item.uri, str(error) or type(error).__name__) from error

    async def _receive(
        self, item: Item, response: aiohttp.ClientResponse, file: IO[bytes], key: Key | None
    ) -> bool:
        limit = self._settings.max_download_bytes
        if not 200 <= response.status <= 299:
            raise FetchError(item.uri, f"answered {response.status} {response.reason}")
        length = response.content_length
        if length is not None and length > limit:
            raise FetchError(item.uri, f"{length} bytes, more than the {limit} allowed")
        reserved = key is not None and length is not None and self._reserve(key, length)
        total = 0
        async for block in response.content.iter_chunked(BLOCK):
            total += len(block)
            if total > limit:
                raise FetchError(item.uri, f"more than the {limit} bytes allowed")
            file.write(block)
        if length is not None and total != length:
            raise FetchError(item.uri, f"{total} of {length} bytes came")
        file.flush()
        return reserved

    @staticmethod
    def _open_local(item: Item, allowed: Sequence[str]) -> IO[bytes]:
        """Open a regular file that really lies below an allowed directory."""
        assert item.path is not None
        try:
            fd = os.open(item.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise FetchError(item.uri, str(error.strerror)) from None
        real = os.readlink(f"/proc/self/fd/{fd}")
        if not any(is_below(real, os.path.realpath(directory)) for directory in allowed):
            os.close(fd)
            raise FetchError(item.uri, f"leads to {real}, which is not in an allowed directory")
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FetchError(item.uri, "not a regular file")
        return open(fd, "rb")

    async def _deliver(
        self, item: Item, file: IO[bytes], sandbox: str, user: User, *, keep: bool
    ) -> None:
        """Unpack into the sandbox as the user; `keep` puts the archive itself there too."""
        if item.kind is Kind.NONE or keep:
            await self._help(item, file, sandbox, user, Kind.NONE)
        if item.kind is not Kind.NONE:
            await self._help(item, file, sandbox, user, item.kind)

    async def _help(
        self, item: Item, file: IO[bytes], sandbox: str, user: User, kind: Kind
    ) -> None:
        file.seek(0)
        mode = "755" if item.executable else "644"
        limit = str(self._settings.max_unpacked_bytes)
        # As text, for the user may not be allowed to read where we are installed.
        python, text = os.path.realpath(sys.executable), DELIVER.read_text()
        argv = [python, "-I", "-S", "-c", text, kind.value, item.name, mode, limit]
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=file, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            cwd=sandbox, env={}, start_new_session=True, user=user.uid, group=user.gid,
            extra_groups=None if user.uid is None else user.groups,
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._settings.deliver_timeout_s):
                _, said = await process.communicate()
        except TimeoutError:
            raise FetchError(item.uri, "takes too long to unpack") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            why = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise FetchError(item.uri, why or f"helper exited with {process.returncode}")
