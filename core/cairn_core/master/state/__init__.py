"""The rules of the master: facts in, effects out, nothing that waits.

`records` and `cluster` are what the master knows, `effects` what it wants done, `core` the door.
Behind the door one module per matter: `frameworks`, `offers`, `accept` (with `validation`),
`tasks`, `ports`, `reconcile`, `agents`, `operator`.
"""
