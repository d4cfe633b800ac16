"""Names of a cluster: making the zone, and answering from it.

Four instances per application, one port each, 1,000 agents. Cases:

    zone-N       N tasks: every answer made anew
    change-N     one task more or less: the rest is taken over
    answer-*     one answer in this process, without a socket
    udp          questions over loopback, many under way, asked from this process too
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from time import perf_counter, process_time

from bench.report import Result, as_in_a_daemon, median_s, timed
from cairn_core.clusterview.view import ClusterView
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, PortRow, Row, TaskRow
from cairn_dns.answer import Answerer
from cairn_dns.encode import Table, ZoneSettings, encode_zone, wire_name
from cairn_dns.io_forward import Forwarder
from cairn_dns.io_udp import UdpServer, bind_udp
from cairn_dns.records import Rules, Zone, generate

AGENTS = 1000
QUESTIONS = {
    "a": ("app-7.marathon.mesos", 1),
    "srv": ("_app-7._tcp.marathon.mesos", 33),
    "no-name": ("nobody.marathon.mesos", 1),
}


def view(tasks: int) -> ClusterView:
    """A cluster of that many tasks."""
    rows: list[Row] = [
        MasterRow("m", "master1", "127.0.0.1", leads=True),
        FrameworkRow("F", "marathon", "10.0.0.1"),
    ]
    rows += [AgentRow(f"c-S{i}", f"a{i}", f"10.1.{i // 250}.{i % 250 + 1}") for i in range(AGENTS)]
    rows += [
        TaskRow(
            f"app-{i // 4}.{i}", f"app-{i // 4}", "F", f"c-S{i % AGENTS}", "TASK_RUNNING",
            ports=((31000, 31000),), discovery_name=f"app-{i // 4}",
            discovery_ports=(PortRow(80, "http", "tcp"),),
        )
        for i in range(tasks)
    ]  # fmt: skip
    made = ClusterView()
    made.replace(rows)
    return made


def zones(tasks: int, n: int) -> tuple[list[Result], Table]:
    """Making a zone anew, and after one change."""
    cluster, settings = view(tasks), ZoneSettings()

    def made(last: tuple[Zone, Table] | None = None) -> tuple[Zone, Table]:
        zone = generate(cluster.snapshot, Rules(), {})
        return zone, encode_zone(zone, settings, 1, last)

    with as_in_a_daemon():
        whole_s, last = timed(made)
        cluster.apply({"task/F/app-0.0": None})
        change_s = median_s(lambda: made(last), n)
    return [
        Result("names", f"zone-{tasks}", "make_s", whole_s, "s"),
        Result("names", f"change-{tasks}", "make_s", change_s, "s", n),
    ], last[1]


def query(name: str, kind: int) -> bytes:
    """A question as a client sends it."""
    return (
        struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0)
        + wire_name(name)
        + struct.pack("!HH", kind, 1)
    )


def answers(table: Table, n: int) -> Iterator[Result]:
    """One answer, without the socket."""
    answerer = Answerer(table)
    for case, (name, kind) in QUESTIONS.items():
        asked = query(name, kind)
        start = perf_counter()
        for _ in range(n):
            answerer.answer(asked)
        value = (perf_counter() - start) / n * 1e6
        yield Result("names", f"answer-{case}", "answer_us", value, "us", n)


async def over_udp(table: Table, total: int) -> list[Result]:
    """Questions through the kernel; client and server share the process and its time."""
    server_socket = bind_udp("127.0.0.1", 0)
    server = UdpServer(server_socket, Answerer(table), Forwarder([], [], 1.0))
    place = server_socket.getsockname()
    stop = asyncio.Event()
    serving = asyncio.create_task(server.run(stop))
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setblocking(False)
    asked = query(*QUESTIONS["a"])
    answered = 0
    start, cpu = perf_counter(), process_time()
    while answered < total and perf_counter() - start < 60:
        for _ in range(64):
            client.sendto(asked, place)
        await asyncio.sleep(0)
        while True:
            try:
                client.recv(512)
            except BlockingIOError:
                break
            answered += 1
    spent, cpu = perf_counter() - start, process_time() - cpu
    stop.set()
    await serving
    client.close()
    return [
        Result("names", "udp", "answers", answered / spent, "1/s", answered),
        Result("names", "udp", "cpu_both_ends", cpu / answered * 1e6, "us", answered),
    ]


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    results, table = zones(2000 if quick else 10_000, 3)
    yield from results
    if not quick:
        yield from zones(50_000, 3)[0]
    yield from answers(table, 20_000 if quick else 200_000)
    yield from asyncio.run(over_udp(table, 20_000 if quick else 200_000))
