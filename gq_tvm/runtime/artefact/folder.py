"""An artefact on disk: a folder with a manifest, a plan, kernels and weights.

It is written beside its place and renamed, so that a crash leaves the old one whole, and checked
before any of its code runs.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from numpy.typing import NDArray

from gq_tvm import files, records
from gq_tvm.errors import Error
from gq_tvm.plan import reader, text
from gq_tvm.plan.plan import Plan
from gq_tvm.records import Wrong
from gq_tvm.runtime.artefact import weights
from gq_tvm.runtime.artefact.manifest import FORMAT, Manifest
from gq_tvm.toolchain.elf import machine

MANIFEST, PLAN, README = "manifest.json", "plan.txt", "README.md"
KERNELS, WEIGHTS = "kernels.so", "weights.safetensors"
_LARGEST_TEXT = 1 << 26  # bytes; a layer has a thousand

_README = """\
# A model for {target}

gq-tvm compiled it. In Python: `gq_tvm.load("{name}")`; `gq-tvm inspect {name}` shows what is in it.
A program that runs it without Python comes with `gq-tvm compile --bundle`.
"""


@dataclass
class Artefact:
    """A compiled model, in memory until it is saved.

    Attributes:
        manifest: What it is.
        plan: What its functions do.
        parameters: Its packed weights, by name.
        link: Writes the kernels, a shared library, to the path it is given.
    """

    manifest: Manifest
    plan: Plan
    parameters: Mapping[str, NDArray]
    link: Callable[[Path], None]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artefact; see `save`."""
        save(self, path)


def save(
    artefact: Artefact,
    path: str | os.PathLike[str],
    complete: Callable[[Path, str], None] = lambda folder, name: None,
) -> None:
    """Write `artefact` as the folder `path`; an older artefact there is replaced when all is done.

    Args:
        artefact: What `gq_tvm.build` returned.
        path: The folder.
        complete: Given the new folder and what it will be called: writes what else is to be in it.

    Raises:
        Error: something else is at `path`, or it cannot be written.
    """
    place = Path(path)
    if os.path.islink(place):
        place = Path(os.path.realpath(place))  # replace what the link means, not the link
    check_place(place)

    def fill(folder: Path) -> None:
        _write(artefact, folder, place.absolute().name)
        complete(folder, place.absolute().name)
        for file in folder.iterdir():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())

    _replace_folder(place, fill)


def _replace_folder(place: Path, fill: Callable[[Path], None]) -> None:
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


def read(path: str | os.PathLike[str]) -> tuple[Manifest, Plan]:
    """Read what an artefact is and does, without looking at its other files.

    Raises:
        Error: there is no artefact at `path`, or its manifest or plan is damaged.
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
    try:
        data = records.loads(_contents(folder, MANIFEST))
    except Wrong as wrong:
        raise Error(f"{path} has a damaged manifest ({wrong}); compile the model again") from None
    manifest = Manifest.from_json(data, str(path))
    return manifest, reader.read(_contents(folder, PLAN), str(folder / PLAN))


def _contents(folder: Path, name: str) -> bytes:
    try:
        return files.read(folder / name, _LARGEST_TEXT)
    except OSError as failure:
        raise Error(
            f"{folder} is not a gq-tvm artefact: it has no readable {name} ({failure.strerror}); "
            "compile the model again"
        ) from None


def check_files(path: str | os.PathLike[str], plan: Plan) -> None:
    """Compare an artefact's files with what its plan says of them.

    Raises:
        Error: a file is missing or altered, or the code is for another machine.
    """
    for name, wanted in ((KERNELS, plan.kernels), (WEIGHTS, plan.weights)):
        file = Path(path) / name
        if not file.is_file():
            raise Error(f"{path} lacks {name}; compile the model again")
        if text.content(file) != wanted:
            raise Error(f"{file} is damaged or was altered; compile the model again")
    kernels = Path(path) / KERNELS
    found = machine(kernels)
    if found != plan.machine:
        raise Error(
            f"{kernels} is {f'code for {found}' if found else 'no code of a machine known here'}, "
            f"not for {plan.machine} as {PLAN} says; compile the model again"
        )


def check_device(
    path: str | os.PathLike[str], plan: Plan, machine: str, features: frozenset[str]
) -> None:
    """Compare what an artefact's code needs with the CPU it is to run on.

    Raises:
        Error: it is of another architecture or lacks features.
    """
    if plan.machine != machine:
        way = "(--rpc, --emulate)" if plan.machine == "aarch64" else "(compile --bundle DIR)"
        raise Error(
            f"{path} is for {plan.machine}, this device is {machine}; compile the model for it, or "
            f"run it on such a device {way}"
        )
    missing = sorted(set(plan.features) - features)
    if missing:
        raise Error(f"{path}: this CPU lacks {', '.join(missing)}; compile the model for it")


def check_runtime(path: str | os.PathLike[str], machine: str) -> None:
    """Refuse a machine that TVM has no runtime for. Raises `Error`."""
    if machine == "armhf":
        raise Error(
            f"{path} is for armhf, and TVM has no runtime for 32-bit ARM: make a bundle of the "
            "model (compile --bundle DIR) and run that on the device"
        )


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
    for name, mark in ((MANIFEST, FORMAT), (PLAN, "gq-plan")):
        with suppress(OSError):
            if mark.encode() in files.read(folder / name, _LARGEST_TEXT)[:200]:
                return True
    return False


def _write(artefact: Artefact, folder: Path, name: str) -> None:
    artefact.link(folder / KERNELS)
    weights.write(folder / WEIGHTS, artefact.parameters)
    plan = replace(
        artefact.plan,
        weights=text.content(folder / WEIGHTS),
        kernels=text.content(folder / KERNELS),
    )
    (folder / PLAN).write_bytes(text.sealed(text.write(plan)))
    written = json.dumps(artefact.manifest.to_json(), indent=1)
    (folder / MANIFEST).write_text(written + "\n", encoding="utf-8")
    (folder / README).write_text(_README.format(target=artefact.manifest.target, name=name))
    read(folder)  # what is written can be read
    folder.chmod(0o777 & ~_umask())


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
