"""Benchmarks: `python -m bench --list`, `python -m bench NAME [--quick]`.

Each module here other than `__main__` and `report` is one benchmark. It has a docstring (its first
line is what `--list` shows) and `run(quick: bool) -> Iterator[Result]`; it raises `CannotRun`
where something it needs is missing. Results are printed as they come, one JSON object a line.
"""
