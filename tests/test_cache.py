from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

import gq_tvm
from gq_tvm import Error, cache


def build(folder: Path) -> None:
    (folder / "file").write_text("whole")


def complete(folder: Path) -> bool:
    return (folder / "file").exists()


def test_builds_once(tmp_path: Path):
    built: list[Path] = []

    def slowly(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.2)
        build(folder)

    target = tmp_path / "cache" / "thing"
    threads = [
        threading.Thread(target=cache.provide, args=(target, slowly, complete)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert complete(target)


def test_failed_build_leaves_nothing(tmp_path: Path):
    def fail(folder: Path) -> None:
        build(folder)
        raise Error("no network")

    with pytest.raises(Error, match="no network"):
        cache.provide(tmp_path / "thing", fail, complete)
    assert [path.name for path in tmp_path.iterdir()] == ["thing.lock"]


def test_incomplete_build_is_refused(tmp_path: Path):
    with pytest.raises(Error, match="incomplete"):
        cache.provide(tmp_path / "thing", lambda folder: None, complete)


def test_broken_folder_and_leftovers_are_replaced(tmp_path: Path):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "other").write_text("half")
    (tmp_path / "thing.part-killed").mkdir()
    assert complete(cache.provide(tmp_path / "thing", build, complete))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing", "thing.lock"]
    assert not (tmp_path / "thing" / "other").exists()


def test_unwritable_cache_is_one_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Error, match="set GQ_TVM_CACHE to a folder that can be written"):
        cache.provide(tmp_path / "file" / "thing", build, complete)


def test_root_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GQ_TVM_CACHE", str(tmp_path / "a"))
    assert cache.root() == tmp_path / "a"
    assert cache.root(tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv("GQ_TVM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert cache.root() == tmp_path / "c" / "gq-tvm"


def test_without_a_home_the_cache_is_a_folder_of_ones_own(tmp_path: Path, monkeypatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("GQ_TVM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # so that it is put back
    gq_tvm._live_without_a_home()
    (own,) = tmp_path.iterdir()
    assert own.stat().st_mode & 0o777 == 0o700
    assert cache.root() == own / "gq-tvm"
    own.chmod(0o777)  # whose it is now nobody can tell
    assert str(cache.without_home()) == os.devnull
    own.rmdir()
    own.symlink_to(tmp_path)
    assert str(cache.without_home()) == os.devnull
    with pytest.raises(Error, match="set GQ_TVM_CACHE to a folder that can be written"):
        cache.provide(cache.without_home() / "gq-tvm" / "thing", build, complete)
