"""Serials of the zones: the time in seconds, or one more than the last, and never less.

Where names change more than once a second serials run ahead of the clock.  So that a restart does
not take them back, a number that they stay below is then kept on disk, raised in blocks.
"""

import logging
import os
from pathlib import Path

from cairn_core.errors import cause

log = logging.getLogger(__name__)

#: Serials that one write is good for.
BLOCK = 1000
_MAX = 0xFFFFFFFF


class Serials:
    """Gives serials.  file: where the number is kept; None keeps none."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        #: No serial that was given is above both this and the clock; 0 while none ran ahead.
        self._limit = self._read()
        self._last = self._limit

    def next(self, now: float) -> int:
        """The serial of a change; now: seconds since the epoch.  They end in 2106 (RFC 1982)."""
        self._last = min(max(self._last + 1, int(now)), _MAX)
        if self._last > max(self._limit, int(now)):
            self._limit = min(self._last + BLOCK, _MAX)
            self._write()
        return self._last

    def _read(self) -> int:
        if self._file is None:
            return 0
        try:
            text = self._file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return 0
        except (OSError, UnicodeDecodeError) as error:
            log.warning("serial not read file=%s reason=%s", self._file, cause(error))
            return 0
        return int(text) if text.isdigit() and len(text) <= 10 and int(text) <= _MAX else 0

    def _write(self) -> None:
        if self._file is None:
            return
        new = self._file.with_name(self._file.name + ".new")
        try:
            with new.open("w", encoding="ascii") as stream:
                stream.write(f"{self._limit}\n")
                stream.flush()
                os.fsync(stream.fileno())
            new.replace(self._file)
        except OSError as error:
            log.error("serial not kept file=%s reason=%s", self._file, cause(error))
