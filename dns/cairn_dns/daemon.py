"""Being put together anew."""

from cairn_core.errors import Unavailable
from cairn_core.kit.daemon import Daemon

from .config import DnsConfig


async def build(config: DnsConfig) -> Daemon[DnsConfig]:
    """The parts of the daemon."""
    raise Unavailable("cairn-dns is being put together anew")
