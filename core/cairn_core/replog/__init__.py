"""The replicated log: the one place where a leader writes down what must survive it.

Start reading at `interface` (what a log promises), then `state` (the keyed store that most
callers want).  Engines: `io_sqlite` (one master, one file), `io_memory` (tests and the simulator).
`compaction` and `image` are the rules that the engines share; `election` says who may write.
"""
