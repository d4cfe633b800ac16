"""A site for the containers of one test."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn_core.testing.containers import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        if parent.owner() == "root" and parent != Path("/tmp"):
            parent.chmod(0o755)  # a task that runs as nobody has to reach its sandbox
    found = Site(tmp_path, f"cairn-test-{uuid.uuid4().hex[:12]}")
    yield found
    found.close()


@pytest.fixture
def container_id() -> str:
    return str(uuid.uuid4())
