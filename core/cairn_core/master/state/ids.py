"""Which texts may be ids of frameworks, tasks, executors: they become directory names.

Source: Apache Mesos `src/common/validation.cpp` (validateID).
"""

import re

MAX_ID = 255
_FOREIGN = re.compile(r"[\x00-\x1f\x7f/\\]")


def fault_of_id(text: str) -> str | None:
    """What is wrong with an id, as the end of a sentence; None when it is fine."""
    if not text:
        return "must not be empty"
    if len(text) > MAX_ID:
        return f"must not be longer than {MAX_ID} characters"
    if text in (".", ".."):
        return f"'{text}' is disallowed"
    if _FOREIGN.search(text):
        return f"{text!r} contains a slash, a backslash or a control character"
    return None
