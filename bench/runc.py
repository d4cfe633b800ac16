"""runc as the peer of the benchmark `containers`: the same limits and namespaces, from bundles."""

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from bench.report import CannotRun, Result
from cairn_core.testing.containers import Site

MEMORY_BYTES = 64 << 20
#: What an executable on Debian needs; the rest of the bundle's root is empty.
SHARED = ("/usr", "/bin", "/lib", "/lib64")


def private_kb(pid: int) -> int:
    """Memory that a process shares with nobody."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def specification(cgroup: str, root: Path) -> dict[str, object]:
    """A bundle's config.json (OCI runtime specification 1.0.2)."""
    binds = [
        {"destination": path, "source": path, "type": "bind", "options": ["rbind", "ro"]}
        for path in SHARED
        if os.path.isdir(path)
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sleep", "12345"],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
        },
        "root": {"path": str(root)},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, *binds],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {
                "cpu": {"shares": 102},
                "memory": {"limit": MEMORY_BYTES, "reservation": MEMORY_BYTES},
            },
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "mount")],
        },
    }


class Runc:
    """Containers of runc below a site's groups. This process counts to the site meanwhile."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._root = site.root / "runc"
        self._ids: list[str] = []
        # Processor time is counted from a child's first moment only in a group of the parent's.
        self._group = site.cgroups().path("cpuacct", "callers")
        self._before = Path("/proc/self/cgroup").read_text()
        site.cgroups().create("cpuacct", "callers")
        (self._group / "cgroup.procs").write_text("0")

    def close(self) -> None:
        """End what is left and go back to the group we came from."""
        for container_id in list(self._ids):
            self._end(container_id)
        own = next(line for line in self._before.splitlines() if ":cpuacct:" in line)
        mount = self.site.cgroups().hierarchies.v1["cpuacct"]
        back = mount / own.rpartition(":")[2].strip("/")
        (back / "cgroup.procs").write_text("0")

    def measure(self, count: int) -> Iterator[Result]:
        """The metrics of the case `sleep`."""

        def result(metric: str, value: float, unit: str) -> Result:
            return Result("containers", "sleep", metric, value, unit, count, "runc")

        bundles = [self._bundle(f"{self.site.cgroups_root}-{n}") for n in range(count + 1)]
        self._launch(bundles[0])
        self._end(bundles[0].name)
        used, start = self._used_s(), perf_counter()
        pids = [self._launch(bundle) for bundle in bundles[1:]]
        yield result("launch_ms", (perf_counter() - start) * 1000 / count, "ms")
        yield result("launch_cpu_ms", (self._used_s() - used) * 1000 / count, "ms")
        yield result("container_private_kb", sum(map(private_kb, pids)) / count, "kB")
        used, start = self._used_s(), perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as callers:
            list(callers.map(self._end, list(self._ids)))
        yield result("destroy_ms", (perf_counter() - start) * 1000 / count, "ms")
        yield result("destroy_cpu_ms", (self._used_s() - used) * 1000 / count, "ms")

    def _used_s(self) -> float:
        """Processor seconds of runc and its containers: all but this process."""
        own = os.times()
        usage = int(self.site.cgroups().read("cpuacct", "", "cpuacct.usage")) / 1e9
        return usage - own.user - own.system

    def _bundle(self, container_id: str) -> Path:
        bundle = self.site.root / "bundles" / container_id
        root = bundle / "rootfs"
        root.mkdir(parents=True)
        group = f"/{self.site.cgroups_root}/{container_id}"
        (bundle / "config.json").write_text(json.dumps(specification(group, root)))
        return bundle

    def _launch(self, bundle: Path) -> int:
        self._ids.append(bundle.name)
        written = bundle / "pid"
        self._call("run", "--detach", "--bundle", str(bundle), "--pid-file", str(written),
                   bundle.name)  # fmt: skip
        return int(written.read_text())

    def _end(self, container_id: str) -> None:
        self._call("delete", "--force", container_id)
        self._ids.remove(container_id)

    def _call(self, *argv: str) -> None:
        # Files, for a pipe would be inherited by the container and never end.
        with open(self.site.root / "runc.err", "a+") as errors:
            done = subprocess.run(
                ["runc", "--root", str(self._root), *argv],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, check=False,
            )  # fmt: skip
            if done.returncode:
                errors.seek(0)
                said = errors.read().strip().rpartition("\n")[2]
                raise CannotRun(f"runc {argv[0]} exited with {done.returncode}: {said[-300:]}")
