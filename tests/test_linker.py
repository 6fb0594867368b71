from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te

from gq_tvm import Error
from gq_tvm.toolchain.elf import machine
from gq_tvm.toolchain.linker import Linker, architecture, export, linker

TRIPLES: dict[str, dict[str, Any]] = {
    "x86_64": {"mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"},
    "aarch64": {"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"},
    "armhf": {
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
    export(executable(arch), path, TRIPLES[arch]["mtriple"])
    assert machine(path) == arch


def test_native_library_loads_and_runs(tmp_path: Path):
    arch = architecture(tvm.target.codegen.llvm_get_system_triple())
    path = tmp_path / "kernel.so"
    export(executable(arch), path, TRIPLES[arch]["mtriple"])
    x = np.linspace(-1, 1, 16, dtype=np.float32)
    y = tvm.runtime.empty((16,), "float32")
    tvm.runtime.load_module(str(path))["kernel"](tvm.runtime.tensor(x), y)
    np.testing.assert_allclose(y.numpy(), np.exp(x) + 1, rtol=1e-6)


def test_object_for_another_machine_is_refused(tmp_path: Path):
    with pytest.raises(Error, match="it is aarch64, not x86_64"):
        export(executable("aarch64"), tmp_path / "kernel.so", "x86_64-linux-gnu")


def test_objects_lie_in_memory_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """LLVM ends the process where it cannot write one: no disk but the library's own is needed."""
    built = executable("x86_64")
    places: list[str] = []

    def link(self, output, objects, options=None):
        places.extend(os.path.realpath(one) for one in objects)
        Path(output).touch()

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(Linker, "__call__", link)
    export(built, tmp_path / "kernel.so", "x86_64-linux-gnu")
    assert places
    assert all(place.startswith("/memfd:") for place in places)
    assert [one.name for one in tmp_path.iterdir()] == ["kernel.so"]


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path):
    path = tmp_path / "kernel.so"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        export(executable("x86_64"), path, "x86_64-linux-gnu")


def test_a_limit_of_files_that_no_object_keeps_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1000, 1000))
    with pytest.raises(Error, match=r"files may have 1,000 bytes here, .*: raise `ulimit -f`"):
        export(None, "kernel.so", "x86_64-linux-gnu")


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
