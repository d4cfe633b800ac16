"""How names become DNS labels, and the short hash that makes a task's host name unique.

Follows Mesos-DNS `records/labels/labels.go` and `records/generator.go`: characters that fit are
kept, some become dashes, the others vanish; what is too long is cut without a dash at the cut.
"""

import hashlib
import re

_KEPT = {ord(c): c for c in "abcdefghijklmnopqrstuvwxyz0123456789-"}
_KEPT |= {ord(c): c.lower() for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_KEPT |= {ord(c): "-" for c in "._"}
#: Order of the digits of zbase32.
ZBASE32 = "ybndrfg8ejkmcpqxot1uwisza345h769"
HASH_LENGTH = 5
_NOT_KEPT = re.compile(r"[^-a-z0-9]")


def mangle(name: str, *, rfc952: bool = False) -> str:
    """The label of a name; may be empty.

    rfc952: at most 24 characters and no leading digit, instead of 63 characters.
    """
    text = _NOT_KEPT.sub("", name.translate(_KEPT))
    limit, leading = (24, "-0123456789") if rfc952 else (63, "-")
    return _cut(text.lstrip(leading), limit)


def domain_fragment(name: str, *, rfc952: bool = False) -> str:
    """A name with dots as several labels, empty ones left out; may be empty."""
    parts = (mangle(part, rfc952=rfc952) for part in name.split("."))
    return ".".join(part for part in parts if part)


def task_hash(task_id: str) -> str:
    """Five characters that tell tasks of one name apart."""
    bits = int.from_bytes(hashlib.sha1(task_id.encode(), usedforsecurity=False).digest()[:4], "big")
    return "".join(ZBASE32[bits >> shift & 31] for shift in range(27, 2, -5))


def canonical(name: str, task_id: str, agent_id: str) -> str:
    """Host name of one task: its name, hash and the tail of its agent's id."""
    return f"{name}-{task_hash(task_id)}-{agent_id.rpartition('-')[2].lower()}"


def _cut(text: str, limit: int) -> str:
    """At most `limit` characters; a run of dashes across the limit is squeezed out, and what
    follows it moves up."""
    size = min(len(text), limit)
    head = text[:size].rstrip("-")
    if len(head) == size:
        return head
    return head + text[size:].lstrip("-")[: size - len(head)]
