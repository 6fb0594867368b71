"""No kernel touches memory outside its tensors: pages that may not be touched lie behind each."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest
from kernel_harness import BASELINE, FP32, INT8, XNOR, Kernels, device_for, target

from gq_tvm.schedules import Product, Schedule, family

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
    check_inside(where, name, bits, "int8" if name == "lookup" else "fp32", emulated)


@pytest.mark.parametrize("activation", ["int1", "int2"])
@pytest.mark.parametrize(("where", "name"), [one for one in XNOR if one[0].startswith("x86")])
def test_kernels_of_few_bits_stay_inside_their_tensors(where, name, activation, emulated):
    check_inside(where, name, 2, activation, emulated)


def check_inside(where, name, bits, activation, emulated):
    where = target(where)
    device = device_for(where, emulated)
    chosen = family(name)
    linear = [Product(n, k, bits, activation, 5) for n, k in ((7, 3), (65, 77))]
    recurrent = [Product(4 * h, h, bits, activation, 2, recurrent=True) for h in (3, 37)]
    rng = np.random.default_rng(bits)
    functions = {
        f"l{i}": chosen.linear(where, one, Schedule(), "silu") for i, one in enumerate(linear)
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
            shapes, outputs = [(rows, k)], [(rows, n)]
        arguments = [rng.standard_normal(shape).astype(np.float32) for shape in shapes] + operands
        if not product.recurrent:
            arguments.append(np.zeros(len(operands[-1]), np.float32))
        want = kernels(label, arguments, outputs)
        arguments = [guarded(array) for array in arguments]
        made = [guarded(np.full(shape, 7e7, np.float32)) for shape in outputs]
        kernels.call(label, [*arguments, *made])
        for got, expected in zip(made, want, strict=True):
            np.testing.assert_array_equal(got, expected)
