"""Where masters are written down: settings, and the nodes that masters keep in ZooKeeper."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.clusterview.io_detect import KnownMasters, find_masters
from cairn_core.clusterview.io_zookeeper import ZooKeeperMasters
from cairn_core.clusterview.masters import (
    BadMasterNode,
    Ensemble,
    master_nodes,
    master_place,
    parse_ensemble,
    parse_place,
)
from cairn_core.errors import LocalError


@pytest.mark.parametrize(
    ("url", "ensemble"),
    [
        ("zk://h:2181/mesos", Ensemble(("h:2181",), "/mesos")),
        ("zk://h1:1,h2:2,h3/a/b/", Ensemble(("h1:1", "h2:2", "h3:2181"), "/a/b")),
        (" ZK://10.0.0.1 ", Ensemble(("10.0.0.1:2181",), "/")),
        ("zk://u:p@ss:w@h/mesos", Ensemble(("h:2181",), "/mesos", ("u", "p@ss:w"))),
        ("zk://[::1]:7,[fd00::2]/m", Ensemble(("[::1]:7", "[fd00::2]:2181"), "/m")),
    ],
)
def test_ensembles(url: str, ensemble: Ensemble) -> None:
    assert parse_ensemble(url) == ensemble


@pytest.mark.parametrize(
    "url",
    [
        "", "zk:/h", "http://h/mesos", "zk://", "zk:///mesos", "zk://,/m", "zk://h:0/m",
        "zk://h:99999/m", "zk://h:x/m", "zk://secret@h/m", "zk://:secret@h/m", "zk://h i/m",
        "zk://::1/m", "zk://h/../m", "zk://h/a\x00b", "zk://h:1:2/m",
    ],
)  # fmt: skip
def test_what_is_no_ensemble_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(LocalError, match="zk: ") as caught:
        parse_ensemble(url)
    assert "secret" not in str(caught.value)


def test_an_ensemble_is_shown_without_its_password() -> None:
    assert str(parse_ensemble("zk://u:secret@h1,h2:7/m")) == "zk://h1:2181,h2:7/m"


@pytest.mark.parametrize(
    "text", ["h", "h:", ":1", "h:65536", "::1:5", "[::1]", "h:1/x", "h@i:1", "ä:1", "h%1:2", ""]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(LocalError):
        parse_place(text)


def test_the_lowest_number_leads_and_json_comes_first() -> None:
    assert master_nodes(
        ["json.info_0000000010", "info_0000000001", "log_replicas", "json.info_0000000009",
         "json.info_x", "json.info_", "json.info_99999999999"]
    ) == ["json.info_0000000009", "json.info_0000000010"]  # fmt: skip
    assert master_nodes(["info_0000000002", "info_0000000001"]) == [
        "info_0000000001", "info_0000000002",
    ]  # fmt: skip
    assert master_nodes([]) == []


#: A MasterInfo as masters before 0.24 wrote it: id, ip 10.0.0.1, port 5051, pid, hostname.
OLD = bytes.fromhex("0a016d108a80800818bb2722056d4031303a2a0168")
#: The same with an address: hostname, ip 10.0.0.7, port 5052.
NEW = OLD + bytes.fromhex("3a100a0168120831302e302e302e3718bc27") + b"\x42\x00"


def info(**fields: object) -> bytes:
    return msgspec.json.encode({"id": "m", "hostname": "h", "version": "1.4", **fields})


@pytest.mark.parametrize(
    ("node", "data", "place"),
    [
        ("json.info_1", info(ip=16777226, port=5050), "10.0.0.1:5050"),
        (
            "json.info_1",
            info(ip=1, port=1, address={"hostname": "h", "ip": "10.0.0.2", "port": 5052}),
            "10.0.0.2:5052",
        ),
        ("json.info_1", info(address={"ip": "fd00::1", "port": "7"}), "[fd00::1]:7"),
        ("json.info_1", info(ip=16777226), "10.0.0.1:5050"),
        ("info_1", OLD, "10.0.0.1:5051"),
        ("info_1", NEW, "10.0.0.7:5052"),
    ],
)
def test_nodes_tell_where_a_master_is(node: str, data: bytes, place: str) -> None:
    assert master_place(node, data) == place


@pytest.mark.parametrize(
    ("node", "data"),
    [
        ("json.info_1", b""),
        ("json.info_1", b"{}"),
        ("json.info_1", b"[1]"),
        ("json.info_1", info(address={"ip": "10.0.0.2", "port": 0})),
        ("json.info_1", info(address={"ip": "10.0.0.2/x", "port": 1})),
        ("json.info_1", info(address={"ip": "evil@10.0.0.2", "port": 1})),
        ("json.info_1", info(ip=1 << 40)),
        ("info_1", b""),
        ("info_1", OLD[:5]),
        ("info_1", b"\x0f"),
        ("info_1", b"\xff" * 20),
        ("info_1", NEW.replace(b"10.0.0.7", b"10.0.0\xff7")),
    ],
)
def test_nodes_that_make_no_sense_are_refused(node: str, data: bytes) -> None:
    with pytest.raises(BadMasterNode):
        master_place(node, data)


@given(st.sampled_from(["info_1", "json.info_1"]), st.binary(max_size=80))
def test_any_node_is_read_or_refused(node: str, data: bytes) -> None:
    try:
        host, port = parse_place(master_place(node, data))
    except BadMasterNode:
        return
    assert host
    assert port


def test_a_setting_names_masters_in_one_of_four_ways(tmp_path: Path) -> None:
    file = tmp_path / "zk"
    file.write_text("10.0.0.1:5050\n")
    assert find_masters(["a:1", "[::1]:2"]).current == ("a:1", "[::1]:2")
    assert find_masters("a:1, b:2").current == ("a:1", "b:2")
    assert find_masters(f"file://{file}").current == ("10.0.0.1:5050",)
    file.write_text("zk://h/mesos")
    found = find_masters(f"file://{file}")
    assert isinstance(found, ZooKeeperMasters)
    assert (found.current, found.leader) == ((), None)


@pytest.mark.parametrize(
    "setting", ["", ",", "h", "zk://", "file:///does/not/exist", ["h"], ["http://u:secret@h:1"]]
)
def test_settings_that_name_no_master(setting: str | list[str]) -> None:
    with pytest.raises(LocalError) as caught:
        find_masters(setting)
    assert "secret" not in str(caught.value)


def test_a_file_names_no_other_file(tmp_path: Path) -> None:
    file = tmp_path / "zk"
    file.write_text(f"file://{file}")
    with pytest.raises(LocalError, match="another file"):
        find_masters(f"file://{file}")


async def test_watchers_hear_of_changes_only() -> None:
    masters, heard = KnownMasters(["a:1"]), list[str | None]()
    masters.watch(lambda: heard.append(masters.leader))
    masters.became(["a:1"], None)
    masters.became(["b:1", "a:1"], "b:1")
    masters.became(("b:1", "a:1"), "b:1")
    assert heard == ["b:1"]
    stop = asyncio.Event()
    stop.set()
    await masters.run(stop)
