"""The order in which apps come up: layers of the dependency graph, and its cycles.

An app depends on the apps that it names, on all apps of the groups that it names, and on whatever
the groups above it depend on. Ids that do not exist are ignored, so that an app may be written
before the one it needs.
"""

from collections.abc import Callable, Iterator

from cairn_scheduler.marathon import paths
from cairn_scheduler.marathon.errors import NotValid, fault
from cairn_scheduler.marathon.groups import ROOT, RootGroup

CYCLE = "Dependency graph has cyclic dependencies."


def layers(root: RootGroup) -> list[list[str]]:
    """Ids of all apps by layer: an app's layer is the longest way down from it.

    Raises NotValid when the dependencies go in a circle. Linear in apps and dependencies.
    """
    depth = _depths(root)
    out: list[list[str]] = [[] for _ in range(max((depth[a] for a in root.apps), default=-1) + 1)]
    for app_id in sorted(root.apps):
        out[depth[app_id]].append(app_id)
    return [layer for layer in out if layer]


def _depths(root: RootGroup) -> dict[str, int]:
    """Layer of every app. A group stands for all apps in it and adds no layer of its own."""
    members: dict[str, list[str]] = {}
    named = {d for app in root.apps.values() for d in app.dependencies}
    named |= {d for info in root.groups.values() for d in info.dependencies}
    for app_id in root.apps:
        for group in paths.ancestors(app_id):
            if group in named:
                members.setdefault(group, []).append(app_id)

    def below(node: str) -> Iterator[str]:
        app = root.apps.get(node)
        if app is None:
            yield from members.get(node, ())
            return
        wanted = list(app.dependencies)
        for group in paths.ancestors(node):
            wanted += root.groups.get(group, root.groups[ROOT]).dependencies
        for name in wanted:
            if name in root.apps or name in root.groups:
                yield name

    depth: dict[str, int] = {}
    for start in root.apps:
        _visit(start, below, root, depth)
    return depth


def _visit(
    start: str,
    below: Callable[[str], Iterator[str]],
    root: RootGroup,
    depth: dict[str, int],
) -> None:
    """Depth-first without recursion: chains may be as long as there are apps."""
    if start in depth:
        return
    open_nodes = {start}
    stack = [(start, below(start), -1)]
    while stack:
        node, rest, deepest = stack.pop()
        for name in rest:
            if name in open_nodes:
                raise NotValid([fault("/", CYCLE)])
            if name in depth:
                deepest = max(deepest, depth[name])
                continue
            stack.append((node, rest, deepest))
            open_nodes.add(name)
            stack.append((name, below(name), -1))
            break
        else:
            depth[node] = deepest + (node in root.apps)
            open_nodes.discard(node)
            if stack:
                above, more, so_far = stack.pop()
                stack.append((above, more, max(so_far, depth[node])))
