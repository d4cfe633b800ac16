"""HTTP Basic authentication against a table of principals (RFC 7617).

The table comes from the original's credentials file:
`{"credentials": [{"principal": "ops", "secret": "..."}]}`. Secrets are compared in constant time,
and an unknown principal takes as long as a wrong secret.
"""

import base64
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from cairn_core.errors import LocalError, shorten
from cairn_core.kit.http_types import Answer, Handler, Refused, Request


class Credential(msgspec.Struct, frozen=True):
    """One line of the credentials file."""

    principal: str
    secret: str = ""


class CredentialsFile(msgspec.Struct, frozen=True):
    """The credentials file of `--credentials`."""

    credentials: list[Credential]


def parse_credentials(text: bytes) -> dict[str, str]:
    """Principal -> secret; raises LocalError without a secret in its text."""
    try:
        parsed = msgspec.json.decode(text, type=CredentialsFile)
    except msgspec.MsgspecError as error:
        raise LocalError(f"credentials: {shorten(str(error))}") from None
    return {entry.principal: entry.secret for entry in parsed.credentials}


def check_basic(header: str | None, secrets: Mapping[str, str]) -> str | None:
    """The principal that an Authorization header proves, or None."""
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        plain = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        return None
    principal, colon, given = plain.partition(":")
    known = secrets.get(principal)
    # an unknown principal is compared too, so that the time tells nothing
    equal = hmac.compare_digest(given.encode(), (known if known is not None else given).encode())
    return principal if equal and colon and known is not None else None


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """A filter of `HttpServer`: 401 without a valid principal, which it puts on the request.

    open_paths: these and what lies below them need none (`/health`). required: when false,
    requests without an Authorization header pass with principal None, wrong ones do not.
    """

    secrets: Mapping[str, str]
    realm: str
    open_paths: frozenset[str] = field(default_factory=frozenset)
    required: bool = True

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w .:/()-]*", self.realm):
            raise LocalError(f"realm has characters that a header may not carry: {self.realm!r}")

    async def __call__(self, request: Request, handler: Handler) -> Answer:
        """Refuse or pass on."""
        header = request.headers.get("Authorization")
        request.principal = check_basic(header, self.secrets)
        if request.principal is not None or self._open(request.path):
            return await handler(request)
        if header is None and not self.required:
            return await handler(request)
        raise Refused(
            401,
            "not authenticated",
            headers={"WWW-Authenticate": f'Basic realm="{self.realm}"'},
        )

    def _open(self, path: str) -> bool:
        return any(path == open_ or path.startswith(f"{open_}/") for open_ in self.open_paths)
