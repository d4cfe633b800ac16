"""The command executor: runs one task, on the standard library alone. Start reading at `__main__`."""
