"""Why a name has no records: what the cluster has that comes close, and which names are near.

For people: O(tasks), asked for rarely.  Who gives the records that a name does have is known to
`cluster_zone`; this module is about the names that do not exist.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from cairn_core.clusterview.view import Snapshot
from cairn_core.errors import shorten
from cairn_core.mesos.feed_rows import TaskRow

from .labels import domain_fragment, mangle

#: Near names are at most so many insertions, deletions and replacements away.
MAX_DISTANCE = 3
MAX_NEAREST = 5
#: Names whose distance is worked out; each takes some ten microseconds.
MAX_COMPARED = 2_000
MAX_LABEL = 63
#: First labels of names in the zone of DC/OS that tell which address is meant.
_DCOS_KINDS = ("agentip", "containerip", "autoip")


@dataclass(frozen=True, slots=True)
class Body:
    """A name of ours in parts.

    text: `task.framework`, what is left without zone, `slave` and service labels. service: the
    labels of a service in front (`_http`, `_tcp`), if any.
    """

    zone: str
    text: str
    service: tuple[str, ...] = ()


def body_of(name: str, zones: Iterable[str]) -> Body | None:
    """The parts of a name (lower case, no dot at the end); None for one that is not ours."""
    inside = [zone for zone in zones if name == zone or name.endswith("." + zone)]
    if not inside:
        return None
    zone = max(inside, key=len)
    labels = name.removesuffix(zone).removesuffix(".").split(".")
    if labels[-1] in ("slave", *_DCOS_KINDS) and len(labels) > 1:
        del labels[-1]
    service = []
    while labels and labels[0].startswith("_"):
        service.append(labels.pop(0))
    # `_web._tcp.marathon`: the task is among the labels of the service
    protocols = [label for label in service if label in ("_tcp", "_udp")]
    if protocols and len(service) > len(protocols):
        task = [label for label in service if label not in protocols][-1]
        labels.insert(0, task[1:])
    return Body(zone, ".".join(labels), tuple(service))


def why_not(
    name: str,
    zones: Iterable[str],
    snapshot: Snapshot,
    *,
    known: bool,
    rfc952: bool = False,
    healthy_only: bool = False,
) -> str:
    """The reason why a name has no records, as one sentence.

    name: lower case, without the last dot. known: whether the cluster is known at all.
    """
    long = [label for label in name.split(".") if len(label) > MAX_LABEL]
    if long:
        return f"label has {len(long[0])} characters, at most {MAX_LABEL} are possible"
    body = body_of(name, zones)
    if body is None:
        return "not a name of the cluster"
    if not known:
        return "no state of the cluster is known yet"
    if body.text in ("leader", "master") and not body.service:
        return "no master is known"
    labels = _Labels(snapshot, rfc952)
    candidates = _matching(body.text, labels)
    if candidates:
        task = candidates[0]
        reason = _why_hidden(task, snapshot, healthy_only) or (
            "it has no such port or protocol" if body.service else "it has no address of this kind"
        )
        return f"task {shorten(task.id, 80)!r} exists, but {reason}"
    return _why_no_task(body.text, labels, rfc952)


def _why_hidden(task: TaskRow, snapshot: Snapshot, healthy_only: bool) -> str | None:
    """Why a task gives no records at all."""
    if task.state != "TASK_RUNNING":
        return f"it is {task.state}"
    if snapshot.agent(task.agent_id) is None:
        return f"its agent {shorten(task.agent_id, 80)!r} is not known"
    if snapshot.framework(task.framework_id) is None:
        return f"its framework {shorten(task.framework_id, 80)!r} is not known"
    if healthy_only and task.healthy is False:
        return "it is not healthy, and healthy_only is set"
    return None


def _why_no_task(text: str, labels: "_Labels", rfc952: bool) -> str:
    names = sorted({names[0] for names in labels.of_frameworks.values()} - {""})
    of = next((name for name in names if text.endswith("." + name)), None)
    if of is not None:
        task = text.removesuffix("." + of)
        if rfc952 and any(len(label) > 24 for label in task.split(".")):
            return "label has more than 24 characters, which RFC 952 does not allow"
        return f"no task {shorten(task, 80)!r} in framework {of!r}"
    task, _, framework = text.partition(".")
    elsewhere = sorted(
        {
            labels.of_frameworks.get(row.framework_id, ("?",))[0]
            for row in labels.snapshot.tasks.values()
            if task in labels.of(row)
        }
    )
    if elsewhere and framework:
        others = ", ".join(repr(name) for name in elsewhere[:MAX_NEAREST])
        return f"no framework {shorten(framework, 80)!r}; a task of this name is in {others}"
    if framework:
        return f"no framework {shorten(framework, 80)!r} and no task {shorten(task, 80)!r}"
    return f"no framework and no host of the cluster is called {shorten(text, 80)!r}"


def _matching(text: str, labels: "_Labels") -> list[TaskRow]:
    """Tasks that would have the name `text` if they had records; running ones last."""
    tails = {
        id: [text.removesuffix("." + one) for one in some if text.endswith("." + one)]
        for id, some in labels.of_frameworks.items()
    }
    found = [
        row
        for row in labels.snapshot.tasks.values()
        if (names := tails.get(row.framework_id)) and any(x in labels.of(row) for x in names)
    ]
    return sorted(found, key=lambda row: row.state == "TASK_RUNNING")


class _Labels:
    """How the names of a cluster look in names of ours, each worked out once.

    of_frameworks: by id, in the zone of Mesos-DNS and in that of DC/OS, where dots become dashes.
    """

    def __init__(self, snapshot: Snapshot, rfc952: bool) -> None:
        self.snapshot, self._rfc952 = snapshot, rfc952
        self.of_frameworks = {
            row.id: (domain_fragment(row.name, rfc952=rfc952), mangle(row.name))
            for row in snapshot.frameworks.values()
        }
        self._of_tasks: dict[str, tuple[str, ...]] = {}

    def of(self, row: TaskRow) -> tuple[str, ...]:
        """The labels of a task, which are two when its discovery information has a name."""
        name = row.discovery_name or row.name
        found = self._of_tasks.get(name)
        if found is None:
            found = self._of_tasks[name] = (mangle(name, rfc952=self._rfc952), name)
        return found if row.discovery_name else found[:1]


# -- near names ------------------------------------------------------------------------------------


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """At most five names that a person may have meant.

    Those beside `name` (all but the first label alike) and those of the same first label; others
    would be too many to compare, and too far.
    """
    first, _, parent = name.partition(".")
    beside, below, same_first = {}, "." + parent, first + "."
    others = []
    for other in names:
        if other.endswith(below):
            label = other.removesuffix(below)
            if abs(len(label) - len(first)) <= MAX_DISTANCE and "." not in label:
                beside[label] = other
        elif other.startswith(same_first):
            others.append(other)
    labels = nearest(first, beside)
    found = [(far, beside[label]) for far, label in labels] + nearest(name, others)
    return [other for _, other in sorted(found)[:MAX_NEAREST]]


def nearest(name: str, names: Iterable[str]) -> list[tuple[int, str]]:
    """At most five of `names` with their edit distances, of at most three.

    A name within that distance has at least one quarter of the other one whole, so that only
    those are compared; of very many such names only the first.
    """
    count = MAX_DISTANCE + 1
    ends = [len(name) * part // count for part in range(count + 1)]
    parts = [name[start:end] for start, end in pairwise(ends)]
    found: list[tuple[int, str]] = []
    compared = 0
    for other in names:
        if other != name and abs(len(other) - len(name)) <= MAX_DISTANCE:
            if not any(part in other for part in parts):
                continue
            compared += 1
            if compared > MAX_COMPARED:
                break
            if (far := distance(name, other)) <= _near(name):
                found.append((far, other))
    return sorted(found)[:MAX_NEAREST]


def _near(name: str) -> int:
    """How far a near name may be: half of a short one is not near."""
    return min(MAX_DISTANCE, max(1, len(name) // 2))


def distance(one: str, other: str, limit: int = MAX_DISTANCE) -> int:
    """Insertions, deletions and replacements between two texts; `limit + 1` stands for more."""
    row = list(range(len(other) + 1))
    for at, character in enumerate(one, 1):
        last, row = row, [at]
        for column, against in enumerate(other, 1):
            row.append(
                min(last[column] + 1, row[-1] + 1, last[column - 1] + (character != against))
            )
        if min(row) > limit:
            return limit + 1
    return min(row[-1], limit + 1)
