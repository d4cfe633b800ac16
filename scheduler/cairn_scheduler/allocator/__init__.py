"""The allocator: decides which framework is offered which agent's resources.

`drf` decides (start reading there), `facts` keeps the tables that it decides by: `shares` (the
order of service), `slots` (frameworks in roles, as bits), `agents`, `quota`, `filters`.
"""

from cairn_scheduler.allocator.drf import HierarchicalDrf

__all__ = ["HierarchicalDrf"]
