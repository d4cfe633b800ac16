"""The master: knows every framework, agent and task, and hands out resources in offers.

Wire-compatible with the master of Apache Mesos for schedulers, operators and scrapers. Start
reading at `daemon`. `state` is the pure core, facts in and effects out; `registry` says what of it
outlives the process; `http_*` and `io_agents` carry facts in and effects out; the read side
(`read_model`, `http_operator`, `http_legacy`) answers questions from `state.records`.
"""
