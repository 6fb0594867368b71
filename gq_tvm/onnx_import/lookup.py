"""Constants that are indices into a table, kept as such while a graph is folded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gq_tvm.onnx_import.registry import STANDARD, Node
from gq_tvm.ops.checks import GROUPS

_MOST_CENTROIDS = 256
_LEAST_CODES = 256  # a smaller look-up is not worth keeping


@dataclass(frozen=True, eq=False)
class Lookup:
    """``(table[codes] - zero) * scale``, element by element.

    Attributes:
        codes: u8, any shape.
        table: f32 [n], n up to 256.
        scale: f32 with the axes of `codes`, of each 1 or ``ceil(size / block)`` long; None for 1.
        zero: The same, None for 0.
        block: Along each axis, how many neighbours share a scale.
    """

    codes: NDArray[np.uint8]
    table: NDArray[np.float32]
    scale: NDArray[np.float32] | None = None
    zero: NDArray[np.float32] | None = None
    block: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor it stands for."""
        return self.codes.shape

    def dense(self) -> NDArray[np.float32]:
        """The floats: differences and products rounded to f32, as DequantizeLinear has them."""
        values = self.table[self.codes]
        if self.zero is not None:
            values = values - self._spread(self.zero)
        return values if self.scale is None else values * self._spread(self.scale)

    def transposed(self, axes: Sequence[int]) -> Lookup:
        """Its axes in another order."""
        return Lookup(
            np.ascontiguousarray(self.codes.transpose(axes)),
            self.table,
            None if self.scale is None else self.scale.transpose(axes),
            None if self.zero is None else self.zero.transpose(axes),
            tuple(self.block[one] for one in axes) if self.block else (),
        )

    def reshaped(self, shape: Sequence[int]) -> Lookup | None:
        """In another shape; None if its scales do not follow."""
        if any(one is not None and one.size > 1 for one in (self.scale, self.zero)):
            return None
        ones = (1,) * len(shape)
        return replace(
            self,
            codes=self.codes.reshape(shape),
            scale=None if self.scale is None else self.scale.reshape(ones),
            zero=None if self.zero is None else self.zero.reshape(ones),
            block=ones,
        )

    def weight(self) -> dict[str, NDArray] | None:
        """What the codebook operators take of a weight [N, K]: by the name of their argument.

        Returns:
            None if its scales belong to columns, or to groups that no kernel knows.
        """
        if self.codes.ndim != 2 or not np.isfinite(self.table).all():
            return None
        bits = max(1, int(np.ceil(np.log2(len(self.table)))))
        table = np.zeros((1, 2**bits), np.float32)
        table[0, : len(self.table)] = self.table
        found: dict[str, NDArray] = {"indices": self.codes, "codebook": table}
        (rows, width), given = self.codes.shape, [self.scale, self.zero]
        spread = [None if one is None else self._along(one, 0)[:, : one.shape[1]] for one in given]
        if all(one is None or (one == one[:, :1]).all() for one in spread):
            spread = [None if one is None else one[:, :1] for one in spread]
        columns = max((one.shape[1] for one in spread if one is not None), default=1)
        if columns > 1 and (self.block[1] not in GROUPS or -(-width // self.block[1]) != columns):
            return None
        for name, one in zip(("scale", "zero"), spread, strict=True):
            if one is not None or (name == "scale" and self.zero is not None):
                full = np.ones((rows, 1), np.float32) if one is None else one
                whole = np.broadcast_to(full, (rows, columns)).astype(np.float32)
                found[name] = whole if columns > 1 else whole[:, 0].copy()
        return found

    def _along(self, values: NDArray, axis: int) -> NDArray:
        size = self.codes.shape[axis]
        if values.shape[axis] == 1:
            shape = list(values.shape)
            shape[axis] = size
            return np.broadcast_to(values, shape)
        return values.take(np.arange(size) // self.block[axis], axis)

    def _spread(self, values: NDArray) -> NDArray:
        for axis in range(self.codes.ndim):
            if values.shape[axis] > 1:
                values = self._along(values, axis)
        return values


def coded(array: NDArray) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
    """Values of a small type as codes and the table of what these mean; None if it has many."""
    name = array.dtype.name
    if name in ("uint8", "uint4", "uint2"):
        return array.astype(np.uint8), np.arange(2 ** int(name[4:]), dtype=np.float32)
    if name in ("int8", "int4", "int2"):
        half = 2 ** (int(name[3:]) - 1)
        codes = (array.astype(np.int16) + half).astype(np.uint8)
        return codes, np.arange(-half, half, dtype=np.float32)
    if name.startswith("float8") or name == "float4_e2m1fn":
        codes = array.view(np.uint8)
        count = 256 if name.startswith("float8") else 16
        return codes, np.arange(count, dtype=np.uint8).view(array.dtype).astype(np.float32)
    return None


def dequantised(node: Node, given: Sequence[Any]) -> Lookup | None:
    """DequantizeLinear of constants: per tensor, along an axis, or in blocks along one."""
    array, scale, zero = [*given, None][:3]
    found = coded(array) if isinstance(array, np.ndarray) else None
    if found is None or not isinstance(scale, np.ndarray) or scale.dtype != np.float32:
        return None
    codes, table = found
    axis = int(node.get("axis", 1))
    axis += codes.ndim if axis < 0 else 0
    block = int(node.get("block_size", 0)) or 1
    shape = list(scale.shape) if scale.ndim == codes.ndim and node.get("block_size") else None
    if shape is None:
        shape = [1] * codes.ndim
        if scale.size > 1:
            shape[axis] = scale.size
    blocks = [1] * codes.ndim
    if codes.ndim:
        blocks[min(axis, codes.ndim - 1)] = block
    if zero is not None:
        zero = np.asarray(zero).astype(np.float32).reshape(shape)
    if zero is not None and not zero.any():
        zero = None
    return Lookup(codes, table, scale.reshape(shape), zero, tuple(blocks))


def _gathered(node: Node, given: Sequence[Any]) -> Lookup | None:
    table, codes = given
    if not isinstance(table, np.ndarray) or not isinstance(codes, np.ndarray):
        return None
    if node.operator == "GatherND" and (codes.shape[-1:] != (1,) or node.get("batch_dims")):
        return None
    if node.operator == "GatherND":
        codes = codes[..., 0]
    if table.dtype != np.float32 or table.ndim != 1 or not 0 < table.size <= _MOST_CENTROIDS:
        return None
    if codes.size < _LEAST_CODES or codes.min() < -table.size or codes.max() >= table.size:
        return None
    return Lookup(np.where(codes < 0, codes + table.size, codes).astype(np.uint8), table)


def _moved(node: Node, given: Sequence[Any]) -> Lookup | None:
    if not isinstance(given[0], Lookup):
        return None
    axes = node.get("perm") or list(range(len(given[0].shape)))[::-1]
    return given[0].transposed(axes)


def _reshaped(node: Node, given: Sequence[Any]) -> Lookup | None:
    if not isinstance(given[0], Lookup) or (len(given) > 1 and given[1] is None):
        return None
    wanted = given[1].tolist() if len(given) > 1 else None
    if node.operator == "Reshape":
        old = given[0].shape
        if wanted is None:
            return None
        return given[0].reshaped([old[n] if one == 0 else one for n, one in enumerate(wanted)])
    like = np.empty(given[0].shape, np.bool_)
    axes = wanted if wanted is not None else node.get("axes")
    if node.operator == "Squeeze":
        shape = np.squeeze(like, tuple(axes) if axes is not None else None).shape
    else:
        shape = np.expand_dims(like, tuple(axes)).shape
    return given[0].reshaped(shape)


def _same(node: Node, given: Sequence[Any]) -> Lookup | None:
    kept = node.operator == "Identity" or node.get("to") == 1
    return given[0] if kept and isinstance(given[0], Lookup) else None


_RULES: dict[str, Callable[[Node, Sequence[Any]], Lookup | None]] = {
    "DequantizeLinear": dequantised,
    "Gather": _gathered,
    "GatherND": _gathered,
    "Transpose": _moved,
    "Reshape": _reshaped,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "Identity": _same,
    "Cast": _same,
}


def folded(node: Node, given: Sequence[Any]) -> Lookup | None:
    """The look-up that a node of constants gives, None if it gives none."""
    rule = _RULES.get(node.operator) if node.domain == STANDARD else None
    return rule(node, given) if rule and given else None
