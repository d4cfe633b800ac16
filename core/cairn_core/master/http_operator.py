"""The v1 operator API of the master: `POST /api/v1`.

Source: docs/operator-http-api.md and master.proto of the original. Reads answer 200, writes are
answered once the registry has them, calls that are not served yet get 501 with their name.
`SUBSCRIBE` is `http_events`.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from cairn_core.kit.http_server import Answer, Handler, Options, Refused, Request, Response, Router
from cairn_core.master import operator_read, quota
from cairn_core.master.http_context import MasterContext, check_leader
from cairn_core.master.http_events import OperatorStreams
from cairn_core.master.http_legacy import Reader, answered, guarantee_resources, weights_of
from cairn_core.master.http_slices import in_blocks
from cairn_core.mesos import codec
from cairn_core.mesos import operator_api as api
from cairn_core.mesos.types import FrameworkID, VersionInfo

log = logging.getLogger(__name__)

#: Calls that every master answers; the others need the leader.
ANYWHERE = frozenset(
    {"GET_HEALTH", "GET_FLAGS", "GET_VERSION", "GET_METRICS", "GET_LOGGING_LEVEL",
     "SET_LOGGING_LEVEL", "LIST_FILES", "READ_FILE"}
)  # fmt: skip
#: Calls that need their body.
BODIES = {
    "SET_LOGGING_LEVEL": "set_logging_level", "LIST_FILES": "list_files",
    "READ_FILE": "read_file", "UPDATE_WEIGHTS": "update_weights", "UPDATE_QUOTA": "update_quota",
    "TEARDOWN": "teardown",
}  # fmt: skip

FilesCall = Callable[[api.Call], Awaitable[api.Response]]


class Operator:
    """Answers operator calls. files: serves LIST_FILES and READ_FILE; None: they are not served."""

    def __init__(
        self,
        master: MasterContext,
        reader: Reader,
        streams: OperatorStreams,
        files: FilesCall | None,
    ) -> None:
        self.master = master
        self.reader = reader
        self.streams = streams
        self.files = files
        self._level = 0

    async def handle(self, request: Request) -> Answer:
        """`POST /api/v1`."""
        call = read_call(request, api.MASTER_CALL_TYPES)
        kind = call.type or ""
        if kind not in ANYWHERE:
            check_leader(self.master, request)
        body = BODIES.get(kind)
        if body is not None and getattr(call, body) is None:
            raise Refused(400, f"call {kind}: field '{body}' is missing")
        answer = await self._answer(kind, call)
        if isinstance(answer, api.Response):
            return Response.json(answer)
        return answer

    async def _answer(self, kind: str, call: api.Call) -> Answer | api.Response:
        master, cluster = self.master, self.master.cluster
        match kind:
            case "GET_HEALTH":
                return api.Response(type=kind, get_health=api.GetHealth(healthy=True))
            case "GET_FLAGS":
                flags = tuple(api.Flag(name=n, value=v) for n, v in master.flags.items())
                return api.Response(type=kind, get_flags=api.GetFlags(flags=flags))
            case "GET_VERSION":
                version = VersionInfo(version=cluster.master.info.version or "")
                return api.Response(type=kind, get_version=api.GetVersion(version_info=version))
            case "GET_METRICS":
                metrics = tuple(
                    api.Metric(name=n, value=v) for n, v in (await self.reader.metrics()).items()
                )
                return api.Response(type=kind, get_metrics=api.GetMetrics(metrics=metrics))
            case "GET_LOGGING_LEVEL":
                level = api.GetLoggingLevel(level=self._level)
                return api.Response(type=kind, get_logging_level=level)
            case "SET_LOGGING_LEVEL" if call.set_logging_level is not None:
                return self._set_level(call.set_logging_level.level)
            case "LIST_FILES" | "READ_FILE" if self.files is not None:
                return await self.files(call)
            case "GET_MASTER":
                info = api.GetMaster(
                    master_info=master.leader(),
                    start_time=cluster.master.start_time,
                    elected_time=cluster.master.elected_time,
                )
                return api.Response(type=kind, get_master=info)
            case "GET_STATE":
                return await self._stated(kind, operator_read.state(cluster))
            case "GET_AGENTS":
                return await self._stated(kind, operator_read.agents(cluster))
            case "GET_FRAMEWORKS":
                return await self._stated(kind, operator_read.frameworks(cluster))
            case "GET_EXECUTORS":
                return await self._stated(kind, operator_read.executors(cluster))
            case "GET_TASKS":
                return await self._stated(kind, operator_read.tasks(cluster))
            case "GET_OPERATIONS":
                return api.Response(type=kind, get_operations=api.GetOperations())
            case "GET_ROLES":
                return api.Response(type=kind, get_roles=await self._roles())
            case "GET_WEIGHTS":
                infos = tuple(
                    api.WeightInfo(weight=weight, role=role)
                    for role, weight in cluster.weights.items()
                )
                return api.Response(type=kind, get_weights=api.GetWeights(weight_infos=infos))
            case "GET_QUOTA":
                return api.Response(type=kind, get_quota=self._quota())
            case "SUBSCRIBE":
                return await self.streams.subscribe()
            case "TEARDOWN" if call.teardown is not None:
                return answered(await master.teardown(call.teardown.framework_id.value))
            case "MARK_AGENT_GONE" if call.mark_agent_gone is not None:
                return answered(await master.mark_agent_gone(call.mark_agent_gone.agent_id.value))
            case "UPDATE_WEIGHTS" if call.update_weights is not None:
                weights = weights_of(call.update_weights.weight_infos)
                return answered(await master.set_weights(weights))
            case "UPDATE_QUOTA" if call.update_quota is not None:
                return await self._update_quota(call.update_quota)
            case _:
                raise Refused(501, f"call {kind} is not served by this master yet")

    def _set_level(self, level: int) -> Response:
        if not 0 <= level <= 9:
            raise Refused(400, f"set_logging_level.level is {level}, not 0 to 9")
        self._level = level
        logging.getLogger("cairn_core").setLevel(logging.DEBUG if level else logging.INFO)
        return Response.empty()

    async def _stated(self, kind: str, body: Iterator[bytes]) -> Answer:
        name = kind.lower().encode()
        head = b'{"type":"' + kind.encode() + b'","' + name + b'":'
        with self.reader.full_read():
            pieces = await in_blocks(body)
        return self.reader.large([head, *pieces, b"}"])

    async def _roles(self) -> api.GetRoles:
        cluster = self.master.cluster
        tally = await self.reader.roles()
        members = tally.members(cluster)
        return api.GetRoles(
            roles=tuple(
                api.Role(
                    name=name,
                    weight=cluster.weights.get(name, 1.0),
                    frameworks=tuple(map(FrameworkID, members.get(name, ()))),
                    resources=tuple(tally.used[name].to_wire()) if name in tally.used else (),
                )
                for name in tally.names(cluster)
            )
        )

    def _quota(self) -> api.GetQuota:
        quotas = self.master.cluster.quotas.items()
        return api.GetQuota(
            status=api.QuotaStatus(
                infos=tuple(
                    api.QuotaInfo(role=role, guarantee=tuple(guarantee_resources(set_.guarantees)))
                    for role, set_ in quotas
                ),
                configs=tuple(quota.write(role, set_) for role, set_ in quotas),
            )
        )

    async def _update_quota(self, update: api.UpdateQuota) -> Answer:
        try:
            wanted = {config.role: quota.read(config) for config in update.quota_configs}
            if len(wanted) != len(update.quota_configs):
                raise quota.QuotaError("a role is given twice")
            if not update.force:
                quota.check(wanted, self.master.cluster)
        except quota.QuotaError as error:
            raise Refused(400, f"update_quota: {error}") from None
        # no guarantee and no limit is the default: the role has no quota then
        changes = {
            r: set_ if set_.guarantees or set_.limits else None for r, set_ in wanted.items()
        }
        return answered(await self.master.set_quotas(changes, force=bool(update.force)))


def read_call(request: Request, known: frozenset[str]) -> api.Call:
    """The call of a request, by the rules that master and agent share: 415, 406, 400, 501."""
    if request.content_type != codec.JSON:
        raise Refused(415, f"expected Content-Type {codec.JSON}, got '{request.content_type}'")
    accepted = request.headers.get("Accept", "*/*")
    if not any(kind in accepted for kind in (codec.JSON, "*/*", "application/*")):
        raise Refused(406, f"can only answer {codec.JSON}, not '{accepted[:80]}'")
    try:
        call = codec.decode(api.Call, request.body)
    except codec.DecodeError as error:
        raise Refused(400, f"failed to read the call: {error.problem}") from None
    if call.type is None:
        raise Refused(400, "failed to validate the call: field 'type' is missing")
    if call.type not in known:
        raise Refused(501, f"unknown call '{call.type[:80]}'")
    return call


class _Why(msgspec.Struct):
    framework_id: str
    role: str
    share: float
    agents_allocated: int
    reasons: dict[str, int]
    examples: dict[str, tuple[str, ...]]


def mount(
    router: Router[Handler], master: MasterContext, reader: Reader, files: FilesCall | None = None
) -> OperatorStreams:
    """Add the operator API; run the returned streams' `heartbeats` as a service."""
    streams = OperatorStreams(master)
    operator = Operator(master, reader, streams, files)
    router.add("/api/v1", operator.handle, ("POST",), options=Options(timeout_s=None))

    async def why(request: Request) -> Answer:
        """Why a framework gets no offers, per role: the allocator's own reasons."""
        check_leader(master, request)
        framework = master.cluster.frameworks.get(request.params["id"])
        if framework is None:
            raise Refused(404, f"no framework '{request.params['id'][:80]}'")
        found = [
            master.allocator.explain(framework.framework_id, role)
            for role in sorted(framework.roles)
        ]
        return Response.json(
            [
                _Why(
                    framework_id=entry.framework_id,
                    role=entry.role,
                    share=entry.share,
                    agents_allocated=entry.allocated,
                    reasons={str(reason): count for reason, count in entry.counts.items()},
                    examples={str(reason): agents for reason, agents in entry.examples.items()},
                )
                for entry in found
            ]
        )

    router.add("/cairn/v1/frameworks/{id}/why", why)
    return streams
