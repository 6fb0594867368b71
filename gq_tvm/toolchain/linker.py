"""Linking object files into a shared library for any target, with no system toolchain.

The linker is LLVM's lld as the `ziglang` wheel carries it, called directly: it needs no sysroot, no
cache and no writable folder besides the output's. Kernels call only the TVM runtime and libm, which
the loading process brings, so their symbols are left undefined.
"""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gq_tvm.errors import Error
from gq_tvm.toolchain.elf import MACHINES, machine
from gq_tvm.toolchain.zig import zig

_LARGEST_OBJECT = 1 << 26  # bytes; a model's code seldom has a hundredth


def architecture(triple: str) -> str:
    """Return "x86_64", "aarch64" or "armhf" for an LLVM triple such as ``armv7a-linux-gnueabihf``.

    Raises `Error` for an architecture that cannot be linked for.
    """
    first = triple.strip().split("-")[0].lower()
    first = {"amd64": "x86_64", "arm64": "aarch64"}.get(first, first)
    if first.startswith("armv7"):
        first = "armhf"
    if first not in MACHINES:
        known = ", ".join(MACHINES)
        raise Error(f"cannot link for the target triple {triple!r}: choose one of {known}")
    return first


@dataclass(frozen=True)
class Linker:
    """The `fcompile` of TVM's ``export_library`` for one target triple.

    ``export_library`` reads `output_format` and `get_target_triple` and calls the object with the
    output path and the paths of the object files.
    """

    triple: str
    output_format: str = "so"

    def get_target_triple(self) -> str:
        """Return the triple for which TVM emits its own objects (those without kernels)."""
        return self.triple

    def __call__(
        self, output: str, objects: str | Sequence[str], options: Sequence[str] | None = None
    ) -> None:
        """Link the object files into the shared library `output`.

        `options` go to lld as they are. Raises `Error` if an object is for another architecture or
        lld refuses, OSError if the library cannot be written.
        """
        wanted = architecture(self.triple)
        objects = [objects] if isinstance(objects, str) else list(objects)
        for path in objects:
            if machine(path) != wanted:
                found = machine(path) or "no object file of a known architecture"
                raise Error(f"cannot link {path} for {self.triple}: it is {found}, not {wanted}")
        # --strip-debug: TVM's debug sections describe generated code and only cost bytes.
        # -z now: a missing symbol shows when the library is loaded, not in the middle of a run.
        # -o -: the library is written here; on a full disk lld would end without a word.
        flags = ["-shared", "--strip-debug", "--build-id=none", "-z", "now"]
        flags += [*(options or ()), "-o", "-", *objects]
        done = subprocess.run([zig(), "ld.lld", *flags], capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            reason = said[0] if said else f"lld left with code {done.returncode}"
            raise Error(f"cannot link {output}: {reason}")
        Path(output).write_bytes(done.stdout)
        if machine(output) != wanted:
            raise Error(f"linking {output} gave a file for {machine(output)}, not for {wanted}")


def linker(triple: str) -> Callable[..., None]:
    """Return the function to pass to ``export_library(path, fcompile=...)`` for a target triple."""
    architecture(triple)
    return Linker(triple)


def export(
    executable: Any, path: str | os.PathLike[str], triple: str, addons: Sequence[str] = ()
) -> None:
    """Write what TVM compiled as the shared library `path`, with more object files behind it.

    Args:
        executable: What ``tvm.compile`` or ``relax.build`` returned.
        path: The file; nothing is written but this and beside it.
        triple: Of the target.
        addons: Object files and archives.

    Raises:
        Error: it cannot be linked.
        OSError: it cannot be written.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < _LARGEST_OBJECT:
        raise Error(f"files may have {limit:,} bytes here, too few for code: raise `ulimit -f`")
    with _in_memory(Path(path).absolute().parent) as workspace:
        executable.export_library(
            str(path), fcompile=linker(triple), workspace_dir=str(workspace), addons=[*addons]
        )


@contextmanager
def _in_memory(parent: Path) -> Iterator[Path]:
    """A folder where the object files that TVM writes are links to memory.

    Where LLVM cannot write one, as on a full disk, it ends the process on the spot.
    """
    with (
        tempfile.TemporaryDirectory(dir=parent, prefix=".objects-") as folder,
        ExitStack() as stack,
    ):
        for name in ("lib0.o", "devc.o"):
            memory = os.memfd_create(name)
            stack.callback(os.close, memory)
            (Path(folder) / name).symlink_to(f"/proc/{os.getpid()}/fd/{memory}")
        yield Path(folder)
