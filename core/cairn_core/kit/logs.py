"""Logging of every daemon: one line per event on stderr, plain or JSON.

Plain: `2026-01-31T12:00:00.123Z INFO cairn_dns.daemon: started version=0.1.0`. Times are UTC. Line
breaks in a message are escaped, so that text from outside cannot forge a line; a traceback follows
its event on lines of its own, indented.
"""

import json
import logging
import sys
import time
import traceback
from typing import Literal, TextIO

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {10: "\\n", 13: "\\r", 9: "\t"}


def _stamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class PlainFormatter(logging.Formatter):
    """One line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the traceback if there is one."""
        message = record.getMessage().translate(_ESCAPES)
        line = f"{_stamp(record)} {record.levelname} {record.name}: {message}"
        if record.exc_info:
            trace = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            line += "\n  " + trace.replace("\n", "\n  ")
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line for programs: time, level, logger, message, trace."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        event = {
            "time": _stamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(event, ensure_ascii=False)


def set_up(
    level: str = "info", form: Literal["plain", "json"] = "plain", stream: TextIO | None = None
) -> None:
    """Send everything of at least `level` to `stream` (stderr); replaces earlier handlers."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else PlainFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # a traceback about a peer's broken request is not an event of ours
    logging.getLogger("aiohttp").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, root.level))
