"""The start of an agent: what an earlier one left on disk and running becomes ours.

Order matters: read the tables, see whether we may still be that agent, hand the containers that we
know to the containerizer - it ends all others - and only then write down that we are here.
"""

import asyncio
import logging
from collections.abc import Set
from dataclasses import dataclass

from msgspec.structs import replace

from cairn_core.agent import checkpoint, reconfiguration, recovery
from cairn_core.agent.config import AgentConfig
from cairn_core.agent.effects import Put, Remove, Write
from cairn_core.agent.io_checkpoint import Store
from cairn_core.agent.io_containers import Containers
from cairn_core.agent.recovery import Found
from cairn_core.agent.state import AgentState
from cairn_core.errors import LocalError
from cairn_core.mesos.types import AgentInfo

log = logging.getLogger(__name__)


class AgentStopped(LocalError):
    """The agent ends by itself: told by the master, or after a clean-up."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What there was. known: containers under the containerizer's care again."""

    known: frozenset[str]
    orphans: int
    errors: int
    rebooted: bool


async def recover(
    state: AgentState,
    store: Store,
    containers: Containers,
    config: AgentConfig,
    *,
    info: AgentInfo,
    boot_id: str,
    traces: Set[str],
) -> Recovered:
    """Fill `state` and take over containers.

    traces: ids of containers of which something is left. Raises CorruptCheckpoint, Incompatible,
    LocalError when the disk refuses, and AgentStopped after `--recover=cleanup`.
    """
    files, latest = await asyncio.to_thread(store.read)
    found = recovery.restore(state, files, latest, strict=config.strict)
    for problem in found.problems:
        log.error("checkpoint left out path=%s reason=%s", problem.path, problem.problem)
    rebooted = found.boot_id is not None and found.boot_id != boot_id
    cleanup = config.recover == "cleanup"
    writes: list[Write] = [*found.repairs]
    if cleanup:
        writes.append(Remove(checkpoint.LATEST))
    elif found.registered_as is not None:
        writes += _compare(state, found, config, info, rebooted=rebooted)
    writes.append(Put(checkpoint.BOOT_ID, boot_id.encode()))
    known: dict[str, None] = {}
    if not rebooted and not cleanup:
        known = {cid: None for cid in state.containers if cid in traces}
    orphans = await containers.recover(known)
    (failure,) = await asyncio.to_thread(store.apply, [writes])
    if failure is not None:
        raise LocalError(f"cannot write to {store.root}: {failure}")
    if cleanup:
        raise AgentStopped(f"cleaned up {len(orphans)} containers; start without --recover")
    return Recovered(frozenset(known), len(orphans), len(found.problems), rebooted)


def _compare(
    state: AgentState, found: Found, config: AgentConfig, info: AgentInfo, *, rebooted: bool
) -> list[Write]:
    """Whether we may come back as the agent that we were; what to write when something changed."""
    old = found.registered_as
    assert old is not None
    if config.port == 0:  # any port will do, so none was promised
        old = replace(old, port=info.port)
    try:
        if not reconfiguration.check(old, info, config.reconfiguration_policy):
            return []
    except reconfiguration.Incompatible as error:
        if not rebooted:
            raise
        # nothing of it can be alive, so there is nothing to be compatible with
        log.warning("registering as a new agent reason=%s", error)
        state.start_over()
        return [Remove(checkpoint.LATEST)]
    log.info("description changed agent=%s", state.agent_id)
    return list(checkpoint.put_agent(state.id, info))
