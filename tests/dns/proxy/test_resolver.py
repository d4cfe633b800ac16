"""From questions to answers with servers that are functions: no sockets."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from cairn_dns.answer import Foreign
from cairn_dns.proxy.ask import Ask
from cairn_dns.proxy.cache import Cache, Limits
from cairn_dns.proxy.io_race import Asker
from cairn_dns.proxy.io_resolver import Resolver
from cairn_dns.proxy.message import RD, Question
from cairn_dns.proxy.race import Servers
from cairn_dns.proxy.routes import Places, Routes, Server
from cairn_dns.wire import wire_name

MASTER, OTHER, UPSTREAM = ("10.0.0.1", 61053), ("10.0.0.2", 61053), ("203.0.113.53", 53)
Handler = Callable[[dns.message.Message], Awaitable[dns.message.Message | bytes]]


class Answers:
    """Stands for an Answerer: records as text by name and type, and zones."""

    def __init__(self, zones: list[str], records: dict[tuple[str, str], str]) -> None:
        self.zones, self.records = zones, records

    def answer(self, query: bytes, *, tcp: bool = False) -> bytes | Foreign | None:
        message = dns.message.from_wire(query)
        [question] = message.question
        name = str(question.name).lower().rstrip(".")
        reply = dns.message.make_response(message)
        if not any(name == zone or name.endswith("." + zone) for zone in self.zones):
            reply.set_rcode(dns.rcode.REFUSED)
            refused = reply.to_wire()
            reply.set_rcode(dns.rcode.SERVFAIL)
            return Foreign(refused, reply.to_wire())
        kind = dns.rdatatype.to_text(question.rdtype)
        for found in (kind, "CNAME"):
            if (name, found) in self.records:
                data = self.records[name, found].split()
                rrset = dns.rrset.from_text(question.name, 5, "IN", found, *data)
                reply.answer.append(rrset)
                return reply.to_wire()
        reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply.to_wire()


class Rig:
    """A resolver whose servers are `handlers`; what they were asked is in `asked`."""

    def __init__(self, *, masters: tuple[Server, ...] = (MASTER,), limit: int = 1024) -> None:
        self.handlers: dict[Server, Handler] = {}
        self.asked: list[tuple[Server, str, bool]] = []
        near = Answers(
            ["l4lb.thisdcos.directory"], {("v.l4lb.thisdcos.directory", "A"): "11.0.0.1"}
        )
        far = Answers(
            ["thisdcos.directory", "component.thisdcos.directory"],
            {
                ("registry.component.thisdcos.directory", "CNAME"): "web.mesos.",
                (
                    "loop.component.thisdcos.directory",
                    "CNAME",
                ): "loop.component.thisdcos.directory.",
                ("vip.component.thisdcos.directory", "CNAME"): "v.l4lb.thisdcos.directory.",
            },
        )
        local = [*near.zones, *far.zones]
        routes = Routes(Places(masters=masters, upstreams=[UPSTREAM], zones={}, local=local))
        asker = Asker(self._exchange, Servers(), self, Random(1), server_s=0.3, total_s=0.6)
        self.cache = Cache(Limits())
        self.resolver = Resolver(
            near,  # type: ignore[arg-type]  # what is used of an Answerer
            far,  # type: ignore[arg-type]
            routes,
            asker,
            self.cache,
            limit=limit,
            stale_after_s=0.05,
        )

    def answered(self, server: Server, tcp: bool, took_s: float) -> None:
        pass

    def silent(self, server: Server, tcp: bool, reason: str) -> None:
        pass

    async def _exchange(self, query: bytes, server: Server, tcp: bool, timeout_s: float) -> bytes:
        message = dns.message.from_wire(query)
        self.asked.append((server, str(message.question[0].name), tcp))
        async with asyncio.timeout(timeout_s):
            reply = await self.handlers[server](message)
            return reply if isinstance(reply, bytes) else reply.to_wire(max_size=65535)

    def ask(
        self, name: str, kind: str = "A", *, allowed: bool = True, tcp: bool = False
    ) -> "asyncio.Future[dns.message.Message]":
        """The answer as a client gets it; cancelled when it gets none."""
        query = dns.message.make_query(name, kind)
        answer = asyncio.get_running_loop().create_future()
        wire = query.to_wire()
        foreign = self.resolver.near.answer(wire)
        assert isinstance(foreign, Foreign)

        def send(reply: bytes) -> None:
            assert not answer.done()
            answer.set_result(dns.message.from_wire(reply))

        if not self.resolver.handle(wire, foreign, allowed=allowed, tcp=tcp, send=send):
            answer.cancel()

        def check(done: "asyncio.Future[dns.message.Message]") -> None:
            if not done.cancelled():
                assert done.result().id == query.id
                assert done.result().flags & dns.flags.QR

        answer.add_done_callback(check)
        return answer


def gives(*values: str, kind: str = "A", ttl: int = 60, rcode: int = 0) -> Handler:
    async def handler(message: dns.message.Message) -> dns.message.Message:
        reply = dns.message.make_response(message)
        reply.set_rcode(dns.rcode.Rcode(rcode))
        if values:
            name = message.question[0].name
            reply.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, *values))
        return reply

    return handler


async def never(message: dns.message.Message) -> dns.message.Message:
    await asyncio.Event().wait()
    raise AssertionError


async def refuses(message: dns.message.Message) -> dns.message.Message:
    raise ConnectionRefusedError


def values(message: dns.message.Message) -> list[str]:
    return [data.to_text() for rrset in message.answer for data in rrset]


async def test_names_go_where_their_route_leads() -> None:
    rig = Rig()
    rig.handlers = {MASTER: gives("10.1.0.1"), UPSTREAM: gives("203.0.113.80")}
    assert values(await rig.ask("web.mesos")) == ["10.1.0.1"]
    assert values(await rig.ask("www.example", tcp=True)) == ["203.0.113.80"]
    assert rig.asked == [(MASTER, "web.mesos.", False), (UPSTREAM, "www.example.", True)]


async def test_a_name_is_renamed_on_the_way_and_back() -> None:
    rig = Rig()
    rig.handlers = {MASTER: gives("0 1 80 web-1.mesos.", kind="SRV")}
    message = await rig.ask("Web.mesos.thisdcos.directory", "SRV")
    assert rig.asked == [(MASTER, "Web.mesos.", False)]
    assert str(message.answer[0]) == (
        "Web.mesos.thisdcos.directory. 5 IN SRV 0 1 80 web-1.mesos.thisdcos.directory."
    )


@pytest.mark.parametrize(
    "name", ["v.dclb.thisdcos.directory", "v.dclb.thisdcos.global", "V.l4lb.thisdcos.global"]
)
async def test_local_names_are_answered_under_other_domains_for_everybody(name: str) -> None:
    rig = Rig()
    message = await rig.ask(name, allowed=False)
    assert str(message.answer[0]) == f"{name}. 5 IN A 11.0.0.1"
    assert not rig.asked


async def test_unknown_labels_of_the_directory_do_not_leak_outside() -> None:
    rig = Rig()
    assert (await rig.ask("nobody.thisdcos.directory")).rcode() == dns.rcode.NXDOMAIN
    assert (await rig.ask("nobody.thisdcos.global")).rcode() == dns.rcode.NXDOMAIN
    assert not rig.asked


async def test_a_cname_of_a_local_zone_is_followed_to_the_masters() -> None:
    rig = Rig()
    rig.handlers = {MASTER: gives("10.1.0.1")}
    message = await rig.ask("registry.component.thisdcos.directory")
    assert values(message) == ["web.mesos.", "10.1.0.1"]
    assert values(await rig.ask("vip.component.thisdcos.directory")) == [
        "v.l4lb.thisdcos.directory.",
        "11.0.0.1",
    ]


async def test_a_cname_is_not_followed_for_strangers_nor_in_circles() -> None:
    rig = Rig()
    message = await rig.ask("registry.component.thisdcos.directory", allowed=False)
    assert values(message) == ["web.mesos."]
    assert not rig.asked
    async with asyncio.timeout(5):
        message = await rig.ask("loop.component.thisdcos.directory")
    assert message.rcode() == dns.rcode.SERVFAIL
    assert values(message) == ["loop.component.thisdcos.directory."]


@pytest.mark.parametrize(("hops", "rcode"), [(8, 0), (9, 2), (40, 2)])
async def test_a_chain_of_cnames_is_followed_so_far_and_fails_beyond(hops: int, rcode: int) -> None:
    rig = Rig()
    rig.handlers = {MASTER: gives("10.1.0.1")}
    records = rig.resolver.far.records  # type: ignore[attr-defined]  # of the stand-in
    for hop in range(hops):
        last = hop == hops - 1
        target = "web.mesos." if last else f"c{hop + 1}.component.thisdcos.directory."
        records[f"c{hop}.component.thisdcos.directory", "CNAME"] = target
    message = await rig.ask("c0.component.thisdcos.directory", tcp=True)
    assert message.rcode() == rcode
    assert ("10.1.0.1" in values(message)) == (rcode == 0)


async def test_a_cname_whose_target_fails_is_a_failure() -> None:
    rig = Rig()
    rig.handlers = {MASTER: refuses}
    message = await rig.ask("registry.component.thisdcos.directory")
    assert message.rcode() == dns.rcode.SERVFAIL


async def test_strangers_and_names_without_servers_are_refused() -> None:
    rig = Rig(masters=())
    assert (await rig.ask("www.example", allowed=False)).rcode() == dns.rcode.REFUSED
    assert (await rig.ask("web.mesos")).rcode() == dns.rcode.REFUSED
    assert not rig.asked


async def test_strangers_get_nothing_out_of_the_cache() -> None:
    rig = Rig()
    rig.handlers = {UPSTREAM: gives("203.0.113.80")}
    await rig.ask("www.example")
    assert (await rig.ask("www.example", allowed=False)).rcode() == dns.rcode.REFUSED


async def test_an_answer_is_asked_for_once() -> None:
    rig = Rig()
    rig.handlers = {UPSTREAM: gives("203.0.113.80")}
    asks = [rig.ask(name) for name in ("www.example", "WWW.example", "www.Example")]
    names = [str((await one).answer[0].name) for one in asks]
    assert names == ["www.example.", "WWW.example.", "www.Example."]
    assert values(await rig.ask("www.example")) == ["203.0.113.80"]
    assert len(rig.asked) == 1
    assert rig.resolver.counts.shared == 2
    assert len(rig.resolver.room) == 0


async def test_another_server_answers_when_one_is_dead_or_unwilling() -> None:
    for wrong in (refuses, never, gives(rcode=2), gives(rcode=5)):
        rig = Rig(masters=(MASTER, OTHER))
        rig.handlers = {MASTER: wrong, OTHER: gives("10.1.0.1")}
        for number in range(5):
            assert values(await rig.ask(f"w{number}.mesos")) == ["10.1.0.1"]


async def test_when_nobody_answers_the_client_is_told_so() -> None:
    rig = Rig()
    rig.handlers = {MASTER: never, UPSTREAM: gives(rcode=5)}
    assert (await rig.ask("web.mesos")).rcode() == dns.rcode.SERVFAIL
    assert (await rig.ask("www.example")).rcode() == dns.rcode.REFUSED


async def until_not_fresh(rig: Rig, name: str) -> None:
    """Wait until a name of the cluster is no longer fresh."""
    key = Ask(Question(wire_name(name), 1, 1), RD).key()
    async with asyncio.timeout(5):
        while rig.cache.find(key, asyncio.get_running_loop().time()) is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_known_names_go_on_while_no_master_answers_and_unknown_ones_fail() -> None:
    rig = Rig()
    rig.handlers = {MASTER: gives("10.1.0.1")}
    await rig.ask("web.mesos")
    await until_not_fresh(rig, "web.mesos")
    for dead in (refuses, never, gives(rcode=2)):
        rig.handlers = {MASTER: dead}
        message = await rig.ask("web.mesos")
        assert values(message) == ["10.1.0.1"]
        assert message.answer[0].ttl == 5
        assert (await rig.ask("other.mesos")).rcode() == dns.rcode.SERVFAIL


async def test_a_stale_answer_comes_soon_and_a_late_one_is_kept() -> None:
    rig = Rig()
    go = asyncio.Event()
    rig.handlers = {MASTER: gives("10.1.0.1")}
    await rig.ask("web.mesos")
    await until_not_fresh(rig, "web.mesos")

    async def late(message: dns.message.Message) -> dns.message.Message:
        await go.wait()
        reply = await gives("10.1.0.2")(message)
        assert isinstance(reply, dns.message.Message)
        return reply

    rig.handlers = {MASTER: late}
    assert values(await rig.ask("web.mesos")) == ["10.1.0.1"]
    # While the question is under way others get the stale answer at once.
    assert values(await rig.ask("web.mesos")) == ["10.1.0.1"]
    go.set()
    async with asyncio.timeout(5):
        while values(await rig.ask("web.mesos")) != ["10.1.0.2"]:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_too_many_questions_get_no_answer() -> None:
    rig = Rig(limit=4)
    rig.handlers = {UPSTREAM: never}
    asks = [rig.ask(f"n{number}.example") for number in range(5)]
    assert [one.cancelled() for one in asks] == [False, False, False, True, True]
    assert rig.resolver.counts.overload == 2
    done = await asyncio.gather(*asks[:3])
    assert {message.rcode() for message in done} == {dns.rcode.SERVFAIL}
    assert len(rig.resolver.room) == 0


async def test_a_silent_upstream_leaves_room_for_the_cluster() -> None:
    rig = Rig(limit=8)
    rig.handlers = {UPSTREAM: gives("203.0.113.80", ttl=0), MASTER: gives("10.1.0.1")}
    await rig.ask("known.example")
    rig.handlers[UPSTREAM] = never
    asks = [rig.ask(f"n{number}.example") for number in range(20)]
    assert values(await rig.ask("b.mesos")) == ["10.1.0.1"]
    assert values(await rig.ask("known.example")) == ["203.0.113.80"]
    assert rig.resolver.counts.overload == 15
    await asyncio.gather(*asks, return_exceptions=True)
    assert len(rig.resolver.room) == 0


def places(**changed: Any) -> Routes:
    local = ["l4lb.thisdcos.directory", "thisdcos.directory", "component.thisdcos.directory"]
    settings = {"masters": [MASTER], "upstreams": [UPSTREAM], "zones": {}, "local": local}
    return Routes(Places(**(settings | changed)))


@pytest.mark.parametrize(
    ("changed", "mesos", "outside"),
    [
        ({}, "fresh", "fresh"),
        ({"zones": {"corp.test": [OTHER]}}, "fresh", "fresh"),
        ({"masters": [OTHER]}, "stale", "fresh"),
        ({"upstreams": [OTHER]}, "fresh", "stale"),
        ({"zones": {"example": [UPSTREAM]}}, "fresh", "gone"),
        ({"local": ["www.example", "thisdcos.directory"]}, "fresh", "gone"),
    ],
)
async def test_answers_outlive_routes_that_do_not_concern_them(
    changed: dict[str, Any], mesos: str, outside: str
) -> None:
    rig = Rig()
    rig.cache.limits.cluster_s = 60.0
    rig.handlers = {MASTER: gives("10.1.0.1"), UPSTREAM: gives("203.0.113.80")}
    names = ("web.mesos", "web.mesos.thisdcos.directory", "www.example")
    for name in names:
        await rig.ask(name)
    rig.resolver.reroute(places(**changed))
    now = asyncio.get_running_loop().time()
    for name, expected in zip(names, (mesos, mesos, outside), strict=True):
        key = Ask(Question(wire_name(name), 1, 1), RD).key()
        fresh, stale = rig.cache.find(key, now), rig.cache.stale(key, now)
        assert ("fresh" if fresh else "stale" if stale else "gone") == expected, name


async def test_an_answer_of_a_route_that_is_gone_is_not_kept() -> None:
    rig = Rig()
    go = asyncio.Event()

    async def late(message: dns.message.Message) -> dns.message.Message:
        await go.wait()
        reply = await gives("203.0.113.80")(message)
        assert isinstance(reply, dns.message.Message)
        return reply

    rig.handlers = {UPSTREAM: late}
    answer = rig.ask("www.example")
    await asyncio.sleep(0)
    rig.resolver.reroute(places(zones={"example": [OTHER]}))
    go.set()
    assert values(await answer) == ["203.0.113.80"]
    assert len(rig.cache) == 0


async def test_a_reply_too_long_for_the_client_is_truncated_and_whole_over_tcp() -> None:
    rig = Rig()
    many = [f"203.0.113.{number}" for number in range(100)]
    rig.handlers = {UPSTREAM: gives(*many)}
    message = await rig.ask("www.example")
    assert message.flags & dns.flags.TC
    assert len(values(await rig.ask("www.example", tcp=True))) == 100


async def test_a_reply_that_makes_no_sense_is_passed_on_or_fails() -> None:
    async def nonsense(message: dns.message.Message) -> bytes:
        whole = message.to_wire()
        return whole[:2] + b"\x81\x80\0\1\0\x09\0\0\0\0" + whole[12:] + b"\xc0\xff\0"

    rig = Rig()
    rig.handlers = {MASTER: nonsense}
    answer = await rig.ask("web.mesos.thisdcos.directory")
    assert answer.rcode() == dns.rcode.SERVFAIL


async def test_questions_of_our_own_are_answered_like_those_of_clients() -> None:
    rig = Rig()
    rig.handlers = {MASTER: gives("10.1.0.1")}

    async def resolve(name: str) -> list[str]:
        reply = await rig.resolver.resolve(Ask(Question(wire_name(name), 1, 1), RD, tcp=True))
        return values(dns.message.from_wire(reply)) if reply is not None else []

    assert await resolve("web.mesos") == ["10.1.0.1"]
    assert await resolve("v.l4lb.thisdcos.directory") == ["11.0.0.1"]
    assert await resolve("v.dclb.thisdcos.global") == ["11.0.0.1"]
    assert await resolve("registry.component.thisdcos.directory") == ["web.mesos.", "10.1.0.1"]


async def test_what_is_under_way_ends_with_the_service() -> None:
    rig = Rig()
    rig.handlers = {UPSTREAM: never}
    answer = rig.ask("www.example")
    stop = asyncio.Event()
    stop.set()
    await rig.resolver.run(stop)
    assert (await answer).rcode() == dns.rcode.SERVFAIL


async def test_any_query_gets_one_answer_or_none() -> None:
    rng = Random(7)
    rig = Rig()
    rig.handlers = {MASTER: gives("10.1.0.1"), UPSTREAM: gives("203.0.113.80")}
    names = (
        "web.mesos",
        "www.example",
        "v.dclb.thisdcos.global",
        "registry.component.thisdcos.directory",
    )
    answers: list[list[bytes]] = []
    for number in range(3000):
        edns = 0 if number % 2 else None
        wire = bytearray(dns.message.make_query(names[number % 4], "A", use_edns=edns).to_wire())
        for _ in range(rng.randrange(4)):
            wire[rng.randrange(4, len(wire))] = rng.randrange(256)
        query = bytes(wire[: rng.randrange(12, len(wire) + 1)]) if number % 5 == 0 else bytes(wire)
        given: list[bytes] = []
        answers.append(given)
        foreign = Foreign(query[:2] + b"\x80\x05" + bytes(8), query[:2] + b"\x80\x02" + bytes(8))
        with contextlib.suppress(dns.exception.DNSException, ValueError, IndexError):
            # the stand-ins for the answerers take whole queries only
            rig.resolver.handle(query, foreign, allowed=True, tcp=False, send=given.append)
        if number % 100 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while len(rig.resolver.room):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert all(len(given) <= 1 for given in answers)
    assert sum(map(len, answers)) > 2000
    assert all(reply[2] & 0x80 and len(reply) <= 1232 for given in answers for reply in given)
