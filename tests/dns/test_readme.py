"""The README tells the truth: its table of settings, its examples, the sample configuration."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from cairn_core.kit.config import settings_table
from cairn_core.kit.units import parse_service, parse_socket
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, Row, TaskRow
from cairn_core.testing.feed_master import FeedMaster
from cairn_core.testing.readme import DEADLINE_S, blocks, examples, wait_until_ready
from cairn_core.testing.requires import requires
from cairn_dns.cli import main
from cairn_dns.config import DnsConfig

FOLDER = Path(__file__).parents[2] / "dns"
README = (FOLDER / "README.md").read_text()
SAMPLE = FOLDER / "config" / "dns.json"
ROWS: list[Row] = [
    MasterRow("m1", "master1", "127.0.0.1", 5050, leads=True),
    AgentRow("c-S0", "agent1", "10.0.0.11"),
    FrameworkRow("F", "marathon", "10.0.0.21"),
    TaskRow("web.1", "web", "F", "c-S0", "TASK_RUNNING", ports=((31000, 31000),)),
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_the_table_of_settings_is_up_to_date() -> None:
    assert settings_table(DnsConfig).strip() in README


def test_the_samples_are_accepted(tmp_path: Path) -> None:
    assert main(["--config", str(SAMPLE), "--check-config"]) == 0
    for number, text in enumerate(blocks(README, "json config")):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        assert main(["--config", str(file), "--check-config"]) == 0


def test_the_units_fit_the_sample() -> None:
    units = FOLDER / "systemd"
    assert parse_service("cairn-dns", (units / "cairn-dns.service").read_text()).type == "notify"
    sockets = parse_socket("cairn-dns", (units / "cairn-dns.socket").read_text())
    port = json.loads(SAMPLE.read_text())["port"]
    assert {listen.port for listen in sockets.listens} == {port}
    assert {listen.kind for listen in sockets.listens} == {"stream", "datagram"}
    assert sockets.reuse_port


def test_every_module_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", README.partition("## How it is put together")[2]))
    modules = {path.stem for path in (FOLDER / "cairn_dns").glob("*.py")}
    assert listed >= modules - {"__init__", "__main__"}


def test_the_examples_print_what_they_say(tmp_path: Path) -> None:
    requires("dig", "curl")
    ports = {"8053": free_port(), "8123": free_port()}

    def placed(text: str) -> str:
        for given, port in ports.items():
            text = text.replace(given, str(port))
        return text

    with FeedMaster(ROWS) as master:
        config = json.loads(placed(blocks(README, "json config")[0]))
        config |= {
            "masters": [master.address], "httpport": ports["8123"],
            "state_dir": str(tmp_path / "state"),
        }  # fmt: skip
        file = tmp_path / "dns.json"
        file.write_text(json.dumps(config))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        log = (tmp_path / "log").open("wb")
        with subprocess.Popen(
            [sys.executable, "-m", "cairn_dns", "--config", file], stdout=log, stderr=log
        ) as daemon:
            try:
                wait_until_ready(f"http://127.0.0.1:{ports['8123']}/ready", daemon)
                for command, output in examples(README):
                    told = subprocess.run(
                        ["bash", "-c", placed(command)],
                        capture_output=True, text=True, timeout=DEADLINE_S,
                        env={**os.environ, "PATH": path},
                    )  # fmt: skip
                    assert told.stdout.rstrip("\n") == placed(output).rstrip("\n"), command
            finally:
                daemon.terminate()
                log.close()
