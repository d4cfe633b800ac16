"""Everything that decides what runs where: the allocator of the master, and Marathon.

`allocator` is loaded by the master through an entry point; `marathon` is a framework and a daemon
of its own. Start reading at `allocator.drf` and `marathon.daemon`.
"""
