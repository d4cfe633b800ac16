"""The benchmark command, as `bin/bench` calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def bench(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_every_benchmark_is_listed_with_what_it_measures() -> None:
    done = bench("-m", "bench", "--list")
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    modules = {p.stem for p in (ROOT / "bench").glob("*.py")}
    modules -= {"__init__", "__main__", "report", "runc"}
    modules -= {"dns_client", "dns_cluster", "dns_master", "dns_servers"}
    modules -= {"l4lb_cluster", "l4lb_daemon", "l4lb_net", "l4lb_paths"}
    assert set(listed) == modules
    assert all(len(words) > 2 for words in listed.values())


def test_an_unknown_benchmark_exits_2_with_one_line() -> None:
    done = bench("-m", "bench", "nonsense")
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "'nonsense'" in line


def test_a_benchmark_that_lacks_something_exits_2_with_one_line() -> None:
    done = bench("-m", "bench", "containers", "--quick", PATH="/nonexistent")
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("bench: containers cannot run: needs ")


def test_a_result_is_one_line_of_json() -> None:
    done = bench(
        "-c",
        "from bench.report import Result;"
        "print(Result('allocator', '20000x2000', 'round_s', 0.812345, 's', 5).line())",
    )
    assert json.loads(done.stdout) == {
        "bench": "allocator",
        "case": "20000x2000",
        "metric": "round_s",
        "value": 0.8123,
        "unit": "s",
        "n": 5,
        "peer": None,
    }


def test_the_cluster_of_the_dns_benchmarks_is_the_same_in_every_form() -> None:
    script = """
from collections import Counter
from bench.dns_cluster import *
from cairn_core.clusterview.operator_events import OperatorTables, read_event, snapshot_rows
from cairn_core.clusterview.state_json import read_state

cluster, one = Cluster(20), sentinel("10.99.0.1")
before, after = cluster.state("127.0.0.1:5050")
rows = {row.key: row for row in [*cluster.rows(), row(one)] if row.key.startswith("task/")}
polled = {row.key: row for row in read_state(before + state_task(one) + after).rows}
tables, skipped = OperatorTables(), Counter()
first = read_event(cluster.subscribed(), skipped)
tables.begin(snapshot_rows(first.subscribed.get_state, skipped))
tables.record(task_added(sentinel("10.99.0.0")))
tables.record(task_updated(one))
assert not skipped
assert len(rows) == 21
for found in (polled, tables.rows):
    assert {key: row for key, row in found.items() if key.startswith("task/")} == rows
"""
    done = bench("-c", script)
    assert done.returncode == 0, done.stderr
