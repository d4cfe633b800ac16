"""Logs in at an identity service as a service account: a signed token for one that masters take.

The account is a JSON file with `uid`, `private_key` and `login_endpoint`; the login is a POST of
`{uid, token}`, the token an RS256 JWT that the key has signed (RFC 7519).
"""

import asyncio
import logging
import time
from pathlib import Path
from ssl import SSLContext
from typing import Any

import jwt
import msgspec
from msgspec import Struct

from cairn_core.errors import LocalError, RemoteError, cause
from cairn_core.kit.http_client import HttpClient

log = logging.getLogger(__name__)

#: What we sign is good for so long, seconds.
SIGNED_FOR_S = 3600
#: A token is renewed so long before it ends, seconds.
RENEW_BEFORE_S = 60.0
#: A token that does not say when it ends is renewed after this, seconds.
UNKNOWN_LIFE_S = 3600.0
MAX_FILE_BYTES = 64 * 1024
MAX_TOKEN_CHARACTERS = 16 * 1024
_LOGIN_S = 30.0


class BadToken(RemoteError):
    """The identity service answered something that is no token."""


class ServiceAccount(Struct, frozen=True):
    """Who we are, as the file says."""

    uid: str
    private_key: str
    login_endpoint: str
    scheme: str = "RS256"

    def __repr__(self) -> str:
        """Without the key, for logs."""
        return f"ServiceAccount({self.uid!r})"


class _Reply(Struct):
    token: str


def read_iam_file(path: Path) -> ServiceAccount:
    """The account of a file.  Raises LocalError, whose text never shows the key."""
    try:
        with path.open("rb") as file:
            account = msgspec.json.decode(file.read(MAX_FILE_BYTES), type=ServiceAccount)
        if account.scheme != "RS256":
            raise LocalError(f"iamConfigFile: {path}: scheme {account.scheme!r} is not RS256")
        sign(account, now=time.time())
    except OSError as error:
        raise LocalError(f"iamConfigFile: {str(path)!r}: {cause(error)}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LocalError(f"iamConfigFile: {path}: {error}") from None
    except (jwt.PyJWTError, ValueError, TypeError):
        raise LocalError(f"iamConfigFile: {path}: private_key is no RSA key in PEM") from None
    if not account.login_endpoint.startswith(("http://", "https://")):
        raise LocalError(f"iamConfigFile: {path}: login_endpoint is no URL")
    return account


def sign(account: ServiceAccount, *, now: float) -> str:
    """A token that proves to the identity service who we are.  now: seconds since the epoch."""
    claims = {"uid": account.uid, "exp": int(now) + SIGNED_FOR_S}
    return jwt.encode(claims, account.private_key, algorithm="RS256")


class IamLogin:
    """Keeps a token that masters take.

    Differs: the original logs in for every request; we do so shortly before the token ends and
    after it was refused.
    """

    def __init__(self, account: ServiceAccount, ssl: SSLContext | None = None) -> None:
        self._account = account
        self._ssl = ssl
        self._token = ""
        #: Wall-clock time, as in tokens.
        self._renew_at = 0.0
        self._logging_in = asyncio.Lock()

    async def authorization(self) -> str:
        """`token=<token>`.  Raises Unavailable, RemoteError."""
        async with self._logging_in:
            if not self._token or time.time() >= self._renew_at:
                self._token = await self._log_in()
                self._renew_at = max(_ends_at(self._token) - RENEW_BEFORE_S, time.time() + 1.0)
                log.info("logged in uid=%s", self._account.uid)
            return f"token={self._token}"

    def refused(self) -> None:
        """Log in before the next request."""
        self._token = ""

    async def _log_in(self) -> str:
        account = self._account
        body = {"uid": account.uid, "token": sign(account, now=time.time())}
        async with HttpClient(total_s=_LOGIN_S, ssl=self._ssl) as http:
            reply = await http.request("POST", account.login_endpoint, json=body, redirects=0)
        if not reply.ok:
            # The body is not shown: it may repeat what we sent.
            raise BadToken(f"login at {account.login_endpoint} answers {reply.status}")
        try:
            token = msgspec.json.decode(reply.body, type=_Reply).token
        except (msgspec.MsgspecError, UnicodeDecodeError):
            token = ""
        if not 0 < len(token) <= MAX_TOKEN_CHARACTERS or not (
            token.isascii() and token.isprintable()
        ):
            raise BadToken(f"login at {account.login_endpoint} gives no token")
        return token


def _ends_at(token: str) -> float:
    """When a token ends, which only its issuer could verify; seconds since the epoch."""
    try:
        ends: Any = jwt.decode(token, options={"verify_signature": False}).get("exp")
        return float(ends)
    except (jwt.PyJWTError, TypeError, ValueError, OverflowError):
        return time.time() + UNKNOWN_LIFE_S
