"""A cluster for end-to-end tests: a lab of its own name, without relays, shared by a session."""

import sys
import uuid
from collections.abc import Iterator

import pytest

from cairn_core.testing.requires import requires
from cairn_lab import hosts, lab
from cairn_lab.testing import Cluster


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    requires("root", "ip", "nsenter", "nginx", "dig")
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    try:
        made, _ = lab.up(name)
        cluster = Cluster(made)
        cluster.web.wait_for_cluster()
        cluster.web.deploy()
        cluster.healthy()
        yield cluster
    finally:
        lab.down(name)


@pytest.fixture
def cluster(running_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The cluster with the web example healthy, before the test and after it."""
    for host in running_cluster.lab.topology.hosts:
        hosts.heal(running_cluster.lab.switch_pid(), host.name)
    running_cluster.healthy()
    yield running_cluster
    if request.session.testsfailed:
        print(running_cluster.logs(), file=sys.stderr)
