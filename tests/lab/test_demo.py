"""The demonstration against canned daemons in a lab of bare hosts: what it waits for and says."""

import contextlib
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairn_core.testing.requires import requires
from cairn_lab import hosts, lab
from cairn_lab.demo import Demo, Instance, show
from cairn_lab.errors import LabError

pytestmark = pytest.mark.netns

# Answers from a table {"METHOD path": [status, document]} and tells when it listens.
CANNED = """
import http.server, json, sys, threading
table = json.loads(sys.argv[3])
class Canned(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, document = table.get(f"{self.command} {self.path}", [404, {}])
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())
    do_POST = do_GET
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Canned)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("listening", flush=True)
sys.stdin.read()
"""
DEFINITION = {"id": "/test/web", "instances": 1}
HEALTHY = {
    "id": "t1",
    "host": "agent1",
    "ports": [31000],
    "healthCheckResults": [{"alive": True}],
}


@pytest.fixture(scope="module")
def made() -> Iterator[lab.Lab]:
    requires("root", "ip", "nsenter", "ss")
    name = f"t-{uuid.uuid4().hex[:8]}"
    try:
        yield lab.up(name, bare=True, agents=1, public=0)[0]
    finally:
        lab.down(name)


@pytest.fixture
def demo(made: lab.Lab, tmp_path: Path) -> Demo:
    (tmp_path / "web.json").write_text(json.dumps(DEFINITION))
    return Demo(made, tmp_path / "web.json")


@contextlib.contextmanager
def canned(made: lab.Lab, host: str, port: int, table: dict[str, Any]) -> Iterator[None]:
    """A server on a host that answers from `table`."""
    address = str(made.topology.host(host).ipv4)
    argv = [sys.executable, "-c", CANNED, address, str(port), json.dumps(table)]
    with subprocess.Popen(
        hosts.enter(made.pid(host), argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:  # leaving closes its input, which ends it
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        yield


def agents(*names: str) -> dict[str, Any]:
    return {"GET /slaves": [200, {"slaves": [{"hostname": n, "active": True} for n in names]}]}


def test_an_agent_that_is_missing_is_named_with_its_log(demo: Demo, made: lab.Lab) -> None:
    with (
        canned(made, "master1", 5050, agents("agent7")),
        pytest.raises(LabError, match=r"agents agent1 did not register; .*logs agent1/cairn-agent"),
    ):
        demo.wait_for_agents(timeout_s=0.3)


def test_a_marathon_that_does_not_answer_is_named_with_its_log(demo: Demo, made: lab.Lab) -> None:
    with (
        canned(made, "master1", 5050, agents("agent1")),
        pytest.raises(LabError, match=r"Marathon did not register .*master1/cairn-marathon"),
    ):
        demo.wait_for_marathon(timeout_s=0.3)


def test_an_answer_of_marathon_that_refuses_is_shown(demo: Demo, made: lab.Lab) -> None:
    table = {"POST /v2/apps": [422, {"message": "cpus must be positive"}]}
    with (
        canned(made, "master1", 8080, table),
        pytest.raises(LabError, match=r"refused the example /test/web: .*cpus must be positive"),
    ):
        demo.deploy()


def test_only_instances_that_pass_all_checks_count(demo: Demo, made: lab.Lab) -> None:
    ill = {**HEALTHY, "id": "t2", "healthCheckResults": [{"alive": True}, {"alive": False}]}
    unknown = {**HEALTHY, "id": "t3", "healthCheckResults": []}
    tasks = {"tasks": [ill, HEALTHY, unknown]}
    with canned(made, "master1", 8080, {"GET /v2/apps/test/web/tasks": [200, tasks]}):
        expected = [Instance("t1", made.topology.host("agent1"), 31000)]
        assert demo.instances() == expected
        assert demo.wait_for_instances() == expected
        with pytest.raises(LabError, match="0 of 1 instances of /test/web are healthy"):
            demo.wait_for_instances(but_not=frozenset(["t1"]), timeout_s=0.3)


def test_the_name_in_dns_is_the_path_reversed(demo: Demo) -> None:
    assert demo.name == "web.test.marathon.mesos"


def test_killing_an_instance_ends_what_listens_on_its_port(demo: Demo, made: lab.Lab) -> None:
    instance = Instance("t1", made.topology.host("agent1"), 31000)
    with canned(made, "agent1", 31000, {"GET /": [200, "hello"]}):
        assert demo.fetch(instance) == '"hello"'
        demo.kill(instance)
        with pytest.raises(LabError, match="agent1:31000 does not answer"):
            demo.fetch(instance)
    with pytest.raises(LabError, match="nothing listens on agent1:31000"):
        demo.kill(instance)


def test_a_name_that_does_not_resolve_says_what_was_expected(
    demo: Demo, made: lab.Lab, tmp_path: Path
) -> None:
    table = {
        "GET /v2/info": [200, {"frameworkId": "f"}],
        "GET /v2/apps/test/web": [200, {"app": {}}],
        "GET /v2/apps/test/web/tasks": [200, {"tasks": [HEALTHY]}],
    }
    said: list[str] = []
    with (
        canned(made, "master1", 5050, agents("agent1")),
        canned(made, "master1", 8080, table),
        pytest.raises(LabError, match=r"leads to nothing on master1 instead of 203.0.113.101"),
    ):
        show(made, tmp_path / "web.json", said.append, said.append, timeout_s=0.3)
    assert "web: 1 instances are healthy on agent1:31000" in said


def test_a_host_whose_proxy_does_not_answer_is_named_with_its_log(
    demo: Demo, made: lab.Lab
) -> None:
    requires("dig")
    with pytest.raises(
        LabError, match=r"not answered by 203.0.113.11 on agent1; .*agent1/cairn-dns-proxy"
    ):
        demo.wait_for_proxy(made.topology.host("agent1"), timeout_s=0.3)


def test_a_vip_is_asked_by_its_name_on_a_host(made: lab.Lab, tmp_path: Path) -> None:
    port = {"port": 0, "labels": {"OWNER": "me", "VIP_0": "/test-web:8080"}}
    (tmp_path / "vip.json").write_text(json.dumps(DEFINITION | {"portDefinitions": [port]}))
    asked = Demo(made, tmp_path / "vip.json")
    name = "test-web.marathon.l4lb.thisdcos.directory"
    assert asked.vip == (name, 8080)
    host = made.topology.host("agent1")
    with pytest.raises(
        LabError, match=rf"http://{name}:8080 does not answer on agent1; .*agent1/cairn-l4lb"
    ):
        asked.wait_for_vip(host, timeout_s=0)


def test_an_application_without_a_vip_has_none(made: lab.Lab, demo: Demo) -> None:
    assert demo.vip is None
    with pytest.raises(LabError, match="declares no VIP"):
        demo.wait_for_vip(made.topology.host("agent1"), timeout_s=0)
