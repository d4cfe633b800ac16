"""A data centre in one process with a virtual clock: the rules of the master, repeatable by seed.

`world` has time, connections and chance; `master` runs the real rules over a registry in memory;
`agent` and `framework` behave as good ones do, through cuts, crashes and slow networks. Nothing
here waits or draws from the system: the same seed gives the same run, event by event.
"""
