"""A data centre in one process with a virtual clock: the real rules, repeatable by seed.

`world` has time, connections and chance; `master` runs the master's rules over the keyed store on
an unreliable `log`. Agents come in two kinds, both over the same `link`: `host` is a machine with
the real agent - rules, files on a `disk`, executors in `process` - for tens of them; `agent` is a
light one that behaves as it should, for 20,000. `framework` is a scheduler. `chaos` puts a whole
data centre together and makes trouble; `ledger` judges what all parts did.

Nothing here waits or draws from the system: the same seed gives the same run, event by event.
"""
