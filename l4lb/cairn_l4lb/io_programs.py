"""Running the host's programs: nft, iptables, ipset."""

import shutil
import subprocess
from collections.abc import Sequence

from cairn_core.errors import Unavailable, shorten

#: Also where the PATH of a service lacks them.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATIENCE_S = 60.0


def run(argv: Sequence[str], given: str | None = None) -> str:
    """What a program prints; `given` is its input.

    Raises Unavailable with its own words when it fails, is missing, or takes longer than a minute.
    """
    path = shutil.which(argv[0], path=_PATH)
    if path is None:
        raise Unavailable(f"program {argv[0]} is missing: install its package")
    try:
        done = subprocess.run(
            [path, *argv[1:]],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(argv)}: no end after {_PATIENCE_S:g} s") from None
    except OSError as error:
        raise Unavailable(f"{argv[0]}: {error.strerror}") from None
    if done.returncode:
        said = shorten(done.stderr) or shorten(done.stdout) or f"ended with {done.returncode}"
        raise Unavailable(f"{' '.join(argv)}: {said}")
    return done.stdout
