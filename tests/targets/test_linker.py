from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te

from gq_tvm import Error
from gq_tvm.elf import machine
from gq_tvm.targets.linker import architecture, linker

TRIPLES: dict[str, dict[str, Any]] = {
    "x86_64": {"mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"},
    "aarch64": {"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"},
    "arm": {
        "mtriple": "armv7a-linux-gnueabihf",
        "mcpu": "cortex-a7",
        "mattr": ["+neon"],
        "mfloat-abi": "hard",
    },
}


def executable(arch: str) -> tvm.runtime.Executable:
    """Build y = exp(x) + 1 over 16 numbers; it calls libm."""
    x = te.placeholder((16,), "float32", name="x")
    y = te.compute((16,), lambda i: te.exp(x[i]) + 1, name="y")
    kernel = te.create_prim_func([x, y]).with_attr("global_symbol", "kernel")
    target = tvm.target.Target({"kind": "llvm", **TRIPLES[arch]})
    return tvm.compile(tvm.IRModule({"kernel": kernel}), target=target)


@pytest.mark.parametrize("arch", TRIPLES)
def test_file_is_for_the_target(arch: str, tmp_path: Path):
    path = tmp_path / "kernel.so"
    executable(arch).export_library(str(path), fcompile=linker(TRIPLES[arch]["mtriple"]))
    assert machine(path) == arch


def test_native_library_loads_and_runs(tmp_path: Path):
    arch = architecture(tvm.target.codegen.llvm_get_system_triple())
    path = tmp_path / "kernel.so"
    executable(arch).export_library(str(path), fcompile=linker(TRIPLES[arch]["mtriple"]))
    x = np.linspace(-1, 1, 16, dtype=np.float32)
    y = tvm.runtime.empty((16,), "float32")
    tvm.runtime.load_module(str(path))["kernel"](tvm.runtime.tensor(x), y)
    np.testing.assert_allclose(y.numpy(), np.exp(x) + 1, rtol=1e-6)


def test_object_for_another_machine_is_refused(tmp_path: Path):
    with pytest.raises(Error, match="it is aarch64, not x86_64"):
        executable("aarch64").export_library(
            str(tmp_path / "kernel.so"), fcompile=linker("x86_64-linux-gnu")
        )


def test_broken_object_is_refused(tmp_path: Path):
    path = tmp_path / "kernel.o"
    executable("x86_64").mod.write_to_file(str(path), "o")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(Error, match=r"cannot link .*kernel\.so"):
        linker("x86_64-linux-gnu")(str(tmp_path / "kernel.so"), [str(path)])


def test_unknown_architecture_is_refused():
    with pytest.raises(Error, match="hexagon-unknown-elf"):
        linker("hexagon-unknown-elf")


def test_machine_of_other_files(tmp_path: Path):
    path = tmp_path / "text"
    path.write_text("not an ELF file, but longer than its header")
    assert machine(path) is None
