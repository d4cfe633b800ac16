"""Cairn's kernel: what every component stands on.

Floors, arrows only downwards: `errors`; `mesos` (wire formats) and `roles`; `extensions` (what
others may plug in); `resources`; `kit` (the runtime of a daemon) and `replog` (the replicated
log); `master`, `agent`, `executor`, `framework` (scheduler client) and `clusterview`, none of
which imports another; `testing`; `cli`, the `cairn` client. Start reading at `master.daemon`.
"""
