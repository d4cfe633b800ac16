"""Removing everything of ours without a daemon."""

import asyncio
from pathlib import Path

from cairn_core.errors import CairnError
from cairn_core.kit.config import load

from .config import L4lbConfig
from .io_kernel import MEMORY
from .io_kernel import uninstall as uninstall_kernel
from .io_names import forget, is_there
from .rules import KernelSettings

#: Masters are needed by the daemon only, and may be set no more.
_NO_MASTER = "127.0.0.1:5050"


def uninstall(file: Path | None = None) -> list[str]:
    """Remove what is in the kernel, and our names from the DNS proxy; what that was, one line each.

    file: the daemon's configuration, which says where things are; None: where the daemon finds it.
    Raises CairnError for what could not be removed, when the rest is.
    """
    unread = ""
    try:
        config = load(L4lbConfig, program="cairn-l4lb", file=file, flags={"zk": _NO_MASTER}).config
    except CairnError as error:
        config = L4lbConfig(zk=_NO_MASTER)
        unread = f"{error}; went by the defaults"
    (_, first), (_, last) = config.named_range(4)
    (_, first6), (_, last6) = config.named_range(6)
    removed, problems = uninstall_kernel(
        Path(config.run_dir) / MEMORY.name,
        KernelSettings(named=(first, last), named6=(first6, last6)),
    )
    if unread:
        problems.append(unread)
    proxy = Path(config.proxy_socket)
    if config.proxy_socket and is_there(proxy):
        try:
            asyncio.run(forget(proxy))
            removed.append("names of the DNS proxy")
        except CairnError as error:
            problems.append(f"names of the DNS proxy: {error}")
    if problems:
        done = f" (removed: {', '.join(removed)})" if removed else ""
        raise CairnError(f"not removed: {'; '.join(problems)}{done}")
    return removed
