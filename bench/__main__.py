"""Run a benchmark: `python -m bench --list | NAME [--quick] [--mesos-dns PATH]`.

Prints one JSON object per result. Exit 0 whatever the figures, 2 where it could not run, with one
line on standard error that says why.
"""

import argparse
import importlib
import os
import pkgutil
import sys

import bench
from bench.report import CannotRun

NOT_BENCHMARKS = {
    "__main__", "dns_client", "dns_cluster", "dns_master", "dns_servers",
    "l4lb_cluster", "l4lb_daemon", "l4lb_net", "l4lb_paths", "report", "runc",
}  # fmt: skip


def names() -> list[str]:
    """The benchmarks there are."""
    found = (module.name for module in pkgutil.iter_modules(bench.__path__))
    return sorted(name for name in found if name not in NOT_BENCHMARKS)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="bench", description="Run a benchmark of Cairn.")
    parser.add_argument("name", nargs="?", help="which one; --list names them")
    parser.add_argument("--list", action="store_true", help="name the benchmarks")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under 30 s")
    parser.add_argument(
        "--mesos-dns", metavar="PATH", default=os.environ.get("MESOS_DNS_BINARY"),
        help="program of the original, a peer of the benchmarks of DNS [MESOS_DNS_BINARY]",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if options.mesos_dns:
        os.environ["MESOS_DNS_BINARY"] = os.path.abspath(options.mesos_dns)
    if options.list:
        for name in names():
            doc = importlib.import_module(f"bench.{name}").__doc__ or ""
            print(f"{name:12} {doc.strip().splitlines()[0]}")
        return 0
    if options.name is None:
        parser.print_usage(sys.stderr)
        print(f"bench: name a benchmark: {', '.join(names())}", file=sys.stderr)
        return 2
    if options.name not in names():
        known = ", ".join(names())
        print(f"bench: no benchmark {options.name!r}; there are: {known}", file=sys.stderr)
        return 2
    try:
        for result in importlib.import_module(f"bench.{options.name}").run(options.quick):
            print(result.line(), flush=True)
    except (CannotRun, ImportError) as error:
        print(f"bench: {options.name} cannot run: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
