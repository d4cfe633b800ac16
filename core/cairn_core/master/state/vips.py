"""Named VIPs: a name that a task asks for gets an address, which the registry has before anybody
is told, and keeps it until nobody has asked for it for `Settings.vip_release_s`.

    not known -> storing -> published -> idle (no task asks) -> leaving -> not known

Rules of labels, names and ranges are in `cairn_core.vips`.  A task counts from its launch until it
leaves the tables, whatever its state: a name has its address before the task runs.  After a change
of masters nobody asks for anything yet, so the time begins anew for all names.

No framework gets more than its share of the names, so that none of them can take all.  A name
counts for the framework that asked for it first, until it is released.

Differs: in the original each node finds addresses for itself and frees them with the last task.
"""

from collections.abc import Iterable, Mapping
from itertools import islice

import msgspec

from cairn_core.master.registry import vip_record, vip_removal
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.effects import Change, VipChanged, VipsRefused
from cairn_core.master.state.records import FrameworkRecord, TaskRecord
from cairn_core.mesos import types
from cairn_core.mesos.feed_rows import TaskRow, discovery_ports, vip_labels
from cairn_core.vips.addresses import Given, OutOfAddresses
from cairn_core.vips.labels import declared
from cairn_core.vips.names import BadName, full_name
from cairn_core.vips.shares import NOBODY

NAME = "vips"
#: Names that are released, or tried again, in one step.
AT_ONCE = 500
#: How keys look in `TaskRecord.static`, in lower case: of a label that may declare a VIP, of such a
#: one of the task itself, and where the labels of ports begin, behind those of the task.
_MARK = b'"key":"vip'
_OWN_MARK = b'"key":"vip_port'
_PORTS = b'"discovery":'


class _Labelled(msgspec.Struct):
    """What of `TaskRecord.static` may declare VIPs: the rest is not decoded."""

    labels: types.Labels | None = None
    discovery: types.DiscoveryInfo | None = None


_decode = msgspec.json.Decoder(_Labelled).decode


def names_of(static: bytes, framework: str) -> tuple[str, ...]:
    """The names that a task asks for, each once; `static` as in TaskRecord.

    Half a microsecond for a task without such labels, some ten for one with them.
    """
    text = static.lower()
    if _MARK not in text or (text.find(_MARK, text.find(_PORTS)) < 0 and _OWN_MARK not in text):
        return ()
    task = _decode(static)
    labels = vip_labels(task.labels.labels if task.labels is not None else ())
    ports = discovery_ports(task.discovery)
    row = TaskRow("", "", "", "", "", discovery_ports=ports, vip_labels=labels)
    names: dict[str, None] = {}
    for vip in declared(row).vips:
        if vip.label:
            try:
                names[full_name(vip.label, framework)] = None
            except BadName:
                continue  # the nodes tell whoever asks why
    return tuple(names)


def recover(c: Cluster, names: Mapping[str, Given]) -> None:
    """The registry has these names; those that cannot be are as if they had not been given."""
    vips = c.vips
    for name, given in sorted(names.items()):
        if vips.addresses.adopt(name, given.ipv4, given.ipv6):
            vips.idle[name] = c.now
            vips.shares.take(name, NOBODY)
        else:
            c.counts["master/vips_conflicting"] += 1
    _wake(c)


def added(c: Cluster, framework: FrameworkRecord, task: TaskRecord) -> None:
    """A task came into the tables."""
    names = names_of(task.static, framework.info.name)
    if names:
        _ask(c, (task.framework_id, task.task_id), names)


def removed(c: Cluster, task: TaskRecord) -> None:
    """A task left the tables."""
    key = (task.framework_id, task.task_id)
    if key in c.vips.names_of:
        _unask(c, key)


def renamed(c: Cluster, framework: FrameworkRecord) -> None:
    """The framework has another name, and so have the VIPs of its tasks."""
    for task in framework.tasks.values():
        key = (task.framework_id, task.task_id)
        if key in c.vips.names_of:
            _unask(c, key)
            added(c, framework, task)


def _ask(c: Cluster, key: tuple[str, str], names: tuple[str, ...]) -> None:
    vips = c.vips
    vips.names_of[key] = names
    framework_id = key[0]
    for name in names:
        vips.uses[name] = vips.uses.get(name, 0) + 1
        asker = vips.askers.setdefault(name, framework_id)
        if vips.uses[name] == 1:
            vips.idle.pop(name, None)
            if name not in vips.addresses:
                vips.wanted[name] = None
        elif name in vips.refused and asker != framework_id:
            # frameworks may have one name, and another one may have room for it
            vips.askers[name] = framework_id
            vips.wanted[name] = None
        vips.shares.claim(name, framework_id)


def _unask(c: Cluster, key: tuple[str, str]) -> None:
    vips = c.vips
    for name in vips.names_of.pop(key):
        vips.uses[name] -= 1
        if not vips.uses[name]:
            del vips.uses[name], vips.askers[name]
            vips.wanted.pop(name, None)
            vips.refused.pop(name, None)
            if name in vips.addresses and name not in vips.leaving:
                vips.idle[name] = c.now
                _wake(c)


def settle(c: Cluster) -> None:
    """At the end of each fact: give addresses to the names that it brought, all in one write."""
    if not c.vips.wanted:
        return
    vips = c.vips
    wanted = sorted(vips.wanted)
    vips.wanted.clear()
    new: dict[str, Given] = {}
    refused: list[str] = []
    for name in wanted:
        reason, asker = "", vips.askers[name]
        if not vips.shares.room(asker):
            reason = vips.shares.why_full(asker)
        else:
            try:
                new[name] = vips.addresses.give(name)
                vips.shares.take(name, asker)
            except OutOfAddresses as error:
                reason = str(error)
        if not reason:
            vips.refused.pop(name, None)
        elif name not in vips.refused:
            vips.refused[name] = reason
            refused.append(name)
    if refused:
        c.counts["master/vips_refused"] += len(refused)
        c.emit(VipsRefused(len(refused), refused[0], vips.refused[refused[0]]))
    if new:
        vips.storing.update(new)
        c.store([vip_record(name, given) for name, given in new.items()], lambda: _stored(c, new))


def _stored(c: Cluster, new: Mapping[str, Given]) -> None:
    """The registry has new names: now others may know."""
    for name, given in new.items():
        c.vips.storing.discard(name)
        c.emit(VipChanged(name, given, Change.ADDED))


def release_due(c: Cluster, _: str) -> None:
    """Some names may have been idle for long enough."""
    vips = c.vips
    vips.timer = None
    release_s = c.settings.vip_release_s
    # The oldest are first, for a name goes to the end when it becomes idle.
    old = [name for name, since in islice(vips.idle.items(), AT_ONCE) if since + release_s <= c.now]
    for name in old:
        del vips.idle[name]
    vips.leaving.update(old)
    if old:
        c.store([vip_removal(name) for name in old], lambda: _released(c, old))
    _wake(c)


def _released(c: Cluster, names: Iterable[str]) -> None:
    """The registry has forgotten names: their addresses are free for others."""
    vips = c.vips
    for name in names:
        vips.leaving.discard(name)
        given = vips.addresses.release(name)
        vips.shares.give_back(name)
        assert given is not None
        c.emit(VipChanged(name, given, Change.REMOVED))
        if name in vips.uses:
            vips.wanted[name] = None  # asked for again meanwhile
    hopeful = (name for name in vips.refused if vips.shares.room(vips.askers[name]))
    vips.wanted.update(dict.fromkeys(islice(hopeful, AT_ONCE)))


def _wake(c: Cluster) -> None:
    """Have `release_due` called when the oldest idle name is due."""
    vips = c.vips
    if vips.timer is None and vips.idle:
        vips.timer = next(iter(vips.idle.values())) + c.settings.vip_release_s
        c.wake_at(vips.timer, NAME, "")
