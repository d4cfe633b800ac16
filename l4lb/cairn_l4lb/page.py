"""`/` for a browser: the VIPs in a table.  Everything that comes from the cluster is escaped."""

from collections.abc import Sequence
from html import escape
from typing import Any

#: What the original says to who comes without a browser (dcos/minuteman `src/minuteman_wm_home.erl`
#: has a sentence of the same meaning).
TEXT = "This is the layer-4 load balancer of this host; VIPs are at /vips, figures at /metrics.\n"
#: Backends on one page.
MAX_ROWS = 2000

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>cairn-l4lb</title>
<meta name="viewport" content="width=device-width">
<style>
:root{color-scheme:light dark;--line:#8884;--soft:#8889}
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
h1{font-size:1.3rem;margin:0}p{margin:.3rem 0 1.2rem;color:var(--soft)}
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600}
th,td{padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
tbody tr:first-child td{border-top:1px solid var(--soft)}
code{font:13px ui-monospace,monospace}small{color:var(--soft)}
.open{color:#1a7f37}.closed{color:#cf222e}.drained,.unreachable{color:#9a6700}
</style></head><body>
"""
_COLUMNS = """<table><thead><tr><th>VIP</th><th>Backend</th><th>State</th><th>Task</th>
<th class="n">Picks</th><th class="n">Failures</th><th class="n">Pending</th>
<th class="n">p50 ms</th><th class="n">p99 ms</th></tr></thead>
"""
_STATES = frozenset({"open", "closed", "drained", "unreachable"})


def render(services: Sequence[dict[str, Any]], host: str, source: str) -> str:
    """The page.  services: of `shapes.service_object`; source: one line about what is known."""
    parts = [
        _HEAD,
        f"<h1>Virtual addresses as {escape(host)} serves them</h1>\n<p>{escape(source)}</p>\n",
    ]
    if not services:
        parts.append("<p>There is no VIP yet: give a port of an app a label VIP_0.</p>")
        return "".join([*parts, "</body></html>\n"])
    parts.append(_COLUMNS)
    rows = 0
    for service in services:
        if rows >= MAX_ROWS:
            break
        rows += max(1, len(service["backends"]))
        parts.append(_service(service))
    parts.append("</table>")
    if rows >= MAX_ROWS:
        parts.append("<p>There are more; all of them are at <a href=/vips>/vips</a>.</p>")
    return "".join([*parts, "</body></html>\n"])


def _service(service: dict[str, Any]) -> str:
    backends = service["backends"]
    name = f"<br><small>{escape(service['name'])}</small>" if service["name"] else ""
    first = (
        f'<td rowspan="{max(1, len(backends))}"><code>{escape(service["protocol"])} '
        f"{escape(service['vip'])}</code>{name}</td>"
    )
    if not backends:
        return f"<tbody><tr>{first}<td colspan=8>no backend: connections are refused</td></tr>"
    rows = "</tr>\n<tr>".join(_backend(one) for one in backends)
    return f"<tbody><tr>{first}{rows}</tr></tbody>\n"


def _backend(one: dict[str, Any]) -> str:
    state = one["state"] if one["state"] in _STATES else ""
    numbers = "".join(
        f'<td class="n">{"–" if one[key] is None else escape(str(one[key]))}</td>'
        for key in ("picks", "failures", "pending", "p50_ms", "p99_ms")
    )
    return (
        f"<td><code>{escape(one['backend'])}</code></td>"
        f'<td class="{state}">{escape(one["state"])}</td>'
        f"<td><small>{escape(one['task'] or '')}</small></td>{numbers}"
    )
