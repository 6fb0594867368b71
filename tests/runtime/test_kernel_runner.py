from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te

from gq_tvm import Error, targets
from gq_tvm.runtime.devices import kernel_runner
from gq_tvm.toolchain.linker import linker


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runner") / "kernel_runner"
    kernel_runner.build(path, platform.machine())
    return path


def library(folder: Path) -> Path:
    """Build y = 2 x over 5 floats."""
    x = te.placeholder((5,), "float32", name="x")
    y = te.compute((5,), lambda i: 2 * x[i], name="y")
    kernel = te.create_prim_func([x, y]).with_attr("global_symbol", "twice")
    target = targets.get("native")
    path = folder / "twice.so"
    built = tvm.compile(tvm.IRModule({"twice": kernel}), target=target.tvm)
    built.export_library(str(path), fcompile=linker(target.triple))
    return path


@pytest.mark.native
def test_kernel_writes_its_output(program: Path, tmp_path: Path):
    x = np.arange(5, dtype=np.float32)
    _, y = kernel_runner.call([str(program)], library(tmp_path), "twice", [x, np.zeros_like(x)])
    assert y.tolist() == [0, 2, 4, 6, 8]


def test_what_a_kernel_refuses_is_told(program: Path, tmp_path: Path):
    path, x = library(tmp_path), np.zeros(4, np.float32)
    with pytest.raises(Error, match=r"the kernel twice failed \(.*[Ss]hape.*expected 5"):
        kernel_runner.call([str(program)], path, "twice", [x, x])
    with pytest.raises(Error, match="no such function"):
        kernel_runner.call([str(program)], path, "thrice", [x, x])
    with pytest.raises(Error, match="cannot load"):
        kernel_runner.call([str(program)], tmp_path / "none.so", "twice", [x, x])
