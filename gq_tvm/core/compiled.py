"""The programs and libraries that run models, compiled for any machine.

Wheels bring those of their own machine along; the others, and all in a checkout, are compiled when
they are first needed, and kept in the cache.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from gq_tvm import cache
from gq_tvm.toolchain.zig import GLIBC, compile_native, ffi_headers

#: The sources; what they include is named from here.
SOURCES = Path(__file__).with_name("cpp")
#: A folder for each machine whose programs came with gq-tvm.
BUILT = Path(__file__).with_name("built")
RUN, LIBRARY, REPORT = "gq-run", "libgq.so", "report.o"

CORE = (
    "run/backend.cc",
    "run/bound.cc",
    "run/callable.cc",
    "run/cpu.cc",
    "speech/decoding.cc",
    "speech/log_mel.cc",
    "run/mapped.cc",
    "speech/metadata.cc",
    "run/model.cc",
    "plan/plan.cc",
    "plan/plan_check.cc",
    "speech/samples.cc",
    "speech/speech.cc",
)
PROGRAM = (
    "program/npy.cc",
    "program/profile.cc",
    "audio/resample.cc",
    "program/run.cc",
    "program/transcribe.cc",
    "audio/wav.cc",
)
OPTIONS = ("-std=c++17", "-fvisibility=hidden", "-pthread", "-D_FILE_OFFSET_BITS=64")


def provide(machine: str) -> Path:
    """Return the folder that holds `RUN`, `LIBRARY` and `REPORT` for a ``Target.machine``.

    The first time for a machine takes a minute, most of it for the C++ library.

    Raises:
        Error: there is no compiler or the cache cannot be written.
    """
    if _complete(BUILT / machine):
        return BUILT / machine
    digest = hashlib.sha256(GLIBC.encode())
    for path in sorted(SOURCES.rglob("*.*")):
        digest.update(path.read_bytes())
    folder = cache.root() / f"core-{machine}-{digest.hexdigest()[:12]}"
    return cache.provide(folder, lambda made: compile_for(machine, made), _complete)


def report(machine: str) -> Path:
    """Return the object file of `REPORT` alone, which the kernels of an artefact are linked with.

    Raises:
        Error: there is no compiler or the cache cannot be written.
    """
    if _complete(BUILT / machine):
        return BUILT / machine / REPORT
    source = SOURCES / "run/report.c"
    digest = hashlib.sha256(GLIBC.encode() + source.read_bytes()).hexdigest()[:12]
    folder = cache.root() / f"report-{machine}-{digest}"
    kept = cache.provide(
        folder,
        lambda made: _compile_report(machine, made),
        lambda found: (found / REPORT).is_file(),
    )
    return kept / REPORT


def _compile_report(machine: str, folder: Path) -> None:
    options, kept = ["-c", "-fPIC"], cache.root() / "zig"
    compile_native([SOURCES / "run/report.c"], folder / REPORT, machine, (), options, kept)


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (RUN, LIBRARY, REPORT))


def compile_for(machine: str, folder: Path) -> None:
    """Compile `RUN`, `LIBRARY` and `REPORT` for a ``Target.machine`` into a folder.

    Raises:
        Error: there is no compiler, or it refuses.
    """
    include: list[str | os.PathLike[str]] = [SOURCES, *ffi_headers()]
    kept = cache.root() / "zig"
    core = folder / "core.o"  # both have it: compiled once
    sources = [SOURCES / name for name in CORE]
    compile_native(sources, core, machine, include, [*OPTIONS, "-fPIC", "-r"], kept)
    program = [core, *(SOURCES / name for name in PROGRAM)]
    compile_native(program, folder / RUN, machine, include, OPTIONS, kept)
    shared = [*OPTIONS, "-shared", "-fPIC"]
    compile_native(
        [core, SOURCES / "interface/api.cc"], folder / LIBRARY, machine, include, shared, kept
    )
    core.unlink()
    _compile_report(machine, folder)
