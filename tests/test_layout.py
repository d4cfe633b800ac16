"""House rules that a machine can check: where packages lie and which modules may do I/O."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPONENTS = [
    name
    for name in ("core", "scheduler", "dns", "l4lb", "overlay", "ipam", "edgelb", "lab")
    if (ROOT / name / f"cairn_{name}").is_dir()
]
SHELL_STEMS = {"daemon", "server", "cli", "__main__"}
SHELL_PREFIXES = ("io_", "http_")
# Whole packages that are shells, by path, each because I/O is all it does.
SHELL_PACKAGES = (
    "core/cairn_core/kit",  # the runtime kit itself
    "core/cairn_core/executor",  # a process of its own on the standard library
    "core/cairn_core/agent/containerizer",  # namespaces, cgroups, mounts
    "core/cairn_core/testing",  # fakes and fixtures
    "l4lb/cairn_l4lb/testing",  # likewise
    "lab/cairn_lab",  # namespaces and processes
)
# `random` may be imported for the type: from random import Random
IO_MODULES = {
    "asyncio", "socket", "subprocess", "threading", "multiprocessing", "selectors", "select",
    "ssl", "sqlite3", "ctypes", "time", "urllib", "http", "aiohttp", "kazoo", "pyroute2", "uvloop",
}  # fmt: skip
# Parts of such packages that are rules themselves.
PURE_MODULES = {"urllib.parse"}
MODULES = sorted(p for c in COMPONENTS for p in (ROOT / c / f"cairn_{c}").rglob("*.py"))
MAX_LINES = 600


def imported(path: Path) -> set[str]:
    """Top-level names that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names - PURE_MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rules_do_no_io(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    if (
        path.stem in SHELL_STEMS
        or path.stem.startswith(SHELL_PREFIXES)
        or place.startswith(SHELL_PACKAGES)
    ):
        return
    assert not imported(path) & IO_MODULES


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_folder_is_an_import_root_with_one_package(component: str) -> None:
    folder = ROOT / component
    assert not (folder / "__init__.py").exists()
    assert (folder / f"cairn_{component}" / "py.typed").exists()
    packages = {p.parent.name for p in folder.glob("*/__init__.py")}
    assert packages == {f"cairn_{component}"}


def test_tests_are_not_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_package_is_built() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert set(built["targets"]["wheel"]["packages"]) == {f"{c}/cairn_{c}" for c in COMPONENTS}
