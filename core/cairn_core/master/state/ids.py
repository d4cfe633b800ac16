"""Which texts may be ids of frameworks, tasks, executors: they become directory names.

Source: Apache Mesos `src/common/validation.cpp` (validateID).
"""

MAX_ID = 255


def fault_of_id(text: str) -> str | None:
    """What is wrong with an id, as the end of a sentence; None when it is fine."""
    if not text:
        return "must not be empty"
    if len(text) > MAX_ID:
        return f"must not be longer than {MAX_ID} characters"
    if text in (".", ".."):
        return f"'{text}' is disallowed"
    if any(c in "/\\" or ord(c) < 32 or ord(c) == 127 for c in text):
        return f"{text!r} contains a slash, a backslash or a control character"
    return None
