"""What flows along the edges of a graph: tensors, and numbers known while it is traced.

Shapes and what is computed from them are never tensors: torch.export can only tell a size from
data while it is a Python integer or a ``SymInt``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from gq_tvm.errors import Error

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.BOOL: torch.bool,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.UINT16: torch.uint16,
    TensorProto.INT32: torch.int32,
    TensorProto.UINT32: torch.uint32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT64: torch.uint64,
}
_MOST_NUMBERS = 1024  # integers of a constant that is a shape, a list of axes or the like
_MOST_FLOATS = 8  # as the scales of a Resize


@dataclass(frozen=True)
class Host:
    """Numbers known while the graph is traced.

    Attributes:
        array: They, any shape; of dtype object where one is a ``SymInt`` or the like.
        dtype: That of the tensor it stands for.
    """

    array: NDArray
    dtype: torch.dtype

    @property
    def is_constant(self) -> bool:
        """Whether no size known at run time is in it."""
        return self.array.dtype != object

    def numbers(self) -> list[Any]:
        """All of them, in order, as Python numbers or symbols."""
        return list(self.array.reshape(-1).tolist())

    def number(self) -> Any:
        """The one there is."""
        (one,) = self.numbers()
        return one

    def tensor(self) -> Tensor:
        """The same as a tensor."""
        if self.is_constant:
            return torch.tensor(self.array.tolist(), dtype=self.dtype).reshape(self.array.shape)
        parts = [torch.full((), one, dtype=self.dtype) for one in self.numbers()]
        return torch.stack(parts).reshape(self.array.shape) if self.array.ndim else parts[0]


Value = Tensor | Host


def host(values: Any, dtype: torch.dtype = torch.int64) -> Host:
    """Numbers, or an array of them, some perhaps symbols."""
    if isinstance(values, np.ndarray):
        array = values
    else:
        flat = list(values) if isinstance(values, Iterable) else [values]
        array = np.empty(len(flat), object)
        array[:] = flat
        array = array if isinstance(values, Iterable) else array.reshape(())
    if array.dtype == object and not any(map(is_symbol, array.reshape(-1))):
        array = np.array(array.tolist()).reshape(array.shape)
    if array.dtype != object:
        array = array.astype(numpy_dtype(dtype))
    return Host(array, dtype)


def is_symbol(one: Any) -> bool:
    """Whether a number is known at run time only."""
    return isinstance(one, torch.SymInt | torch.SymFloat | torch.SymBool)


def is_small(array: NDArray) -> bool:
    """Whether a constant may be the size of something, and not a weight."""
    if array.dtype.kind in "iub":
        return array.size <= _MOST_NUMBERS
    return array.dtype.kind == "f" and array.size <= _MOST_FLOATS and array.ndim <= 1


def tensor_of(value: Value) -> Tensor:
    """A value as a tensor."""
    return value.tensor() if isinstance(value, Host) else value


def torch_dtype(number: int) -> torch.dtype:
    """The dtype of an element type of ONNX.

    Raises:
        Error: there is none.
    """
    if number not in DTYPES:
        name = TensorProto.DataType.Name(number) if number in _NAMED else str(number)
        raise Error(f"the element type {name} has no tensors here; cast to another in the model")
    return DTYPES[number]


def from_numpy(array: NDArray) -> Tensor:
    """An array as a tensor, its memory shared where it can be."""
    if array.dtype.name == "bfloat16":
        return from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if array.dtype.name in _IN_BYTES:
        array = array.astype(_IN_BYTES[array.dtype.name])
    with warnings.catch_warnings():  # of memory that must not be written to: nobody does
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)


def numpy_dtype(dtype: torch.dtype) -> Any:
    """NumPy's name of a dtype; bfloat16 is float32 there."""
    return "float32" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch.")


def dtype_of(array: NDArray) -> torch.dtype:
    """The dtype of the tensor that an array becomes."""
    name = str(_IN_BYTES.get(array.dtype.name, array.dtype.name))
    found: torch.dtype = getattr(torch, name)
    return found


_NAMED = set(TensorProto.DataType.values())
_IN_BYTES = {"int4": "int8", "int2": "int8", "uint4": "uint8", "uint2": "uint8"}
