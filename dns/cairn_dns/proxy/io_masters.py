"""Where the masters are: settings, or as the original is told by its environment.

    MASTER_SOURCE=master_list     the file /opt/mesosphere/etc/master_list, a JSON array
    MASTER_SOURCE=exhibitor       http://$EXHIBITOR_ADDRESS:8181/exhibitor/v1/cluster/status
    MASTER_SOURCE=exhibitor_uri   $EXHIBITOR_URI/exhibitor/v1/cluster/status

Settings win over the environment.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path

import msgspec
from msgspec import Struct

from cairn_core.errors import CairnError, LocalError, cause, shorten
from cairn_core.kit.http_client import HttpClient

from .config import ProxyConfig, masters
from .routes import Server

log = logging.getLogger(__name__)

MASTER_LIST = Path("/opt/mesosphere/etc/master_list")
STATUS = "/exhibitor/v1/cluster/status"
MAX_MASTERS = 64


class _Exhibitor(Struct):
    hostname: str


class MasterList:
    """The masters' servers as they are known now.

    changed: called with them when they are others than before.
    """

    def __init__(
        self,
        config: ProxyConfig,
        environ: Mapping[str, str],
        changed: Callable[[list[Server]], None],
        master_list: Path = MASTER_LIST,
    ) -> None:
        self.servers = masters(config)
        self.config = config
        self._changed = changed
        self._url = "" if self.servers else _url(environ)
        if not self.servers and environ.get("MASTER_SOURCE") == "master_list":
            self.servers = _from_file(master_list, config.master_port)

    def reload(self, config: ProxyConfig) -> None:
        """Take new settings."""
        self.config = config
        if not self._url:
            self._set(masters(config) or self.servers)

    def _set(self, servers: list[Server]) -> None:
        if servers != self.servers:
            self.servers = servers
            self._changed(servers)

    async def run(self, stop: asyncio.Event) -> None:
        """Ask Exhibitor now and then; waits for the end where there is none."""
        while not stop.is_set():
            wait_s: float | None = None
            if self._url:
                try:
                    found = await self._ask()
                    if set(found) != set(self.servers):  # in whatever order Exhibitor names them
                        self._set(found)
                    wait_s = self.config.masters_refresh_interval_normal
                except CairnError as error:
                    log.warning("masters not known url=%s reason=%s", self._url, error)
                    wait_s = self.config.masters_refresh_interval_fail
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await stop.wait()

    async def _ask(self) -> list[Server]:
        async with HttpClient(total_s=self.config.exhibitor_timeout) as http:
            reply = (await http.request("GET", self._url, limit=1 << 20)).expect()
        found = [
            (one.hostname, self.config.master_port)
            for one in reply.json(list[_Exhibitor])[:MAX_MASTERS]
            if _is_address(one.hostname)
        ]
        if not found:
            raise LocalError("no master with an address in the status of Exhibitor")
        return found


def _url(environ: Mapping[str, str]) -> str:
    """Where Exhibitor is asked; empty when it is not.  Raises LocalError."""
    match environ.get("MASTER_SOURCE", ""):
        case "exhibitor":
            return f"http://{_variable(environ, 'EXHIBITOR_ADDRESS')}:8181{STATUS}"
        case "exhibitor_uri":
            return _variable(environ, "EXHIBITOR_URI").rstrip("/").removesuffix(STATUS) + STATUS
        case "" | "master_list":
            return ""
        case other:
            raise LocalError(
                "environment MASTER_SOURCE: not exhibitor, exhibitor_uri or master_list: "
                f"{shorten(other, 60)!r}"
            )


def _variable(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise LocalError(f"environment {name}: missing, though MASTER_SOURCE wants it")
    return value


def _from_file(path: Path, port: int) -> list[Server]:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[str])
    except OSError as error:
        raise LocalError(f"{path}: {cause(error)}") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise LocalError(f"{path}: {shorten(str(error))}") from None
    wrong = next((one for one in found if not _is_address(one)), None)
    if wrong is not None or len(found) > MAX_MASTERS:
        raise LocalError(f"{path}: not an address: {shorten(str(wrong), 60)!r}")
    return [(one, port) for one in found]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
