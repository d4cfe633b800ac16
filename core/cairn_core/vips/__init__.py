"""Virtual addresses: what labels declare, how names are normalised, which address a name gets.

The master gives addresses and the load balancers serve them, so the rules are here.  Facts of the
original: dcos/minuteman at c5d2ee1, and dcos-net `apps/dcos_l4lb` for the later era.
"""
