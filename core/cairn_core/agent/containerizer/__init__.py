"""The Mesos containerizer: namespaces, control groups and processes of tasks on one agent.

Module map, in reading order:

- `containerizer`: start reading here; life cycle of every container (mesos docs/containerizers.md).
- `launch_info`: how the wishes of several isolators merge into one launch.
- `runtime_dir`: what is written to disk so that a restarted agent finds its containers again.
- `launcher`: asks the helper for a container and kills one.
- `helper/`: separate processes on the standard library that outlive the agent.
- `cgroups`: control groups of version 1 and 2; `processes`: reading /proc.
- `isolators/`: one file per isolator, named by entry points `cairn.isolators`.
"""
