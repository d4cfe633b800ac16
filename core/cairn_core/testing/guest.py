"""A guest: Debian's stock kernel in an emulator, for what the kernel underneath cannot show.

An initial RAM file system is packed from this machine's Python, the libraries and programs it
needs, and the packages under test; one module runs in it as root and writes what it finds, one
JSON object per line, to the second serial port (Linux initramfs buffer format; qemu(1)).
`tests/guest/install` brings the emulator and the kernel.
"""

import importlib.metadata
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import cairn_core

#: Where `tests/guest/install` puts the kernel: beside the environment that runs the tests.
KERNEL = Path(sys.prefix) / "guest" / "vmlinuz"
EMULATOR = "qemu-system-x86_64"
MEMORY_MIB = 768
PYTHON = "/usr/bin/python3"
PROGRAMS = ("/bin/sh", "/bin/sleep", "/usr/bin/head", "/usr/bin/tail", "/usr/bin/id")
#: Parts of the standard library that nothing in a guest uses.
LEFT_OUT = frozenset({
    "config-3.11-x86_64-linux-gnu", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data",
    "test", "tkinter", "turtledemo",
})  # fmt: skip
LOADER = "/lib64/ld-linux-x86-64.so.2"
#: The guest's first process: mounts, one command, the end of the machine.
INIT = """\
#!/usr/bin/python3 -IS
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def mount(kind, place, options=""):
    os.makedirs(place, exist_ok=True)
    if libc.mount(kind.encode(), place.encode(), kind.encode(), 0, options.encode()):
        print("init: cannot mount", kind, os.strerror(ctypes.get_errno()))
mount("proc", "/proc")
mount("sysfs", "/sys")
mount("devtmpfs", "/dev")
mount("tmpfs", "/run")
mount("tmpfs", "/tmp")
mount("tmpfs", "/var")
mount("cgroup2", "/sys/fs/cgroup", "nsdelegate,memory_recursiveprot")
for name, target in (("fd", "/proc/self/fd"), ("stdout", "fd/1"), ("stderr", "fd/2")):
    if not os.path.lexists("/dev/" + name):
        os.symlink(target, "/dev/" + name)
child = os.fork()
if child == 0:
    report = os.open("/dev/ttyS1", os.O_WRONLY | os.O_NOCTTY)
    os.set_inheritable(report, True)
    os.environ.clear()
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", PYTHONPATH="/guest", HOME="/")
    os.execv("/usr/bin/python3", ["python3", "-W", "error", "-m", "MODULE", str(report)])
while True:
    pid, status = os.wait()
    if pid == child:
        break
print("init: program ended with", os.waitstatus_to_exitcode(status), flush=True)
os.sync()
libc.reboot(0x01234567)
"""


class GuestFailed(Exception):
    """The guest did not run to its end; the text is what its console shows."""


@dataclass(slots=True)
class Archive:
    """A cpio archive in the form that the kernel unpacks ("newc"), written as it grows."""

    file: BinaryIO
    _seen: set[str] = field(default_factory=set)
    _number: int = 0

    def add(self, name: str, mode: int, data: bytes = b"", mtime: int = 0, rdev: int = 0) -> None:
        """One entry; the directories above it are added too. A name that is there is skipped."""
        name = name.strip("/")
        if name in self._seen:
            return
        if (parent := os.path.dirname(name)) and parent not in self._seen:
            self.add(parent, stat.S_IFDIR | 0o755)
        self._seen.add(name)
        self._number += 1
        major, minor = os.major(rdev), os.minor(rdev)
        encoded = name.encode() + b"\0"
        fields = (
            self._number, mode, 0, 0, 1, mtime, len(data), 0, 0, major, minor, len(encoded), 0,
        )  # fmt: skip
        self._padded(b"070701" + b"".join(b"%08x" % value for value in fields) + encoded)
        self._padded(data)

    def copy(self, path: str, name: str | None = None) -> None:
        """A file of this machine, links followed; its time is kept, for compiled modules rely
        on that of their source.
        """
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            mode = stat.S_IFREG | (info.st_mode & 0o777)
            self.add(name or path, mode, file.read(), int(info.st_mtime))

    def copy_tree(self, top: str, name: str, left_out: frozenset[str] = frozenset()) -> None:
        """A directory and all files below; `left_out` are names right below it."""
        for directory, folders, files in os.walk(top):
            place = os.path.join(name, os.path.relpath(directory, top))
            if directory == top:
                folders[:] = [folder for folder in folders if folder not in left_out]
            for file in files:
                path = os.path.join(directory, file)
                if os.path.isfile(path):
                    self.copy(path, os.path.normpath(os.path.join(place, file)))

    def close(self) -> None:
        """Write the end."""
        self.add("TRAILER!!!", 0)

    def _padded(self, data: bytes) -> None:
        self.file.write(data + b"\0" * (-len(data) % 4))


def libraries(paths: Sequence[str]) -> set[str]:
    """Shared libraries that programs or libraries need, as the loader finds them."""
    found: set[str] = set()
    for path in paths:
        told = subprocess.run([LOADER, "--list", path], capture_output=True, text=True, check=False)
        for line in told.stdout.splitlines():
            words = line.partition("=>")[2].split() or line.split()
            if words and words[0].startswith("/"):
                found.add(words[0])
    return found


def extensions(top: str) -> list[str]:
    """Compiled modules below a directory."""
    return [str(path) for path in Path(top).rglob("*.so")]


def pack(path: Path, module: Path, packages: Sequence[str] = ("msgspec",)) -> None:
    """Write the initial RAM file system: this Python, cairn_core, `packages`, `module`."""
    library = os.path.dirname(os.__file__)
    core = Path(cairn_core.__file__).parent
    compiled = extensions(f"{library}/lib-dynload")
    with open(path, "wb") as file:
        archive = Archive(file)
        archive.add("dev/console", stat.S_IFCHR | 0o600, rdev=os.makedev(5, 1))
        archive.add("dev/null", stat.S_IFCHR | 0o666, rdev=os.makedev(1, 3))
        archive.add("dev/urandom", stat.S_IFCHR | 0o666, rdev=os.makedev(1, 9))
        archive.add("init", stat.S_IFREG | 0o755, INIT.replace("MODULE", module.stem).encode())
        for place in ("proc", "sys", "run", "tmp", "var", "root"):
            archive.add(place, stat.S_IFDIR | 0o755)
        archive.add(
            "etc/passwd", stat.S_IFREG | 0o644,
            b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
        )  # fmt: skip
        archive.add("etc/group", stat.S_IFREG | 0o644, b"root:x:0:\nnogroup:x:65534:\n")
        archive.copy_tree(library, library, LEFT_OUT)
        archive.copy_tree(str(core), "guest/cairn_core")
        for package in packages:
            top = importlib.import_module(package).__path__[0]
            archive.copy_tree(top, f"guest/{package}")
            compiled += extensions(top)
        for name in ("METADATA", "entry_points.txt"):  # isolators are found by entry points
            text = importlib.metadata.distribution("cairn").read_text(name) or ""
            archive.add(f"guest/cairn-0.dist-info/{name}", stat.S_IFREG | 0o644, text.encode())
        archive.copy(str(module), f"guest/{module.name}")
        for program in {PYTHON, *PROGRAMS}:
            archive.copy(program)
        archive.copy(LOADER)
        for needed in libraries([PYTHON, *PROGRAMS, *compiled]):
            archive.copy(needed)
        archive.close()


def run(module: Path, directory: Path, timeout_s: float = 120.0) -> list[dict[str, Any]]:
    """Boot a guest, run `module` in it, return what it reported.

    directory: receives image, console and report. Raises GuestFailed.
    """
    image, console, report = (directory / name for name in ("initramfs", "console", "report"))
    pack(image, module)
    argv = [
        shutil.which(EMULATOR) or EMULATOR,
        # Emulated everywhere: machines that are guests themselves may show a KVM that crawls. The
        # processor has a random generator, without which Python waits for the kernel's.
        "-nodefaults", "-accel", "tcg", "-cpu", "qemu64,+rdrand", "-m", f"{MEMORY_MIB}M",
        "-display", "none", "-no-reboot",
        "-kernel", str(KERNEL), "-initrd", str(image),
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
        "-serial", f"file:{console}", "-serial", f"file:{report}",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip
        problem = f"{EMULATOR} exited with {done.returncode}: {done.stderr}"
    except subprocess.TimeoutExpired:
        problem = f"no end within {timeout_s:.0f} s"
    shown = console.read_text(errors="replace") if console.exists() else ""
    if "init: program ended with 0" not in shown:
        raise GuestFailed(f"{problem}\n{shown[-8000:]}")
    return list(read_report(report.read_text(errors="replace")))


def read_report(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a report; a serial port ends lines with CR and LF."""
    for line in text.splitlines():
        if line.strip():
            yield json.loads(line)
