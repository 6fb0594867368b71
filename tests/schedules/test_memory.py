"""No kernel touches memory outside its tensors: pages that may not be touched lie behind each."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest
from kernel_harness import BASELINE, FP32, INT8, Kernels, device_for, target

from gq_tvm.schedules import Product, Schedule, family
from gq_tvm.schedules.depthwise import Depthwise, depthwise, pack
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.float_ops import lanes_of
from gq_tvm.schedules.float_ops.attention import Attention, attention
from gq_tvm.schedules.float_ops.layer_norm import layer_norm
from gq_tvm.schedules.float_ops.matmul import matmul
from gq_tvm.schedules.float_ops.softmax import softmax

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
    "bits", [1, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (3, 7, 8))]
)
@pytest.mark.parametrize(
    ("where", "name"),
    [pair for pair in (*INT8, *FP32[:-2], *BASELINE) if pair[0].startswith("x86")],
)
def test_kernels_stay_inside_their_tensors(where, name, bits, emulated):
    where = target(where)
    device = device_for(where, emulated)
    activation = "int8" if name == "lookup" else "fp32"
    chosen = family(name)
    linear = [Product(n, k, bits, activation, 5) for n, k in ((7, 3), (65, 77))]
    linear.append(Product(70, 20, bits, activation, 5, glu=True))
    epilogues = [Epilogue("silu"), Epilogue(residual=True), Epilogue("glu", 0.5, residual=True)]
    recurrent = [Product(4 * h, h, bits, activation, 2, recurrent=True) for h in (3, 37)]
    rng = np.random.default_rng(bits)
    functions = {
        f"l{i}": chosen.linear(where, one, Schedule(), epilogues[i]) for i, one in enumerate(linear)
    }
    functions |= {
        f"r{i}": chosen.recurrence(where, one, Schedule()) for i, one in enumerate(recurrent)
    }
    kernels = Kernels(where, device, functions)
    for label, product in zip(functions, [*linear, *recurrent], strict=True):
        n, k, rows = product.n, product.k, product.rows or 1
        codebook = rng.standard_normal((1, 2**bits)).astype(np.float32)
        indices = rng.integers(0, 2**bits, (n, k)).astype(np.uint8)
        operands = [*chosen.pack(where, product, Schedule(), indices, codebook).values()]
        if product.recurrent:
            shapes = [(rows, 3, n), (rows, k), (rows, k)]
            outputs = [(rows, 3, k), (rows, k), (rows, k)]
        else:
            shapes, outputs = [(rows, k)], [(rows, product.outputs)]
        arguments = [rng.standard_normal(shape).astype(np.float32) for shape in shapes] + operands
        if not product.recurrent:
            bias = np.zeros(n, np.float32)
            arguments.append(chosen.pack_bias(where, product, Schedule(), bias))
            if epilogues[int(label[1:])].residual:
                arguments.append(np.ones(outputs[0], np.float32))
        check_inside(kernels, label, arguments, outputs)


def check_inside(kernels, label, arguments, outputs):
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
    convolving = Depthwise(37, 5, 3, 37, 1, 2, 1, "silu", 1, 11, 11)
    kernels: dict[str, tuple[Any, list[tuple[int, ...]], tuple[int, ...]]] = {
        "norm": (layer_norm(lanes, 3, 37, 1e-5), [(3, 37), (37,), (37,)], (3, 37)),
        "softmax": (softmax(lanes, None, None), [(3, 37)], (3, 37)),
        "matmul": (matmul(lanes, 2, 5, 83, 7), [(2, 5, 7), (2, 7, 83)], (2, 5, 83)),
        "attention": (
            attention(lanes, attending),
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
            arguments[1:1] = pack(indices, codebook, 3).values()
        check_inside(run, label, arguments, [output])
