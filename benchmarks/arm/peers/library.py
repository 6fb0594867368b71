"""Kernels of another system, built from its sources into a library that our kernel runner calls."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tvm_ffi

from gq_tvm import cache
from gq_tvm.errors import Error
from gq_tvm.targets import Target
from gq_tvm.toolchain.zig import compile_native

_HERE = Path(__file__).parent
_OPTIONS = ("-shared", "-fPIC", "-O3", "-DNDEBUG", "-fvisibility=hidden", "-w")


@dataclass(frozen=True)
class Kernel:
    """A kernel of another system.

    Attributes:
        system: Whose.
        name: Its function; that which packs its weights is ``pack_<name>``.
        bits: Bits a weight.
        any_codebook: Whether the weights may be any numbers, or only equally spaced ones.
        activation: ``"int8"`` or ``"fp32"``.
        rows: The least and the most rows it is for.
        feature: The CPU feature it needs.
        label: What tables call it.
    """

    system: str
    name: str
    bits: int
    any_codebook: bool
    activation: str
    rows: tuple[int, int]
    feature: str
    label: str

    def runs(self, target: Target, rows: int) -> bool:
        """Whether it is for so many rows, and `target` has what it needs."""
        able = target.machine == "aarch64" and self.feature in target.features
        return able and self.rows[0] <= rows <= self.rows[1]


@dataclass(frozen=True)
class Library:
    """Kernels that are built with the same options.

    Attributes:
        system: Whose.
        checkout: Name of the folder that holds its repository.
        feature: The CPU feature they need.
        cpu: The least CPU that has it, as the system's own build has it, for the compiler.
        kernels: They.
        driver: Our file that makes functions of them.
        sources: The system's files, in its repository.
        options: More options of the compiler.
        header: Text of ``kernels.h``, which the driver may include.
    """

    system: str
    checkout: str
    feature: str
    cpu: str
    kernels: tuple[Kernel, ...]
    driver: str
    sources: tuple[str, ...]
    options: tuple[str, ...] = ()
    header: str = ""

    def version(self, peers: Path) -> str:
        """The commit of its repository, and its date; "unknown" where git does not tell."""
        git = ["git", "-C", str(peers / self.checkout), "log", "-1", "--format=%h, %cs"]
        try:
            done = subprocess.run(git, capture_output=True, text=True, check=False)
        except OSError:
            return "unknown"
        return done.stdout.strip() or "unknown"

    def build(self, peers: Path, output: Path) -> None:
        """Compile it.

        Args:
            peers: The folder that holds the repositories.
            output: What to write.

        Raises:
            Error: the repository or one of its files is not there, or it does not compile.
        """
        repository = peers / self.checkout
        if not repository.is_dir():
            raise Error(f"{peers} has no folder {self.checkout}: put {self.system}'s sources there")
        sources = [repository / name for name in self.sources]
        missing = next((path for path in sources if not path.is_file()), None)
        if missing:
            raise Error(f"{missing} is not there: {self.system} has changed, take an older commit")
        kept = cache.root() / "benchmarks" / "zig"  # the C++ library, a minute's work
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "kernels.h").write_text(self.header, encoding="utf-8")
            ffi = (tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path())
            include = [*map(str, ffi), str(_HERE), str(repository), folder]
            options = [*_OPTIONS, f"-mcpu={self.cpu}", *self.options]
            files = [_HERE / self.driver, *sources]
            compile_native(files, output, "aarch64", include, options, cache=kept)
