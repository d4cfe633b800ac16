"""The command `cairn-dns`, which understands the flags of `mesos-dns` too."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cairn_core.kit import daemon as kit

from .config import DnsConfig
from .daemon import build

#: Flags that the original inherits from its log library, without a meaning for us.
LOG_FLAGS = frozenset(
    {"logtostderr", "alsologtostderr", "stderrthreshold", "log_dir", "log_backtrace_at", "vmodule"}
)
#: Of these, the ones that need no value.
_SWITCHES = frozenset({"logtostderr", "alsologtostderr"})


def translate(arguments: Sequence[str]) -> list[str]:
    """Our flags for those of the original: `-config=x`, `-version`, `-v=1`, `-logtostderr`.

    Go's flags have one dash or two, and their values may be arguments of their own.
    """
    ours: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name not in {"config", "version", "v", *LOG_FLAGS}:
            ours.append(argument)
            continue
        if not equals and name != "version" and name not in _SWITCHES and left:
            value = left.pop(0)
        if name == "config":
            ours += ["--config", *([str(Path(value).expanduser())] if value else [])]
        elif name == "version":
            ours.append("--version")
        elif name == "v" and value not in ("", "0"):
            ours += ["--log-level", "debug"]
    return ours


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; see `cairn-dns --help`."""
    arguments = translate(sys.argv[1:] if argv is None else argv)
    return kit.main(
        "cairn-dns",
        DnsConfig,
        partial(build, file=_file(arguments)),
        arguments,
        ignore_prefixes=("CAIRN_DNS_PROXY_",),
        foreign_file=True,
    )


def _file(arguments: Sequence[str]) -> str:
    """The path that `/v1/config` shows."""
    for at, argument in enumerate(arguments):
        if argument == "--config":
            return str(Path(*arguments[at + 1 : at + 2]).absolute())
        if argument.startswith("--config="):
            return str(Path(argument.partition("=")[2]).absolute())
    return "/etc/cairn/dns.json"
