"""The exceptions of Cairn, sorted by what the catcher should do.

    CairnError                 root of everything that we raise on purpose
    ├── RemoteError            their fault: refuse the request, count it, go on
    ├── LocalError             our fault: a bug or a wrong setting, fail loudly
    └── Unavailable            the world's fault: try again later

Components derive their own classes from one of the three and keep the data in fields, so that
a handler never has to read the text. Texts start lower-case, hold the offending value and end
without a period. Values that come from outside go through `shorten` first.
"""

import errno
import os


class CairnError(Exception):
    """Root of the errors that Cairn raises on purpose."""


class RemoteError(CairnError):
    """The other side sent something wrong; trying again will not help."""


class LocalError(CairnError):
    """We did something wrong, or were told to by our configuration."""


class Unavailable(CairnError):
    """Something outside is down, busy or full; trying again later may help.

    retry_after_s: when the other side named a delay, seconds >= 0; else None.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def cause(error: BaseException) -> str:
    """Why something failed, for a person: `Connection refused`, without number or repetition."""
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    return shorten(str(error)) or type(error).__name__


def shorten(text: str, limit: int = 200) -> str:
    """Cut a long text in the middle so that it fits one line of a message.

    Line breaks become spaces, for a message is one line. limit: characters, >= 16.
    """
    flat = " ".join(text.split())
    if len(flat) <= limit:
        return flat
    keep = (limit - 5) // 2
    return f"{flat[:keep]} ... {flat[-keep:]}"
