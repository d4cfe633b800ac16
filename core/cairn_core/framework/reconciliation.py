"""The reconciliation loop that a framework runs: ask for task states until all are answered.

Defined by Mesos docs/reconciliation.md: after each subscription, and now and then, ask explicitly
for every task that is not known to have ended; wait, with truncated exponential backoff, for the
updates; ask again for those that were not answered; at the end ask implicitly, so that tasks
come to light that the framework has forgotten.  No answer is normal for a while after a master's
failover.
"""

from collections.abc import Iterable
from random import Random

from cairn_core.kit.backoff import Backoff
from cairn_core.mesos.scheduler_api import Reconcile, ReconcileTask

#: Tasks named in one call, so that a large framework does not send one huge body.
MAX_TASKS_PER_CALL = 1000


class Reconciliation:
    """What was asked and not answered yet.

    period_s: seconds from the end of one run to the start of the next, > 0.
    min_s, max_s: limits of the wait between two questions, seconds.
    """

    def __init__(
        self, rng: Random, *, period_s: float = 900.0, min_s: float = 2.0, max_s: float = 60.0
    ) -> None:
        self._backoff = Backoff(min_s, max_s, rng)
        self._period_s = period_s
        self._unanswered: dict[str, ReconcileTask] = {}
        #: A run is going on: explicit questions, then one implicit one.
        self._running = False
        self._due_at: float | None = None

    def subscribed(self, *, now: float) -> None:
        """A subscription began: start a run at once, whatever was going on."""
        self._running = False
        self._unanswered.clear()
        self._backoff.reset()
        self._due_at = now

    def disconnected(self) -> None:
        """Nobody can be asked until `subscribed`."""
        self._due_at = None

    def answered(self, task_id: str) -> None:
        """An update about the task came; any update is an answer."""
        self._unanswered.pop(task_id, None)

    def deadline(self) -> float | None:
        """When to call `due`; None while disconnected."""
        return self._due_at

    @property
    def unanswered(self) -> int:
        """Number of tasks that were asked for in this run without an answer."""
        return len(self._unanswered)

    def due(self, tasks: Iterable[ReconcileTask], *, now: float) -> list[Reconcile]:
        """Calls to send now.

        tasks: all tasks that are not known to have ended; read only when a run starts.
        """
        if self._due_at is None or now < self._due_at:
            return []
        if not self._running:
            self._running = True
            self._backoff.reset()
            self._unanswered = {task.task_id.value: task for task in tasks}
        if self._unanswered:
            self._due_at = now + self._backoff.next()
            return _explicit(list(self._unanswered.values()))
        self._running = False
        self._due_at = now + self._period_s
        return [Reconcile()]


def _explicit(tasks: list[ReconcileTask]) -> list[Reconcile]:
    return [
        Reconcile(tasks=tuple(tasks[first : first + MAX_TASKS_PER_CALL]))
        for first in range(0, len(tasks), MAX_TASKS_PER_CALL)
    ]
