"""No kernel touches memory outside its tensors: pages that may not be touched lie behind each."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest
from helpers.kernel_harness import (
    BASELINE,
    FP32,
    INT8,
    ROUNDED,
    TABLES,
    XNOR,
    Kernels,
    device_for,
    target,
)

from gq_tvm.ops.weight import Weight
from gq_tvm.schedules import Choice, Frames, Product, family
from gq_tvm.schedules.cpu.depthwise import Depthwise, depthwise, pack
from gq_tvm.schedules.cpu.float_ops import lanes_of
from gq_tvm.schedules.cpu.float_ops.attention import Attention, attention
from gq_tvm.schedules.cpu.float_ops.layer_norm import layer_norm
from gq_tvm.schedules.cpu.float_ops.matmul import matmul
from gq_tvm.schedules.cpu.float_ops.softmax import softmax
from gq_tvm.schedules.epilogue import Epilogue

LINE = 64  # TVM aligns tensors to it; what is between a tensor's end and it is padding
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 4, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_PRIVATE_ANONYMOUS = 0x22


def guarded(array: np.ndarray) -> np.ndarray:
    """A copy that ends at a forbidden page (to the line), with another before it."""
    array = np.ascontiguousarray(array)
    size = -(-max(array.nbytes, 1) // LINE) * LINE
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    base = _libc.mmap(
        None,
        pages + 2 * mmap.PAGESIZE,
        mmap.PROT_READ | mmap.PROT_WRITE,
        _PRIVATE_ANONYMOUS,
        ctypes.c_size_t(-1).value,
        0,
    )
    after = base + mmap.PAGESIZE + pages
    for page in (base, after):
        assert _libc.mprotect(page, mmap.PAGESIZE, 0) == 0
    memory = (ctypes.c_uint8 * array.nbytes).from_address(after - size)
    copy = np.frombuffer(memoryview(memory), np.uint8).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize(
    ("where", "name", "bits"),
    [
        *(one for one in TABLES if one[0].startswith("x86")),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in ROUNDED),
        *(
            pytest.param(
                *pair, bits, marks=pytest.mark.slow if bits > 1 or pair in BASELINE else ()
            )
            for pair in (*INT8, *FP32[:-2], *BASELINE)
            if pair[0].startswith("x86")
            for bits in (1, 3, 7, 8)
        ),
    ],
)
def test_kernels_stay_inside_their_tensors(where, name, bits, emulated):
    activation = "int8" if name in ("lookup", "table") else "fp32"
    check_inside(where, name, bits, activation, emulated)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["int1", "int2"])
@pytest.mark.parametrize(("where", "name"), [one for one in XNOR if one[0].startswith("x86")])
def test_kernels_of_few_bits_stay_inside_their_tensors(where, name, activation, emulated):
    check_inside(where, name, 2, activation, emulated)


def check_inside(where, name, bits, activation, emulated):
    where = target(where)
    device = device_for(where, emulated)
    chosen = family(name)
    functions: dict[str, Any] = {}
    calls: dict[str, tuple[list[np.ndarray], list[tuple[int, ...]]]] = {}
    rng = np.random.default_rng(bits)

    def operands(product):
        codebook = rng.standard_normal((1, 2**bits)).astype(np.float32)
        indices = rng.integers(0, 2**bits, (product.n, product.k)).astype(np.uint8)
        return chosen.pack(
            Choice(where, product, chosen), Weight(indices, codebook, np.ones(1, np.float32))
        ).values()

    def bias(product):
        zeros = np.zeros(product.n, np.float32)
        return chosen.pack_bias(Choice(where, product, chosen), zeros)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    for n, k, after in (
        (7, 3, Epilogue("silu")),
        (65, 77, Epilogue(residual=True)),
        (70, 20, Epilogue("glu", 0.5, residual=True)),
    ):
        one = Product(n, k, bits, activation, 5, glu=after.glu)
        functions[f"l{n}"] = chosen.linear(Choice(where, one, chosen), after)
        residual = [normal(5, one.outputs)] if after.residual else []
        inputs = [normal(5, k), *operands(one), bias(one), *residual]
        calls[f"l{n}"] = inputs, [(5, one.outputs)]
    for hidden, width, steps in ((3, 21, 1), (37, 5, 3)):
        x_part, h_part = (
            Product(4 * hidden, k, bits, activation, gates=4) for k in (width, hidden)
        )
        choices = [Choice(where, one, chosen) for one in (x_part, h_part)]
        functions[f"h{hidden}"] = chosen.recurrent("lstm", choices, Frames(steps))
        inputs = [normal(2, steps, width), normal(2, hidden), normal(2, hidden)]
        calls[f"h{hidden}"] = (
            [*inputs, *operands(x_part), *operands(h_part), bias(x_part)],
            [(2, steps, hidden), (2, hidden), (2, hidden)],
        )
    kernels = Kernels(where, device, functions)
    for label, (arguments, outputs) in calls.items():
        compare_inside(kernels, label, arguments, outputs)


def compare_inside(kernels, label, arguments, outputs):
    """Between forbidden pages a kernel computes what it computes elsewhere."""
    want = kernels(label, arguments, outputs)
    arguments = [guarded(array) for array in arguments]
    made = [guarded(np.full(shape, 7e7, np.float32)) for shape in outputs]
    kernels.call(label, [*arguments, *made])
    for got, expected in zip(made, want, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("where", ["x86-64-v4", "x86-64-v3", "x86-64"])
def test_float_kernels_stay_inside_their_tensors(where, emulated):
    where = target(where)
    lanes = lanes_of(where)
    attending = Attention(1, 19, 70, 2, 5, 37, 0.5, mask=(True, False, True))
    weighing = Product(37, 5, 3, "fp32", tables=37)
    convolving = Depthwise(weighing, 1, 2, 1, "silu", 1, 11, 11)
    kernels: dict[str, tuple[Any, list[tuple[int, ...]], tuple[int, ...]]] = {
        "norm": (layer_norm(lanes, 3, 37, 1e-5), [(3, 37), (37,), (37,)], (3, 37)),
        "softmax": (softmax(lanes, None, None), [(3, 37)], (3, 37)),
        "matmul": (matmul(lanes, 16, 2, 5, 83, 7), [(2, 5, 7), (2, 7, 83)], (2, 5, 83)),
        "attention": (
            attention(lanes, 32, attending),
            [(1, 19, 2, 5), (1, 70, 2, 5), (1, 70, 2, 37), (1, 1, 19, 70)],
            (1, 19, 2, 37),
        ),
        "depthwise": (depthwise(lanes, convolving), [(1, 11, 37), (37,)], (1, 11, 37)),
    }
    rng = np.random.default_rng(0)
    run = Kernels(where, device_for(where, emulated), {key: one[0] for key, one in kernels.items()})
    for label, (_, inputs, output) in kernels.items():
        arguments = [rng.standard_normal(shape).astype(np.float32) for shape in inputs]
        if label == "depthwise":
            indices = rng.integers(0, 8, (37, 1, 5)).astype(np.uint8)
            codebook = rng.standard_normal((37, 8)).astype(np.float32)
            weight = Weight(indices, codebook, np.ones(1, np.float32))
            arguments[1:1] = pack(weight).values()
        compare_inside(run, label, arguments, [output])
