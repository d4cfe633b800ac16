"""Shapes of the HTTP API; the texts were given by the original for the same records."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_dns import http_records as shapes
from cairn_dns.config import DnsConfig
from cairn_dns.http_records import Enumerated
from cairn_dns.wire import AAAA, PTR, SRV, A
from cairn_dns.zone import Record, RecordSet

V4, V4_B, V6 = b"\x0a\x00\x00\x0b", b"\x0a\x00\x00\x0c", b"\xfd" + bytes(14) + b"\x06"
RECORDS: list[Record] = [
    ("web.marathon.mesos", A, V4_B),
    ("web.marathon.mesos", A, V4),
    ("web.marathon.mesos", AAAA, V6),
    ("web-x-s0.marathon.mesos", A, V4),
    ("web-x-s0.marathon.mesos", AAAA, V6),
    ("_web._tcp.marathon.mesos", SRV, ("web-x-s0.marathon.mesos", 80)),
    ("_web._tcp.marathon.mesos", SRV, ("gone.marathon.mesos", 80)),
    ("web.marathon.agentip.dcos.thisdcos.directory", A, V4),
    ("11.0.0.10.in-addr.arpa", PTR, "web-x-s0.marathon.mesos"),
]
CONFIG = DnsConfig(
    masters=["127.0.0.1:5050"], resolvers=["127.0.0.9"],
    zone_resolvers={"b.com": ["1.1.1.1"], "a.com": ["1.1.1.1", "2.2.2.2:5353"]},
    mesos_credentials={"Principal": "dns", "secret": "hush"}, zk="zk://u:hush@h:2181/mesos",
)  # fmt: skip


def records(*some: Record) -> RecordSet:
    made = RecordSet()
    made.change((), some or RECORDS, now=0.0)
    return made


def test_hosts() -> None:
    assert shapes.pretty(shapes.hosts(records(), "Web.*.Marathon.mesos.")) == (
        b'[\n  {\n   "host": "web.marathon.mesos.",\n   "ip": "10.0.0.11"\n  },'
        b'\n  {\n   "host": "web.marathon.mesos.",\n   "ip": "10.0.0.12"\n  },'
        b'\n  {\n   "host": "web.marathon.mesos.",\n   "ip": "fd00::6"\n  }\n ]'
    )
    unknown = b'[\n  {\n   "host": "",\n   "ip": ""\n  }\n ]'
    assert shapes.pretty(shapes.hosts(records(), "nope")) == unknown


def test_services() -> None:
    name = "_Web._tcp.marathon.mesos"
    assert shapes.services(records(), name) == [
        {"service": name, "host": "web-x-s0.marathon.mesos.", "ip": "10.0.0.11", "port": "80"},
        {"service": name, "host": "web-x-s0.marathon.mesos.", "ip": "fd00::6", "port": "80"},
    ]
    assert shapes.pretty(shapes.services(records(), "x")) == (
        b'[\n  {\n   "service": "",\n   "host": "",\n   "ip": "",\n   "port": ""\n  }\n ]'
    )


def test_hosts_and_services_of_dcos_net() -> None:
    assert shapes.dcos_hosts(records(), "web-x-s0.marathon.mesos.") == [
        {"host": "web-x-s0.marathon.mesos", "ip": "10.0.0.11"}
    ]
    assert shapes.dcos_hosts(records(), "nope") == []
    assert shapes.dcos_services(records(), "_web._tcp.marathon.mesos") == [
        {"service": "_web._tcp.marathon.mesos", "host": "gone.marathon.mesos", "port": 80},
        {
            "service": "_web._tcp.marathon.mesos",
            "host": "web-x-s0.marathon.mesos",
            "ip": "10.0.0.11",
            "port": 80,
        },
    ]


def test_axfr() -> None:
    text = "".join(shapes.axfr(records(), CONFIG, 7, "dcos.thisdcos.directory"))
    assert text.startswith(
        '{\n  "TTL": 60,\n  "Serial": 7,\n  "RefreshSeconds": 60,\n  "Mname": "ns1.mesos.",'
        '\n  "Rname": "root.ns1.mesos.",\n  "Domain": "mesos",\n  "Records": {\n   "As": {'
        '\n    "web-x-s0.marathon.mesos.": [\n     "10.0.0.11"\n    ],'
        '\n    "web.marathon.mesos.": [\n     "10.0.0.11",\n     "10.0.0.12"\n    ]\n   },'
        '\n   "AAAAs": {'
    )
    whole = json.loads(text)
    assert whole["Records"]["SRVs"] == {
        "_web._tcp.marathon.mesos.": ["gone.marathon.mesos.:80", "web-x-s0.marathon.mesos.:80"]
    }
    assert shapes.pretty(whole).decode() == text


def test_an_empty_zone_is_shown_as_the_original_shows_it() -> None:
    text = "".join(shapes.axfr(RecordSet(), CONFIG, 7))
    assert text.endswith('"Records": {\n   "As": {},\n   "AAAAs": {},\n   "SRVs": {}\n  }\n }')


def test_axfr_of_many_names_comes_in_pieces_and_is_sorted() -> None:
    many: list[Record] = [(f"n{i}.mesos", A, V4) for i in range(5_000)]
    pieces = list(shapes.axfr(records(*many), CONFIG, 7))
    assert max(map(len, pieces)) < 50_000
    shown = list(json.loads("".join(pieces))["Records"]["As"])
    assert shown == sorted(f"{name}." for name, _, _ in many)


def test_enumerate() -> None:
    one, other = Enumerated("web.f.mesos.", "10.0.0.11", "A"), Enumerated("_w.", "c.:1", "SRV")
    text = "".join(
        shapes.enumerated(
            [
                ("mara<th>&on", [("w<eb>", "web.1", [one, other]), ("w", "web.2", [one])]),
                ("idle", []),
            ]
        )
    )
    assert text == (
        '{\n  "frameworks": [\n   {\n    "tasks": [\n     {\n      "name": "w\\u003ceb\\u003e",'
        '\n      "id": "web.1",\n      "records": [\n       {\n        "name": "web.f.mesos.",'
        '\n        "host": "10.0.0.11",\n        "rtype": "A"\n       },\n       {'
        '\n        "name": "_w.",\n        "host": "c.:1",\n        "rtype": "SRV"\n       }'
        '\n      ]\n     },\n     {\n      "name": "w",\n      "id": "web.2",'
        '\n      "records": null\n     }\n    ],\n    "name": "mara\\u003cth\\u003e\\u0026on"'
        '\n   },\n   {\n    "tasks": [],\n    "name": "idle"\n   }\n  ]\n }'
    )
    assert "".join(shapes.enumerated([])) == '{\n  "frameworks": null\n }'


def test_all_records_are_lines() -> None:
    text = "".join(shapes.all_records(records()))
    lines = text.splitlines()
    assert len(lines) == len(json.loads(text)) == 8
    assert {
        "name": "_web._tcp.marathon.mesos",
        "host": "gone.marathon.mesos:80",
        "rtype": "SRV",
    } in (json.loads(text))
    assert "".join(shapes.all_records(RecordSet())) == "[]"


def test_the_configuration_is_shown_without_secrets() -> None:
    document = shapes.config_document(CONFIG, 5, "/etc/x.json")
    text = shapes.pretty(document)
    assert b"hush" not in text
    assert document["MesosCredentials"] == {"Principal": "dns", "Secret": "***"}
    assert document["Zk"] == "zk://***@h:2181/mesos"
    assert list(document)[:9] == [
        "RefreshSeconds", "Port", "Timeout", "StateTimeoutSeconds", "ZkDetectionTimeout",
        "HttpPort", "TTL", "SRVRecordDefaultWeight", "SOASerial",
    ]  # fmt: skip
    assert list(document["ZoneResolvers"]) == ["a.com", "b.com"]
    assert len(document) == 38


def test_the_version_is_that_of_the_original() -> None:
    assert shapes.pretty(shapes.version_document("dev")) == (
        b'{\n  "Service": "Mesos-DNS",\n  "URL": "https://github.com/mesosphere/mesos-dns",'
        b'\n  "Version": "dev"\n }'
    )


@pytest.mark.parametrize("text", ['"', "\\", "\n", "ü", "<", "\u2028", "\ud7ff", "\x00", "a b"])
def test_odd_texts_stay_json(text: str) -> None:
    shown = "".join(shapes.enumerated([(text, [(text, text, [Enumerated(text, text, "A")])])]))
    task = json.loads(shown)["frameworks"][0]["tasks"][0]
    assert task["records"][0]["name"] == text
    assert json.loads(shapes.pretty([text])) == [text]


@given(st.lists(st.tuples(st.text(max_size=4), st.lists(st.text(max_size=3), max_size=3))))
def test_enumerate_is_what_a_json_library_writes(
    frameworks: list[tuple[str, list[str]]],
) -> None:
    asked = [
        (name, [(task, task, [Enumerated(f"{i}.{j}", task, "A")]) for j, task in enumerate(tasks)])
        for i, (name, tasks) in enumerate(frameworks)
    ]
    text = "".join(shapes.enumerated(asked))
    assert shapes.pretty(json.loads(text)) == text.encode()
