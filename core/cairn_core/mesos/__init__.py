"""The Mesos v1 wire formats: typed messages, their encodings, and nothing that acts.

`types` holds the messages that several APIs share; `scheduler_api`, `executor_api` and
`operator_api` the envelopes of the three HTTP APIs; `agent_api` what master and agent say to
each other (Cairn's own protocol); `codec` is the one door between bytes and messages;
`recordio` frames a stream of messages; `legacy` holds the names of the v0 JSON endpoints.
"""
