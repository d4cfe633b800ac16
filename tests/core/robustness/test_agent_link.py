"""Garbage on the agents' link: the connection ends, the master and its other agents go on."""

import asyncio
import contextlib
import uuid
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_core.kit.io_link import PROTOCOL, LinkClient
from cairn_core.kit.link import encode_message
from cairn_core.mesos import agent_api, types
from cairn_core.mesos.types import TaskState
from cairn_core.testing.sim_agents import agent_hello, framework_info, inventory, typical_task

MASTER_ID = "77777777-7777-4777-8777-777777777777"
UPGRADE = (
    f"GET {agent_api.PATH} HTTP/1.1\r\nHost: x\r\n"
    f"Connection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
)
GARBAGE = {
    "nothing": b"",
    "zeros": b"\0" * 64,
    "ones": b"\xff" * 64,
    "text": b"GET / HTTP/1.1\r\n\r\n" * 10,
    "a huge frame": b"\x7f\xff\xff\xff" + b"x" * 100,
    "a batch before the hello": b"\0\0\0\x14\x02" + b"\0" * 19,
    "a hello of garbage": b"\0\0\0\x20\x01" + b"\xc1" * 31,
    "random": Random(5).randbytes(100_000),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_instead_of_frames(victim: Any, name: str) -> None:
    async def attack() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", victim.port)
        writer.write(UPGRADE.encode())
        assert b" 101 " in await reader.readline()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(GARBAGE[name])
        if GARBAGE[name]:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""  # cut off, without an answer
        writer.transport.abort()
        await victim.unharmed()
        assert victim.agents_are_there()

    victim.run(attack())


class Talker:
    """A link that says what it is told to, once it is open."""

    def __init__(self, victim: Any, said: list[bytes]) -> None:
        self.victim = victim
        self.said = said
        self.answers: list[Any] = []
        self.lost = asyncio.Event()
        self.client: LinkClient[Any, Any] = LinkClient(
            agent_api.MasterMessage, self, url=lambda: victim.url + agent_api.PATH,
            session=str(uuid.uuid4()), rng=Random(1), min_backoff_s=60.0, max_backoff_s=60.0,
        )  # fmt: skip

    def opened(self, channel: Any, hello: Any, resumed: bool) -> None:
        for data in self.said:
            channel.send_encoded(data)

    def received(self, channel: Any, messages: list[Any]) -> None:
        self.answers += messages

    def closed(self, channel: Any, reason: str) -> None:
        self.lost.set()

    async def talk(self) -> None:
        """Say it all, until the master has taken it in or has cut us off."""
        stop = asyncio.Event()
        running = asyncio.create_task(self.client.run(stop))
        link = self.client.channel.link
        await self.victim.until(lambda: self.lost.is_set() or (link.is_open and not link.is_full))
        stop.set()
        await running


def wrong_order() -> dict[str, list[Any]]:
    """Conversations that no agent of ours would have."""
    agent_id = f"{MASTER_ID}-S1"
    framework = framework_info(1, MASTER_ID)
    assert framework.id is not None
    hello = agent_hello(900, agent_id)
    task = typical_task("t", agent_id, framework.id, 0)
    status = types.TaskStatus(types.TaskID("t"), TaskState.RUNNING, uuid=b"u" * 16)
    update = agent_api.Update(framework.id, status, TaskState.RUNNING)
    listed = list(inventory([framework], [task]))
    return {
        "inventory first": listed,
        "update first": [update],
        "pong first": [agent_api.Pong(), agent_api.Goodbye()],
        "update before registered": [hello, update, *listed],
        "hello twice": [hello, hello, *listed, hello, *listed],
        "inventory twice": [hello, *listed, *listed],
        "tasks without frameworks": [hello, agent_api.Inventory(tasks=(task, task), last=True)],
        "the same task twice": [hello, *inventory([framework], [task, task])],
        "goodbye and on": [hello, *listed, agent_api.Goodbye(), update, agent_api.Pong()],
        "another agent's task": [
            agent_hello(901, f"{MASTER_ID}-S2"),
            *inventory([framework], [task]),
            agent_hello(902, f"{MASTER_ID}-S3"),
            *inventory([framework], [task]),
        ],
        "somebody else's address": [agent_hello(0, None), *listed],
        "an epoch of the future": [msgspec.structs.replace(hello, epoch=2**62), *listed],
        "no protocol": [msgspec.structs.replace(hello, protocol_min=9, protocol_max=2)],
    }


@pytest.mark.parametrize("name", wrong_order())
def test_messages_in_the_wrong_order(victim: Any, name: str) -> None:
    async def attack() -> None:
        talker = Talker(victim, [encode_message(m) for m in wrong_order()[name]])
        await talker.talk()
        await victim.until(victim.agents_are_there)
        await victim.unharmed()

    victim.run(attack())


HOSTILE: list[Any] = [
    None, True, -1, 0, 2**63, 1e308, float("nan"), float("inf"), "", "a/b", "..", "\0",
    "x" * 10_000, b"", b"\xff" * 16, [], {}, [None], {"value": "x"}, {"value": 1e308},
    "slave(1)@0.0.0.0:0", f"{MASTER_ID}-S1", "TASK_FINISHED", "TASK_NONSENSE",
]  # fmt: skip


def _messages() -> list[Any]:
    agent_id = f"{MASTER_ID}-S7"
    framework = framework_info(2, MASTER_ID)
    assert framework.id is not None
    tasks = [typical_task(f"f{n}", agent_id, framework.id, n) for n in range(3)]
    executor = types.ExecutorInfo(
        types.ExecutorID("e"), framework_id=framework.id, command=types.CommandInfo(value="x")
    )
    return [
        agent_hello(907, agent_id),
        agent_api.Inventory(
            (framework,), (agent_api.Executor(framework.id, executor),), tuple(tasks), last=True
        ),
        agent_api.Update(framework.id, tasks[0].statuses[0], TaskState.RUNNING),
        agent_api.ExecutorExited(framework.id, executor.executor_id, 256),
        agent_api.FromExecutor(framework.id, executor.executor_id, b"data"),
        agent_api.Changed(agent_hello(907, agent_id).info),
    ]


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        found += _places(item, (*at, key))
    return found


@given(
    number=st.integers(0, 5),
    spots=st.lists(st.integers(0, 10_000), min_size=1, max_size=3),
    values=st.lists(st.sampled_from(HOSTILE), min_size=3, max_size=3),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_messages_that_are_nearly_right(
    victim: Any, number: int, spots: list[int], values: list[Any]
) -> None:
    said = [msgspec.to_builtins(message, builtin_types=(bytes,)) for message in _messages()]
    for spot, value in zip(spots, values, strict=False):
        places = [place for place in _places(said[number]) if place != ("type",)]
        at = places[spot % len(places)]
        inner: Any = said[number]
        for key in at[:-1]:
            inner = inner[key]
        inner[at[-1]] = value

    async def attack() -> None:
        await Talker(victim, [msgspec.msgpack.encode(message) for message in said]).talk()
        await victim.unharmed()
        # the agent whose address somebody took, above, is just coming back
        await victim.until(victim.agents_are_there)

    victim.run(attack())
