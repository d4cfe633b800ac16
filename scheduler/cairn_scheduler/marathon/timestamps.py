"""Timestamps as the API prints them: ISO 8601, UTC, milliseconds, `2020-01-31T12:00:00.123Z`.

In this form they are also versions, and sort as text.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cairn_scheduler.marathon.errors import IllegalArgument

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Last second of the year 9999.
MAX_WALL = 253402300799.0


@lru_cache(maxsize=256)
def timestamp(wall: float) -> str:
    """Text of a wall-clock time in seconds since the epoch, 0 <= wall <= MAX_WALL."""
    millis = min(max(int(wall * 1000 + 0.5), 0), int(MAX_WALL * 1000))
    at = EPOCH + timedelta(milliseconds=millis)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"


def wall_of(text: str) -> float:
    """Seconds since the epoch; the inverse of `timestamp`.

    Any ISO 8601 form is read, without a zone it is UTC. Raises IllegalArgument.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise IllegalArgument(f'Invalid format: "{text[:64]}"') from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return (at - EPOCH) / timedelta(milliseconds=1) / 1000


def canonical(text: str) -> str:
    """The same moment in the one form. Raises IllegalArgument."""
    return timestamp(wall_of(text))


def next_version(wall: float, after: str | None) -> str:
    """A version for now that is later than `after`, so that versions of one thing never tie."""
    version = timestamp(wall)
    if after is not None and version <= after:
        return timestamp(wall_of(after) + 0.001)
    return version
