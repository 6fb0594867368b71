"""Recorded human digits that nothing here was trained on: the prompts of the Asterisk exchange.

They are one woman's voice, 8 kHz, CC BY-SA 3.0, from Debian's package asterisk-core-sounds-en-wav.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from gq_tvm import cache
from gq_tvm.errors import Error
from gq_tvm.toolchain import debian

_PACKAGE = "asterisk-core-sounds-en-wav"
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def digits(cache_dir: str | os.PathLike[str] | None = None) -> list[tuple[str, str]]:
    """Return (path of a WAV file, the word said in it), zero to nine, one word a file.

    The first call downloads 18 MB into the cache (see `cache.root`) and keeps 130 KB; root is not
    needed. Raises `Error` if the recordings cannot be had here.
    """
    folder = cache.provide(cache.root(cache_dir) / "digits-asterisk-en", _download, _complete)
    return [(str(folder / f"{digit}.wav"), word) for digit, word in enumerate(_WORDS)]


def _complete(folder: Path) -> bool:
    return all((folder / f"{digit}.wav").is_file() for digit in range(10))


def _download(made: Path) -> None:
    with tempfile.TemporaryDirectory(dir=made) as workspace:
        work = Path(workspace)
        packages = debian.Packages(work / "apt", [debian.architecture()])
        packages.unpack([_PACKAGE], work / "files")
        for digit in range(10):
            found = next((work / "files").rglob(f"digits/{digit}.wav"), None)
            if found is None:
                raise Error(f"the package {_PACKAGE} lacks the recording of {_WORDS[digit]}")
            shutil.copy2(found, made)
