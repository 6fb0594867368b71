from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gq_tvm import Error, targets
from gq_tvm.modelled import times, tools
from gq_tvm.modelled.counting import Block, _whole
from gq_tvm.modelled.elf import Elf
from gq_tvm.runtime.devices import kernel_runner
from gq_tvm.schedules import Product, Schedule
from gq_tvm.toolchain.linker import linker
from gq_tvm.toolchain.zig import compile_native
from gq_tvm.tuning.modelled_bench import ModelledBench
from gq_tvm.tuning.task import Task

A53, A76 = targets.get("cortex-a53"), targets.get("cortex-a76")
NOTHING = np.zeros(1, np.float32)

_READ = "adrp x0, data; 1: ldr x2, [x0], 64; subs x1, x1, 1; b.ne 1b; mov w0, 0; ret"
# `spin` has a loop of two instructions; `few` and `many` read lines of 64 bytes.
KERNELS = {
    "spin": "mov x1, 1000; 1: subs x1, x1, 1; b.ne 1b; mov w0, 0; ret",
    "few": f"mov x1, 256; {_READ}",
    "many": f"mov x1, 2048; {_READ}",
    "sdot": "sdot v0.4s, v1.16b, v2.16b; mov w0, 0; ret",
    "none": "udf 0",
}


def assembler(name: str, code: str) -> str:
    symbol = f"__tvm_ffi_{name}"
    head = f".globl {symbol}; .type {symbol}, %function; {symbol}: "
    return f"{head}{code}; .size {symbol}, . - {symbol}; "


pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module", autouse=True)
def setup() -> None:
    able, reason = tools.available()
    if not able and os.environ.get("CI"):
        pytest.fail(reason)
    if not able:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    text = ".arch armv8.2-a+dotprod; .bss; .balign 4096; data: .zero 131072; .text; "
    text += "".join(assembler(*one) for one in KERNELS.items())
    (folder / "kernels.c").write_text(f'asm("{text}");')
    compile_native([folder / "kernels.c"], folder / "kernels.o", "aarch64", (), ["-c"])
    linker(A53.triple)(str(folder / "kernels.so"), str(folder / "kernels.o"))
    return folder / "kernels.so"


def test_counts_of_a_known_loop_are_exact(library: Path, tmp_path: Path):
    found, _ = times.call(library, "spin", [NOTHING], A53)
    assert found.instructions == 1 + 2 * 1000 + 2
    assert sum(one.executions * one.instructions for one in found.blocks) == 2003
    loop = max(found.blocks, key=lambda one: one.executions)
    assert (loop.executions, loop.instructions) == (1000, 2)
    kernel_runner.write_tensors(tmp_path / "none", [NOTHING])
    runner = str(tools.locate_guest("aarch64").runner)
    program = [runner, str(library), "spin", str(tmp_path / "none"), "4"]
    assert times.model_program(program, library, "__tvm_ffi_spin", A53) == found


def test_bytes_are_those_a_cache_of_this_size_lacks(library: Path):
    few, _ = times.call(library, "few", [NOTHING], A53)
    assert (few.cold_bytes, few.hot_bytes, few.hot_traffic) == (256 * 64, 0, 0)
    many, _ = times.call(library, "many", [NOTHING], A53)
    assert many.cold_bytes == many.hot_bytes == 2048 * 64
    assert A53.core is not None
    assert many.hot_traffic == pytest.approx(2048 * 64 / A53.core.caches[1].bandwidth)
    assert many.cold_traffic == pytest.approx(2048 * 64 / A53.core.memory)
    assert many.cold > many.hot


def test_what_cannot_be_modelled_is_told(library: Path, tmp_path: Path):
    with pytest.raises(Error, match="has no function __tvm_ffi_nothing"):
        times.call(library, "nothing", [NOTHING], A53)
    with pytest.raises(Error, match=r"none failed under QEMU \(.*[Ii]llegal"):
        times.call(library, "none", [NOTHING], A53)
    with pytest.raises(Error, match=r"llvm-mca has no model .*requires: dotprod"):
        times.call(library, "sdot", [NOTHING], replace(A76, core=A53.core, features=A53.features))
    kernel_runner.write_tensors(tmp_path / "none", [NOTHING])
    runner = str(tools.locate_guest("aarch64").runner)
    program = [runner, str(library), "spin", str(tmp_path / "none")]
    with pytest.raises(Error, match="calls __tvm_ffi_spin once"):
        times.model_program(program, library, "__tvm_ffi_spin", A53)
    with pytest.raises(Error, match="QEMU has no avx512"):
        times.check(targets.get("x86-64-v4"))
    with pytest.raises(Error, match="no little-endian ELF file"):
        Elf(Path(__file__))


def test_a_kernel_costs_the_same_every_time():
    task = Task(A76.name, "lookup", Product(64, 64, 4, "int8", 2))
    one, other = (ModelledBench().time(task, task.default) for _ in range(2))
    assert one == other
    assert one.cold is not None
    assert one.cold >= one.hot > 0


def test_a_known_kernel_is_not_run_again(library: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GQ_TVM_CACHE", raising=False)
    known = times._known(library, "spin", [NOTHING], A53)
    assert known.is_relative_to(tmp_path)
    assert known != times._known(library, "spin", [NOTHING], A76)
    assert known != times._known(library, "spin", [NOTHING + 1], A53)
    monkeypatch.undo()
    monkeypatch.setattr(times, "_known", lambda *_: tmp_path / "modelled" / "known.json")
    found = times.model(library, "spin", [NOTHING], A53)
    monkeypatch.setattr(times, "call", None)
    assert times.model(library, "spin", [NOTHING], A53) == found


def test_kernels_known_to_differ_are_in_order():
    product = Product(256, 256, 4, "int8", 8)
    lookup, scalar = (Task(A53.name, name, product) for name in ("lookup", "scalar"))
    bench = ModelledBench()
    fast = bench.time(lookup, lookup.default).hot
    assert fast < bench.time(scalar, scalar.default).hot / 4
    # One row at a time looks every index up for each row again.
    alone = Schedule(**{**lookup.default, "rows": 1})
    assert bench.time(lookup, alone).hot > 1.1 * fast
    faster = Task(A76.name, "lookup", product)
    assert bench.time(faster, faster.default).hot < fast / 2


def test_wrong_results_are_found(monkeypatch):
    task = Task(A53.name, "lookup", Product(64, 64, 4, "int8", 1))
    bench = ModelledBench()
    bench.build(task, task.default)
    assert bench._case is not None
    bench._case.expected[0][0, 0] += 1
    with pytest.raises(Error, match="wrong result: 1 of 64 values differ"):
        bench.build(task, Schedule(**task.default))


def test_halves_of_instructions_across_pages_are_left_out():
    cut, whole = Block(4000, 1, 1, (90, 3, 3)), Block(4093, 1, 1, (9, 2))
    assert _whole([cut, whole]) == [replace(cut, sizes=(90, 3)), whole]
    assert _whole([Block(4093, 1, 1, (3,)), whole]) == [whole]
