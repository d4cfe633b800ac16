"""What a lab writes down, and what it takes away again."""

import os
from pathlib import Path

import pytest

from cairn_lab import state
from cairn_lab.errors import LabError


def test_made_paths_are_removed_children_first(tmp_path: Path) -> None:
    ledger = state.MadePaths(tmp_path / "ledger")
    ledger.make(tmp_path / "a/b/c", directory=True)
    ledger.make(tmp_path / "a/file", directory=False)
    assert (tmp_path / "a/file").read_bytes() == b""
    state.MadePaths(tmp_path / "ledger").remove()
    assert list(tmp_path.iterdir()) == []


def test_what_existed_before_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").touch()
    ledger = state.MadePaths(tmp_path / "ledger")
    ledger.make(tmp_path / "a", directory=True)
    ledger.make(tmp_path / "a/file", directory=False)
    ledger.remove()
    assert (tmp_path / "a/file").exists()


def test_what_somebody_filled_meanwhile_stays(tmp_path: Path) -> None:
    ledger = state.MadePaths(tmp_path / "ledger")
    ledger.make(tmp_path / "a", directory=True)
    ledger.make(tmp_path / "file", directory=False)
    (tmp_path / "a/theirs").write_text("x")
    (tmp_path / "file").write_text("x")
    ledger.remove()
    assert sorted(os.listdir(tmp_path)) == ["a", "file"]


def test_making_again_after_an_interruption_still_removes_everything(tmp_path: Path) -> None:
    ledger = state.MadePaths(tmp_path / "ledger")
    ledger.make(tmp_path / "a/b", directory=True)
    (tmp_path / "a/b").rmdir()
    state.MadePaths(tmp_path / "ledger").make(tmp_path / "a/b", directory=True)
    state.MadePaths(tmp_path / "ledger").remove()
    assert list(tmp_path.iterdir()) == []


def test_a_process_is_known_by_id_and_start() -> None:
    me = state.process(os.getpid())
    assert me is not None
    assert state.alive(me)
    assert not state.alive(state.HostState(me.pid, me.started - 1))
    assert not state.alive(None)


def test_a_lock_is_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"t-{os.getpid()}"
    with state.locked(name), pytest.raises(LabError, match="busy"), state.locked(name, timeout_s=0):
        pass
    with state.locked(name, timeout_s=0):
        pass


def test_an_unreadable_state_says_how_to_get_rid_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "BASE", tmp_path)
    assert state.load("x") is None
    (tmp_path / "x").mkdir()
    (tmp_path / "x/lab.json").write_text("{")
    with pytest.raises(LabError, match="cairn lab down --name x"):
        state.load("x")
