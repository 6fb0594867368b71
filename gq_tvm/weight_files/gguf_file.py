"""Weights of a GGUF file, those in blocks as the codebooks they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gq_tvm.errors import Error
from gq_tvm.ops import palettes
from gq_tvm.ops.weight import Weight
from gq_tvm.weight_files import gguf_header
from gq_tvm.weight_files.forms import FORMS, Bytes, Form

F32 = NDArray[np.float32]

_AT_ONCE = 2**22  # values that are multiplied out together
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "F64": torch.float64}
_INTEGERS = ("I8", "I16", "I32", "I64")


def read_gguf(path: Path, remark: Any) -> Iterator[tuple[str, Weight | Tensor]]:
    """The tensors of a GGUF file by name, one after the other.

    Values that are scales times codes are equal to ``gguf``'s to the bit. To those that have
    something added to that (Q4_1, Q5_1, Q2_K, Q4_K, Q5_K) it becomes a zero point, a float in units
    of the scale: they are so within 2^-22 of the larger of both.

    Args:
        path: The file.
        remark: Called with a sentence on each tensor that is made floats.

    Raises:
        Error: the file is damaged, of a type that is not known, or a scale is NaN.
    """
    import gguf

    try:
        gguf_header.check(path)
        tensors = gguf.GGUFReader(path).tensors
    except Exception as failure:  # what is wrong with a file is told in many ways
        raise Error(
            f"{path} is not a GGUF file or is damaged ({type(failure).__name__}); get it again"
        ) from failure
    for tensor in tensors:
        try:
            yield tensor.name, _tensor(gguf, tensor, remark)
        except Error as refusal:
            raise Error(f"{path}: {tensor.name} {refusal}") from None


def _tensor(gguf: Any, tensor: Any, remark: Any) -> Weight | Tensor:
    kind, data = tensor.tensor_type.name, np.asarray(tensor.data)
    shape = [int(size) for size in reversed(tensor.shape)]
    if kind in _PLAIN or kind in _INTEGERS:
        return torch.from_numpy(data.reshape(shape).copy())
    if kind == "BF16":
        return torch.from_numpy(data.copy()).view(torch.bfloat16).reshape(shape)
    form = FORMS.get(kind)
    if form is not None and len(shape) == 2:
        return _weight(gguf, tensor.tensor_type, data, shape, form)
    try:
        values = gguf.quants.dequantize(data, tensor.tensor_type)
    except NotImplementedError:
        raise Error(
            f"is of type {kind}, which the gguf package does not read; write it in another"
        ) from None
    values = np.ascontiguousarray(values, np.float32).reshape(shape)
    found = palettes.find(values) if len(shape) in (2, 3) else None
    if found is None:
        remark(f"{tensor.name} is {kind} and no codebook with scales of groups: it becomes floats")
    return torch.from_numpy(values) if found is None else found


def _weight(gguf: Any, kind: Any, data: NDArray[np.uint8], shape: list[int], form: Form) -> Weight:
    """A matrix of blocks, some rows of them after the others."""
    if not data.size:
        raise Error("has no elements")
    _, size = gguf.GGML_QUANT_SIZES[kind]
    rows, width = shape
    groups = width // form.group
    codes = np.empty((rows, width), np.uint8)
    scale, least = np.empty((rows, groups), np.float32), np.zeros((rows, groups), np.float32)
    each = max(1, _AT_ONCE // width)
    for first in range(0, rows, each):
        blocks = data[first : first + each].reshape(-1, size)
        if kind.name == "MXFP4" and (blocks[:, 0] == 255).any():
            raise Error("has a scale that is NaN; quantise the model again")

        def values(changes: Bytes, blocks: NDArray[np.uint8] = blocks) -> F32:
            changed = blocks.copy()
            for where, value in changes:
                changed[:, where] = value
            found = gguf.quants.dequantize(changed, kind)
            return np.asarray(found, np.float32).reshape(-1, width)

        part = slice(first, first + each)
        with np.errstate(all="ignore"):
            codes[part] = np.searchsorted(form.table, values(form.plain))
            scale[part] = values(form.unit)[:, :: form.group]
            if form.nil:
                least[part] = values(form.nil)[:, :: form.group]
    if not (np.isfinite(scale).all() and np.isfinite(least).all()):
        raise Error("has a scale that is NaN or infinite; quantise the model again")
    return _made(codes, form, scale, least)


def _made(codes: NDArray[np.uint8], form: Form, scale: F32, least: F32) -> Weight:
    bits = max(1, (len(form.table) - 1).bit_length())
    table = np.pad(form.table, (0, 2**bits - len(form.table)))[None]
    zero = None
    if form.nil:
        flat = (scale == 0) & (least != 0)  # a group of one value, which is what is added
        scale, least = np.where(flat, least, scale), np.where(flat, np.float32(1), least)
        codes = np.where(flat.repeat(form.group, axis=1), np.uint8(0), codes)
        zero = -np.divide(least, scale, out=np.zeros_like(scale), where=scale != 0)
        zero = np.where(flat, np.float32(-1), zero)
        if not np.isfinite(zero).all():
            raise Error("adds more to a group than its scale can hold; quantise the model again")
        zero = _halved(zero)
    return Weight(codes, table, _halved(scale), zero)


def _halved(values: F32) -> NDArray:
    """Floats of 16 bits, where these hold the values."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else values
