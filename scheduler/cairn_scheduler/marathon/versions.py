"""What the root group adds to changed apps: versions, and service ports.

    change            version  lastScalingAt  lastConfigChangeAt
    new, or config    now      now            now
    instances only    now      now            stays
    restart           now      stays          now

Instances are told apart by `lastConfigChangeAt`, so a scaling restarts nothing. Service ports
that a client left to us (0) are chosen here, once, and stay with their app. Source: the released
Marathon's versioning and its dynamic service port assignment.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace as replace_root

from msgspec.structs import replace

from cairn_scheduler.marathon import paths
from cairn_scheduler.marathon.app import App, VersionInfo
from cairn_scheduler.marathon.errors import IllegalArgument
from cairn_scheduler.marathon.groups import GroupInfo, RootGroup


def config(app: App) -> App:
    """What must be equal for two apps to be the same but for scaling."""
    return replace(app, instances=0, version=None, version_info=None)


def is_config_change(old: App, new: App) -> bool:
    """Whether instances of the old app have to be replaced."""
    return config(old) != config(new)


def stamp(
    old: RootGroup, new: RootGroup, version: str, restarts: Collection[str] = ()
) -> RootGroup:
    """Give changed apps, and the groups above them, their new version.

    version: later than any in `old`. restarts: apps to be restarted though they are the same.
    """
    apps = {}
    touched = set()
    for app_id, app in new.apps.items():
        before = old.apps.get(app_id)
        if before is app and app_id not in restarts:
            # Most apps of a change; the same object, so that comparing roots is cheap.
            apps[app_id] = app
            continue
        apps[app_id] = _stamped(before, app, version, app_id in restarts)
        if apps[app_id].version == version:
            touched |= set(paths.ancestors(app_id))
    for app_id in old.apps.keys() - new.apps.keys():
        touched |= set(paths.ancestors(app_id))
    groups = {
        name: replace(info, version=version)
        if name in touched or _bare(old.groups.get(name)) != _bare(info)
        else info
        for name, info in new.groups.items()
    }
    return replace_root(new, version=version, apps=apps, groups=groups)


def _bare(info: GroupInfo | None) -> GroupInfo | None:
    return None if info is None else replace(info, version="")


def _stamped(before: App | None, app: App, version: str, restart: bool) -> App:
    if before is None or before.version_info is None or is_config_change(before, app):
        info = VersionInfo(last_scaling_at=version, last_config_change_at=version)
    elif restart:
        info = replace(before.version_info, last_config_change_at=version)
    elif before.instances != app.instances:
        info = replace(before.version_info, last_scaling_at=version)
    else:
        return replace(app, version=before.version, version_info=before.version_info)
    return replace(app, version=version, version_info=info)


def assign_service_ports(
    old: RootGroup, new: RootGroup, first: int = 10000, last: int = 20000
) -> RootGroup:
    """Replace service ports of 0 by free ones from first..last.

    A changed app first gets back ports that it had and does not name any more. Ports that other
    apps have, old or new, are not given out; explicit ones are not checked, as in the original.
    Raises IllegalArgument when none is left.
    """
    waiting = [app for app in new.apps.values() if _wants_port(app)]
    if not waiting:
        return new
    used = {p for root in (old, new) for app in root.apps.values() for p in app.service_ports}
    free = (port for port in range(first, last + 1) if port not in used)
    apps = dict(new.apps)
    for app in sorted(waiting, key=lambda a: a.id):
        before = old.apps.get(app.id)
        own = [
            port
            for port in (before.service_ports if before is not None else ())
            if first <= port <= last and port not in app.service_ports
        ]
        apps[app.id] = _with_ports(app, iter(own), free, (first, last))
    return replace_root(new, apps=apps)


def _wants_port(app: App) -> bool:
    # Differs: a required host port of 0 stays 0, which is a random host port; the original would
    # make it a service port, which no agent offers.
    return 0 in app.service_ports and not (app.require_ports and not app.port_mappings)


def _with_ports(app: App, own: Iterator[int], free: Iterator[int], bounds: tuple[int, int]) -> App:
    def choose(port: int) -> int:
        if port:
            return port
        chosen = next(own, 0) or next(free, 0)
        if not chosen:
            raise IllegalArgument(
                f"All ports in the range [{bounds[0]}-{bounds[1]}) are already in use"
            )
        return chosen

    container = app.container
    if container is not None and container.port_mappings:
        mappings = tuple(
            replace(m, service_port=choose(m.service_port)) for m in container.port_mappings
        )
        return replace(app, container=replace(container, port_mappings=mappings))
    definitions = tuple(replace(d, port=choose(d.port)) for d in app.port_definitions or ())
    return replace(app, port_definitions=definitions)
