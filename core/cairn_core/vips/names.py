"""Names of VIPs: how a label and a framework become one, and the zones they are found in.

Source: mesos_state `domain_frag/1`, as dcos/minuteman `src/minuteman_lashup_vip_listener.erl` uses
it.
"""

import re

from cairn_core.errors import RemoteError, shorten

#: The zone that names are shown with, and all zones in which they are found.
ZONE = "l4lb.thisdcos.directory"
ZONES = (
    ZONE,
    "l4lb.thisdcos.global",
    "dclb.thisdcos.directory",
    "dclb.thisdcos.global",
)
#: Characters of a full name: with the longest zone and a dot between them 253, as DNS has it.
MAX_NAME = 253 - 1 - max(map(len, ZONES))
MAX_LABEL = 63
#: Characters that are looked at; what is longer cannot become a name anyhow.
MAX_TEXT = 4096

_CHARACTERS = {ord(c): c for c in "abcdefghijklmnopqrstuvwxyz0123456789-"}
_CHARACTERS |= {ord(c): c.lower() for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_CHARACTERS[ord("_")] = "-"
_OTHERS = re.compile(r"[^-a-z0-9]")


class BadName(RemoteError):
    """A label and a framework do not make a name of DNS."""


def normalise(label: str) -> str:
    """A label or the name of a framework as part of a DNS name; may be empty.

    Dots stay; other characters than letters, digits, `-` and `_` vanish, so that `/group/app` is
    `groupapp`.  Different texts may become the same name; they are the same VIP then.
    Differs: a part of which nothing is left is left out, not kept as an empty label.
    """
    parts = (_part(part) for part in label[:MAX_TEXT].split("."))
    return ".".join(part for part in parts if part)


def full_name(label: str, framework: str) -> str:
    """The name of a VIP: `web.marathon` for `/web` of the framework `marathon`.

    Raises BadName where nothing is left of either, or too much for DNS.
    Differs: with one of the two empty, the original takes the other alone, so that a label
    without letters would be the VIP `marathon`.
    """
    host, domain = normalise(label), normalise(framework)
    if not host:
        raise BadName(f"label: nothing of it can be in a name: {shorten(label, 60)!r}")
    if not domain:
        raise BadName(f"framework name: nothing of it can be in a name: {shorten(framework, 60)!r}")
    name = f"{host}.{domain}"
    if len(name) > MAX_NAME or len(label) > MAX_TEXT:
        raise BadName(f"name: more than {MAX_NAME} characters: {shorten(name, 60)!r}")
    return name


def _part(text: str) -> str:
    kept = _OTHERS.sub("", text.translate(_CHARACTERS)).lstrip("-")
    head = kept[:MAX_LABEL].rstrip("-")
    # Compat: what moves up when dashes were stripped at the limit comes without any dashes.
    return head + kept[MAX_LABEL:].replace("-", "")[: MAX_LABEL - len(head)]
