"""Marathon: keeps long-running services alive. Start reading at `daemon`; rules in `core`.

What clients write: `legacy_app` reads it (`json_input`), `normalize` completes it, `validation`
judges it; the result is an `app`. Everything that shall run: `groups`; `change` turns a changed one
into a plan (`versions`, `dependencies`, `planner`, `deployments`), which `execution` carries out
with `rollout` and `scaling`. What runs: `instances` (`conditions`, `instance_ids`). Where it runs:
`matcher` with `constraints` and `ports`, then `task_builder` with `task_checks`; `backoff` and
`queue` while it waits. What is shown: `task_json`, `events`, `labels` (selectors), `errors`.

What happens: `core` with `tracking`, `launching`, `deploying`, `health`, `readiness` changes the
`tables` through `store` and gives `effects`; `io_marathon` carries them out with `io_mesos`
and `io_health`. What clients reach: `http_api` mounts one `http_<resource>` module each,
which read the tables and await `context`; `app_view`, `endpoints`, `explain` make what they show.
"""
