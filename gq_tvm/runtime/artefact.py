"""An artefact on disk: a folder with ``manifest.json``, ``model.so`` and ``weights.safetensors``.

It is written beside its place and renamed, so that a crash leaves the old one whole, and checked
before any of its code runs.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gq_tvm import files, records
from gq_tvm.errors import Error
from gq_tvm.records import Wrong
from gq_tvm.runtime import weights
from gq_tvm.runtime.manifest import FORMAT, Manifest
from gq_tvm.toolchain.elf import machine

MANIFEST, CODE, WEIGHTS = "manifest.json", "model.so", "weights.safetensors"
_LARGEST_MANIFEST = 1 << 26  # bytes; a layer has a thousand


@dataclass
class Artefact:
    """A compiled model, in memory until it is saved.

    Attributes:
        manifest: What it is.
        parameters: Its packed weights, by name.
        link: Writes the code, a shared library, to the path it is given.
        lowered: The functions it was compiled from, an ``IRModule`` of kernels and their calls.
    """

    manifest: Manifest
    parameters: Mapping[str, NDArray]
    link: Callable[[Path], None]
    lowered: Any = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artefact; see `save`."""
        save(self, path)


def save(artefact: Artefact, path: str | os.PathLike[str]) -> None:
    """Write `artefact` as the folder `path`; an older artefact there is replaced when all is done.

    Raises:
        Error: something else is at `path`, or it cannot be written.
    """
    place = Path(path)
    if os.path.islink(place):
        place = Path(os.path.realpath(place))  # replace what the link means, not the link
    check_place(place)
    replace_folder(place, lambda folder: _write(artefact, folder))


def replace_folder(place: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder and put it at `place`, whole; what was there stays until that is done.

    Raises:
        Error: it cannot be written; and what `fill` raises.
    """
    try:
        with files.folder_beside(place) as beside:
            fill(beside)
            _swap(beside, place)
    except OSError as failure:
        raise Error(
            f"cannot write {place}: {failure.strerror or failure}; make room, or choose another "
            "place"
        ) from failure


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read what an artefact is, without looking at its other files.

    Raises:
        Error: there is no artefact at `path`, or its manifest is damaged.
    """
    folder = Path(path)
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except (FileNotFoundError, ValueError):
        raise Error(f"{path} does not exist; give the folder that gq_tvm.compile wrote") from None
    except OSError as failure:
        raise Error(f"{path} cannot be read: {failure.strerror}") from None
    if not is_folder and folder.suffix == ".pt2":
        raise Error(f"{path} is no artefact; compile it first: python -m gq_tvm.compile {path}")
    if not is_folder:
        raise Error(f"{path} is no folder; give the folder that gq_tvm.compile wrote")
    if (folder / "plan.txt").is_file() and not (folder / MANIFEST).exists():
        raise Error(
            f"{path} is a bundle, for gq-run on the device; give the folder that compile -o wrote"
        )
    try:
        text = files.read(folder / MANIFEST, _LARGEST_MANIFEST)
    except OSError as failure:
        raise Error(
            f"{path} is not a gq-tvm artefact: it has no readable {MANIFEST} ({failure.strerror})"
        ) from None
    try:
        data = records.loads(text)
    except Wrong as wrong:
        raise Error(f"{path} has a damaged manifest ({wrong}); compile the model again") from None
    return Manifest.from_json(data, str(path))


def check_files(path: str | os.PathLike[str], manifest: Manifest) -> None:
    """Compare an artefact's files with the hashes and the machine its manifest gives.

    Raises:
        Error: a file is missing or altered, or the code is for another machine.
    """
    for name in (CODE, WEIGHTS):
        file = Path(path) / name
        if name not in manifest.files:
            raise Error(
                f"{path} has a damaged manifest (files.{name} is missing); compile the model again"
            )
        if not file.is_file():
            raise Error(f"{path} lacks {name}; compile the model again")
        if sha256(file) != manifest.files[name]:
            raise Error(f"{file} is damaged or was altered; compile the model again")
    code, target = Path(path) / CODE, manifest.target
    found = machine(code)
    if found != target["machine"]:
        raise Error(
            f"{code} is {f'code for {found}' if found else 'no code of a machine known here'}, "
            f"not for {target['name']} ({target['machine']}) as {MANIFEST} says; compile the "
            "model again"
        )


def check_device(
    path: str | os.PathLike[str], manifest: Manifest, machine: str, features: frozenset[str]
) -> None:
    """Compare what an artefact's code needs with the CPU it is to run on.

    Raises:
        Error: it is of another architecture or lacks features.
    """
    target = manifest.target
    check_runtime(path, target)
    if target["machine"] != machine:
        raise Error(
            f"{path} is for {target['name']} ({target['machine']}), this device is {machine}; "
            "compile the model for it, or run it on such a device (--rpc, --emulate)"
        )
    missing = sorted(set(target["features"]) - features)
    if missing:
        raise Error(
            f"{path} is for {target['name']}, this CPU lacks {', '.join(missing)}; compile the "
            "model for it"
        )


def check_runtime(path: str | os.PathLike[str], target: Mapping[str, Any]) -> None:
    """Refuse a ``Manifest.target`` that TVM has no runtime for. Raises `Error`."""
    if target["machine"] == "armhf":
        raise Error(
            f"{path} is for {target['name']} (arm), and TVM has no runtime for 32-bit ARM: make a "
            "bundle of the model (compile --bundle DIR) and run that on the device"
        )


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_place(place: Path) -> None:
    """Refuse to write an artefact where something else is, or where nothing can be written.

    Raises:
        Error: `place` exists, is not empty and is no artefact; or the folder it is to be in is none
            or cannot be written.
    """
    try:
        above = next(one for one in place.absolute().parents if one.exists())
        with tempfile.TemporaryDirectory(dir=above):  # permissions do not tell: of /proc, say
            pass
        if not place.exists():
            return
        if place.is_dir() and (not any(place.iterdir()) or _is_artefact(place)):
            return
    except OSError as failure:
        raise Error(f"cannot write {place}: {failure.strerror}; choose another place") from None
    raise Error(f"{place} exists and is not a gq-tvm artefact; choose another place")


def _is_artefact(folder: Path) -> bool:
    """Whether a folder is an artefact of any version, even a damaged one."""
    try:
        return FORMAT.encode() in files.read(folder / MANIFEST, _LARGEST_MANIFEST)[:200]
    except OSError:
        return False


def _write(artefact: Artefact, folder: Path) -> None:
    artefact.link(folder / CODE)
    weights.write(folder / WEIGHTS, artefact.parameters)
    artefact.manifest.files = {name: sha256(folder / name) for name in (CODE, WEIGHTS)}
    text = json.dumps(artefact.manifest.to_json(), indent=1)
    Manifest.from_json(records.loads(text), "what was compiled")  # what is written can be read
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    folder.chmod(0o777 & ~_umask())
    for file in folder.iterdir():
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())


def _swap(new: Path, place: Path) -> None:
    """Put the folder `new` at `place`; what was there is at `new` afterwards, or gone."""
    if not place.exists():
        os.rename(new, place)
    elif not _exchange(new, place):
        # A folder cannot be renamed over a full one; between these two a crash leaves it aside.
        aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.old.", dir=place.absolute().parent))
        os.rename(place, aside)
        try:
            os.rename(new, place)
        except OSError:
            os.rename(aside, place)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step (Linux, renameat2); False where that cannot be done."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE: linux/fcntl.h, linux/fs.h
    return renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
