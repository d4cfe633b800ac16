"""Showing a lab at work: an example is deployed, found by name, asked, killed, and returns.

Everything goes through the public interfaces (Marathon's and the master's HTTP, DNS), from
inside the lab, so it needs no relay. Every step has a deadline and one line of advice.
"""

import http.client
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cairn_lab import hosts, inside
from cairn_lab.errors import LabError
from cairn_lab.lab import Lab
from cairn_lab.roles import MARATHON_PORT, MASTER_PORT, PROXY_ADDRESSES
from cairn_lab.topology import Host

_POLL_S = 0.25
#: Zone of the names of virtual addresses.
VIP_ZONE = "l4lb.thisdcos.directory"
#: Seconds that a step may take on a small machine.
DEADLINE_S = 90.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Instance:
    """A running task of the example."""

    task_id: str
    host: Host
    port: int


class Demo:
    """One deployed application and the questions one can ask about it."""

    def __init__(self, lab: Lab, definition: Path) -> None:
        """definition: a Marathon application as JSON, with health checks and an HTTP port."""
        self._lab = lab
        self._master = lab.topology.by_role("master")[0]
        self._definition: dict[str, Any] = msgspec.json.decode(definition.read_bytes())
        self._id: str = self._definition["id"].lstrip("/")

    @property
    def name(self) -> str:
        """The application's name in DNS."""
        return ".".join([*reversed(self._id.split("/")), "marathon", "mesos"])

    def wait_for_agents(self, *, timeout_s: float = DEADLINE_S) -> int:
        """Wait until the master knows every agent; returns how many there are."""
        wanted = {h.name for h in self._lab.topology.hosts if h.role != "master"}
        self._wait(
            lambda: self._active_agents() >= wanted,
            timeout_s,
            lambda: (
                f"agents {', '.join(sorted(wanted - self._active_agents()))} did not register; "
                f"see 'cairn lab logs {sorted(wanted)[0]}/cairn-agent'"
            ),
        )
        return len(wanted)

    def wait_for_marathon(self, *, timeout_s: float = DEADLINE_S) -> None:
        """Wait until Marathon answers and is registered with the master."""
        self._wait(
            lambda: bool((self._marathon("GET", "/v2/info") or {}).get("frameworkId")),
            timeout_s,
            lambda: (
                "Marathon did not register with the master; "
                f"see 'cairn lab logs {self._master.name}/cairn-marathon'"
            ),
        )

    def deployed(self) -> bool:
        """Whether the application is there already."""
        return self._marathon("GET", f"/v2/apps/{self._id}") is not None

    def deploy(self) -> None:
        """Create the application; raises LabError with Marathon's answer when it refuses."""
        answer = self._ask("POST", MARATHON_PORT, "/v2/apps", self._definition)
        if answer is None or answer.status not in (200, 201):
            said = "nothing" if answer is None else answer.body.decode(errors="replace")[:200]
            raise LabError(f"Marathon refused the example /{self._id}: {said}")

    def instances(self) -> list[Instance]:
        """Instances that pass their health checks, by host."""
        document = self._marathon("GET", f"/v2/apps/{self._id}/tasks") or {}
        found = []
        for task in document.get("tasks", []):
            results = task.get("healthCheckResults") or []
            if results and all(result.get("alive") for result in results) and task.get("ports"):
                host = self._lab.topology.host(task["host"])
                found.append(Instance(task["id"], host, task["ports"][0]))
        return sorted(found, key=lambda instance: instance.host.name)

    def wait_for_instances(
        self, *, but_not: frozenset[str] = frozenset(), timeout_s: float = DEADLINE_S
    ) -> list[Instance]:
        """Wait until as many as asked for are healthy, none of them a task in `but_not`."""
        wanted: int = self._definition["instances"]
        found: list[Instance] = []

        def enough() -> bool:
            found[:] = [i for i in self.instances() if i.task_id not in but_not]
            return len(found) >= wanted

        self._wait(
            enough,
            timeout_s,
            lambda: (
                f"{len(found)} of {wanted} instances of /{self._id} are healthy after "
                f"{timeout_s:.0f} s; "
                f"see 'cairn lab logs {self._master.name}/cairn-marathon'"
            ),
        )
        return found

    def resolve(self, host: Host, name: str | None = None) -> set[str]:
        """IPv4 addresses of `name` (default: the application's) as `dig` on `host` finds them."""
        argv = ["dig", "+short", "+tries=1", "+time=1", name or self.name]
        done = subprocess.run(
            hosts.enter(self._lab.pid(host.name), argv), capture_output=True, text=True
        )
        return set(done.stdout.split()) if done.returncode == 0 else set()

    def servers(self, host: Host) -> set[str]:
        """Name servers that programs on `host` ask."""
        lines = (self._lab.folder(host.name) / "resolv.conf").read_text().splitlines()
        return {line.split()[1] for line in lines if line.startswith("nameserver ")}

    def wait_for_proxy(self, host: Host, *, timeout_s: float = DEADLINE_S) -> None:
        """Wait until programs on `host` ask its own proxy and nobody else, and it answers."""
        self._wait(
            lambda: (
                self.servers(host) <= set(PROXY_ADDRESSES)
                and self.resolve(host, "ready.spartan") == {"127.0.0.1"}
            ),
            timeout_s,
            lambda: (
                f"ready.spartan is not answered by {', '.join(sorted(self.servers(host)))} on "
                f"{host.name}; see 'cairn lab logs {host.name}/cairn-dns-proxy'"
            ),
        )

    def wait_for_name(
        self, host: Host, addresses: set[str], *, timeout_s: float = DEADLINE_S
    ) -> set[str]:
        """Wait until the name leads to exactly `addresses` on `host`."""
        seen: set[str] = set()

        def resolves() -> bool:
            seen.clear()
            seen.update(self.resolve(host))
            return seen == addresses

        self._wait(
            resolves,
            timeout_s,
            lambda: (
                f"{self.name} leads to {', '.join(sorted(seen)) or 'nothing'} on {host.name} "
                f"instead of {', '.join(sorted(addresses))}; "
                f"see 'cairn lab logs {self._master.name}/cairn-dns' and "
                f"'cairn lab logs {host.name}/cairn-dns-proxy'"
            ),
        )
        return seen

    def fetch(self, instance: Instance, *, source: Host | None = None) -> str:
        """The page of an instance, asked for on `source` (default: the master)."""
        pid = self._lab.pid((source or self._master).name)
        try:
            answer = inside.request(pid, "GET", str(instance.host.ipv4), instance.port, "/")
        except (OSError, http.client.HTTPException) as error:
            raise LabError(
                f"{instance.host.name}:{instance.port} does not answer ({error}); "
                f"see 'cairn lab logs {instance.host.name}/cairn-agent'"
            ) from error
        return answer.body.decode(errors="replace").strip()

    @property
    def vip(self) -> tuple[str, int] | None:
        """Name in DNS and port of the first VIP that the application's ports declare as a name."""
        for port in self._definition.get("portDefinitions", ()):
            for key, value in port.get("labels", {}).items():
                if key.upper().startswith("VIP") and value.startswith("/"):
                    label, _, number = value[1:].rpartition(":")
                    return f"{label}.marathon.{VIP_ZONE}", int(number)
        return None

    def wait_for_vip(self, host: Host, *, timeout_s: float = DEADLINE_S) -> str:
        """Wait until the VIP answers on `host`; its page. Raises LabError without a VIP too."""
        if self.vip is None:
            raise LabError(f"/{self._id} declares no VIP")
        name, port = self.vip
        page = ""

        def answers() -> bool:
            nonlocal page
            for address in sorted(self.resolve(host, name)):
                try:
                    answer = inside.request(self._lab.pid(host.name), "GET", address, port, "/")
                except (OSError, http.client.HTTPException):
                    return False
                page = answer.body.decode(errors="replace").strip()
                return answer.status == 200
            return False

        self._wait(
            answers,
            timeout_s,
            lambda: (
                f"http://{name}:{port} does not answer on {host.name}; "
                f"see 'cairn lab logs {host.name}/cairn-l4lb'"
            ),
        )
        return page

    def kill(self, instance: Instance) -> None:
        """SIGKILL the processes of an instance, as a crash would; found by their port."""
        pid = self._lab.pid(instance.host.name)
        found = subprocess.run(
            hosts.enter(pid, ["ss", "-ltnpH", f"sport = :{instance.port}"]),
            capture_output=True,
            text=True,
        ).stdout
        victims = sorted({word.split(",")[0] for word in found.split("pid=")[1:]}, key=int)
        if not victims:
            raise LabError(f"nothing listens on {instance.host.name}:{instance.port}")
        subprocess.run(hosts.enter(pid, ["kill", "-9", *victims]), check=True)

    def _active_agents(self) -> set[str]:
        answer = self._ask("GET", MASTER_PORT, "/slaves")
        if answer is None or answer.status != 200:
            return set()
        return {agent["hostname"] for agent in answer.json()["slaves"] if agent.get("active")}

    def _marathon(self, method: str, path: str) -> dict[str, Any] | None:
        answer = self._ask(method, MARATHON_PORT, path)
        if answer is None or answer.status != 200:
            return None
        document = answer.json()
        return document if isinstance(document, dict) else None

    def _ask(
        self, method: str, port: int, path: str, document: object = None
    ) -> inside.Answer | None:
        pid = self._lab.pid(self._master.name)
        try:
            return inside.request(pid, method, str(self._master.ipv4), port, path, document)
        except (OSError, http.client.HTTPException):
            return None

    @staticmethod
    def _wait(done: Callable[[], bool], timeout_s: float, problem: Callable[[], str]) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise LabError(problem())
            time.sleep(_POLL_S)


def show(
    lab: Lab, definition: Path, say: Say, doing: Say, *, timeout_s: float = DEADLINE_S
) -> None:
    """Deploy the example unless it is there, and show it at work.

    say: gets one line about each finished step; doing: what is being waited for.
    timeout_s: for each step.
    When it was there, nothing is changed and no instance is killed.
    """
    demo = Demo(lab, definition)
    doing("waiting for the agents and Marathon")
    agents = demo.wait_for_agents(timeout_s=timeout_s)
    demo.wait_for_marathon(timeout_s=timeout_s)
    say(f"{agents} agents and Marathon are registered with the master")
    fresh = not demo.deployed()
    if fresh:
        demo.deploy()
    doing(f"waiting for healthy instances of {definition.stem}")
    found = demo.wait_for_instances(timeout_s=timeout_s)
    say(f"{definition.stem}: {len(found)} instances are healthy on {_places(found)}")
    doing(f"asking every host for {demo.name}")
    addresses = {str(instance.host.ipv4) for instance in found}
    for host in lab.topology.hosts:
        demo.wait_for_name(host, addresses, timeout_s=timeout_s)
    say(f"{demo.name} leads to {', '.join(sorted(addresses))} on every host")
    for host in lab.topology.hosts:
        demo.wait_for_proxy(host, timeout_s=timeout_s)
    say("every host asks its own DNS proxy: ready.spartan leads to 127.0.0.1")
    say(f"asked over HTTP: {demo.fetch(found[0])}")
    if demo.vip is not None:
        name, port = demo.vip
        doing(f"asking {name} on every host")
        pages = [demo.wait_for_vip(host, timeout_s=timeout_s) for host in lab.topology.hosts]
        say(f"http://{name}:{port} answers on every host: {pages[-1]}")
    if fresh:
        victim = found[0]
        doing(f"killing the instance on {victim.host.name} and waiting for a new one")
        begun = time.monotonic()
        demo.kill(victim)
        back = demo.wait_for_instances(but_not=frozenset([victim.task_id]), timeout_s=timeout_s)
        new = [instance for instance in back if instance not in found]
        say(
            f"killed the instance on {victim.host.name}:{victim.port}; a new one is healthy "
            f"on {_places(new)} after {time.monotonic() - begun:.1f} s"
        )


def _places(instances: Sequence[Instance]) -> str:
    return ", ".join(f"{instance.host.name}:{instance.port}" for instance in instances)
