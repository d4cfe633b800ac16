"""cairn-dns: names for tasks, agents, frameworks and masters, as Mesos-DNS gives them.

Start reading at `daemon`.  `records` makes a zone from a snapshot of the cluster, `encode` makes
answers of the zone ahead of the queries, `answer` picks one for a query.
"""
