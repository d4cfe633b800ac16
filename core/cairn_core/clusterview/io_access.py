"""How masters are talked to: with or without TLS, and as whom."""

import base64
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cairn_core.errors import LocalError, cause, shorten
from cairn_core.kit.http_client import HttpClient

from .io_iam import IamLogin, read_iam_file


class Login(Protocol):
    """Whoever can say what to put into `Authorization`."""

    async def authorization(self) -> str:
        """The value.  Raises Unavailable, RemoteError."""
        ...

    def refused(self) -> None:
        """A master did not accept the last value."""
        ...


class BasicLogin:
    """Principal and secret with each request."""

    def __init__(self, principal: str, secret: str) -> None:
        self._value = "Basic " + base64.b64encode(f"{principal}:{secret}".encode()).decode()

    async def authorization(self) -> str:
        """Always the same."""
        return self._value

    def refused(self) -> None:
        """There is no other."""


class MasterAccess:
    """What every request to a master needs.

    ssl: None speaks http. login: None sends no credentials.
    """

    def __init__(self, ssl: ssl.SSLContext | None = None, login: Login | None = None) -> None:
        self.ssl = ssl
        self._login = login

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "https" if self.ssl is not None else "http"

    def url(self, place: str) -> str:
        """Base URL of a `host:port`; a base URL stays as it is."""
        return place.rstrip("/") if "://" in place else f"{self.scheme}://{place}"

    def client(self, *, total_s: float = 30.0) -> HttpClient:
        """A client for masters.  total_s: for a whole request."""
        # Compat: masters and what stands before them may know this name
        return HttpClient(total_s=total_s, ssl=self.ssl, headers={"User-Agent": "Mesos-DNS"})

    async def headers(self) -> dict[str, str]:
        """Headers that say who we are.  Raises Unavailable, RemoteError."""
        if self._login is None:
            return {}
        return {"Authorization": await self._login.authorization()}

    def refused(self) -> None:
        """A master answered 401 to these headers; the next ones may differ."""
        if self._login is not None:
            self._login.refused()


def master_access(
    *,
    https: bool = False,
    ca_file: str = "",
    cert_file: str = "",
    key_file: str = "",
    authentication: str = "",
    principal: str = "",
    secret: str = "",
    iam_file: str = "",
) -> MasterAccess:
    """Access as the settings say; texts are empty where nothing is set.  Raises LocalError.

    https: mesosHTTPSOn. The files: caCertFile, certFile, keyFile. authentication:
    mesosAuthentication, one of "", "basic" (mesosCredentials) and "iam" (iamConfigFile).
    """
    context = _context(ca_file, cert_file, key_file)
    login: Login | None
    match authentication:
        case "":
            login = None
        case "basic":
            if not principal or ":" in principal:
                raise LocalError("mesosCredentials: principal is empty or contains a colon")
            login = BasicLogin(principal, secret)
        case "iam":
            login = IamLogin(read_iam_file(Path(iam_file)), context)
        case other:
            raise LocalError(f"mesosAuthentication: {other!r} is not '', 'basic' or 'iam'")
    return MasterAccess(context if https else None, login)


def _context(ca_file: str, cert_file: str, key_file: str) -> ssl.SSLContext:
    if bool(cert_file) != bool(key_file):
        raise LocalError("certFile and keyFile: one is given without the other")
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    if ca_file:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load("caCertFile", ca_file, lambda: context.load_verify_locations(ca_file))
    else:
        # Compat: without a file of authorities nothing is verified
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file:
        _load("certFile", cert_file, lambda: context.load_cert_chain(cert_file, key_file))
    return context


def _load(name: str, file: str, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:  # its numbers are not those of the system
        raise LocalError(f"{name}: {file}: {shorten(str(error))}") from None
    except (OSError, ValueError) as error:
        raise LocalError(f"{name}: {file}: {cause(error)}") from None
