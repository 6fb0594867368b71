"""Run kernels on whatever can run here: this CPU, or an emulated one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import tirx

from gq_tvm import targets
from gq_tvm.ops.weight import Weight
from gq_tvm.runtime.devices.device import Device, LocalDevice
from gq_tvm.schedules import Choice, Family, Product, Schedule
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.targets import Target, native
from gq_tvm.toolchain.linker import export
from helpers import avx512

#: One target an instruction set, and the plain one.
TARGETS = ("x86-64-v4", "x86-64-v3", "x86-64", "arm", "cortex-a76", "cortex-a7")

VECTOR_TARGETS = ("x86-64-v4", "x86-64-v3", "arm", "cortex-a76", "cortex-a7")
#: SMMLA differs from SDOT in int8 products alone.
INT8_TARGETS = (*VECTOR_TARGETS, "cortex-a510")
#: What is worth running: vector families everywhere, the scalar one once a machine.
SCALAR = [("x86-64", "scalar"), ("arm", "scalar")]
INT8 = [*((where, "lookup") for where in INT8_TARGETS), *SCALAR]
FP32 = [*((where, "lookup_f32") for where in VECTOR_TARGETS), *SCALAR]
XNOR = [*((where, "xnor") for where in VECTOR_TARGETS), *SCALAR]
BASELINE = [(where, "dense_f32") for where in VECTOR_TARGETS]
#: Families of few bits: exact and rounded tables of partial sums.
TABLES = [(where, "table", 1) for where in VECTOR_TARGETS]
ROUNDED = [("x86-64-v4", "table8", bits) for bits in (1, 2)]

#: (N, K, rows): less than a vector, whole and ragged tiles of one row, a row block and a bit.
SHAPES = ((7, 3, 5), (131, 77, 1), (64, 40, 21))
#: Every bit-width, in two libraries; the first in the fast part, the second with fewer shapes.
BITS = [(1, 4), pytest.param((2, 3, 5, 6, 7, 8), marks=pytest.mark.slow)]


def shapes_of(bits: Sequence[int]) -> list[tuple[int, tuple[int, int, int]]]:
    """The shapes to try each of some bit-widths with: all, or of many widths the large in turn."""
    if len(bits) > 2:
        return [(each, SHAPES[1:][each % 2]) for each in bits]
    return [(each, shape) for each in bits for shape in SHAPES]


def device_for(target: Target, emulated: Callable[..., Device]) -> Device:
    """Return what runs `target`'s code; the test is skipped where nothing does."""
    if target.machine == "aarch64" and target.emulator_cpu:
        return emulated(target.emulator_cpu)
    if target.machine == "armhf":
        return emulated(target.emulator_cpu, "armhf")
    missing = _missing(target)
    if missing and not (target.name == "x86-64-v4" and _runs("x86-64-v3")):
        pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}: run on one that has it")
    return LocalDevice()


def _missing(target: Target) -> frozenset[str]:
    """What this CPU lacks of a target's features."""
    return target.features - native.features()


def _runs(name: str) -> bool:
    return not _missing(targets.get(name))


class Kernels:
    """PrimFuncs compiled into one library and loaded on a device."""

    def __init__(self, target: Target, device: Device, functions: dict[str, tirx.PrimFunc]) -> None:
        module = tvm.IRModule(
            {name: f.with_attr("global_symbol", name) for name, f in functions.items()}
        )
        built = tvm.compile(module, target=target.tvm)
        self._device = device
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernels.so"
            if target.machine == "x86_64" and _missing(target):
                avx512.export(built, path)
            else:
                export(built, path, target.triple)
            self._module = device.load_module(path)

    def __call__(
        self, name: str, inputs: list[np.ndarray], outputs: list[tuple[int, ...]]
    ) -> list[np.ndarray]:
        """Call a kernel; outputs are float32, filled with a canary first."""
        made = [self._device.tensor(np.full(shape, 7e7, np.float32)) for shape in outputs]
        self.call(name, [*map(np.ascontiguousarray, inputs), *made])
        return [array.numpy() for array in made]

    def call(self, name: str, arguments: list) -> None:
        """Call a kernel with NumPy arrays (on this machine used in place) or tensors."""
        tensor = self._device.tensor
        self._module[name](*(tensor(a) if isinstance(a, np.ndarray) else a for a in arguments))


def run_linear(
    family: Family,
    target: Target,
    device: Device,
    cases: Sequence[tuple[Product, np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    *more: Any,
    **options: Any,
) -> list[np.ndarray]:
    """Do what `run_weights` does for each (product, x, indices, codebook, bias)."""
    weights = [
        (product, x, Weight.from_tables(indices, codebook, family.arithmetic(product)), bias)
        for product, x, indices, codebook, bias in cases
    ]
    return run_weights(family, target, device, weights, *more, **options)


def run_weights(
    family: Family,
    target: Target,
    device: Device,
    cases: Sequence[tuple[Product, np.ndarray, Weight, np.ndarray]],
    epilogue: str | Sequence[str] = "",
    schedule: Schedule | Sequence[Schedule] | None = None,
    parallel: bool = False,
    residuals: Sequence[np.ndarray] = (),
) -> list[np.ndarray]:
    """Run `family`'s linear kernel for each (product, x, weight, bias).

    Args:
        family: Whose kernel.
        target: The device it is compiled for.
        device: What runs it.
        cases: What to compute.
        epilogue: As ``Epilogue`` spells it; or that of each case.
        schedule: The schedule, or that of each case; the family's first if None.
        parallel: Whether it uses threads.
        residuals: A residual for each case; of one whose epilogue has none it is passed over.
    """
    texts = [epilogue] * len(cases) if isinstance(epilogue, str) else epilogue
    after = [Epilogue.parse(text) for text in texts]
    products = [replace(case[0], glu=one.glu) for case, one in zip(cases, after, strict=True)]
    if isinstance(schedule, Schedule):
        schedules: Sequence[Schedule] = [schedule] * len(cases)
    else:
        schedules = schedule or [family.space(target, product)[0] for product in products]
    choices = [
        Choice(target, product, family, one)
        for product, one in zip(products, schedules, strict=True)
    ]
    functions = {
        f"f{i}": family.linear(choice, after[i], parallel) for i, choice in enumerate(choices)
    }
    kernels = Kernels(target, device, functions)
    results = []
    for i, (choice, (_, x, weight, bias)) in enumerate(zip(choices, cases, strict=True)):
        assert family.supports(target, choice.product), choice.product
        operands = family.pack(choice, weight)
        inputs = [x, *operands.values(), family.pack_bias(choice, bias)]
        inputs += residuals[i : i + 1] if after[i].residual else []
        results += kernels(f"f{i}", inputs, [(len(x), choice.product.outputs)])
    return results


def target(name: str) -> Target:
    """Return a target by name."""
    return targets.get(name)
