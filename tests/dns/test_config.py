"""Settings: the original's file starts this daemon, and what is wrong is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.errors import CairnError
from cairn_core.kit.config import load
from cairn_dns import validation
from cairn_dns.cli import main, translate
from cairn_dns.config import DnsConfig

#: A file of the original with every key of it, and with two that it never knew.
WHOLE = {
    "ZK": "zk://user:hush@10.0.0.1:2181,10.0.0.2:2181/mesos",
    "Masters": ["10.0.0.1:5050", "[2001:db8::1]:5050"],
    "zkDetectionTimeout": 0,
    "refreshSeconds": 30,
    "stateTimeoutSeconds": 200,
    "TTL": 5,
    "SrvRecordDefaultWeight": 7,
    "domain": "DC.Mesos",
    "port": 8053,
    "listener": "10.0.0.9",
    "HttpListener": "127.0.0.1",
    "HttpPort": 8124,
    "DnsOn": True,
    "HTTPON": True,
    "externalOn": True,
    "resolvers": ["10.0.0.53", "10.0.0.54:5353", "2001:db8::53"],
    "zoneResolvers": {"weave": ["10.0.0.55"]},
    "timeout": 3,
    "recurseOn": False,
    "IPSources": ["host", "netinfo"],
    "enforceRFC952": True,
    "setTruncateBit": False,
    "enumerationOn": False,
    "SOAMname": "ns9.dc.mesos.",
    "SOARname": "admin@dc.mesos",
    "SOARefresh": 1,
    "SOARetry": 2,
    "SOAExpire": 3,
    "SOAMinttl": 4,
    "mesosHTTPSOn": True,
    "caCertFile": "/etc/ca.pem",
    "certFile": "/etc/cert.pem",
    "keyFile": "/etc/key.pem",
    "mesosAuthentication": "basic",
    "mesosCredentials": {"Principal": "dns", "Secret": "hush"},
    "iamConfigFile": None,
    "email": "root.mesos",
    "ns": "ns1",
}


def read(tmp_path: Path, settings: object) -> DnsConfig:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(settings))
    return load(DnsConfig, program="cairn-dns", file=file, environ={}, foreign_file=True).config


def test_a_file_of_the_original_is_read(tmp_path: Path) -> None:
    config = read(tmp_path, WHOLE)
    assert (config.zone, config.port, config.http_port, config.ttl) == ("dc.mesos", 8053, 8124, 5)
    assert (config.refresh_s, config.state_timeout_s, config.timeout_s) == (30.0, 200.0, 3.0)
    assert config.listeners() == ["10.0.0.9"]
    assert (config.rfc952, config.truncate, config.enumeration_on) == (True, False, False)
    assert config.credentials().secret == "hush"
    assert config.iam_config_file == ""


def test_what_the_original_ignores_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(WHOLE))
    assert main([f"-config={file}", "-v=1", "-logtostderr=true", "--check-config"]) == 0
    assert "settings ignored: email, ns" in capsys.readouterr().err
    # a word of ours that is misspelt is none of the original's
    file.write_text(json.dumps({**WHOLE, "forward_client": []}))
    assert main(["-config", str(file), "--check-config"]) == 1
    assert "unknown setting 'forward_client'" in capsys.readouterr().err


def test_secrets_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(WHOLE))
    assert main(["-config", str(file), "--print-config"]) == 0
    assert "hush" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"masters": []}, "masters: empty"),
        ({"masters": ["10.0.0.1"]}, "masters: not a host:port: '10.0.0.1'"),
        ({"zk": "zoo://10.0.0.1:2181/mesos"}, "zk: must begin with zk://"),
        ({"zk": "zk://u:hush@10.0.0.1:0/mesos"}, "zk: no port from 1 to 65535"),
        ({"zk": "file://etc/x"}, "zk: file URL"),
        ({"listener": "here"}, "listener: not an address: 'here'"),
        ({"listener": []}, "listener: no address"),
        ({"httpListener": "here"}, "httpListener: not an address: 'here'"),
        ({"IPSources": ["netinfo", "autoip"]}, "IPSources: 'autoip' is none of"),
        ({"IPSources": []}, "IPSources: none given"),
        ({"IPSources": ["host", "host"]}, "IPSources: one is there twice"),
        ({"domain": "a..b"}, "domain: not a domain: 'a..b'"),
        ({"domain": "a" * 64}, "domain: name has a label"),
        ({"SOAMname": "a..b"}, "SOAMname: "),
        ({"SOARname": ""}, "SOARname: "),
        ({"resolvers": ["1.2.3.4:0"]}, "resolvers: port is not within 1-65535: '1.2.3.4:0'"),
        ({"zoneResolvers": {"mesos": ["1.2.3.4"]}}, "zoneResolvers: zone 'mesos' is the domain"),
        ({"forward_clients": ["10.0.0.1/8"]}, "forward_clients: 10.0.0.1/8"),
        ({"allow_transfer": ["x"]}, "allow_transfer: 'x'"),
        ({"stateTimeoutSeconds": 0}, "stateTimeoutSeconds"),
        ({"ttl": "soon"}, "ttl"),
        ({"dnson": False, "httpon": False}, "dnson: "),
        ({"certFile": "/x"}, "certFile: needs keyFile"),
        ({"mesosAuthentication": "basic"}, "mesosCredentials: principal"),
        ({"mesosAuthentication": "iam"}, "iamConfigFile: needed"),
        ({"mesosAuthentication": "kerberos"}, "mesosAuthentication"),
        ({"ResolvSubnetFirst": True}, "ResolvSubnetFirst: not supported"),
        ({"domain": "dcos.thisdcos.directory", "dcos_zones": True}, "dcos_zones: "),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_source(
    tmp_path: Path,
    fields: dict[str, object],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(CairnError) as caught:
        read(tmp_path, {"masters": ["127.0.0.1:5050"], **fields})
    assert problem in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)
    if not problem.startswith("dnson"):
        assert str(caught.value).startswith((str(tmp_path), "settings"))
    file = tmp_path / "config.json"
    assert main(["--config", str(file), "--check-config"]) == 1
    assert problem in capsys.readouterr().err


def test_resolvers_are_not_looked_at_when_nothing_is_forwarded(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        {"masters": ["a:1"], "externalOn": False, "resolvers": ["x"], "zoneResolvers": {"": []}},
    )
    assert config.resolvers == ["x"]


def test_listeners_may_be_several() -> None:
    assert DnsConfig(masters=["a:1"], listener=["10.0.0.1", "::1"]).listeners() == [
        "10.0.0.1",
        "::1",
    ]
    assert DnsConfig(masters=["a:1"], listener="10.0.0.1, ::1").listeners() == ["10.0.0.1", "::1"]


LONG, SHORT = "2001:0db8:0011:0022:0000:0000:1a2f:1a2b", "2001:db8:11:22::1a2f:1a2b"


@pytest.mark.parametrize(
    ("texts", "right"),
    [
        ([], True), ([""], False), (["", ""], False), (["m"], False), (["m", "n"], False),
        (["m:5050"], True), (["m:1", "n:1"], True), (["m:1", "m:1"], False), (["m:1", "m:2"], True),
        (["m:0"], False), (["m:65535"], True), (["m:65536"], False), (["m:"], False),
        (["m:x"], False), (["10.1.1.1"], False), (["10.1.1.1:5"], True),
        (["10.1.1.1.1"], False), (["10.1.1.1.1:6"], True), (["10.1.1.1", "10.1.1.1"], False),
        (["10.1.1.1:1", "10.1.1.1:1"], False), (["10.1.1.1:1", "10.1.1.2:1"], True),
        ([f"[{LONG}]:1"], True), ([f"[{SHORT}]:1"], True), ([f"[{LONG}]:1", f"[{SHORT}]:1"], False),
        ([LONG], False), ([f"[{SHORT}]"], False), ([f"[{SHORT}]x:1"], False), (["m:+5"], False),
        (["m:\u0665"], False),
    ],
)  # fmt: skip
def test_lists_of_masters(texts: list[str], right: bool) -> None:
    assert holds(lambda: validation.masters(texts)) == right


@pytest.mark.parametrize(
    ("texts", "right"),
    [
        ([], True), ([""], False), (["", ""], False), (["m"], False), (["m", "n"], False),
        (["m:53"], False), (["10.1.1.1"], True), (["10.1.1.1:53"], True), (["10.1.1.1.1"], False),
        (["10.1.1.1", "10.1.1.1"], False), (["10.1.1.1", "10.1.1.1:53"], False),
        (["10.1.1.1", "10.1.1.1:54"], True), (["10.1.1.1", "10.1.1.2"], True),
        (["10.1.1.1", "10.1.1.2:1234"], True), (["10.1.1.1:-1"], False), (["10.1.1.1:0"], False),
        (["10.1.1.1:65535"], True), (["10.1.1.1:65536"], False), (["10.1.1.1:abc"], False),
        ([LONG], True), ([SHORT], True), ([LONG, f"[{SHORT}]:55"], True), ([LONG, SHORT], False),
    ],
)  # fmt: skip
def test_lists_of_resolvers(texts: list[str], right: bool) -> None:
    assert holds(lambda: validation.resolvers(texts)) == right


@pytest.mark.parametrize(
    ("zones", "right"),
    [
        ([], True), ([""], False), (["weave"], True), (["mesos"], False), (["dc.mesos"], False),
        (["DC.mesos"], False), (["acdc.mesos"], True), (["site.dc.mesos"], False),
        (["abc.org", "org"], False), (["abc.org", "bc.org"], True), (["a..b"], False),
        (["weave."], False),
    ],
)  # fmt: skip
def test_zones_with_resolvers(zones: list[str], right: bool) -> None:
    servers = {zone: ["10.1.1.1"] for zone in zones}
    assert holds(lambda: validation.zone_resolvers(servers, "dc.mesos")) == right
    if zones:
        assert not holds(lambda: validation.zone_resolvers({zones[0]: []}, "dc.mesos"))


@pytest.mark.parametrize(
    ("domain", "right"),
    [
        ("", False), ("1-more.domain.e", True), (".bad.org", False), ("bad.org.", False),
        ("single-name", True), ("name", True), ("under_score", False), ("x" * 63, True),
    ],
)  # fmt: skip
def test_domains(domain: str, right: bool) -> None:
    assert holds(lambda: validation.valid_domain(domain)) == right


def problem_of(check: Callable[[], object]) -> str:
    try:
        check()
    except ValueError as error:
        return str(error)
    return ""


def holds(check: Callable[[], object]) -> bool:
    return not problem_of(check)


@given(st.text(max_size=40))
def test_any_text_is_right_or_refused_in_one_line(text: str) -> None:
    for check in (
        lambda: validation.masters([text]),
        lambda: validation.resolvers([text]),
        lambda: validation.zookeeper(text),
        lambda: validation.zookeeper("zk://" + text),
        lambda: validation.valid_domain(text),
        lambda: validation.mailbox(text),
        lambda: validation.addresses([text]),
        lambda: validation.networks([text]),
    ):
        assert len(problem_of(check)) < 300


def test_mailboxes() -> None:
    assert validation.mailbox("root@ns1.mesos") == "root.ns1.mesos"
    assert validation.mailbox("root.ns1.mesos.") == "root.ns1.mesos"


@pytest.mark.parametrize(
    ("original", "ours"),
    [
        (["-config=/etc/x.json"], ["--config", "/etc/x.json"]),
        (["--config=/etc/x.json", "-logtostderr=true"], ["--config", "/etc/x.json"]),
        (
            ["-config", "/etc/x.json", "-v", "2"],
            ["--config", "/etc/x.json", "--log-level", "debug"],
        ),
        (["-v=0", "-stderrthreshold", "INFO", "-logtostderr"], []),
        (["-version"], ["--version"]),
        (["-config"], ["--config"]),
        (["--port=53", "--print-config"], ["--port=53", "--print-config"]),
        (["--masters", "a:1"], ["--masters", "a:1"]),
    ],
)
def test_flags_of_the_original(original: list[str], ours: list[str]) -> None:
    assert translate(original) == ours
    assert not translate(["-config=~/x.json"])[1].startswith("~")
