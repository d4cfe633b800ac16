"""DNS clients of the distribution and of others, unmodified, at a running cairn-dns."""

import json
import random
import re
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.resolver
import dns.reversename
import dns.zone
import pytest

from cairn_core.testing.requires import requires

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

ADDRESSES = ["127.0.0.1", "::1"]
WEB = {"9.0.0.5", "9.0.0.6"}
WEB6 = {"fd00::5", "fd00::6"}
MANY = {f"9.1.0.{n}" for n in range(1, 41)}
#: Installs a client for Node.js; gives `node` and the folder of the client's modules.
NodeClient = Callable[[str], tuple[Path, Path]]
APEX = "ns1.mesos. root.ns1.mesos."


def run(*command: object, status: int = 0) -> str:
    """What a program prints; it must end with this status."""
    requires(str(command[0]))
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def short(*command: object) -> set[str]:
    return set(run(*command, "+short").split("\n")) - {""}


def header(text: str) -> tuple[str, set[str]]:
    """Status and flags as dig and kdig print them."""
    status = re.search(r"status: (\w+)", text)
    flags = re.search(r"[Ff]lags: ([a-z ]+)", text)
    assert status is not None, text
    assert flags is not None, text
    return status[1], set(flags[1].split())


@pytest.fixture(params=ADDRESSES)
def at(request: pytest.FixtureRequest, names: Any) -> list[object]:
    """Arguments that name the server, for dig and kdig."""
    return [f"@{request.param}", "-p", names.port]


# -- dig -------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig_finds_every_kind_of_record(at: list[object], transport: str) -> None:
    dig = ("dig", *at, transport)
    assert short(*dig, "web.marathon.mesos", "A") == WEB
    assert short(*dig, "web.marathon.mesos", "AAAA") == WEB6
    assert short(*dig, "odd-name-v1.marathon.mesos") == {"9.0.0.7"}
    assert short(*dig, "six.marathon.mesos", "AAAA") == {"2001:db8::14"}
    assert short(*dig, "leader.mesos") == {"127.0.0.1"}
    targets = short(*dig, "_http._web._tcp.marathon.mesos", "SRV")
    assert {line.split()[2] for line in targets} == {"80"}
    assert len(targets) == 2
    assert short(*dig, "_leader._tcp.mesos", "SRV") == {"0 1 5050 leader.mesos."}
    assert {line.split()[2] for line in short(*dig, "_batch._tcp.marathon.mesos", "SRV")} == {
        "31000",
        "31001",
    }
    (soa,) = short(*dig, "mesos", "SOA")
    assert soa.startswith(APEX)
    assert short(*dig, "mesos", "NS") == {"ns1.mesos."}


def test_dig_is_given_the_addresses_of_srv_targets(at: list[object]) -> None:
    text = run("dig", *at, "_http._web._tcp.marathon.mesos", "SRV")
    additional = text.partition("ADDITIONAL SECTION:")[2]
    assert set(re.findall(r"\sA\s+(\S+)", additional)) == WEB
    assert set(re.findall(r"\sAAAA\s+(\S+)", additional)) == WEB6


def test_dig_is_told_what_does_not_exist(at: list[object]) -> None:
    for name, kind, wanted in (
        ("nobody.marathon.mesos", "A", "NXDOMAIN"),
        ("_nobody._tcp.marathon.mesos", "SRV", "NXDOMAIN"),
        ("web.marathon.mesos", "MX", "NOERROR"),
        ("six.marathon.mesos", "A", "NOERROR"),
        ("_tcp.marathon.mesos", "A", "NOERROR"),  # an empty non-terminal
    ):
        text = run("dig", *at, name, kind)
        status, flags = header(text)
        assert (status, "aa" in flags) == (wanted, True), name
        assert "ANSWER: 0, AUTHORITY: 1" in text
        assert re.search(rf"^mesos\.\s+\d+\s+IN\s+SOA\s+{APEX}", text, re.MULTILINE), text


def test_dig_is_refused_what_is_not_ours(at: list[object]) -> None:
    assert header(run("dig", *at, "example.com"))[0] == "REFUSED"
    assert header(run("dig", *at, "version.bind", "CH", "TXT"))[0] == "REFUSED"
    assert header(run("dig", *at, "+opcode=notify", "mesos", "SOA"))[0] == "NOTIMP"


def test_dig_meets_the_limits_of_datagrams(at: list[object]) -> None:
    whole = run("dig", *at, "+bufsize=1232", "+ignore", "many.marathon.mesos")
    assert "tc" not in header(whole)[1]
    assert "ANSWER: 40" in whole
    cut = run("dig", *at, "+noedns", "+ignore", "many.marathon.mesos")
    assert "tc" in header(cut)[1]
    assert int(cut.partition("MSG SIZE  rcvd: ")[2]) <= 512
    assert short("dig", *at, "+noedns", "many.marathon.mesos") == MANY  # asks again over TCP


def test_dig_speaks_every_option_of_edns(at: list[object]) -> None:
    for option in ("+cookie", "+nsid", "+subnet=9.0.0.0/24", "+dnssec", "+padding=128", "+expire"):
        text = run("dig", *at, option, "web.marathon.mesos")
        assert header(text)[0] == "NOERROR", option
        assert "EDNS: version: 0" in text, option
    assert "EDNS" not in run("dig", *at, "+noedns", "web.marathon.mesos")
    assert header(run("dig", *at, "+edns=1", "+noednsneg", "web.marathon.mesos"))[0] == "BADVERS"


def test_dig_turns_addresses_to_names(at: list[object]) -> None:
    (name,) = short("dig", *at, "-x", "9.0.0.7")
    assert re.fullmatch(r"odd-name-v1-\w{5}-s2\.marathon\.mesos\.", name)
    (name,) = short("dig", *at, "-x", "fd00::5")
    assert name.startswith("web-")
    assert header(run("dig", *at, "-x", "10.255.0.1"))[0] in ("NXDOMAIN", "REFUSED")


def test_dig_takes_the_whole_zone(at: list[object]) -> None:
    lines = run("dig", *at, "+noall", "+answer", "mesos", "AXFR").splitlines()
    records = [line.split(None, 4) for line in lines if line and not line.startswith(";")]
    assert records[0] == records[-1]
    assert records[0][:4:3] == ["mesos.", "SOA"]
    addresses = {fields[4] for fields in records if fields[0] == "web.marathon.mesos."}
    assert addresses == WEB | WEB6


# -- its relatives ---------------------------------------------------------------------------


@pytest.mark.parametrize("address", ADDRESSES)
def test_host_prints_no_error_behind_an_answer(names: Any, address: str) -> None:
    host = ("host", "-p", names.port)
    for name in ("web.marathon.mesos", "odd-name-v1.marathon.mesos", "six.marathon.mesos"):
        text = run(*host, name, address)
        assert "has address" in text or "has IPv6 address" in text
        assert "not found" not in text
    assert "not found: 3(NXDOMAIN)" in run(*host, "nobody.marathon.mesos", address, status=1)
    assert "has SRV record 0 1 5050 leader.mesos." in run(
        *host, "-t", "SRV", "_leader._tcp.mesos", address
    )
    assert "many.marathon.mesos has address 9.1.0.40" in run(*host, "-l", "mesos", address)
    assert "domain name pointer" in run(*host, "9.0.0.7", address)


def test_kdig_agrees(at: list[object]) -> None:
    assert short("kdig", *at, "web.marathon.mesos") == WEB
    assert short("kdig", *at, "+tcp", "many.marathon.mesos") == MANY
    assert short("kdig", *at, "+noedns", "many.marathon.mesos") == MANY
    several = run(
        "kdig", *at, "+tcp", "+keepopen", "+short", "web.marathon.mesos", "six.marathon.mesos",
        "AAAA", "leader.mesos",
    )  # fmt: skip
    assert {*WEB, "2001:db8::14", "127.0.0.1"} <= set(several.split())
    assert header(run("kdig", *at, "nobody.marathon.mesos"))[0] == "NXDOMAIN"
    text = run("kdig", *at, "mesos", "AXFR")
    assert text.count("SOA") == 2
    assert header(run("kdig", *at, "+padding=64", "+cookie", "web.marathon.mesos"))[0] == "NOERROR"


def test_delv_finds_answers_that_are_not_signed(names: Any) -> None:
    for address in ADDRESSES:
        text = run("delv", f"@{address}", "-p", names.port, "-i", "web.marathon.mesos", "A")
        assert "; authoritative" in text
        assert set(re.findall(r"IN\s+A\s+([\d.]+)", text)) == WEB


@pytest.mark.parametrize("address", ADDRESSES)
def test_drill_agrees(names: Any, address: str) -> None:
    drill = ("drill", "-p", names.port)
    text = run(*drill, "web.marathon.mesos", f"@{address}", "A")
    assert set(re.findall(r"IN\s+A\s+([\d.]+)", text)) == WEB
    over_tcp = run(*drill, "-t", "many.marathon.mesos", f"@{address}", "A")
    assert set(re.findall(r"IN\s+A\s+([\d.]+)", over_tcp)) == MANY
    assert "SRV\t0 1 5050 leader.mesos." in run(*drill, "_leader._tcp.mesos", f"@{address}", "SRV")
    assert "rcode: NXDOMAIN" in run(*drill, "nobody.marathon.mesos", f"@{address}", "A")
    assert "odd-name-v1-" in run(*drill, "-x", "9.0.0.7", f"@{address}")


def test_dnsperf_loses_nothing(names: Any, tmp_path: Path) -> None:
    file = tmp_path / "questions"
    file.write_text(
        "web.marathon.mesos A\nweb.marathon.mesos AAAA\n_http._web._tcp.marathon.mesos SRV\n"
        "many.marathon.mesos A\nleader.mesos A\n"
    )
    for address in ADDRESSES:
        for mode in ("udp", "tcp"):
            text = run(
                "dnsperf", "-s", address, "-p", names.port, "-d", file, "-l", "2", "-Q", "2000",
                "-m", mode, "-e",
            )  # fmt: skip
            assert re.search(r"Queries lost: +0 ", text), text
            assert re.search(r"Response codes: +NOERROR \d+ \(100\.00%\)", text), text


# -- libraries -------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ADDRESSES)
def test_dnspython_resolves(names: Any, address: str) -> None:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [address], names.port
    resolver.search = [dns.name.from_text("marathon.mesos")]

    def found(name: str, kind: str = "A", **options: Any) -> set[str]:
        return {data.to_text() for data in resolver.resolve(name, kind, **options)}

    assert found("web.marathon.mesos") == WEB
    assert found("web", search=True) == WEB
    assert found("many.marathon.mesos") == MANY
    both = resolver.resolve_name("web.marathon.mesos")
    assert set(both.addresses()) == WEB | WEB6
    (pointer,) = found(dns.reversename.from_address("9.0.0.7").to_text(), "PTR")
    assert found(pointer) == {"9.0.0.7"}
    with pytest.raises(dns.resolver.NXDOMAIN):
        found("nobody.marathon.mesos")
    with pytest.raises(dns.resolver.NoAnswer):
        found("web.marathon.mesos", "MX")


@pytest.mark.parametrize("address", ADDRESSES)
def test_dnspython_takes_the_whole_zone(names: Any, address: str) -> None:
    zone = dns.zone.Zone("mesos", relativize=False)
    dns.query.inbound_xfr(address, zone, port=names.port)
    assert zone.find_rdataset("mesos.", "NS")[0].to_text() == "ns1.mesos."
    assert len(zone.find_rdataset("many.marathon.mesos.", "A")) == 40
    for name, rdataset in zone.iterate_rdatasets():
        query = dns.message.make_query(name, rdataset.rdtype)
        reply, _ = dns.query.udp_with_fallback(query, address, 5, names.port)
        answer = reply.find_rrset(reply.answer, name, rdataset.rdclass, rdataset.rdtype)
        assert set(answer) == set(rdataset), (name, rdataset)
        assert answer.ttl == rdataset.ttl


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_case_of_letters_is_kept(names: Any, address: str) -> None:
    rng = random.Random(1)
    for name in ("web.marathon.mesos", "many.marathon.mesos", "nobody.marathon.mesos"):
        mixed = "".join(rng.choice((char.upper(), char.lower())) for char in name)
        query = dns.message.make_query(mixed, "A", use_edns=0)
        reply = dns.query.udp(query, address, 5, names.port)
        assert reply.question[0].name.to_text() == f"{mixed}."
        assert {rrset.name.to_text() for rrset in reply.answer} <= {f"{mixed}."}
        assert bool(reply.answer) == (not name.startswith("nobody"))


def test_the_resolver_of_node_finds_services(names: Any, client_node: NodeClient) -> None:
    node, _ = client_node("mesos-dns-node-resolver")
    script = f"""
        const dns = require("dns").promises;
        const resolver = new dns.Resolver();
        resolver.setServers(["127.0.0.1:{names.port}", "[::1]:{names.port}"]);
        (async () => console.log(JSON.stringify({{
            a: await resolver.resolve4("web.marathon.mesos"),
            aaaa: await resolver.resolve6("web.marathon.mesos"),
            srv: await resolver.resolveSrv("_http._web._tcp.marathon.mesos"),
            soa: await resolver.resolveSoa("mesos"),
            ptr: await resolver.reverse("9.0.0.7"),
            many: (await resolver.resolve4("many.marathon.mesos")).length,
            none: await resolver.resolve4("nobody.marathon.mesos").catch((e) => e.code),
            empty: await resolver.resolve4("six.marathon.mesos").catch((e) => e.code),
        }})))();
    """
    found = json.loads(run(node, "-e", script))
    assert set(found["a"]) == WEB
    assert set(found["aaaa"]) == WEB6
    assert {(one["port"], one["weight"]) for one in found["srv"]} == {(80, 1)}
    assert found["soa"]["nsname"] == "ns1.mesos"
    assert len(found["ptr"]) == 1
    assert (found["many"], found["none"], found["empty"]) == (40, "ENOTFOUND", "ENODATA")


def test_the_node_module_for_mesos_dns_finds_services(names: Any, client_node: NodeClient) -> None:
    node, modules = client_node("mesos-dns-node-resolver")
    script = f"""
        require("dns").setServers(["127.0.0.1:{names.port}"]);
        const mesos = require("{modules}/mesos-dns-node-resolver");
        (async () => console.log(JSON.stringify([
            await mesos.promiseResolve("web"),
            await mesos.promiseResolve("batch.marathon.mesos."),
            await mesos.promiseResolve("nobody").catch((e) => e.code),
        ])))();
    """
    web, batch, nobody = json.loads(run(node, "-e", script))
    assert len(web) == 2
    assert all(one["host"].startswith("web-") for one in web)
    assert all(one["ports"] == [80, 81] for one in web)
    assert [one["ports"] for one in batch] == [[31000, 31001]]
    assert nobody == "ENOTFOUND"


def test_names_over_http_are_those_over_dns(names: Any) -> None:
    def get(path: str) -> Any:
        with urllib.request.urlopen(f"http://{names.api}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    assert {one["ip"] for one in get("/v1/hosts/web.marathon.mesos")} == WEB | WEB6
    services = get("/v1/services/_http._web._tcp.marathon.mesos")
    assert {one["ip"] for one in services} == WEB | WEB6
    assert {one["port"] for one in services} == {"80"}
