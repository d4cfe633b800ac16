"""All of DNS, one after the other: `dns_rules`, `dns_load`, `dns_proxy`, `dns_changes`."""

from collections.abc import Iterator

from bench import dns_changes, dns_load, dns_proxy, dns_rules
from bench.report import Result


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    for part in (dns_rules, dns_load, dns_proxy, dns_changes):
        yield from part.run(quick)
