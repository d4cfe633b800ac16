"""The runtime kit: everything that each daemon needs and none wants to write twice.

Start reading at `daemon` (how a daemon runs and stops), then `config` (where settings come from).
`http_server`, `routes` and `http_types` answer HTTP, `http_client` asks; `link` with `io_link` is
the connection between agents and masters. `reconcile` owns tables of the kernel, `supervise` runs
unit files where there is no systemd. `backoff`, `durations`, `units`, `link`, `routes` and
`reconcile` are rules without I/O.
"""
