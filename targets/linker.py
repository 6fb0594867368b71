"""Linking object files into a shared library for any target, with no system toolchain.

The linker is LLVM's lld as the `ziglang` wheel carries it, called directly: it needs no sysroot, no
cache and no writable folder besides the output's. Kernels call only the TVM runtime and libm, which
the loading process brings, so their symbols are left undefined.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gq_tvm.elf import MACHINES, machine
from gq_tvm.errors import Error
from gq_tvm.targets.zig import zig


def architecture(triple: str) -> str:
    """Return "x86_64", "aarch64" or "arm" for an LLVM triple such as ``armv7a-linux-gnueabihf``.

    Raises `Error` for an architecture that cannot be linked for.
    """
    first = triple.strip().split("-")[0].lower()
    first = {"amd64": "x86_64", "arm64": "aarch64"}.get(first, first)
    if first.startswith("armv7"):
        first = "arm"
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
        lld refuses.
        """
        wanted = architecture(self.triple)
        objects = [objects] if isinstance(objects, str) else list(objects)
        for path in objects:
            if machine(path) != wanted:
                found = machine(path) or "no object file of a known architecture"
                raise Error(f"cannot link {path} for {self.triple}: it is {found}, not {wanted}")
        # --strip-debug: TVM's debug sections describe generated code and only cost bytes.
        # -z now: a missing symbol shows when the library is loaded, not in the middle of a run.
        flags = ["-shared", "--strip-debug", "--build-id=none", "-z", "now"]
        flags += [*(options or ()), "-o", output, *objects]
        done = subprocess.run(
            [zig(), "ld.lld", *flags], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = done.stderr.strip().splitlines() or [f"lld left with code {done.returncode}"]
            raise Error(f"cannot link {output}: {reason[0]}")
        if machine(output) != wanted:
            raise Error(f"linking {output} gave a file for {machine(output)}, not for {wanted}")


def linker(triple: str) -> Callable[..., None]:
    """Return the function to pass to ``export_library(path, fcompile=...)`` for a target triple."""
    architecture(triple)
    return Linker(triple)
