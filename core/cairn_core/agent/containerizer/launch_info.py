"""How the wishes of several isolators become one launch (mesos docs/containerizers.md).

Lists are appended in the order of the isolators, variables are merged by name, and a scalar that
two isolators set is an error, for one of them would silently lose.
"""

from collections.abc import Iterable

from cairn_core.extensions import LaunchInfo

SCALARS = ("rlimits", "working_directory", "hostname")


def merge(infos: Iterable[tuple[str, LaunchInfo]]) -> LaunchInfo:
    """One launch out of `(isolator's name, its wish)`. Raises ValueError for a conflict."""
    environment: dict[str, str] = {}
    join: dict[str, str] = {}
    namespaces: list[str] = []
    owner: dict[str, str] = {}
    merged = LaunchInfo()
    for name, info in infos:
        for field in SCALARS:
            if getattr(info, field) is not None and owner.setdefault(field, name) != name:
                raise ValueError(f"{field}: set by both isolators {owner[field]} and {name}")
        for kind, path in info.join.items():
            if join.setdefault(kind, path) != path:
                raise ValueError(f"join {kind}: both {join[kind]} and {path} (isolator {name})")
        namespaces += [kind for kind in info.namespaces if kind not in namespaces]
        environment |= info.environment
        merged = LaunchInfo(
            mounts=merged.mounts + info.mounts,
            masked=merged.masked + info.masked,
            pre_exec=merged.pre_exec + info.pre_exec,
            rlimits=merged.rlimits if info.rlimits is None else info.rlimits,
            working_directory=info.working_directory or merged.working_directory,
            hostname=info.hostname or merged.hostname,
            no_new_privs=merged.no_new_privs or info.no_new_privs,
        )
    if both := set(namespaces) & set(join):
        raise ValueError(f"namespaces: {', '.join(sorted(both))} both left and joined")
    return LaunchInfo(
        environment=environment,
        namespaces=tuple(namespaces),
        join=join,
        mounts=merged.mounts,
        masked=merged.masked,
        pre_exec=merged.pre_exec,
        rlimits=merged.rlimits,
        working_directory=merged.working_directory,
        hostname=merged.hostname,
        no_new_privs=merged.no_new_privs,
    )
