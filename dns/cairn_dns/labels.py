"""How names become DNS labels, and the short hash that makes a task's host name unique.

Follows Mesos-DNS `records/labels/labels.go` and `records/generator.go`: characters that fit are
kept, some become dashes, the others vanish; what is too long is cut without a dash at the cut.
"""

import hashlib
import re
from functools import lru_cache

_KEPT = {ord(c): c for c in "abcdefghijklmnopqrstuvwxyz0123456789-"}
_KEPT |= {ord(c): c.lower() for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_KEPT |= {ord(c): "-" for c in "._"}
#: Order of the digits of zbase32.
ZBASE32 = "ybndrfg8ejkmcpqxot1uwisza345h769"
HASH_LENGTH = 5
_PAIRS = [one + two for one in ZBASE32 for two in ZBASE32]
_NOT_KEPT = re.compile(r"[^-a-z0-9]")


def mangle(name: str, *, rfc952: bool = False) -> str:
    """The label of a name; may be empty.

    rfc952: at most 24 characters and no leading digit, instead of 63 characters.
    """
    # instances of an application have one name; what is too long for a name is not worth keeping
    return _known_label(name, rfc952) if len(name) <= 255 else _label(name, rfc952)


def dcos_label(name: str) -> str:
    """The label of a name in the zones of DC/OS; may be empty.

    As `mangle`, but what moves up when dashes were squeezed out at the limit comes without any
    dashes.  Source: mesos_state `label/1`, as dcos-net uses it.
    """
    text = _characters(name).lstrip("-")
    head = text[:63].rstrip("-")
    return head + text[63:].replace("-", "")[: 63 - len(head)] if len(text) > 63 else head


def domain_fragment(name: str, *, rfc952: bool = False) -> str:
    """A name with dots as several labels, empty ones left out; may be empty."""
    parts = (mangle(part, rfc952=rfc952) for part in name.split("."))
    return ".".join(part for part in parts if part)


def task_hash(task_id: str) -> str:
    """Five characters that tell tasks of one name apart."""
    digest = hashlib.sha1(task_id.encode(errors="surrogatepass"), usedforsecurity=False)
    bits = int(digest.hexdigest()[:7], 16) >> 3  # the first 25
    return _PAIRS[bits >> 15] + _PAIRS[bits >> 5 & 1023] + ZBASE32[bits & 31]


def canonical(name: str, task_id: str, agent_id: str) -> str:
    """Host name of one task: its name, hash and the tail of its agent's id."""
    return name + host_ending(task_id, agent_id)


def host_ending(task_id: str, agent_id: str) -> str:
    """What `canonical` appends to a name."""
    return f"-{task_hash(task_id)}-{agent_id.rpartition('-')[2].lower()}"


def _label(name: str, rfc952: bool) -> str:
    limit, leading = (24, "-0123456789") if rfc952 else (63, "-")
    return _cut(_characters(name).lstrip(leading), limit)


_known_label = lru_cache(maxsize=16384)(_label)


def _characters(name: str) -> str:
    return _NOT_KEPT.sub("", name.translate(_KEPT))


def _cut(text: str, limit: int) -> str:
    """At most `limit` characters; a run of dashes across the limit is squeezed out, and what
    follows it moves up."""
    size = min(len(text), limit)
    head = text[:size].rstrip("-")
    if len(head) == size:
        return head
    return head + text[size:].lstrip("-")[: size - len(head)]
