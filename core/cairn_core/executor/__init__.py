"""The command executor: runs one command task and speaks the v1 executor API to its agent.

A process of its own that outlives the agent, so it imports the standard library alone and little of
that: `python -I -S <this directory>/__main__.py`, or forked from the containerizer's zygote
(`command:main`). Source: mesos docs/executor-http-api.md, docs/health-checks.md.

Reading order: `command` (entry point and loop), `rules` (what to do when, pure), `checks` (when to
check and what a result means, pure), `stream` (HTTP answers and RecordIO, pure), `settings`,
`connection`, `tasks`, `probes`.
"""
