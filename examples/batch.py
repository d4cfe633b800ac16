"""A whole framework in one page: runs a batch of short commands on the cluster, then ends.

    .venv/bin/python examples/batch.py http://127.0.0.1:5050 100 'sleep 0.1; hostname'

It takes what an offer has room for, counts how tasks end, and starts lost ones again. Nothing
of it survives its end; see Marathon for a framework that keeps a log.
"""

import argparse
import asyncio
import sys
from collections import deque

from cairn_core.errors import Unavailable
from cairn_core.framework.io_client import Disconnected, FrameworkEnded, Notice, SchedulerClient
from cairn_core.mesos.scheduler_api import Launch, Offer, Operation, Reconcile, ReconcileTask
from cairn_core.mesos.types import (
    CommandInfo,
    FrameworkInfo,
    Resource,
    Scalar,
    TaskID,
    TaskInfo,
    TaskState,
    TaskStatus,
)

NEEDS = {"cpus": 0.1, "mem": 32.0}


class Batch:
    """The tasks that wait, and how the others ended."""

    def __init__(self, master: str, count: int, command: str) -> None:
        # checkpoint: tasks outlive a restart of their agent; failover: and of the master
        framework = FrameworkInfo(
            user="nobody", name="batch", checkpoint=True, failover_timeout=60.0
        )
        self.client = SchedulerClient([master], framework, self.handle)
        self.command = command
        self.waiting = deque(f"batch-{i}" for i in range(count))
        self.running: set[str] = set()
        self.finished, self.failed = 0, 0
        self.done = asyncio.Event()

    async def handle(self, notice: Notice) -> None:
        """React to one event of the master."""
        if isinstance(notice, Disconnected):
            return
        try:
            if notice.subscribed is not None and self.running:
                # what we sent before may have been lost: unknown tasks are answered as lost
                asked = tuple(ReconcileTask(TaskID(name)) for name in self.running)
                await self.client.reconcile(Reconcile(asked))
            if notice.offers is not None:
                for offer in notice.offers.offers:
                    await self.use(offer)
            if notice.update is not None:
                await self.note(notice.update.status)
            if not self.waiting and not self.running:
                await self.client.teardown()
                self.done.set()
        except Unavailable:
            pass  # the master is gone; after the next SUBSCRIBED its events come again

    async def use(self, offer: Offer) -> None:
        """Start as many tasks as the offer has room for."""
        has = {r.name: r.scalar.value for r in offer.resources if r.scalar}
        room = int(min((has.get(name, 0.0) + 1e-6) / amount for name, amount in NEEDS.items()))
        names = [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]
        self.running.update(names)
        tasks = tuple(self.task(name, offer) for name in names)
        launch = [Operation(type="LAUNCH", launch=Launch(tasks))] if tasks else []
        await self.client.accept([offer.id], launch, refuse_s=0.0 if self.waiting else 600.0)

    def task(self, name: str, offer: Offer) -> TaskInfo:
        """One run of the command on the agent of `offer`."""
        return TaskInfo(
            name=name,
            task_id=TaskID(name),
            agent_id=offer.agent_id,
            command=CommandInfo(value=self.command),
            resources=tuple(
                Resource(name=name, type="SCALAR", scalar=Scalar(amount))
                for name, amount in NEEDS.items()
            ),
        )

    async def note(self, status: TaskStatus) -> None:
        """Count how a task ended, then confirm the update."""
        name = status.task_id.value
        if status.state.is_terminal and name in self.running:
            self.running.discard(name)
            print(f"{name} {status.state.value} {status.message or ''}".rstrip())
            if status.state == TaskState.LOST:  # what a cluster does to a task, not the task
                self.waiting.append(name)
                await self.client.revive()
            self.finished += status.state == TaskState.FINISHED
            self.failed += status.state not in (TaskState.FINISHED, TaskState.LOST)
        await self.client.acknowledge(status)


async def main() -> int:
    """Run the batch; 0 when every task finished, else 1."""
    parser = argparse.ArgumentParser(description="Run a batch of commands on the cluster.")
    parser.add_argument("master", help="for example http://127.0.0.1:5050")
    parser.add_argument("count", type=int, nargs="?", default=20, help="how many tasks")
    parser.add_argument("command", nargs="?", default="hostname", help="what each of them runs")
    given = parser.parse_args()
    batch = Batch(given.master, given.count, given.command)
    try:
        await batch.client.run(batch.done)
    except FrameworkEnded as error:
        # our own teardown may be noticed before `done` is
        if batch.waiting or batch.running:
            print(f"batch: {error}", file=sys.stderr)
            return 1
    print(f"{batch.finished} finished, {batch.failed} failed")
    return 0 if batch.finished == given.count else 1


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
