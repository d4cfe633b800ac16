"""The README tells the truth: its table of settings, its examples, the sample configuration."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from cairn_core.kit.config import settings_table
from cairn_core.kit.units import parse_service
from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    PortRow,
    Row,
    TaskRow,
    VipRow,
)
from cairn_core.testing.feed_master import FeedMaster
from cairn_core.testing.readme import DEADLINE_S, blocks, examples, wait_until_ready
from cairn_core.testing.requires import requires
from cairn_core.vips.addresses import DEFAULT_IPV4, Addresses
from cairn_l4lb.cli import main
from cairn_l4lb.config import L4lbConfig
from cairn_l4lb.options import read_options

FOLDER = Path(__file__).parents[2] / "l4lb"
README = (FOLDER / "README.md").read_text()
SAMPLE = FOLDER / "config" / "l4lb.json"
PORTS = (PortRow(31000, "http", "tcp", (("VIP_0", "/web:80"),)),)
ROWS: list[Row] = [
    MasterRow("m1", "master1", "127.0.0.1", 5050, leads=True),
    AgentRow("c-S0", "agent1", "10.0.0.11"),
    FrameworkRow("F", "marathon", "10.0.0.21"),
    TaskRow("web.1", "web", "F", "c-S0", "TASK_RUNNING", discovery_ports=PORTS),
    VipRow("web.marathon", "11.225.37.144"),
]


def test_the_table_of_settings_is_up_to_date() -> None:
    assert settings_table(L4lbConfig).strip() in README


def test_the_samples_are_accepted(tmp_path: Path) -> None:
    assert main(["--config", str(SAMPLE), "--check-config"]) == 0
    for number, text in enumerate(blocks(README, "json config")):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        assert main(["--config", str(file), "--check-config"]) == 0


def test_the_unit_is_one() -> None:
    unit = parse_service("cairn-l4lb", (FOLDER / "systemd" / "cairn-l4lb.service").read_text())
    assert (unit.type, unit.restart) == ("notify", "always")


def test_every_module_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", README.partition("## How it is put together")[2]))
    folder = FOLDER / "cairn_l4lb"
    modules = {path.stem for path in folder.glob("*.py")}
    modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert listed == modules - {"__init__", "__main__"}


def test_the_labels_of_options_are_real() -> None:
    names = re.findall(r"^\| `L4LB_0_(\w+)` \|", README, re.MULTILINE)
    assert len(names) == 8
    for name in names:
        read = read_options([(f"L4LB_0_{name}", "nonsense")], "0", ["0"])
        assert "is none of" in read.problems[0]


def test_the_address_is_what_its_name_hashes_to() -> None:
    addresses = Addresses(DEFAULT_IPV4, None)
    addresses.give("web.marathon")
    assert addresses.of("web.marathon") == ("11.225.37.144", "")


def test_the_examples_print_what_they_say(tmp_path: Path) -> None:
    requires("curl")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

    def placed(text: str) -> str:
        return text.replace("61421", str(port))

    with FeedMaster(ROWS) as master:
        config = json.loads(blocks(README, "json config")[0])
        config |= {
            "masters": [master.address], "api_listen_port": port,
            "state_dir": str(tmp_path / "state"),
        }  # fmt: skip
        file = tmp_path / "l4lb.json"
        file.write_text(json.dumps(config))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        log = (tmp_path / "log").open("wb")
        with subprocess.Popen(
            [sys.executable, "-m", "cairn_l4lb", "--config", file], stdout=log, stderr=log
        ) as daemon:
            try:
                wait_until_ready(f"http://127.0.0.1:{port}/ready", daemon)
                for command, output in examples(README):
                    told = subprocess.run(
                        ["bash", "-c", placed(command)],
                        capture_output=True, text=True, timeout=DEADLINE_S,
                        env={**os.environ, "PATH": path, "COLUMNS": "100"},
                    )  # fmt: skip
                    lines = [line.rstrip() for line in told.stdout.rstrip("\n").split("\n")]
                    assert lines == placed(output).rstrip("\n").split("\n"), command
            finally:
                daemon.terminate()
                log.close()
