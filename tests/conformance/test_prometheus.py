"""Debian's Prometheus, unmodified: finds the tasks of apps by its Marathon service discovery."""

import json
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: apps
    marathon_sd_configs: [{{servers: ["http://{marathon}"], refresh_interval: 1s}}]
  - job_name: marathon
    metrics_path: /metrics
    static_configs: [{{targets: ["{marathon}"]}}]
"""


def ask(method: str, url: str, body: Any = None) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def test_prometheus_finds_the_tasks_and_scrapes_marathon(
    marathon: str,
    debian_program: Callable[[str, str], Path],
    port: int,
    wait: Callable[..., Any],
    tmp_path: Path,
) -> None:
    app = {
        "id": "/scraped/web", "cmd": "sleep 1000", "cpus": 0.1, "mem": 32, "instances": 2,
        "labels": {"team": "ops"},
        "portDefinitions": [{"port": 0, "name": "web", "labels": {"scrape": "yes"}}],
    }  # fmt: skip
    ask("POST", f"http://{marathon}/v2/apps", app)
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(marathon=marathon))
    with (tmp_path / "prometheus.log").open("wb") as log:
        prometheus = subprocess.Popen(
            [
                debian_program("prometheus", "usr/bin/prometheus"), f"--config.file={config}",
                f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={tmp_path}/data",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:

        def targets() -> list[Any]:
            found = ask("GET", f"http://127.0.0.1:{port}/api/v1/targets")["data"]["activeTargets"]
            return [target for target in found if target["scrapePool"] == "apps"]

        wait("two targets", lambda: len(targets()) == 2)
        tasks = ask("GET", f"http://{marathon}/v2/apps/scraped/web/tasks")["tasks"]
        labels = {
            target["discoveredLabels"]["__meta_marathon_task"]: target for target in targets()
        }
        assert set(labels) == {task["id"] for task in tasks}
        for task in tasks:
            found = labels[task["id"]]["discoveredLabels"]
            assert found["__address__"] == f"{task['host']}:{task['ports'][0]}"
            assert found["__meta_marathon_app"] == "/scraped/web"
            assert found["__meta_marathon_app_label_team"] == "ops"
            assert found["__meta_marathon_port_definition_label_scrape"] == "yes"
            assert found["__meta_marathon_port_index"] == "0"

        def running() -> Any:
            query = "query?query=marathon_instances_running_gauge"
            return ask("GET", f"http://127.0.0.1:{port}/api/v1/{query}")["data"]["result"]

        (sample,) = wait("a scrape of marathon", running)
        assert float(sample["value"][1]) >= 2
    finally:
        prometheus.terminate()
        prometheus.wait(timeout=20)
        ask("DELETE", f"http://{marathon}/v2/apps/scraped/web")
