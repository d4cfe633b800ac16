"""What the HTTP API answers, as bytes: the shapes of Mesos-DNS, and of dcos-net where asked for.

Functions of records and settings alone.  The large ones are iterators of pieces, each made in
about a millisecond (empty while only sorting is done); a name is shown as it is when its turn
comes.  Sources: Mesos-DNS `resolver/resolver.go`, dcos-net `dcos_dns_handler` and its relatives.
"""

import heapq
import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, NamedTuple

from cairn_core.clusterview.view import Snapshot

from .config import DnsConfig
from .validation import mailbox, valid_name
from .wire import AAAA, SRV, TYPE_NAMES, A
from .zone import RecordSet, Value

#: Names that are looked at, or shown, between two pieces.
SLICE = 400
HIDDEN = "***"
_PLAIN = re.compile(r"[A-Za-z0-9._:/ -]*", re.ASCII)


class Enumerated(NamedTuple):
    """A record of a task: owner with the last dot, host (`target.:port` of SRV), type."""

    name: str
    host: str
    rtype: str


def pretty(value: Any) -> bytes:
    """JSON as Go's MarshalIndent writes it with prefix and indent of one space.

    >>> pretty([{"a": "<"}])
    b'[\\n  {\\n   "a": "\\\\u003c"\\n  }\\n ]'
    """
    return _html_safe(json.dumps(value, indent=1, ensure_ascii=False)).replace("\n", "\n ").encode()


def _html_safe(text: str) -> str:
    # Compat: Go escapes what a browser could take for markup
    for character in "<>&\u2028\u2029":
        if character in text:
            text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return f'"{text}"'
    return _html_safe(json.dumps(text, ensure_ascii=False))


def asked_name(text: str) -> str:
    """The name that a client means: lower case, without the last dot and without `.*`."""
    return text.lower().replace(".*", "").removesuffix(".")


def host_text(kind: int, value: Value, dot: str = ".") -> str:
    """A value as the API shows it: an address, or `target.:port`."""
    if isinstance(value, bytes):
        return str(ip_address(value))
    if isinstance(value, tuple):
        return f"{value[0]}{dot}:{value[1]}"
    return f"{value}{dot}"


# -- one name --------------------------------------------------------------------------------------


def hosts(records: RecordSet, asked: str) -> list[dict[str, Any]]:
    """`/v1/hosts/{host}`: addresses of a name.

    Compat: an unknown name gives one element of empty texts, which Admin Router counts on.
    """
    name = asked_name(asked)
    found = [
        {"host": name + ".", "ip": host_text(kind, value)}
        for kind in (A, AAAA)
        for value in records.values(name, kind)
    ]
    return found or [{"host": "", "ip": ""}]


def services(records: RecordSet, asked: str) -> list[dict[str, Any]]:
    """`/v1/services/{service}`: one element per SRV record and kind of address.

    Compat: ports are texts; unknown services give one element of empty texts.
    """
    found = [
        {"service": asked, "host": target + ".", "ip": ip, "port": str(port)}
        for target, port in _targets(records, asked)
        for kind in (A, AAAA)
        if (ip := _first(records, target, kind))
    ]
    return found or [{"service": "", "host": "", "ip": "", "port": ""}]


def dcos_hosts(records: RecordSet, asked: str) -> list[dict[str, Any]]:
    """`/v1/hosts/{host}` of dcos-net: IPv4 only, no dot at the end, empty when unknown."""
    name = asked_name(asked)
    return [{"host": name, "ip": host_text(A, value)} for value in records.values(name, A)]


def dcos_services(records: RecordSet, asked: str) -> list[dict[str, Any]]:
    """`/v1/services/{service}` of dcos-net: numbers for ports, no `ip` without an address."""
    found = []
    for target, port in _targets(records, asked):
        ip = _first(records, target, A)
        one: dict[str, Any] = {"service": asked_name(asked), "host": target}
        found.append(one | ({"ip": ip} if ip else {}) | {"port": port})
    return found


def _targets(records: RecordSet, asked: str) -> Iterator[tuple[str, int]]:
    for value in records.values(asked_name(asked), SRV):
        if isinstance(value, tuple):
            yield value


def _first(records: RecordSet, name: str, kind: int) -> str:
    values = records.values(name, kind)
    return host_text(kind, values[0]) if values else ""


# -- documents -------------------------------------------------------------------------------------


def version_document(version: str) -> dict[str, str]:
    """`/v1/version`.  Compat: clients look for the name of the original."""
    return {
        "Service": "Mesos-DNS",
        "URL": "https://github.com/mesosphere/mesos-dns",
        "Version": version,
    }


def config_document(config: DnsConfig, serial: int, file: str) -> dict[str, Any]:
    """`/v1/config`: every setting of the original in its order, secrets hidden."""
    credentials = config.credentials()
    return {
        "RefreshSeconds": round(config.refresh_s),
        "Port": config.port,
        "Timeout": round(config.timeout_s),
        "StateTimeoutSeconds": round(config.state_timeout_s),
        "ZkDetectionTimeout": round(config.zk_detection_timeout),
        "HttpPort": config.http_port,
        "TTL": config.ttl,
        "SRVRecordDefaultWeight": config.srv_weight,
        "SOASerial": serial,
        "SOARefresh": config.soa_refresh,
        "SOARetry": config.soa_retry,
        "SOAExpire": config.soa_expire,
        "SOAMinttl": config.soa_minttl,
        "SOAMname": valid_name(config.soa_mname) + ".",
        "SOARname": mailbox(config.soa_rname) + ".",
        "Masters": config.masters or None,
        "ZoneResolvers": dict(sorted(config.zone_resolvers.items())),
        "Resolvers": config.resolvers or [],
        "IPSources": config.ip_sources,
        "Zk": _without_password(config.zk),
        "Domain": config.zone,
        "File": file,
        "Listener": ",".join(config.listeners()),
        "HTTPListener": config.http_listener,
        "RecurseOn": config.recurse_on,
        "DnsOn": config.dns_on,
        "HttpOn": config.http_on,
        "ExternalOn": config.external_on,
        "EnforceRFC952": config.rfc952,
        "SetTruncateBit": config.truncate,
        "EnumerationOn": config.enumeration_on,
        "MesosHTTPSOn": config.mesos_https_on,
        "CACertFile": config.ca_cert_file,
        "CertFile": config.cert_file,
        "KeyFile": config.key_file,
        # Differs: the original shows the secret to anybody.
        "MesosCredentials": {
            "Principal": credentials.principal,
            "Secret": HIDDEN if credentials.secret else "",
        },
        "IAMConfigFile": config.iam_config_file,
        "MesosAuthentication": config.mesos_authentication,
    }


def _without_password(url: str) -> str:
    scheme, colon, rest = url.partition("://")
    place = rest.rpartition("@")[2] if colon else rest
    hidden = f"{HIDDEN}@" if place != rest else ""
    return f"{scheme}{colon}{hidden}{place}"


def nodes(snapshot: Snapshot, heard: float | None) -> list[dict[str, Any]]:
    """`/v1/nodes` of dcos-net: masters and agents.

    heard: when the cluster was known to be so.  Differs: public addresses are known to nodes only.
    """
    updated = rfc3339(heard) if heard is not None else ""
    found = {row.ip: row.hostname for row in snapshot.agents.values() if row.ip}
    found |= {row.ip: row.hostname for row in snapshot.masters.values() if row.ip}
    return [
        {"private_ip": ip, "public_ips": [], "hostname": hostname, "updated": updated}
        for ip, hostname in sorted(found.items())
    ]


def rfc3339(seconds: float) -> str:
    """A time since the epoch for people and programs: `2026-11-27T10:00:00.123Z`."""
    at = datetime.fromtimestamp(seconds, UTC)
    return at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


# -- everything ------------------------------------------------------------------------------------


def axfr(
    records: RecordSet, config: DnsConfig, serial: int, without: str | None = None
) -> Iterator[str]:
    """`/v1/axfr`: all addresses and services by name; dcos-net reads it.

    without: a zone of ours that the original does not know.
    """
    head = {
        "TTL": config.ttl,
        "Serial": serial,
        "RefreshSeconds": round(config.refresh_s),
        "Mname": valid_name(config.soa_mname) + ".",
        "Rname": mailbox(config.soa_rname) + ".",
        "Domain": config.zone,
    }
    by_kind = yield from _names_by_kind(records, without)
    # the text of the head, less its closing bracket
    yield pretty(head).decode().removesuffix("\n }") + ',\n  "Records": {'
    for number, (key, kind) in enumerate((("As", A), ("AAAAs", AAAA), ("SRVs", SRV))):
        yield ("," if number else "") + f'\n   "{key}": {{'
        ending = "}"
        for names in _slices(by_kind[kind]):
            lines = []
            for name in names:
                values = records.values(name, kind)
                if values:
                    shown = ",\n     ".join(_quoted(host_text(kind, value)) for value in values)
                    lines.append(f"\n    {_quoted(name + '.')}: [\n     {shown}\n    ]")
            if lines:
                yield ("," if ending != "}" else "") + ",".join(lines)
                ending = "\n   }"
        yield ending
    yield "\n  }\n }"


def enumerated(
    frameworks: Iterable[tuple[str, Iterable[tuple[str, str, Sequence[Enumerated]]]]],
) -> Iterator[str]:
    """`/v1/enumerate`.

    frameworks: name, and per published task its name, id and records; taken lazily.
    Compat: a record that an earlier task has shown is not shown again, and `records` of a task
    that has none left is null.
    """
    seen: set[Enumerated] = set()
    yield '{\n  "frameworks": '
    before_framework = "[\n   {"
    for name, tasks in frameworks:
        yield before_framework + '\n    "tasks": ['
        before_framework = ",\n   {"
        before_task = "\n     {"
        for task_name, task_id, all_records in tasks:
            shown = [one for one in all_records if one not in seen]
            # services lead to a name of this task alone: only addresses can be shared
            seen.update(one for one in shown if one.rtype != "SRV")
            yield (
                f'{before_task}\n      "name": {_quoted(task_name)},'
                f'\n      "id": {_quoted(task_id)},\n      "records": '
            ) + _enumerated_records(shown)
            before_task = ",\n     {"
        yield "]" if before_task.startswith("\n") else "\n    ]"
        yield f',\n    "name": {_quoted(name)}\n   }}'
    yield "null\n }" if before_framework.startswith("[") else "\n  ]\n }"


def _enumerated_records(shown: Sequence[Enumerated]) -> str:
    if not shown:
        return "null\n     }"
    lines = (
        f'{{\n        "name": {_quoted(one.name)},\n        "host": {_quoted(one.host)},'
        f'\n        "rtype": "{one.rtype}"\n       }}'
        for one in shown
    )
    return "[\n       " + ",\n       ".join(lines) + "\n      ]\n     }"


def all_records(records: RecordSet) -> Iterator[str]:
    """`/v1/records` of dcos-net: every address and service of every zone, one per line."""
    before = "["
    for names in _slices(list(records.names())):
        lines = []
        for name in names:
            for kind in (A, AAAA, SRV):
                for value in records.values(name, kind):
                    lines.append(
                        f'{{"name":{_quoted(name)},"host":{_quoted(host_text(kind, value, ""))},'
                        f'"rtype":"{TYPE_NAMES[kind]}"}}'
                    )
        if lines:
            yield before + ",\n".join(lines)
            before = ",\n"
    yield "[]" if before == "[" else "]"


def _names_by_kind(
    records: RecordSet, without: str | None
) -> Generator[str, None, dict[int, Iterable[str]]]:
    """Sorted names that have addresses and services, by type; yields while it works."""
    parts: Mapping[int, list[list[str]]] = {A: [], AAAA: [], SRV: []}
    ending = f".{without}" if without else "\0"
    for names in _slices(list(records.names()), 4 * SLICE):
        found: dict[int, list[str]] = {A: [], AAAA: [], SRV: []}
        for name in names:
            if not name.endswith(ending) and name != without:
                for kind in records.kinds(name):
                    if kind in found:
                        found[kind].append(name)
        for kind, some in found.items():
            parts[kind].append(sorted(some))
        yield ""
    return {kind: heapq.merge(*some) for kind, some in parts.items()}


def _slices(names: Iterable[str], size: int = SLICE) -> Iterator[list[str]]:
    part: list[str] = []
    for name in names:
        part.append(name)
        if len(part) >= size:
            yield part
            part = []
    if part:
        yield part
