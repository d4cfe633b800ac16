"""What a README shows, and the daemon that it shows at work, for tests that it tells the truth."""

import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator

DEADLINE_S = 30.0


def blocks(text: str, kind: str) -> list[str]:
    """The fenced blocks of one kind, such as `json config`."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def examples(text: str) -> Iterator[tuple[str, str]]:
    """Commands of the console blocks and what they print."""
    for block in blocks(text, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def wait_until_ready(url: str, daemon: "subprocess.Popen[bytes]") -> None:
    """Wait until a daemon says so; fails when it ends, or after `DEADLINE_S`."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert daemon.poll() is None, "ended"
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(0.02)  # the daemon is another process: there is nothing to wait on
    raise AssertionError(f"not ready after {DEADLINE_S:.0f} s")
