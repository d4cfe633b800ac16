"""`/v2/events`: Server-Sent Events to any number of subscribers.

Source: the released Marathon's event stream. A subscriber may name the types it wants; the first
event on a stream is `event_stream_attached`; a heartbeat comes every 10 s. Each event is encoded
once per form of its plan. A subscriber that leaves too many events lying is cut off, so that it
knows that it missed some.

The form of the plan in deployment events: light; heavy, with the whole root before and after, for
`plan-format=heavy`; for strict clients, which insist on the two, only their names.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from msgspec.structs import replace

from cairn_core.kit.http_types import Answer, Handler, Refused, Request, Stream
from cairn_core.kit.routes import Options, Router
from cairn_scheduler.marathon.context import MarathonContext
from cairn_scheduler.marathon.events import (
    HEARTBEAT,
    HEARTBEAT_S,
    DeploymentFailed,
    DeploymentInfo,
    DeploymentStepFailed,
    DeploymentStepSucceeded,
    DeploymentSucceeded,
    Event,
    SchedulerDisconnected,
    SchedulerRegistered,
    SchedulerReregistered,
    StreamAttached,
    StreamDetached,
    frame,
)
from cairn_scheduler.marathon.groups import RootGroup, group_json
from cairn_scheduler.marathon.http_request import is_strict
from cairn_scheduler.marathon.tables import Tables
from cairn_scheduler.marathon.timestamps import timestamp

log = logging.getLogger(__name__)

#: Further subscribers get 503.
MAX_SUBSCRIBERS = 1000
_WITH_PLAN = (
    DeploymentInfo, DeploymentStepSucceeded, DeploymentStepFailed, DeploymentSucceeded,
    DeploymentFailed,
)  # fmt: skip
#: Events that strict clients do not know, and end at.
_UNKNOWN_TO_STRICT = (SchedulerRegistered, SchedulerReregistered, SchedulerDisconnected)


class PlanForm(Enum):
    """How plans are shown."""

    LIGHT = auto()
    HEAVY = auto()
    NAMED = auto()


class Subscriber:
    """One stream. Invariant: `_sizes` are the frames that the socket has not taken whole."""

    def __init__(
        self,
        types: frozenset[str],
        form: PlanForm,
        address: str,
        most: int,
        on_close: "Callable[[Subscriber], None]",
        *,
        strict: bool = False,
    ) -> None:
        self.types = types
        self.form = form
        self.address = address
        self.most = most
        self.strict = strict
        self.stream = Stream("text/event-stream", on_close=lambda reason: on_close(self))
        self._sizes: deque[int] = deque()
        self._lying = 0

    def wants(self, event: Event) -> bool:
        """Whether the event is for this subscriber."""
        if self.strict and isinstance(event, _UNKNOWN_TO_STRICT):
            return False
        return not self.types or event.event_type() in self.types

    def send(self, data: bytes) -> None:
        """Queue a frame, or end the stream when too many lie about already."""
        while self._sizes and self._lying - self._sizes[0] >= self.stream.queued_bytes:
            self._lying -= self._sizes.popleft()
        if len(self._sizes) >= self.most:
            log.warning("event stream too slow, closed peer=%s events=%d", self.address, self.most)
            self.stream.abort("slow subscriber")
            return
        if self.stream.send(data):
            self._sizes.append(len(data))
            self._lying += len(data)

    @property
    def outstanding(self) -> int:
        """Frames that were queued and may not have been taken; an upper bound."""
        return len(self._sizes)


class EventStreams:
    """All subscribers."""

    def __init__(self, marathon: MarathonContext) -> None:
        self.marathon = marathon
        self._subscribers: set[Subscriber] = set()
        marathon.listen_events(self.happened)

    def __len__(self) -> int:
        return len(self._subscribers)

    def mount(self, router: Router[Handler]) -> None:
        """Add the route."""
        router.add("/v2/events", self.subscribe, options=Options(exact=True, timeout_s=None))

    async def subscribe(self, request: Request) -> Answer:
        """`GET /v2/events`."""
        if "text/event-stream" not in request.headers.get("Accept", ""):
            # Compat: the original has no such resource for anybody else.
            raise Refused(405, "Method Not Allowed")
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise Refused(
                503, f"{MAX_SUBSCRIBERS} subscribers already", headers={"Retry-After": "15"}
            )
        config = self.marathon.config
        strict = is_strict(request, config)
        subscriber = Subscriber(
            frozenset(request.query.getall("event_type", ())),
            _form(request.query.get("plan-format", ""), strict),
            request.peer.address,
            config.event_stream_max_outstanding_messages,
            self._gone,
            strict=strict,
        )
        self._subscribers.add(subscriber)
        at = timestamp(self.marathon.wall())
        self.marathon.publish(StreamAttached(timestamp=at, remote_address=subscriber.address))
        return subscriber.stream

    def _gone(self, subscriber: Subscriber) -> None:
        if subscriber not in self._subscribers:
            return
        self._subscribers.discard(subscriber)
        at = timestamp(self.marathon.wall())
        event = StreamDetached(timestamp=at, remote_address=subscriber.address)
        # Not at once: an event may be on its way to the others, and comes first.
        asyncio.get_running_loop().call_soon(self.marathon.publish, event)

    def happened(self, event: Event) -> None:
        """Tell all who want to know."""
        if not self._subscribers:
            return
        frames: dict[PlanForm, bytes] = {}
        for subscriber in tuple(self._subscribers):
            if not subscriber.wants(event):
                continue
            form = subscriber.form if isinstance(event, _WITH_PLAN) else PlanForm.LIGHT
            data = frames.get(form)
            if data is None:
                data = frames[form] = frame(_formed(event, form, self.marathon.tables))
            subscriber.send(data)

    async def heartbeats(self, stop: asyncio.Event) -> None:
        """A service: a bare CRLF to everyone every 10 s; ends all streams at the end."""
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), HEARTBEAT_S)
            except TimeoutError:
                for subscriber in tuple(self._subscribers):
                    subscriber.send(HEARTBEAT)
        for subscriber in tuple(self._subscribers):
            subscriber.stream.close()


def _form(name: str, strict: bool) -> PlanForm:
    if name == "heavy":
        return PlanForm.HEAVY
    return PlanForm.NAMED if strict and name != "light" else PlanForm.LIGHT


def _formed(event: Event, form: PlanForm, tables: Tables) -> Event:
    """The event with its plan in a form. The roots that a plan led from and to may be forgotten."""
    if form is PlanForm.LIGHT or not isinstance(event, _WITH_PLAN):
        return event
    before, after = _roots(str(event.plan.get("version", "")), tables)
    show: Callable[[RootGroup], dict[str, Any]] = group_json if form is PlanForm.HEAVY else _named
    return replace(event, plan=event.plan | {"original": show(before), "target": show(after)})


def _roots(version: str, tables: Tables) -> tuple[RootGroup, RootGroup]:
    before: RootGroup | None = None
    for known, root in tables.roots.items():
        if known >= version:
            return before or root, root
        before = root
    return tables.root, tables.root


def _named(root: RootGroup) -> dict[str, Any]:
    return {"id": "/", "version": root.version, "apps": [], "groups": [], "dependencies": []}
