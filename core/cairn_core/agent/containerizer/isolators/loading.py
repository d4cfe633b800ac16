"""From `--isolation` and `--hooks` to what they name (mesos docs/containerizers.md)."""

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import cast

from cairn_core.errors import LocalError
from cairn_core.extensions import HOOKS, ISOLATORS, AgentSettings, Hook, Isolator

ALIASES = {
    "process": ("posix/cpu", "posix/mem"),
    "cgroups": ("cgroups/cpu", "cgroups/mem"),
    "posix/disk": ("disk/du",),
}
FILESYSTEM = ("filesystem/posix", "filesystem/linux")
#: Ours run in this order whatever the flag's; those of others follow in the order of the flag.
ORDER = (
    *FILESYSTEM,
    "posix/cpu",
    "posix/mem",
    "cgroups/cpu",
    "cgroups/mem",
    "disk/du",
    "namespaces/pid",
    "namespaces/ipc",
)
EXCLUSIVE = (("posix/cpu", "cgroups/cpu"), ("posix/mem", "cgroups/mem"), FILESYSTEM)
DEFAULT = "posix/cpu,posix/mem"


def resolve(flag: str) -> list[str]:
    """Names that a flag means, in order. Raises ValueError for names that exclude each other."""
    named: list[str] = []
    for word in (part.strip() for part in flag.split(",")):
        if word:
            named += [name for name in ALIASES.get(word, (word,)) if name not in named]
    for pair in EXCLUSIVE:
        if set(pair) <= set(named):
            raise ValueError(f"isolation: {pair[0]} and {pair[1]} exclude each other")
    if not set(FILESYSTEM) & set(named):
        named.append("filesystem/posix")
    if "namespaces/pid" in named and "filesystem/linux" not in named:
        raise ValueError("isolation: namespaces/pid needs filesystem/linux, which remounts /proc")
    return [n for n in ORDER if n in named] + [n for n in named if n not in ORDER]


def load(flag: str, settings: AgentSettings) -> list[Isolator]:
    """The isolators that `flag` names; nothing else is imported. Raises LocalError."""
    try:
        names = resolve(flag)
    except ValueError as error:
        raise LocalError(str(error)) from None
    return [cast(Isolator, make(settings)) for make in _factories(ISOLATORS, "isolation", names)]


def load_hooks(flag: str, settings: AgentSettings) -> list[Hook]:
    """The hooks that `--hooks` names, in its order. Raises LocalError."""
    names = [word for part in flag.split(",") if (word := part.strip())]
    return [cast(Hook, make(settings)) for make in _factories(HOOKS, "hooks", names)]


def _factories(
    group: str, setting: str, names: list[str]
) -> Iterator[Callable[[AgentSettings], object]]:
    found = {point.name: point for point in entry_points(group=group)}
    for name in names:
        if name not in found:
            raise LocalError(f"{setting}: nothing installed is named {name!r}")
        try:
            factory = found[name].load()
        except (ImportError, AttributeError) as error:
            raise LocalError(f"{setting}: {name}: {error}") from error
        yield cast(Callable[[AgentSettings], object], factory)
