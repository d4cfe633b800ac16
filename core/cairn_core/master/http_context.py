"""What the HTTP handlers of the master need of it, and the gate in front of what only a leader has.

The daemon is a `MasterContext`; tests make a small one of their own.
"""

from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import urlencode

from cairn_core.extensions import Allocator
from cairn_core.kit.http_server import Answer, Handler, Refused, Request, Response
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.effects import Changed, Reply
from cairn_core.master.state.records import Quota
from cairn_core.mesos.types import MasterInfo


class MasterContext(Protocol):
    """The running master, as its HTTP handlers see it."""

    @property
    def cluster(self) -> Cluster:
        """The core's tables, to read."""
        ...

    @property
    def allocator(self) -> Allocator:
        """The allocator that is loaded."""
        ...

    @property
    def flags(self) -> Mapping[str, str]:
        """Settings under the original's names, as text, without secrets."""
        ...

    def leader(self) -> MasterInfo | None:
        """The elected master, which may be another one; None while there is none."""
        ...

    def leads(self) -> bool:
        """Whether this master is elected."""
        ...

    def recovered(self) -> bool:
        """Whether it has read its registry: only then it answers."""
        ...

    def counters(self) -> Mapping[str, float]:
        """What the shell measures, under full metric names: queues, registrar, allocation runs."""
        ...

    def listen_changes(self, listener: Callable[[Changed], None]) -> None:
        """Call `listener` with every change, at once, from now on."""
        ...

    async def teardown(self, framework_id: str) -> Reply:
        """Remove a framework; 400 for an unknown one."""
        ...

    async def set_quotas(self, quotas: Mapping[str, Quota | None], *, force: bool) -> Reply:
        """Set quota of roles, all or nothing; answered after the registry has it."""
        ...

    async def set_weights(self, weights: Mapping[str, float]) -> Reply:
        """Set weights of roles, all or nothing; answered after the registry has it."""
        ...

    async def mark_agent_gone(self, agent_id: str) -> Reply:
        """The agent never returns; 404 for an unknown one, 503 while it is changing already."""
        ...


def leader_only(master: MasterContext, handler: Handler) -> Handler:
    """Answer only on the leader: elsewhere 307 to it, 503 while there is none or it recovers."""

    async def gate(request: Request) -> Answer:
        check_leader(master, request)
        return await handler(request)

    return gate


def check_leader(master: MasterContext, request: Request) -> None:
    """Raise Refused unless this master leads and has recovered."""
    if not master.leads():
        raise Refused(*_elsewhere(master), headers=_location(master, request))
    if not master.recovered():
        raise Refused(503, "the master is still reading its registry", headers={"Retry-After": "1"})


def redirect(master: MasterContext, request: Request) -> Response:
    """`/redirect`: 307 to the leading master, which may be this one."""
    if request.rest:
        raise Refused(404, f"no such path: {request.path}")
    leader = master.leader()
    if leader is None:
        raise Refused(503, "no leader elected")
    return Response.empty(307, {"Location": f"//{leader.hostname}:{leader.port}"})


def _elsewhere(master: MasterContext) -> tuple[int, str]:
    leader = master.leader()
    if leader is None or leader.id == master.cluster.master.master_id:
        return 503, "no leader elected"
    return 307, f"the leading master is {leader.hostname}:{leader.port}"


def _location(master: MasterContext, request: Request) -> dict[str, str]:
    leader = master.leader()
    if leader is None or leader.id == master.cluster.master.master_id:
        return {"Retry-After": "1"}
    query = urlencode(list(request.query.items()))
    target = request.path + (f"?{query}" if query else "")
    return {"Location": f"//{leader.hostname}:{leader.port}{target}"}
