"""Durations and sizes as people write them in flags: `10mins`, `1.5secs`, `64MB`.

The units are those of the original's stout library (Duration, Bytes), so that the text of an
existing flag or environment variable means the same here.
"""

import math
import re

SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "secs": 1.0,
    "mins": 60.0,
    "hrs": 3600.0,
    "days": 86400.0,
    "weeks": 604800.0,
}
BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}

_DURATION = re.compile(r"([+-]?[0-9]*\.?[0-9]+)(ns|us|ms|secs|mins|hrs|days|weeks)")
_SIZE = re.compile(r"([0-9]{1,19})(B|KB|MB|GB|TB)")


def parse_duration(text: str) -> float:
    """Seconds that `text` stands for; may be negative. Raises ValueError with the text in it."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"not a duration such as 10secs or 5mins: {text[:60]!r}")
    value = float(match[1]) * SECONDS[match[2]]
    if not math.isfinite(value):
        raise ValueError(f"duration out of range: {text[:60]!r}")
    return value


def format_duration(seconds: float) -> str:
    """The shortest text in the largest unit that shows `seconds` as a number >= 1.

    >>> format_duration(90), format_duration(0.25), format_duration(0)
    ('1.5mins', '250ms', '0ns')
    """
    if seconds == 0:
        return "0ns"
    for unit, size in reversed(SECONDS.items()):
        if abs(seconds) >= size or unit == "ns":
            return f"{round(seconds / size, 9):g}{unit}"
    raise AssertionError("unreachable: ns takes what is left")


def parse_size(text: str) -> int:
    """Bytes that `text` stands for; units are powers of 1024. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a size such as 512KB or 10MB: {text[:60]!r}")
    return int(match[1]) * BYTES[match[2]]


def format_size(size: int) -> str:
    """The text that `parse_size` reads back as exactly `size` bytes."""
    for unit, factor in reversed(BYTES.items()):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"
