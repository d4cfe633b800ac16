"""The legacy endpoints of the master: what scrapers, web pages and old tools read.

Source: docs/endpoints of the original; every route also answers under `/master`. Full reads come
from the read model: refreshed at most once a second, in slices that let other work run, shared by
all who ask at the same time; with four full reads on their way out, the next one gets 503.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar
from urllib.parse import parse_qs

import msgspec

from cairn_core.kit.http_server import Answer, Handler, Options, Refused, Request, Response, Router
from cairn_core.master import legacy_json, metrics_snapshot, quota, role_summary
from cairn_core.master.http_context import MasterContext, leader_only, redirect
from cairn_core.master.http_slices import in_blocks, in_slices
from cairn_core.master.operator_read import separated
from cairn_core.master.read_model import ReadModel
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.effects import Reply
from cairn_core.mesos.operator_api import QuotaConfig, WeightInfo
from cairn_core.mesos.types import Resource, Scalar
from cairn_core.resources import quantities

T = TypeVar("T")

#: Records rendered between two looks at the clock.
STEP = 20
REFRESH_S = 1.0
MAX_FULL_READS = 4
#: Numbers are kept for this long, seconds, and for at least this many times of what they took.
KEEP_S = 0.5
KEEP_TIMES = 20
#: How much of a list one answer of `/tasks` may hold when the client names no limit.
DEFAULT_TASKS = 100

_READ = Options(jsonp=True, exact=True)


class Reader:
    """Refreshes the read model for HTTP handlers, and limits how many large answers are out."""

    def __init__(self, master: MasterContext) -> None:
        self.master = master
        self.model = ReadModel(master.cluster)
        master.listen_changes(self.model.changed)
        self._fresh_until = 0.0
        self._refreshing: asyncio.Lock = asyncio.Lock()
        self._full_reads = 0
        #: Answers in pieces, with the generation of the model that they were made of.
        self._answers: dict[str, tuple[int, list[bytes]]] = {}
        self._metrics = _Kept(self._count)
        self._roles = _Kept(self._tally)

    async def refresh(self) -> ReadModel:
        """The read model, at most a second old."""
        async with self._refreshing:
            now = time.monotonic()
            if now >= self._fresh_until:
                self.model.begin(now=now)
                await in_slices(self._work())
                self._fresh_until = time.monotonic() + REFRESH_S
        return self.model

    def _work(self) -> Iterator[None]:
        while self.model.work(STEP):
            yield

    async def full(
        self, request: Request, name: str, render: Callable[[ReadModel], Iterator[bytes]]
    ) -> Answer:
        """A large answer of the read model, unless the client has this generation or too many
        are on their way; `name` names it among those that are kept."""
        model = await self.refresh()
        generation = model.generation
        etag = f'"{self.master.cluster.master.master_id}-{generation}"'
        if request.headers.get("If-None-Match") == etag:
            return Response.empty(304, {"ETag": etag})
        with self.full_read():
            pieces = await self._rendered(name, render)
        return self.large(pieces, {"ETag": etag})

    async def _rendered(
        self, name: str, render: Callable[[ReadModel], Iterator[bytes]]
    ) -> list[bytes]:
        async with self._refreshing:
            known = self._answers.get(name)
            if known is None or known[0] != self.model.generation:
                pieces = await in_slices(render(self.model))
                known = self._answers[name] = (self.model.generation, pieces)
        return known[1]

    @contextlib.contextmanager
    def full_read(self) -> Iterator[None]:
        """Count a full read while it is made; 503 when there are enough."""
        if self._full_reads >= MAX_FULL_READS:
            raise Refused(
                503,
                f"{MAX_FULL_READS} full reads are being answered already",
                headers={"Retry-After": "1"},
            )
        self._full_reads += 1
        try:
            yield
        finally:
            self._full_reads -= 1

    def large(self, pieces: "list[bytes]", headers: Mapping[str, str] | None = None) -> Response:
        """An answer that counts as a full read until the client has it."""
        return Response(body=self._counted(pieces), headers=dict(headers or {}))

    async def _counted(self, pieces: "list[bytes]") -> AsyncIterator[bytes]:
        # counted only once the first piece is asked for: a client may be gone before
        self._full_reads += 1
        try:
            for piece in pieces:
                yield piece
        finally:
            self._full_reads -= 1

    async def state(self, request: Request) -> Answer:
        """`/state`."""
        return await self.full(request, "state", self._state_pieces)

    def _state_pieces(self, model: ReadModel) -> Iterator[bytes]:
        cluster, leader = self.master.cluster, self.master.leader()
        info = cluster.master.info
        agents = cluster.agents.values()
        head: dict[str, object] = {
            "version": info.version,
            "start_time": cluster.master.start_time,
            "elected_time": cluster.master.elected_time,
            "id": info.id,
            "pid": info.pid,
            "hostname": info.hostname,
            "capabilities": [capability.type for capability in info.capabilities],
            "activated_slaves": float(sum(agent.active for agent in agents)),
            "deactivated_slaves": float(sum(not agent.active for agent in agents)),
            "unreachable_slaves": float(len(cluster.unreachable_agents)),
            "flags": dict(self.master.flags),
        }
        if leader is not None:
            head["leader"] = leader.pid
            head["leader_info"] = {
                "id": leader.id, "pid": leader.pid, "port": leader.port,
                "hostname": leader.hostname,
            }  # fmt: skip
        if info.domain is not None:
            head["domain"] = info.domain
        yield msgspec.json.encode(head)[:-1]
        yield b',"slaves":['
        yield from model.agents()
        yield b'],"recovered_slaves":['
        yield b",".join(known.info for known in cluster.recovered_agents.values())
        yield b'],"frameworks":['
        yield from model.frameworks()
        yield b'],"completed_frameworks":['
        yield from model.completed_frameworks()
        yield b'],"orphan_tasks":[],"unregistered_frameworks":[]}'

    async def summary(self, request: Request) -> Answer:
        """`/state-summary`."""
        return await self.full(request, "summary", self._summary_pieces)

    def _summary_pieces(self, model: ReadModel) -> Iterator[bytes]:
        head = msgspec.json.encode({"hostname": self.master.cluster.master.info.hostname})
        yield head[:-1]
        yield b',"slaves":['
        yield from model.agent_summaries()
        yield b'],"frameworks":['
        yield from model.framework_summaries()
        yield b"]}"

    async def slaves(self, request: Request) -> Answer:
        """`/slaves?slave_id=`."""
        cluster = self.master.cluster
        wanted = request.query.get("slave_id")
        if wanted is None:
            with self.full_read():
                pieces = await in_blocks(_slaves(cluster))
            return self.large(pieces)
        agent, known = cluster.agents.get(wanted), cluster.recovered_agents.get(wanted)
        full = msgspec.json.encode(legacy_json.agent_full(agent)) if agent is not None else b""
        info = known.info if known is not None else b""
        return Response(body=b'{"slaves":[%s],"recovered_slaves":[%s]}' % (full, info))

    async def frameworks(self, request: Request) -> Answer:
        """`/frameworks?framework_id=`."""
        wanted = request.query.get("framework_id")
        cluster = self.master.cluster
        if wanted is None:
            return await self.full(request, "frameworks", _frameworks)
        model = await self.refresh()
        live, past = cluster.frameworks.get(wanted), cluster.completed_frameworks.get(wanted)
        return Response(
            body=[
                b'{"frameworks":[', *(model.framework(live) if live else ()),
                b'],"completed_frameworks":[', *(model.framework(past) if past else ()),
                b'],"unregistered_frameworks":[]}',
            ]
        )  # fmt: skip

    async def tasks(self, request: Request) -> Answer:
        """`/tasks?limit=100&offset=0&order=des&framework_id=&task_id=`; limit -1 is all."""
        limit = request.integer("limit", DEFAULT_TASKS)
        offset = request.integer("offset", 0)
        order = request.query.get("order", "des")
        if order not in ("asc", "des"):
            raise Refused(400, f"query parameter order: neither 'asc' nor 'des': {order!r}")
        model = await self.refresh()
        async with self._refreshing:
            some = await in_slices(model.tasks())
        page = await asyncio.to_thread(
            _page,
            itertools.chain.from_iterable(some),
            None if limit is None or limit < 0 else limit,
            max(0, offset or 0),
            order == "des",
            request.query.get("framework_id"),
            request.query.get("task_id"),
        )
        return Response(body=[b'{"tasks":[', b",".join(page), b"]}"])

    async def metrics(self) -> dict[str, float]:
        """All numbers, not older than `KEEP_S`, or in a large cluster some seconds."""
        return await self._metrics.get()

    async def _count(self) -> dict[str, float]:
        master = self.master
        tally = metrics_snapshot.Tally()
        await in_slices(tally.steps(master.cluster))
        numbers = tally.numbers(master.cluster, leads=master.leads(), wall=time.time())
        numbers |= metrics_snapshot.system()
        numbers |= master.allocator.metrics()
        numbers |= master.counters()
        return numbers

    async def roles(self) -> role_summary.Tally:
        """What roles hold, as old as `metrics`."""
        return await self._roles.get()

    async def _tally(self) -> role_summary.Tally:
        tally = role_summary.Tally()
        await in_slices(tally.steps(self.master.cluster))
        return tally

    async def list_roles(self, request: Request) -> Answer:
        """`/roles`."""
        tally = await self.roles()
        return Response.json({"roles": role_summary.summarise(self.master.cluster, tally)})

    async def watch(self, stop: asyncio.Event) -> None:
        """A service: lets go of what is rendered when nobody reads any more."""
        while not stop.is_set():
            if self.model.rest(now=time.monotonic()):
                self._answers.clear()
            try:
                await asyncio.wait_for(stop.wait(), 15.0)
            except TimeoutError:
                continue


class _Kept(Generic[T]):
    """A value that is costly to make: made when asked for, and kept for a while."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._making = asyncio.Lock()
        self._value: T | None = None
        self._until = 0.0

    async def get(self) -> T:
        async with self._making:
            began = time.monotonic()
            if self._value is None or began >= self._until:
                self._value = await self._make()
                ended = time.monotonic()
                self._until = ended + max(KEEP_S, KEEP_TIMES * (ended - began))
            return self._value


def _slaves(cluster: Cluster) -> Iterator[bytes]:
    yield b'{"slaves":['
    agents = list(cluster.agents.values())
    yield from separated(msgspec.json.encode(legacy_json.agent_full(agent)) for agent in agents)
    yield b'],"recovered_slaves":['
    yield from separated(known.info for known in list(cluster.recovered_agents.values()))
    yield b"]}"


def _frameworks(model: ReadModel) -> Iterator[bytes]:
    yield b'{"frameworks":['
    yield from model.frameworks()
    yield b'],"completed_frameworks":['
    yield from model.completed_frameworks()
    yield b'],"unregistered_frameworks":[]}'


class _Key(msgspec.Struct):
    """What `/tasks` sorts and filters by."""

    id: str
    framework_id: str
    statuses: list["_Stamp"] = []


class _Stamp(msgspec.Struct):
    timestamp: float = 0.0


def _page(
    tasks: Iterable[bytes],
    limit: int | None,
    offset: int,
    newest_first: bool,
    framework_id: str | None,
    task_id: str | None,
) -> "list[bytes]":
    """One page of tasks, ordered by the time of their first status."""
    decode = msgspec.json.Decoder(_Key).decode
    keyed = []
    for rendered in tasks:
        key = decode(rendered)
        if framework_id not in (None, key.framework_id) or task_id not in (None, key.id):
            continue
        keyed.append((key.statuses[0].timestamp if key.statuses else 0.0, rendered))
    keyed.sort(key=lambda entry: entry[0], reverse=newest_first)
    end = None if limit is None else offset + limit
    return [rendered for _, rendered in itertools.islice(keyed, offset, end)]


class Writes:
    """The legacy endpoints that change something: teardown, quota, weights."""

    def __init__(self, master: MasterContext) -> None:
        self.master = master

    async def teardown(self, request: Request) -> Answer:
        """`POST /teardown` with form `frameworkId=`."""
        try:
            values = parse_qs(request.body.decode("ascii"), strict_parsing=True)
            framework_id = values["frameworkId"][0]
        except (ValueError, KeyError):
            raise Refused(400, "expected form field frameworkId") from None
        return answered(await self.master.teardown(framework_id))

    async def get_quota(self, request: Request) -> Answer:
        """`GET /quota`."""
        infos = [
            {"role": role, "guarantee": guarantee_resources(entry.guarantees)}
            for role, entry in self.master.cluster.quotas.items()
        ]
        return Response.json({"infos": infos})

    async def remove_quota(self, request: Request) -> Answer:
        """`DELETE /quota/<role>`."""
        if request.rest not in self.master.cluster.quotas:
            raise Refused(400, f"role '{request.rest}' has no quota")
        return answered(await self.master.set_quotas({request.rest: None}, force=True))

    async def set_quota(self, request: Request) -> Answer:
        """`POST /quota`: `{role, guarantee[Resource], force}`; guarantee is also the limit."""
        body = request.json(_QuotaRequest)
        amounts: dict[str, Scalar] = {}
        for resource in body.guarantee:
            if resource.scalar is None or resource.name in amounts:
                raise Refused(400, f"guarantee '{resource.name}': not one scalar")
            amounts[resource.name] = resource.scalar
        try:
            wanted = quota.read(QuotaConfig(role=body.role, guarantees=amounts, limits=amounts))
            if not body.force:
                quota.check({body.role: wanted}, self.master.cluster)
        except quota.QuotaError as error:
            raise Refused(400, str(error)) from None
        return answered(await self.master.set_quotas({body.role: wanted}, force=body.force))

    async def get_weights(self, request: Request) -> Answer:
        """`GET /weights`."""
        weights = self.master.cluster.weights
        return Response.json([{"role": role, "weight": w} for role, w in weights.items()])

    async def set_weights(self, request: Request) -> Answer:
        """`PUT /weights`: `[{role, weight}]`."""
        infos = request.json(tuple[WeightInfo, ...])
        return answered(await self.master.set_weights(weights_of(infos)))


class _QuotaRequest(msgspec.Struct):
    role: str
    guarantee: tuple[Resource, ...] = ()
    force: bool = False


def weights_of(infos: Iterable[WeightInfo]) -> dict[str, float]:
    """Weights by role; raises Refused 400 for a role twice or a weight that is not above 0."""
    weights: dict[str, float] = {}
    for info in infos:
        role = info.role or "*"
        if role in weights:
            raise Refused(400, f"role '{role}' is given twice")
        if not 0 < info.weight < float("inf"):
            raise Refused(400, f"weight of role '{role}' is {info.weight}, not above 0")
        weights[role] = info.weight
    return weights


def answered(reply: Reply) -> Response:
    """The HTTP answer of a reply of the core."""
    if reply.status >= 400:
        return Response.error(reply.status, reply.message)
    return Response.empty(reply.status)


def guarantee_resources(amounts: Mapping[str, int]) -> list[Resource]:
    """A guarantee in the form before limits."""
    return [
        Resource(
            name=name, type="SCALAR", scalar=Scalar(value=quantities.from_milli(amount)), role="*"
        )
        for name, amount in amounts.items()
    ]


def mount(router: Router[Handler], master: MasterContext) -> Reader:
    """Add the legacy routes; run the returned reader's `watch` as a service."""
    reader, writes = Reader(master), Writes(master)

    def lead(handler: Handler) -> Handler:
        return leader_only(master, handler)

    router.add("/state", lead(reader.state), json_twin=True, options=_READ)
    router.add("/state-summary", lead(reader.summary), json_twin=True, options=_READ)
    router.add("/slaves", lead(reader.slaves), json_twin=True, options=_READ)
    router.add("/frameworks", lead(reader.frameworks), json_twin=True, options=_READ)
    router.add("/tasks", lead(reader.tasks), json_twin=True, options=_READ)
    router.add("/roles", lead(reader.list_roles), json_twin=True, options=_READ)
    router.add("/quota", lead(writes.get_quota), options=Options(jsonp=True))
    router.add("/quota", lead(writes.set_quota), ("POST",))
    router.add("/quota", lead(writes.remove_quota), ("DELETE",))
    router.add("/weights", lead(writes.get_weights), options=_READ)
    router.add("/weights", lead(writes.set_weights), ("PUT",))
    router.add("/teardown", lead(writes.teardown), ("POST",))

    async def flags(request: Request) -> Answer:
        return Response.json({"flags": dict(master.flags)})

    async def version(request: Request) -> Answer:
        return Response.json({"version": master.cluster.master.info.version})

    async def numbers(request: Request) -> Answer:
        return Response.json(await reader.metrics())

    async def to_leader(request: Request) -> Answer:
        return redirect(master, request)

    async def windows(request: Request) -> Answer:
        return Response.json({})

    async def unserved(request: Request) -> Answer:
        raise Refused(501, f"{request.method} {request.path} is not served by this master yet")

    router.add("/flags", flags, options=_READ)
    router.add("/version", version, options=_READ)
    router.add("/metrics/snapshot", numbers, options=_READ)
    router.add("/redirect", to_leader)
    router.add("/maintenance/schedule", lead(windows), options=_READ)
    router.add("/maintenance/status", lead(windows), options=_READ)
    for path in (
        "/reserve", "/unreserve", "/create-volumes", "/destroy-volumes", "/machine/down",
        "/machine/up", "/maintenance/schedule",
    ):  # fmt: skip
        router.add(path, unserved, ("POST",))
    return reader
