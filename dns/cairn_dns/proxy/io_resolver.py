"""From a question that the local zones cannot answer to its answer.

    client -> near zones -> (SERVING answers)
                 | Foreign
                 v
              cache -> send
                 | miss
                 v
              plan: renamed? -+- local   -> far zones, CNAMEs that lead away are followed
                              +- servers -> one flight per question, shared by all who ask it

`near` holds the zones whose answers are whole; `far` those that a CNAME may lead out of, and
`thisdcos.directory`, so that names which do not exist are not asked for outside.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cairn_dns.answer import Answerer, Foreign
from cairn_dns.wire import ANY, CNAME, HEADER_BYTES, NOERROR, NXDOMAIN, SERVFAIL

from . import rewrite
from .ask import Ask, fit, rcode_of, read_query
from .cache import Cache, Entry, answer_from, key_of, stale_from
from .io_race import Asker
from .message import RCODE, Malformed, Message, build, parse
from .room import Room
from .routes import Fate, Kind, Plan, Routes

#: CNAMEs that one answer follows out of local zones.
MAX_CHASE = 8
#: After nobody answered, stale answers are given for so long before anybody is asked again.
RETRY_S = 1.0

Send = Callable[[bytes], None]


@dataclass(slots=True)
class Counts:
    """Since the start."""

    overload: int = 0
    refused: int = 0
    failed: int = 0
    stale: int = 0
    shared: int = 0


@dataclass(slots=True, eq=False)
class Flight:
    """A question under way, and who waits for its answer: called with it, or with None."""

    key: bytes
    waiting: list[Callable[[bytes | None], None]] = field(default_factory=list)
    stale: Entry | None = None
    overdue: bool = False


class Resolver:
    """Answers what is not in the near zones.

    Invariant: no more questions of clients are under way than there is room for; everybody who
    waits gets exactly one call.
    """

    def __init__(
        self,
        near: Answerer,
        far: Answerer,
        routes: Routes,
        asker: Asker,
        cache: Cache,
        *,
        limit: int,
        stale_after_s: float,
        observed: Callable[[Plan, float, bool], None] = lambda plan, took_s, ok: None,
    ) -> None:
        self.near, self.far = near, far
        self.routes = routes
        self.asker = asker
        self.cache = cache
        self.stale_after_s = stale_after_s
        self.counts = Counts()
        #: Of questions of clients that wait for other servers.
        self.room = Room(limit)
        self._observed = observed
        self._flights: dict[tuple[bytes, bool], Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def reroute(self, routes: Routes) -> None:
        """Take new routes, and forget what came by others.

        Where only the servers are others, what the old ones said is kept for when nobody answers.
        """
        now = asyncio.get_running_loop().time()
        for key in self.cache.below(self.routes.differing(routes)):
            name = key[:-5]  # type, class and a byte of bits follow
            match self.routes.plan(name).fate(routes.plan(name)):
                case Fate.DROP:
                    self.cache.drop(key)
                case Fate.EXPIRE:
                    self.cache.expire(key, now)
        self.routes = routes

    # -- questions of clients --------------------------------------------------------------------

    def hit(self, query: bytes, *, tcp: bool) -> bytes | None:
        """A fresh answer from the cache, for who may have it."""
        key = key_of(query)
        if key is None:
            return None
        entry = self.cache.find(key, asyncio.get_running_loop().time())
        if entry is None:
            return None
        end = HEADER_BYTES + len(key) - 1
        reply = answer_from(entry, query, end, asyncio.get_running_loop().time())
        if len(reply) > 512 and not tcp:
            return fit(reply, query, end, read_query(query, tcp=False)[1])
        return reply

    def handle(
        self, query: bytes, foreign: Foreign, *, allowed: bool, tcp: bool, send: Send
    ) -> bool:
        """Answer a query, now or later, by one call of `send`.

        allowed: whether the client is forwarded for. False: too much is under way, and there
        will be no answer.
        """
        if allowed and (reply := self.hit(query, tcp=tcp)) is not None:
            send(reply)
            return True
        try:
            ask, limit = read_query(query, tcp=tcp)
        except Malformed:
            send(foreign.failed)
            return True
        plan = self.routes.plan(ask.question.name)
        if plan.route.kind is Kind.LOCAL:
            return self._local(query, ask, plan, limit, foreign, allowed, send)
        if not allowed or not plan.route.servers:
            self.counts.refused += 1
            send(foreign.refused)
            return True
        end = HEADER_BYTES + len(ask.question.name) + 4
        kind = plan.route.kind
        if not self.room.take(kind):
            self.counts.overload += 1
            stale = self.cache.stale(ask.key(), asyncio.get_running_loop().time())
            if stale is None:
                return False
            self._give_stale(ask, stale, lambda reply: send(fit(reply, query, end, limit)))
            return True

        def done(reply: bytes | None) -> None:
            self.room.leave(kind)
            send(foreign.failed if reply is None else fit(reply, query, end, limit))

        self._fly(ask, plan, done)
        return True

    def _local(
        self,
        query: bytes,
        ask: Ask,
        plan: Plan,
        limit: int,
        foreign: Foreign,
        allowed: bool,
        send: Send,
    ) -> bool:
        """A name of this host: under another name, or one whose answer may lead elsewhere."""
        try:
            real = rewrite.out(ask.question, plan.renames)
            end = HEADER_BYTES + len(ask.question.wire)
            reply = self._own(query[:HEADER_BYTES] + real.wire + query[end:], tcp=ask.tcp)
            if reply is None:
                send(foreign.failed)
                return True
            message = parse(reply)
        except (rewrite.TooLong, Malformed):
            send(foreign.failed)
            return True
        if not (allowed and leads_away(message)):
            if plan.renames:
                message = rewrite.back(message, ask.question, plan.renames, plan.max_ttl)
                reply = build(message, limit)
            send(reply)
            return True
        kind = self.routes.plan(message.answers[-1].data).route.kind
        if not self.room.take(kind):
            self.counts.overload += 1
            return False

        async def follow() -> None:
            try:
                whole = await self._chase(message, ask)
                if plan.renames:
                    whole = rewrite.back(whole, ask.question, plan.renames, plan.max_ttl)
                send(build(whole, limit))
            finally:
                self.room.leave(kind)

        self._spawn(follow())
        return True

    def _own(self, query: bytes, *, tcp: bool) -> bytes | None:
        """The answer of the zones of this host."""
        for answerer in (self.near, self.far):
            reply = answerer.answer(query, tcp=tcp)
            if isinstance(reply, bytes):
                return reply
        return None

    # -- questions of our own --------------------------------------------------------------------

    async def resolve(self, ask: Ask, seen: frozenset[bytes] = frozenset()) -> bytes | None:
        """A whole answer, as a client that is forwarded for would get it, or None.

        seen: owners of the CNAMEs that led here, lower case.
        """
        query = ask.query()
        reply = self.near.answer(query, tcp=True)
        if isinstance(reply, bytes):
            return reply
        plan = self.routes.plan(ask.question.name)
        if plan.route.kind is Kind.LOCAL:
            return await self._resolve_local(ask, plan, seen)
        entry = self.cache.find(ask.key(), asyncio.get_running_loop().time())
        if entry is not None:
            end = HEADER_BYTES + len(ask.question.wire)
            return answer_from(entry, query, end, asyncio.get_running_loop().time())
        if not plan.route.servers:
            return None
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._fly(ask, plan, lambda reply: None if answer.done() else answer.set_result(reply))
        return await answer

    async def _resolve_local(self, ask: Ask, plan: Plan, seen: frozenset[bytes]) -> bytes | None:
        try:
            real = rewrite.out(ask.question, plan.renames)
            reply = self._own(ask.about(real.name).query(), tcp=True)
            if reply is None:
                return None
            message = await self._chase(parse(reply), ask, seen)
        except (rewrite.TooLong, Malformed):
            return None
        return build(rewrite.back(message, ask.question, plan.renames, plan.max_ttl))

    async def _chase(
        self, message: Message, ask: Ask, seen: frozenset[bytes] = frozenset()
    ) -> Message:
        """The answer with what its last CNAME leads to; SERVFAIL when that is not to be had, or
        when it leads in a circle or too far."""
        if not leads_away(message):
            return message
        found: Message | None = None
        target = message.answers[-1].data
        seen |= {record.name.lower() for record in message.answers}
        if target.lower() not in seen and len(seen) <= MAX_CHASE:
            reply = await self.resolve(ask.about(target), seen)
            if reply is not None:
                with suppress(Malformed):
                    found = parse(reply)
        if found is None or found.rcode not in (NOERROR, NXDOMAIN):
            message.bits = message.bits & ~RCODE | SERVFAIL
            return message
        message.answers.extend(found.answers)
        message.bits = message.bits & ~RCODE | found.rcode
        if not found.answers or found.rcode == NXDOMAIN:
            message.sections[1][:] = found.sections[1]
        return message

    # -- flights ---------------------------------------------------------------------------------

    def _fly(self, ask: Ask, plan: Plan, done: Callable[[bytes | None], None]) -> None:
        """Call `done` with the answer of the plan's servers, once."""
        loop = asyncio.get_running_loop()
        key = ask.key()
        flight = self._flights.get((key, ask.tcp))
        if flight is not None:
            self.counts.shared += 1
            if flight.overdue and flight.stale is not None:
                self._give_stale(ask, flight.stale, done)
            else:
                flight.waiting.append(done)
            return
        self.cache.misses += 1
        stale = self.cache.stale(key, loop.time())
        if stale is not None and loop.time() < stale.retry_at:
            self._give_stale(ask, stale, done)
            return
        flight = self._flights[key, ask.tcp] = Flight(key, [done], stale)
        timer = None
        if stale is not None:
            timer = loop.call_later(self.stale_after_s, self._overdue, ask, flight)
        self._spawn(self._run(ask, plan, flight, timer))

    def _overdue(self, ask: Ask, flight: Flight) -> None:
        """Nobody has answered for long: those who wait get what we had; the question goes on."""
        flight.overdue = True
        self._land(ask, flight, None)

    async def _run(
        self, ask: Ask, plan: Plan, flight: Flight, timer: asyncio.TimerHandle | None
    ) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        reply: bytes | None = None
        try:
            reply = await self._forward(ask, plan)
        finally:
            if timer is not None:
                timer.cancel()
            self._flights.pop((flight.key, ask.tcp), None)
            usable = reply is not None and rcode_of(reply) in (NOERROR, NXDOMAIN)
            self._observed(plan, loop.time() - started, usable)
            if reply is not None and usable:
                # Routes may have changed meanwhile.
                if plan.fate(self.routes.plan(ask.question.name)) is Fate.KEEP:
                    cluster = plan.route.kind is Kind.MASTERS
                    self.cache.put(flight.key, reply, now=loop.time(), cluster=cluster)
            elif flight.stale is not None:
                flight.stale.retry_at = loop.time() + RETRY_S
                reply = None
            self._land(ask, flight, reply)

    def _land(self, ask: Ask, flight: Flight, reply: bytes | None) -> None:
        waiting, flight.waiting = flight.waiting, []
        for done in waiting:
            if reply is None and flight.stale is not None:
                self._give_stale(ask, flight.stale, done)
            else:
                self.counts.failed += reply is None
                done(reply)

    def _give_stale(self, ask: Ask, entry: Entry, done: Callable[[bytes], None]) -> None:
        self.counts.stale += 1
        query = ask.query()
        done(stale_from(entry, query, HEADER_BYTES + len(ask.question.wire)))

    async def _forward(self, ask: Ask, plan: Plan) -> bytes | None:
        """The answer of the servers under the name that was asked for."""
        if not plan.renames:
            return await self.asker.ask(ask.query(), plan.route.servers, tcp=ask.tcp)
        try:
            real = rewrite.out(ask.question, plan.renames)
            query = ask.about(real.name)
            # `about` makes the class IN; others come back as they are
            reply = await self.asker.ask(query.query(), plan.route.servers, tcp=ask.tcp)
            if reply is None:
                return None
            message = rewrite.back(parse(reply), ask.question, plan.renames, plan.max_ttl)
        except (rewrite.TooLong, Malformed):
            return None
        return build(message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self, stop: asyncio.Event) -> None:
        """A service that ends what is under way when asked to stop."""
        await stop.wait()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for flight in list(self._flights.values()):  # those whose task had not begun
            for done in flight.waiting:
                done(None)
        self._flights.clear()


def leads_away(message: Message) -> bool:
    """Whether an answer ends in a CNAME that nobody followed."""
    return (
        message.rcode in (NOERROR, NXDOMAIN)
        and bool(message.answers)
        and message.answers[-1].kind == CNAME
        and message.question.kind not in (CNAME, ANY)
    )
