"""Settings: the originals' names, and what is wrong is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from cairn_core.kit.config import ConfigError, load
from cairn_l4lb.cli import main
from cairn_l4lb.config import FOREIGN, L4lbConfig, steer_settings
from cairn_l4lb.daemon import LIVE

MASTERS = ["10.0.0.1:5050"]


def loaded(tmp_path: Path, **settings: Any) -> L4lbConfig:
    file = tmp_path / "l4lb.json"
    file.write_text(json.dumps({"masters": MASTERS, **settings}))
    return load(L4lbConfig, program="cairn-l4lb", file=file, environ={}).config


def test_settings_of_the_originals_mean_the_same(tmp_path: Path) -> None:
    config = loaded(
        tmp_path, tcp_connect_threshold=250, tcp_consecutive_failure_threshold=3,
        tcp_failed_backend_backoff_period=10_000, queue=[60, 63], api_listen_port=61421,
        agent_poll_interval=2000, min_named_ip="11.0.0.0", max_named_ip="11.255.255.254",
    )  # fmt: skip
    settings = steer_settings(config, ["10.0.0.9"], "a")
    assert settings.connect_threshold_s == 0.25
    assert settings.failure_limit == 3
    assert settings.backoff_s == 10.0
    assert settings.queues == (60, 63)
    assert (settings.own_addresses, settings.zone) == (("10.0.0.9",), "a")


def test_names_of_dcos_come_first(tmp_path: Path) -> None:
    config = loaded(
        tmp_path, dcos_l4lb_min_named_ip="12.0.0.0", dcos_l4lb_max_named_ip="12.0.255.255",
        dcos_l4lb_enable_ipv6=False,
    )  # fmt: skip
    assert [text for _, text in config.named_range(4)] == ["12.0.0.0", "12.0.255.255"]
    assert not config.ipv6


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"masters": []}, "masters: empty"),
        ({"masters": ["nonsense:port"]}, "masters: no port from 1 to 65535: 'nonsense:port'"),
        ({"masters": [], "zk": "zk://"}, "zk: names no server"),
        ({"min_named_ip": "x"}, "min_named_ip: not an IPv4 address: 'x'"),
        ({"min_named_ip6": "11.0.0.1"}, "min_named_ip6: not an IPv6 address: '11.0.0.1'"),
        ({"max_named_ip": "10.0.0.1"}, "max_named_ip: '10.0.0.1' is below min_named_ip"),
        ({"dcos_l4lb_max_named_ip": "1.0.0.1"}, "dcos_l4lb_max_named_ip: '1.0.0.1' is below"),
        ({"queue": [5, 4]}, "queue: not first and last"),
        ({"mark_mask": 0x0F0F}, "mark_mask: not two or more bits in a row: 0xf0f"),
        ({"mark_mask": 0}, "mark_mask: not two or more"),
        ({"private_ip": "me"}, "private_ip: not an IP address: 'me'"),
        ({"host_networks": ["10.0.0.0/40"]}, "host_networks: not a network: '10.0.0.0/40'"),
        ({"host_networks": ["0.0.0.0/0"]}, "host_networks: network of all addresses: '0.0.0.0/0'"),
        (
            {"min_named_ip": "11.0.0.0", "max_named_ip": "11.0.0.1"},
            "min_named_ip, max_named_ip: no range: '11.0.0.0' to '11.0.0.1'",
        ),
        (
            {"min_named_ip": "0.0.0.0", "max_named_ip": "255.255.255.255"},
            "0.0.0.0 to 255.255.255.255 has addresses that are unspecified (0.0.0.0/8)",
        ),
        ({"min_named_ip": "127.0.0.0", "max_named_ip": "127.0.0.255"}, "loopback (127.0.0.0/8)"),
        ({"min_named_ip": "9.255.0.0"}, "of the overlay (9.0.0.0/8)"),
        ({"max_named_ip": "169.254.0.0"}, "loopback"),
        ({"min_named_ip6": "fe80::", "max_named_ip6": "fe80::ff"}, "link-local (fe80::/10)"),
        (
            {"min_named_ip": "10.0.0.0", "max_named_ip": "10.0.0.255"},
            "of a master or zk (10.0.0.1/32)",
        ),
        (
            {"masters": [], "zk": "zk://11.0.0.9:2181/mesos"},
            "of a master or zk (11.0.0.9/32)",
        ),
        ({"masters": ["[fd01:c::9]:5050"]}, "of a master or zk (fd01:c::9/128)"),
        ({"private_ip": "11.7.0.1"}, "private_ip (11.7.0.1/32)"),
        ({"host_networks": ["11.7.0.0/16"]}, "of host_networks (11.7.0.0/16)"),
        ({"cert_file": "/x"}, "cert_file: needs key_file"),
        ({"authentication": "basic"}, "principal: needed"),
        ({"tcp_connect_threshold": 0}, "tcp_connect_threshold"),
        ({"policy": "best"}, "policy"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, **settings)
    assert problem in str(raised.value)


def test_settings_of_the_originals_that_say_nothing_here_do_not_stop_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "l4lb.json"
    theirs = {name: 1 for name in FOREIGN}
    file.write_text(json.dumps({"masters": MASTERS, **theirs}))
    assert main(["--config", str(file), "--check-config"]) == 0
    told = capsys.readouterr().err
    assert told.startswith("cairn-l4lb: settings ignored: ")
    assert all(name in told for name in FOREIGN)
    assert not FOREIGN & set(L4lbConfig.__struct_fields__)
    assert main(["--config", str(file), "--check-config", "--queue", "50"]) == 1
    assert "queue: expected a list of length 2, got 1: ['50']" in capsys.readouterr().err


def test_the_password_of_zookeeper_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, masters=[], zk="zk://hush@10.0.0.1/mesos")
    assert "hush" not in str(raised.value)


def test_settings_that_hold_at_once_are_settings() -> None:
    assert set(LIVE) <= set(L4lbConfig.__struct_fields__)
