"""NSD as a secondary server of cairn-dns, by zone transfer; unmodified, from the distribution."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.zone
import pytest

from cairn_core.testing.requires import requires

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

CONFIG = """
server:
  ip-address: 127.0.0.1@{port}
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "{directory}"
  pidfile: "{directory}/pid"
  xfrdir: "{directory}"
  xfrdfile: "{directory}/xfrd"
  zonelistfile: "{directory}/list"
  xfrd-reload-timeout: 0
remote-control:
  control-enable: no
zone:
  name: mesos
  zonefile: mesos.zone
  request-xfr: {how}127.0.0.1@{primary} NOKEY
  provide-xfr: 127.0.0.1 NOKEY
  min-refresh-time: 1
  max-refresh-time: 1
  max-retry-time: 1
"""


@contextmanager
def running_nsd(directory: Path, port: int, primary: int, how: str) -> Iterator[None]:
    requires("nsd")
    config = directory / "nsd.conf"
    config.write_text(CONFIG.format(directory=directory, port=port, primary=primary, how=how))
    with (directory / "nsd.log").open("wb") as log:
        process = subprocess.Popen(
            ["nsd", "-d", "-c", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def zone_of(port: int) -> dns.zone.Zone:
    """Everything that a server knows of the zone."""
    zone = dns.zone.Zone("mesos", relativize=False)
    dns.query.inbound_xfr("127.0.0.1", zone, port=port, timeout=5)
    return zone


def addresses(port: int, name: str) -> set[str]:
    """Addresses that a server gives; none where it does not answer yet."""
    try:
        query = dns.message.make_query(name, "A", use_edns=0)
        reply = dns.query.udp(query, "127.0.0.1", 2, port)
    except dns.exception.Timeout:
        return set()
    return {data.to_text() for rrset in reply.answer for data in rrset}


# By AXFR alone; and first by IXFR, to which we answer with the whole zone.
@pytest.mark.parametrize("how", ["AXFR ", ""])
def test_nsd_follows_as_a_secondary(
    start_dns: Callable[..., Any],
    make_task: Callable[..., Any],
    wait: Callable[..., Any],
    make_port: Callable[[], int],
    tmp_path: Path,
    how: str,
) -> None:
    with start_dns(tmp_path, make_port()) as names:
        wait("a cluster", lambda: addresses(names.port, "leader.mesos"))
        secondary = make_port()
        with running_nsd(tmp_path, secondary, names.port, how):
            wait("the zone", lambda: addresses(secondary, "web.marathon.mesos"))
            ours, theirs = zone_of(names.port), zone_of(secondary)
            assert theirs == ours
            assert len(ours.nodes) > 50
            first = ours.get_soa().serial
            names.master.put(make_task("fresh", 1, 3, "9.0.0.99"))
            wait("a new name", lambda: addresses(secondary, "fresh.marathon.mesos") == {"9.0.0.99"})
            names.master.delete("task/F/fresh.1")
            wait("no such name", lambda: not addresses(secondary, "fresh.marathon.mesos"))
            assert zone_of(secondary).get_soa().serial > first
            assert zone_of(secondary) == zone_of(names.port)
