"""What each role runs: unit files that exist and configuration that its daemons accept."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from cairn_core.kit.units import parse_socket
from cairn_lab import roles
from cairn_lab.topology import Role, plan

LAB = plan("lab", ports=None)
ROLES: tuple[Role, ...] = ("master", "agent", "public_agent")
PACKAGES = {
    "master": "cairn_core.master.cli",
    "agent": "cairn_core.agent.cli",
    "marathon": "cairn_scheduler.marathon.cli",
    "dns": "cairn_dns.cli",
    "dns-proxy": "cairn_dns.proxy.cli",
    "l4lb": "cairn_l4lb.cli",
}


@pytest.mark.parametrize("role", ROLES)
def test_every_unit_of_a_role_has_a_file_that_starts_its_program(
    role: Role, tmp_path: Path
) -> None:
    roles.write_configuration(LAB, LAB.by_role(role)[0], tmp_path)
    written = {path.stem for path in (tmp_path / "units").glob("*.service")}
    assert written == set(roles.UNITS[role])
    for name in written:
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
        unit.read(tmp_path / f"units/{name}.service")
        assert unit["Service"]["ExecStart"] == name
        assert unit["Service"]["Restart"] == "always"


def test_only_the_agent_leaves_its_children_alone_when_it_stops() -> None:
    for folder in ("core", "scheduler", "dns", "l4lb"):
        for path in (roles.repository() / folder / "systemd").glob("*.service"):
            spares = "KillMode=process" in path.read_text()
            assert spares == (path.stem == "cairn-agent")


@pytest.mark.parametrize("role", ROLES)
def test_daemons_accept_the_configuration_of_a_role(role: Role, tmp_path: Path) -> None:
    roles.write_configuration(LAB, LAB.by_role(role)[0], tmp_path)
    files = sorted(tmp_path.glob("*.json"))
    assert files
    for path in files:
        checked = subprocess.run(
            [
                sys.executable, "-c",
                f"import sys; from {PACKAGES[path.stem]} import main; sys.exit(main())",
                "--config", str(path), "--check-config",
            ],
            capture_output=True,
            text=True,
        )  # fmt: skip
        assert (checked.returncode, checked.stderr) == (0, "")


def test_a_public_agent_reserves_what_it_has_for_the_public_role() -> None:
    private = roles.configuration(LAB, LAB.host("agent1"))["agent.json"]
    public = roles.configuration(LAB, LAB.host("public1"))["agent.json"]
    assert "slave_public" not in private["resources"]
    assert all("(slave_public):" in part for part in public["resources"].split(";"))
    assert "public_ip:true" in public["attributes"]
    assert private["cgroups_root"] == "cairn/lab/agent1"


def test_only_masters_answer_names_for_other_hosts() -> None:
    settings = {host.name: roles.configuration(LAB, host)["dns-proxy.json"] for host in LAB.hosts}
    assert settings["master1"]["bind_ips"] == ["203.0.113.11", "2001:db8:cafe::11"]
    assert [s["bind_ips"] for name, s in settings.items() if name != "master1"] == [[], [], []]
    for one in settings.values():
        assert one["masters"] == ["203.0.113.11"]
        assert "upstream_resolvers" not in one


def test_the_sockets_of_the_name_servers_are_where_the_configuration_says(tmp_path: Path) -> None:
    host = LAB.host("master1")
    roles.write_configuration(LAB, host, tmp_path)

    def ports(unit: str) -> set[int]:
        path = tmp_path / f"units/{unit}.socket"
        return {listen.port for listen in parse_socket(path.name, path.read_text()).listens}

    assert ports("cairn-dns") == {roles.configuration(LAB, host)["dns.json"]["port"]}
    assert ports("cairn-dns-proxy") == {53}
