"""What a README shows, for tests that it tells the truth."""

import re
from collections.abc import Iterator


def blocks(text: str, kind: str) -> list[str]:
    """The fenced blocks of one kind, such as `json config`."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def examples(text: str) -> Iterator[tuple[str, str]]:
    """Commands of the console blocks and what they print."""
    for block in blocks(text, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output
