"""Settings: the original's file starts us, and what is wrong is named."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from cairn_core.errors import LocalError
from cairn_core.kit.config import load
from cairn_dns.proxy.config import (
    ProxyConfig,
    clients,
    forward_zones,
    loadbalance,
    masters,
    reverse,
    upstreams,
)
from cairn_dns.proxy.resolvconf import from_saved, is_ours, render, to_saved


def read(tmp_path: Path, **settings: Any) -> ProxyConfig:
    path = tmp_path / "dcos-dns.json"
    path.write_bytes(msgspec.json.encode(settings))
    return load(
        ProxyConfig, program="cairn-dns-proxy", file=path, environ={}, foreign_file=True
    ).config


def test_a_file_of_the_original_is_understood(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        upstream_resolvers=[
            "203.0.113.53",
            "203.0.113.54:5353",
            "[2001:db8::53]:54",
            "2001:db8::1",
        ],
        udp_port=53,
        tcp_port=53,
        bind_ips=["198.51.100.1"],
        bind_interface="eth0",
        bind_ip_blacklist=["198.51.100.4"],
        forward_zones={"A.example": ["203.0.113.1:53", "203.0.113.2"]},
        handler_limit=512,
        loadbalance="random",
    )
    assert upstreams(config) == [
        ("203.0.113.53", 53), ("203.0.113.54", 5353), ("2001:db8::53", 54), ("2001:db8::1", 53),
    ]  # fmt: skip
    assert forward_zones(config) == {"a.example": [("203.0.113.1", 53), ("203.0.113.2", 53)]}
    assert loadbalance(config) == "random"


def test_the_older_shape_of_forward_zones_is_understood(tmp_path: Path) -> None:
    config = read(tmp_path, forward_zones=[["a.example", [["203.0.113.1", 53]]]])
    assert forward_zones(config) == {"a.example": [("203.0.113.1", 53)]}


def test_durations_of_the_original_are_milliseconds(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        masters_refresh_interval_normal=120000,
        masters_refresh_interval_fail=5000,
        masters_timeout=5000,
        exhibitor_timeout=30000,
        mesos_dns_timeout=30000,
        push_zone_timeout=1000,
    )
    assert config == ProxyConfig()
    config = read(tmp_path, exhibitor_timeout=999, masters_refresh_interval_normal="30mins")
    assert (config.exhibitor_timeout, config.masters_refresh_interval_normal) == (999.0, 1800.0)
    config = read(tmp_path, exhibitor_timeout=1500.0, masters_refresh_interval_fail=1500)
    assert (config.exhibitor_timeout, config.masters_refresh_interval_fail) == (1500.0, 1.5)


def test_what_says_nothing_to_us_is_ignored(tmp_path: Path) -> None:
    assert read(tmp_path, epmd=7, udp_recbuf=None) == ProxyConfig()


def test_masters_are_asked_at_the_port_of_cairn_dns(tmp_path: Path) -> None:
    assert masters(read(tmp_path, masters=["10.0.0.1", "[fd00::1]:54"])) == [
        ("10.0.0.1", 61053), ("fd00::1", 54),
    ]  # fmt: skip
    assert masters(read(tmp_path, mesos_resolvers=[["10.0.0.2", 61053]])) == [("10.0.0.2", 61053)]


def test_private_stands_for_all_private_networks(tmp_path: Path) -> None:
    found = reverse(read(tmp_path, reverse=["private", "8.b.d.0.1.0.0.2.ip6.arpa"]))
    assert "10.0.0.0/8" in found
    assert found[-1] == "8.b.d.0.1.0.0.2.ip6.arpa"


def test_what_the_original_does_not_know_of_balancing_means_none(tmp_path: Path) -> None:
    assert loadbalance(read(tmp_path, loadbalance="disabled")) == "none"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"masters": ["master1"]}, "masters: not an address: 'master1'"),
        ({"masters": ["10.0.0.1:0"]}, "masters: not a port: '10.0.0.1:0'"),
        ({"masters": ["[fd00::1"]}, "masters: not an address or address:port: '[fd00::1'"),
        ({"upstream_resolvers": ["203.0.113.1:x"]}, "upstream_resolvers: not a port"),
        ({"upstream_resolvers": ["198.51.100.1"]}, "upstream_resolvers: that is this proxy itself"),
        ({"forward_zones": {"a..b": ["203.0.113.1"]}}, "forward_zones: name has a label of 0"),
        ({"forward_zones": {"a": []}}, "forward_zones: no server for 'a'"),
        ({"forward_zones": [["a", [["203.0.113.1", 99999]]]]}, "forward_zones: not an address and"),
        ({"bind_ips": ["eth0"]}, "bind_ips: not an address: 'eth0'"),
        ({"forward_clients": ["10.0.0.1/8"]}, "forward_clients: not a network: '10.0.0.1/8'"),
        ({"reverse": ["fc00::/7"]}, "reverse: prefix does not end at a nibble"),
        ({"search": ["a"] * 7}, "search: more than 6 names"),
        ({"search": ["a" * 60 + str(n) for n in range(6)]}, "search: more than 6 names or 255"),
        ({"domain": "a..b"}, "domain: name has a label of 0"),
        ({"cluster_id": "a.b"}, "cluster_id: not one label: 'a.b'"),
        ({"link": "a/b"}, "link: not a name of a link: 'a/b'"),
        ({"push_zone_timeout": 2.0}, "push_zone_timeout: cannot be set here: zones of this host"),
        ({"mesos_dns_timeout": 1.0}, "mesos_dns_timeout: cannot be set here: "),
        (
            {"zones": {"dcos.thisdcos.directory": []}},
            "zones['dcos.thisdcos.directory'].zone: reserved name",
        ),
        (
            {"zones": {"a.thisdcos.directory": [{"name": "b", "type": "a", "value": "x"}]}},
            "zones['a.thisdcos.directory'].records[0].value: not an IPv4 address: 'x'",
        ),
        ({"handler_limit": 0}, ""),
        ({"handler_limits": 0}, "unknown setting 'handler_limits'"),
        ({"exhibitor_timeout": -1}, "exhibitor_timeout"),
        ({"exhibitor_timeout": True}, "exhibitor_timeout"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(LocalError) as told:
        read(tmp_path, **settings)
    assert problem in str(told.value)


def test_resolv_conf_names_three_servers_at_most() -> None:
    text = render([f"198.51.100.{n}" for n in range(1, 5)], ["mesos", "example"])
    assert is_ours(text)
    assert text.splitlines()[1:] == [
        "search mesos example",
        "options timeout:1",
        "options attempts:3",
        "nameserver 198.51.100.1",
        "nameserver 198.51.100.2",
        "nameserver 198.51.100.3",
    ]


@pytest.mark.parametrize(
    ("text", "link"),
    [("nameserver 203.0.113.1\n", None), ("", None), (None, None), (None, "../run/stub.conf")],
)
def test_the_original_is_kept_as_it_was(text: str | None, link: str | None) -> None:
    assert from_saved(to_saved(text, link)) == (text, link)


def test_the_host_itself_is_a_client_whatever_else_is() -> None:
    config = ProxyConfig(forward_clients=["10.0.0.0/8"], bind_ips=["203.0.113.7"])
    assert {"10.0.0.0/8", "198.51.100.1", "203.0.113.7"} <= set(clients(config))
