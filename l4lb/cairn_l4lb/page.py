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
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
:root{color-scheme:light dark;--line:#8883;--soft:light-dark(#59636e,#9198a1)}
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1.2rem}
h1{font-size:1.35rem;margin:0}p{margin:.25rem 0;color:var(--soft)}a{color:inherit}
.warn{color:light-dark(#9a6700,#d29922);font-weight:600}
div{overflow-x:auto;margin:1.2rem 0}table{border-collapse:collapse;width:100%}
th{text-align:left;font-weight:600;font-size:.85rem;color:var(--soft);white-space:nowrap}
th,td{padding:.25rem .7rem;vertical-align:top}tr>:first-child{padding-left:0}
tr>:last-child{padding-right:0}tbody tr:first-child>*{border-top:1px solid var(--line)}
tr.vip>td{padding-top:.7rem}tr.vip b{margin-right:.6rem}
tr:not(.vip)>td:first-child{padding-left:1rem}
tbody tr:last-child>td{padding-bottom:.7rem}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font:13px ui-monospace,monospace;white-space:nowrap}small{color:var(--soft)}
td.task{overflow-wrap:anywhere;min-width:11rem;line-height:1.2}
i{font-style:normal;white-space:nowrap}i::before{content:"\\25cf\\a0"}
.open{color:light-dark(#1a7f37,#3fb950)}.closed{color:light-dark(#cf222e,#f85149)}
.drained,.unreachable{color:light-dark(#9a6700,#d29922)}
</style></head><body>
"""
_COLUMNS = """<div><table><thead><tr><th>VIP, backends</th><th>State</th><th>Task</th>
<th class="n">Picks</th><th class="n">Failures</th><th class="n">Pending</th>
<th class="n">p50 ms</th><th class="n">p99 ms</th></tr></thead>
"""
_FOOT = """<p>Figures are those of a backend, by whatever VIP its connections came; latencies are
of the last minute. ~: an estimate, for the kernel decides.</p>
<p>More: <a href="/v1/table">/v1/table</a>, <a href="/vips">/vips</a>,
<a href="/v1/problems">/v1/problems</a>, <a href="/metrics">/metrics</a>,
<a href="/debug/state?pretty">/debug/state</a></p>
"""
_END = "</body></html>\n"
_STATES = frozenset({"open", "closed", "drained", "unreachable"})


def render(
    services: Sequence[dict[str, Any]],
    host: str,
    source: str,
    problems: tuple[int, Sequence[dict[str, str]]],
) -> str:
    """The page.

    services: of `shapes.service_object`, in order; source: one line about what is known;
    problems: how many, and the first of them.
    """
    parts = [
        _HEAD.replace("{title}", escape(f"VIPs of {host}")),
        f"<h1>Virtual addresses as {escape(host)} serves them</h1>\n<p>{escape(source)}</p>\n",
        _warning(*problems),
    ]
    if not services:
        parts.append("<p>There is no VIP yet: give a port of an app a label VIP_0.</p>")
        return "".join([*parts, _END])
    parts.append(_COLUMNS)
    rows = 0
    for service in services:
        if rows >= MAX_ROWS:
            break
        rows += max(1, len(service["backends"]))
        parts.append(_service(service))
    parts.append("</table></div>")
    if rows >= MAX_ROWS:
        parts.append("<p>There are more; all of them are at <a href=/vips>/vips</a>.</p>")
    return "".join([*parts, _FOOT, _END])


def _warning(count: int, problems: Sequence[dict[str, str]]) -> str:
    if not count:
        return ""
    first = problems[0]
    who = first.get("task") or first.get("vip", "")
    more = f', and <a href="/v1/problems">{count - 1} more</a>' if count > 1 else ""
    return f'<p class="warn">Not served: {escape(who)}: {escape(first["reason"])}{more}</p>\n'


def _service(service: dict[str, Any]) -> str:
    kernel = service.get("decided_by") == "kernel"
    how = "the kernel" if kernel else service.get("options", {}).get("policy")
    told = [f"by {how}"] if how else []
    told += [f"{service['rate']:,} new/s"] if service.get("rate") else []
    told += [f"{service['refused']:,} refused"] if service.get("refused") else []
    name = f"<b>{escape(service['name'])}</b> " if service["name"] else ""
    place = f"<code>{escape(service['protocol'])} {escape(service['vip'])}</code>"
    backends = service["backends"]
    none = "" if backends else ' <i class="closed">no backend: connections are refused</i>'
    lines = [
        f'<tr class="vip"><td colspan="8">{name}{place} '
        f"<small>{escape(', '.join(map(str, told)))}</small>{none}</td></tr>",
        *(_backend(one, "~" if kernel else "") for one in backends),
    ]
    return "<tbody>" + "\n".join(lines) + "</tbody>\n"


def _backend(one: dict[str, Any], about: str) -> str:
    """about: what stands before counts that are estimates."""
    state = one["state"] if one["state"] in _STATES else ""
    told = one.get("why") or one["state"]
    if one["state"] == "closed" and one.get("closed_for_s"):
        told = f"closed, {one['closed_for_s']:.0f} s"
    counts = (one["picks"], one["failures"], one["pending"])
    figures = [about * (at == 0) + f"{count:,}" for at, count in enumerate(counts)]
    figures += ["–" if ms is None else f"{ms:.3g}" for ms in (one["p50_ms"], one["p99_ms"])]
    numbers = "".join(f'<td class="n">{escape(text)}</td>' for text in figures)
    return (
        f"<tr><td><code>{escape(one['backend'])}</code></td>"
        f'<td><i class="{state}">{escape(told)}</i></td>'
        f'<td class="task"><small>{escape(one["task"] or "")}</small></td>{numbers}</tr>'
    )
