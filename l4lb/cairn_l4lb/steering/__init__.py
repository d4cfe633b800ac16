"""The steering process's rules: which backend a new connection gets, and what became of it.

    packet, refused  -> which backend now           (a SYN, an RST to one)
    event            -> it answered, or it did not  (conntrack)
    tick             -> nothing came in time
    report           -> what changed, for the controlling process

No clock and no socket: `now` is in seconds on the monotonic clock and never goes back, randomness
comes from `rng`.  Nothing that arrives in packets or events raises.
"""

from cairn_l4lb.members import Decision

from .core import DESTROYED, NEW, UPDATED, Steering

__all__ = ["DESTROYED", "NEW", "UPDATED", "Decision", "Steering"]
