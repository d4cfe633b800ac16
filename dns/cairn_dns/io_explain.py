"""Asking daemons why a name is answered as it is."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from cairn_core.errors import CairnError, RemoteError, Unavailable
from cairn_core.kit.http_client import HttpClient

#: The proxy of this host, which relays to a master, and the server of a master.
SERVERS = ("http://127.0.0.1:62080", "http://127.0.0.1:8123")
TIMEOUT_S = 10.0


def ask(servers: Sequence[str], name: str) -> tuple[str, dict[str, Any]]:
    """Who answered first of `servers`, in their order, and what it says.

    Raises Unavailable with the reason of each when none does.
    """
    return asyncio.run(_ask(servers, name))


async def _ask(servers: Sequence[str], name: str) -> tuple[str, dict[str, Any]]:
    problems = []
    async with HttpClient(total_s=TIMEOUT_S, connect_s=2.0) as http:
        for server in servers:
            base = server if "://" in server else f"http://{server}"
            url = f"{base.rstrip('/')}/v1/explain/{quote(name, safe='')}"
            try:
                reply = (await http.request("GET", url)).expect(200)
                return server, reply.json(dict[str, Any])
            except RemoteError as error:
                problems.append(f"{error} (is it cairn-dns?)")
            except CairnError as error:
                problems.append(str(error))
    raise Unavailable("; ".join(problems) + " (start one of them, or name another with --server)")
