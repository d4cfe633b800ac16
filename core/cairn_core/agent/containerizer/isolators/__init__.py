"""The isolators that come with Cairn, one module each, and how `--isolation` names them.

`loading` turns the flag into isolators in the order of the original. The names are entry points of
the group `cairn.isolators`, so one of ours and one of others are found the same way.
"""
