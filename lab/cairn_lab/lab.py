"""Bringing a lab up, taking it down, and finding out how it is. Start reading here.

Order of `up`: directory and state, cgroups, first processes, network, relays, `go`. Each
step can be undone by `down` from what is on disk and in the cgroups alone, so `up` may be
killed anywhere. `down` goes by the cgroup `cairn/<lab>`, never by remembered process ids.
"""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cairn_lab import cgroups, hosts, relays, roles, state
from cairn_lab.errors import LabError
from cairn_lab.host_process import HostSpec
from cairn_lab.starting import Starting, start_all
from cairn_lab.state import HostState, LabState
from cairn_lab.topology import (
    RELAYS,
    SWITCH,
    Host,
    Topology,
    address_commands,
    bridge_commands,
    checked_name,
    hosts_file,
    lab_cgroup,
    plan,
    resolv_conf,
)

#: Mount points in every host: path, whether it is a directory, its place in the host's folder.
_MOUNTS = (
    ("/etc/resolv.conf", False, "resolv.conf"),
    ("/etc/hosts", False, "hosts"),
    ("/etc/hostname", False, "hostname"),
    ("/etc/cairn", True, "etc"),
    ("/var/lib/cairn", True, "lib"),
    ("/var/log/cairn", True, "log"),
)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class HostStatus:
    """How one host is."""

    host: Host
    #: PID 1 as seen from outside; None when the host is gone.
    pid: int | None
    cut: bool


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that is up, as far as `state` knows."""

    topology: Topology
    state: LabState

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.topology.name

    def pid(self, host: str) -> int:
        """PID 1 of `host`; raises LabError when there is no such host or it is gone."""
        self.topology.host(host)
        remembered = self.state.hosts.get(host)
        if remembered is None or not state.alive(remembered):
            raise LabError(f"host {host} is gone; 'cairn lab down' and 'up' make it again")
        return remembered.pid

    def switch_pid(self) -> int:
        """Process that holds the bridge's namespace; raises LabError when it is gone."""
        if self.state.switch is None or not state.alive(self.state.switch):
            raise LabError("the lab's switch is gone; 'cairn lab down' and 'up' make it again")
        return self.state.switch.pid

    def folder(self, host: str) -> Path:
        """Directory outside that holds the files of `host`."""
        return state.directory(self.name) / "hosts" / self.topology.host(host).name

    def status(self) -> list[HostStatus]:
        """How every host is."""
        switch = self.state.switch
        return [
            HostStatus(
                host,
                pid=remembered.pid if remembered and state.alive(remembered) else None,
                cut=bool(switch and state.alive(switch) and hosts.is_cut(switch.pid, host.name)),
            )
            for host in self.topology.hosts
            for remembered in [self.state.hosts.get(host.name)]
        ]

    def broken(self) -> list[str]:
        """Parts that should run and do not: hosts, switch, relays."""
        parts: dict[str, HostState | None] = dict(self.state.hosts)
        parts["the switch"] = self.state.switch
        if self.state.ports is not None:
            parts["the relays"] = self.state.relays
        return [name for name, remembered in parts.items() if not state.alive(remembered)]


def find(name: str) -> Lab:
    """The lab called `name`; raises LabError when it is not up."""
    found = state.load(checked_name(name))
    if found is None or found.phase != "up" or found.boot_id != state.boot_id():
        raise LabError(f"lab {name!r} is not up; start it with 'cairn lab up'")
    return Lab(_topology(found), found)


def up(
    name: str,
    *,
    masters: int = 1,
    agents: int = 2,
    public: int = 1,
    ports: Mapping[str, int] | None = None,
    bare: bool = False,
    progress: Progress = lambda text: None,
) -> tuple[Lab, bool]:
    """Bring lab `name` up; returns it and whether anything was done.

    ports: door -> port on 127.0.0.1, None for no relays. bare: hosts without daemons.
    What an interrupted `up` or a reboot left is removed first. Raises LabError when the lab
    is up with other numbers, or partly dead, or something of it cannot be made.
    """
    topology = plan(name, masters=masters, agents=agents, public=public, ports=ports)
    wanted = LabState(
        name=name,
        boot_id=state.boot_id(),
        phase="starting",
        masters=masters,
        agents=agents,
        public=public,
        ports=None if ports is None else dict(ports),
        bare=bare,
    )
    with state.locked(name):
        if (existing := _existing(wanted)) is not None:
            return existing, False
        with contextlib.ExitStack() as listeners:
            doors = relays.listen(topology.relays, listeners)
            try:
                return _bring_up(topology, wanted, doors, progress), True
            except BaseException:
                progress("removing what was made")
                _remove(name)
                raise


def down(name: str) -> bool:
    """Remove everything of lab `name`, also of an interrupted one; whether there was anything."""
    checked_name(name)
    with state.locked(name):
        there = state.directory(name).exists() or bool(_cgroup_places(name))
        if there:
            _remove(name)
        return there


def _existing(wanted: LabState) -> Lab | None:
    """The lab when it is up as wanted; None when the ground is clear. Raises LabError."""
    name = wanted.name
    found = state.load(name)
    if found is None and not state.directory(name).exists():
        if cgroups.processes(lab_cgroup(name)):
            raise LabError(
                f"processes run in cgroup {lab_cgroup(name)}, which lab {name!r} needs; "
                f"choose another --name, or end them with 'cairn lab down --name {name}'"
            )
        return None
    if found is None or found.phase != "up" or found.boot_id != wanted.boot_id:
        _remove(name)
        return None
    lab = Lab(_topology(found), found)
    if broken := lab.broken():
        raise LabError(
            f"lab {name!r} is partly dead ({', '.join(broken)}); run 'cairn lab down', then 'up'"
        )
    if _wishes(found) != _wishes(wanted):
        raise LabError(
            f"lab {name!r} is up with other hosts, relays or daemons; "
            "run 'cairn lab down' first to change them"
        )
    return lab


def _wishes(settings: LabState) -> tuple[object, ...]:
    return (settings.masters, settings.agents, settings.public, settings.ports, settings.bare)


def _topology(settings: LabState) -> Topology:
    return plan(
        settings.name,
        masters=settings.masters,
        agents=settings.agents,
        public=settings.public,
        ports=settings.ports,
    )


def _bring_up(
    topology: Topology, wanted: LabState, doors: list[relays.Door], progress: Progress
) -> Lab:
    progress("preparing directories and cgroups")
    state.save(wanted)
    binds = _make_places(topology)
    parts = [SWITCH, *(host.name for host in topology.hosts)]
    for hierarchy in cgroups.hierarchies():
        for part in [*parts, RELAYS]:
            cgroups.create(hierarchy, topology.system_cgroup(part))
        for host in topology.hosts:
            cgroups.create(hierarchy, topology.agent_cgroup(host.name))
    progress(f"starting {len(topology.hosts)} hosts")
    specs = {SWITCH: HostSpec(hostname=SWITCH, cgroup=topology.system_cgroup(SWITCH))}
    for host in topology.hosts:
        specs[host.name] = HostSpec(
            hostname=host.name,
            cgroup=topology.system_cgroup(host.name),
            binds=binds[host.name],
            argv=[] if wanted.bare else roles.supervisor_argv(),
            log=None if wanted.bare else "/var/log/cairn/supervisor.log",
        )
    started = hosts.start(specs)
    try:
        progress("connecting the hosts")
        pids = {part: one.pid for part, one in started.items()}
        hosts.ip_batch(pids[SWITCH], bridge_commands(topology, pids))
        for host in topology.hosts:
            hosts.ip_batch(pids[host.name], address_commands(host))
        if doors:
            progress("opening relays on 127.0.0.1")
            started[RELAYS] = relays.start(topology, doors, pids)
            start_all({RELAYS: started[RELAYS]})
    except BaseException:
        for one in started.values():
            one.abandon()
        raise
    final = _record(wanted, started)
    for one in started.values():
        one.go()
    state.save(final)
    return Lab(topology, final)


def _record(wanted: LabState, started: Mapping[str, Starting]) -> LabState:
    """The state of the finished lab."""
    identities: dict[str, HostState] = {}
    for part, one in started.items():
        identity = state.process(one.pid)
        if identity is None:
            raise LabError(f"{part} ended while the lab came up; try 'cairn lab up' again")
        identities[part] = identity
    switch = identities.pop(SWITCH)
    relay = identities.pop(RELAYS, None)
    return LabState(
        name=wanted.name,
        boot_id=wanted.boot_id,
        phase="up",
        masters=wanted.masters,
        agents=wanted.agents,
        public=wanted.public,
        ports=wanted.ports,
        bare=wanted.bare,
        hosts=identities,
        switch=switch,
        relays=relay,
    )


def _make_places(topology: Topology) -> dict[str, list[tuple[str, str]]]:
    """Make directories, files and mount points; returns the bind mounts of each host."""
    with state.locked(""):
        ledger = state.MadePaths()
        for target, is_directory, _ in _MOUNTS:
            real = Path(target).resolve()
            if not real.is_relative_to("/run"):
                ledger.make(real, directory=is_directory)
        for hierarchy in cgroups.hierarchies():
            ledger.make(hierarchy / "cairn", directory=True)
    binds = {}
    for host in topology.hosts:
        folder = state.directory(topology.name) / "hosts" / host.name
        for _, is_directory, source in _MOUNTS:
            if is_directory:
                (folder / source).mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(hosts_file(topology, host))
        (folder / "hostname").write_text(f"{host.name}\n")
        (folder / "resolv.conf").write_text(resolv_conf(topology))
        roles.write_configuration(topology, host, folder / "etc")
        binds[host.name] = [(str(folder / source), target) for target, _, source in _MOUNTS]
    return binds


def _cgroup_places(name: str) -> list[Path]:
    places = [hierarchy / lab_cgroup(name) for hierarchy in cgroups.hierarchies()]
    return [place for place in places if place.exists()]


def _remove(name: str) -> None:
    """Remove every process, cgroup and file of lab `name`; the caller holds its lock."""
    cgroups.kill(lab_cgroup(name))
    cgroups.remove(lab_cgroup(name))
    state.forget(name)
    with state.locked(""):
        if not state.names():
            state.MadePaths().remove()


def require_programs() -> None:
    """Raise LabError when a program that the lab runs is missing."""
    for program in ("ip", "nsenter"):
        if shutil.which(program) is None:
            raise LabError(f"program {program!r} is missing; run bin/setup as root")
