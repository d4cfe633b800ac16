"""The texts of errors: one line, short, and for people."""

import errno
import socket

import pytest

from cairn_core.errors import cause, shorten


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('1.2.3.4', 80)"),
         "Connection refused"),
        (FileNotFoundError(errno.ENOENT, "x", "/some/where"), "No such file or directory"),
        (socket.gaierror(socket.EAI_NONAME, "Name not known"), "[Errno -2] Name not known"),
        (ValueError("first\nsecond"), "first second"),
        (TimeoutError(), "TimeoutError"),
        (OSError("several things failed"), "several things failed"),
    ],
)  # fmt: skip
def test_the_cause_of_an_error_is_told_without_numbers(error: BaseException, text: str) -> None:
    assert cause(error) == text


def test_a_long_text_loses_its_middle() -> None:
    text = shorten("begin " + "x" * 500 + " end", 60)
    assert len(text) <= 60
    assert text.startswith("begin")
    assert text.endswith("end")
