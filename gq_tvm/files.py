"""Files and folders written whole or not at all, and read only where they are files."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gq_tvm.errors import Error

ANOTHER = "make room, or choose another file"


@contextmanager
def whole(path: str | Path, cure: str = ANOTHER) -> Iterator[Path]:
    """A path beside ``path`` to write to, renamed to it at the end; folders are made.

    Whatever goes wrong, and after an interrupt, the old file stays in place and nothing is left
    beside it.

    Args:
        path: the file.
        cure: what to do when it cannot be written, the end of the sentence.

    Raises:
        Error: an OSError occurred inside or in the renaming, as on a full disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise Error(f"{path} cannot be written ({error.strerror or error}); {cure}") from None
    finally:
        with suppress(OSError):  # its folder is none: that was the reason above
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str, cure: str = ANOTHER) -> None:
    """Write a text file in UTF-8, whole or not at all; see :func:`whole`."""
    with whole(path, cure) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(path: Path, cure: str = ANOTHER) -> None:
    """Make a folder that things will be written to, if it is not there.

    Raises:
        Error: there can be none, or nothing can be written to it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise Error(f"{path} cannot be written to ({error.strerror}); {cure}") from None


def read(path: str | Path, most: int) -> bytes:
    """Return what a file holds, where it is one: a pipe or a device may have no end.

    Args:
        path: the file.
        most: bytes it may have.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """

    def without_waiting(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NONBLOCK)

    with open(path, "rb", opener=without_waiting) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if about.st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
        return file.read(most)


@contextmanager
def folder_beside(place: Path) -> Iterator[Path]:
    """A new folder beside ``place``, to be renamed to it; gone at the end if it was not.

    What killed processes left there of the same ``place`` is removed first: whoever lives holds a
    lock on its folder. Raises OSError where no folder can be made.
    """
    parent, prefix = place.absolute().parent, f".{place.name}.writing-"
    parent.mkdir(parents=True, exist_ok=True)
    held = _locked(parent, wait=True)  # nobody removes a folder before it is locked
    try:
        with suppress(OSError):
            for left in parent.iterdir():
                if left.name.startswith(prefix) and (lock := _locked(left)) is not None:
                    shutil.rmtree(left, ignore_errors=True)
                    os.close(lock)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = _locked(folder)
    finally:
        if held is not None:
            os.close(held)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path, wait: bool = False) -> int | None:
    """Lock a folder until what is returned is closed; None if another has it, or none can."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held
