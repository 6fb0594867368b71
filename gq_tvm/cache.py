"""The folder for what gq-tvm downloads or builds once: whole, or not there at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from gq_tvm.errors import Error

_FULL = {errno.ENOSPC, errno.EDQUOT}


def root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return `cache_dir`, or else ``$GQ_TVM_CACHE``, or else ``~/.cache/gq-tvm`` (XDG)."""
    chosen = cache_dir or os.environ.get("GQ_TVM_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen)).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gq-tvm"


def without_home() -> Path:
    """Return a folder for caches that is this user's alone, for where there is no home.

    Where there can be none it is a path that cannot be written: another user's folder of that name
    is none to run programs from.
    """
    folder = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return Path(os.devnull)
    ours = about.st_uid == os.getuid() and about.st_mode & 0o777 == 0o700
    return folder if ours and stat.S_ISDIR(about.st_mode) else Path(os.devnull)


def provide(folder: Path, build: Callable[[Path], None], complete: Callable[[Path], bool]) -> Path:
    """Return `folder`, first built by ``build(temporary sibling)`` if it is not complete.

    The sibling is renamed when `build` returns, so that a crash leaves nothing half done under the
    real name; a lock file beside it makes concurrent callers wait for the first. Raises `Error` if
    the cache cannot be written, and whatever `build` raises.
    """
    if complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = open(folder.with_name(folder.name + ".lock"), "w")  # noqa: SIM115
    except OSError as problem:
        raise _unwritable(folder.parent, problem) from problem
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete(folder):  # by whoever held the lock before
            return folder
        _clean(folder)
        try:
            _build_and_rename(folder, build, complete)
        except OSError as problem:
            if problem.errno in _FULL:
                raise _unwritable(folder.parent, problem) from problem
            raise
    return folder


def _build_and_rename(
    folder: Path, build: Callable[[Path], None], complete: Callable[[Path], bool]
) -> None:
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f"{folder.name}.part-", ignore_cleanup_errors=True
    ) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        build(made)
        if not complete(made):
            raise Error(f"setting up {folder} gave an incomplete folder: try again")
        made.rename(folder)


def _unwritable(folder: Path, problem: OSError) -> Error:
    return Error(
        f"cannot write the cache folder {folder} ({problem.strerror}): "
        "set GQ_TVM_CACHE to a folder that can be written"
    )


def _clean(folder: Path) -> None:
    """Remove a broken `folder` and what interrupted builds left beside it (the lock is held)."""
    shutil.rmtree(folder, ignore_errors=True)
    for left in folder.parent.glob(f"{folder.name}.part-*"):
        shutil.rmtree(left, ignore_errors=True)
