"""What follows from a lab's name and numbers: hosts, addresses, doors, files."""

from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_lab.errors import LabError
from cairn_lab.topology import (
    address_commands,
    bridge_commands,
    checked_name,
    hosts_file,
    parse_ports,
    plan,
    resolv_conf,
)


def test_default_lab_has_a_master_two_private_agents_and_a_public_one() -> None:
    assert [(h.name, h.role, str(h.ipv4)) for h in plan().hosts] == [
        ("master1", "master", "203.0.113.11"),
        ("agent1", "agent", "203.0.113.101"),
        ("agent2", "agent", "203.0.113.102"),
        ("public1", "public_agent", "203.0.113.201"),
    ]


@given(agents=st.integers(0, 99), public=st.integers(0, 50))
def test_every_host_has_a_name_and_addresses_of_its_own_inside_the_lab(
    agents: int, public: int
) -> None:
    hosts = plan(agents=agents, public=public).hosts
    assert len(hosts) == 1 + agents + public
    assert len({h.name for h in hosts}) == len(hosts)
    assert len({h.ipv4 for h in hosts}) == len(hosts)
    assert len({h.ipv6 for h in hosts}) == len(hosts)
    assert all(h.ipv4 in IPv4Network("203.0.113.0/24") for h in hosts)
    assert all(h.ipv6 in IPv6Network("2001:db8:cafe::/64") for h in hosts)
    # the host's name is the name of its link on the switch, which the kernel bounds
    assert all(len(h.name) <= 15 for h in hosts)


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ({"masters": 3}, "--masters 3: several masters need"),
        ({"masters": 0}, "--masters 0: must be between 1 and 9"),
        ({"agents": 100}, "--agents 100: must be between 0 and 99"),
        ({"agents": -1}, "--agents -1: must be between 0 and 99"),
        ({"public": 51}, "--public 51: must be between 0 and 50"),
    ],
    ids=["several masters", "no master", "too many agents", "negative", "too many public"],
)
def test_numbers_out_of_range_are_refused_by_flag(numbers: dict[str, Any], problem: str) -> None:
    with pytest.raises(LabError, match=problem):
        plan("x", **numbers)


@pytest.mark.parametrize("name", ["", "Lab", "../x", "a/b", "-a", "9a", "a" * 32, "a\nb", "lab\n"])
def test_names_that_cannot_name_a_directory_or_cgroup_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="not usable"):
        checked_name(name)


def test_doors_lead_to_the_master_and_can_be_moved() -> None:
    doors = plan(ports=parse_ports(["master=15050"])).relays
    assert [(d.name, d.port, d.host, d.target_port) for d in doors] == [
        ("master", 15050, "master1", 5050),
        ("marathon", 8080, "master1", 8080),
    ]
    assert plan(ports=None).relays == ()


@pytest.mark.parametrize(
    "text", ["edge=1", "master", "master=", "master=0", "master=65536", "master=-1", "master=١"]
)
def test_wrong_door_settings_name_the_flag(text: str) -> None:
    with pytest.raises(LabError, match=f"--port {text}"):
        parse_ports([text])


def test_resolvers_are_the_masters_only() -> None:
    assert resolv_conf(plan()) == "nameserver 203.0.113.11\noptions timeout:1 attempts:2\n"


def test_every_host_knows_itself_first_and_then_all_others() -> None:
    lab = plan(agents=1, public=0)
    assert hosts_file(lab, lab.host("agent1")).splitlines() == [
        "127.0.0.1 localhost",
        "::1 localhost ip6-localhost ip6-loopback",
        "203.0.113.101 agent1",
        "2001:db8:cafe::101 agent1",
        "203.0.113.11 master1",
        "2001:db8:cafe::11 master1",
    ]


def test_an_unknown_host_is_answered_with_those_there_are() -> None:
    with pytest.raises(LabError, match="no host 'agent7' in lab 'lab'; there are master1, agent1"):
        plan().host("agent7")


def test_the_switch_gets_a_cable_to_every_host() -> None:
    lab = plan(agents=1, public=0)
    assert bridge_commands(lab, {"master1": 10, "agent1": 11}).splitlines() == [
        "link set lo up",
        "link add br0 type bridge",
        "link set br0 up",
        "link add master1 type veth peer name eth0 netns 10",
        "link set master1 master br0 up",
        "link add agent1 type veth peer name eth0 netns 11",
        "link set agent1 master br0 up",
    ]
    assert "addr add 203.0.113.101/24 brd + dev eth0" in address_commands(lab.host("agent1"))


def test_cgroups_of_agents_and_of_hosts_never_contain_each_other() -> None:
    lab = plan("x")
    assert lab.agent_cgroup("agent1") == "cairn/x/agent1"
    assert lab.system_cgroup("agent1") == "cairn/x/system-agent1"
