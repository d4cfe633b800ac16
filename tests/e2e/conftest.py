"""Clusters for end-to-end tests: a lab of its own name, without relays, shared by a session."""

import sys
import uuid
from collections.abc import Iterator

import pytest

from cairn_core.testing.requires import requires
from cairn_lab import hosts, lab
from cairn_lab.testing import Cluster


@pytest.fixture(scope="session")
def running_lab() -> Iterator[Cluster]:
    requires("root", "ip", "nsenter", "ss", "nginx", "dig")
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    try:
        yield Cluster(lab.up(name)[0])
    finally:
        lab.down(name)


@pytest.fixture
def agents(running_lab: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The lab with a master that knows all agents; prints the logs when a test failed."""
    for host in running_lab.lab.topology.hosts:
        hosts.heal(running_lab.lab.switch_pid(), host.name)
    failed = request.session.testsfailed
    running_lab.web.wait_for_agents()
    yield running_lab
    if request.session.testsfailed > failed:
        print(running_lab.logs(), file=sys.stderr)


@pytest.fixture
def cluster(agents: Cluster) -> Cluster:
    """The lab with the web example deployed through Marathon and healthy."""
    agents.web.wait_for_marathon()
    if not agents.web.deployed():
        agents.web.deploy()
    agents.healthy()
    return agents
