"""The scheduler client: how a framework talks to a master over the v1 scheduler API.

Start reading at `io_client.SchedulerClient`.  `session` holds the rules of a subscription,
`reconciliation` the loop that asks for task states until all are answered.
"""
