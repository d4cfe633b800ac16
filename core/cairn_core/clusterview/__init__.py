"""The cluster view: what a network daemon knows of the cluster, whatever it learns it from.

Start reading at `view` (the snapshot and its changes).  Sources are the node feed of a Cairn
master (`feed`, `io_feed`), and for a master of Apache Mesos its `/state` (`state_json`, `io_poll`)
or its event stream (`operator_events`, `io_stream`).
"""
