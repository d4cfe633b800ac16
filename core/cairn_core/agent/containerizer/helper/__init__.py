"""Processes beside the agent that start containers and outlive it, on the standard library alone.

    agent --connects--> zygote (`__main__`) --forks--> monitor --forks--> init --> the command

The zygote is a small single-threaded process that does nothing but fork, so a container costs
neither an interpreter start nor its memory. A monitor waits for its container and writes the wait
status to disk, whether an agent runs or not. Restarting the zygote harms no container.

The protocol on the connection, one JSON object a line: the agent sends the specification
(`monitor` documents its keys); the monitor answers `{"pid", "monitor"}`; the agent sends `{"go":
true}` or closes, which ends the container before it began; the monitor answers `{"started": true}`
or `{"error": text}` and closes.
"""
