"""Removing everything of ours without a daemon."""

import asyncio
from pathlib import Path

from cairn_core.errors import CairnError

from .io_kernel import uninstall as uninstall_kernel
from .io_names import forget, is_there

PROXY = Path("/run/cairn/dns-proxy.sock")


def uninstall(proxy: Path = PROXY) -> list[str]:
    """Remove what is in the kernel, and our names from the DNS proxy; what that was, one line each.

    Raises CairnError for what could not be removed, when the rest is.
    """
    removed, problems = uninstall_kernel()
    if is_there(proxy):
        try:
            asyncio.run(forget(proxy))
            removed.append("names of the DNS proxy")
        except CairnError as error:
            problems.append(f"names of the DNS proxy: {error}")
    if problems:
        done = f" (removed: {', '.join(removed)})" if removed else ""
        raise CairnError(f"not removed: {'; '.join(problems)}{done}")
    return removed
