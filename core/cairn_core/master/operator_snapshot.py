"""The snapshot that a SUBSCRIBE begins with, made in steps while the cluster goes on changing.

A snapshot of 200,000 tasks takes seconds to encode, and nobody is to wait for it. A record is shown
as it is when its step comes; a change of a record whose step is still to come is therefore part of
the snapshot, and its event must not be sent. So snapshot and events together tell each change once,
in order, as if the snapshot had been made in one go.
"""

from collections.abc import Iterator

from cairn_core.master import operator_read
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.effects import AgentChanged, Changed, FrameworkChanged, TaskChanged


class Snapshot:
    """`GetState` of a cluster; use `steps` once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        # keys whose step is still to come
        self._tasks = {key: dict.fromkeys(f.tasks) for key, f in cluster.frameworks.items()}
        self._frameworks = dict.fromkeys(cluster.frameworks)
        self._agents = dict.fromkeys(cluster.agents)

    def covers(self, effect: Changed) -> bool:
        """Whether the snapshot will show what changed."""
        match effect:
            case TaskChanged(task=task):
                return task.task_id in self._tasks.get(task.framework_id, ())
            case AgentChanged(agent=agent):
                return agent.agent_id in self._agents
            case FrameworkChanged(framework=framework):
                return framework.framework_id in self._frameworks
            case _:
                return False

    def steps(self) -> Iterator[bytes]:
        """JSON of the snapshot, in small pieces."""
        yield b'{"get_tasks":{"tasks":['
        yield from operator_read.separated(self._live_tasks())
        yield b'],"unreachable_tasks":['
        yield from operator_read.unreachable_tasks(self._cluster)
        yield b'],"completed_tasks":['
        yield from operator_read.completed_tasks(self._cluster)
        yield b']},"get_executors":'
        yield from operator_read.executors(self._cluster)
        yield b',"get_frameworks":{"frameworks":['
        yield from operator_read.separated(self._live_frameworks())
        yield b'],"completed_frameworks":['
        yield from operator_read.completed_frameworks(self._cluster)
        yield b']},"get_agents":{"agents":['
        yield from operator_read.separated(self._live_agents())
        yield b'],"recovered_agents":['
        yield from operator_read.recovered_agents(self._cluster)
        yield b"]}}"

    def _live_tasks(self) -> Iterator[bytes]:
        for framework_id, pending in self._tasks.items():
            while pending:
                task_id, _ = pending.popitem()
                framework = self._cluster.frameworks.get(framework_id)
                task = framework.tasks.get(task_id) if framework is not None else None
                if task is not None:
                    yield operator_read.task(task)

    def _live_frameworks(self) -> Iterator[bytes]:
        while self._frameworks:
            framework = self._cluster.frameworks.get(self._frameworks.popitem()[0])
            if framework is not None:
                yield operator_read.framework_json(self._cluster, framework)

    def _live_agents(self) -> Iterator[bytes]:
        while self._agents:
            agent = self._cluster.agents.get(self._agents.popitem()[0])
            if agent is not None:
                yield operator_read.agent_json(agent)
