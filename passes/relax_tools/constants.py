"""What constants alone are computed to: arrays, or look-ups kept as they are spelled.

Exporters unpack codes, look them up, subtract zero points and multiply by scales, all of constants.
Multiplied out that is a float weight four times its size or more; kept apart it is a codebook.
Only what NumPy computes to the bit as TVM does is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst

from gq_tvm.passes.operators import RESHAPES, is_operator, shape_of
from gq_tvm.passes.relax_tools import dataflow

_MOST = 256  # entries of a table
_KEPT = 2**20  # bytes: what is larger, a float weight say, is rather computed again than held


@dataclass(frozen=True)
class LookUp:
    """``(tables[code] - zero) * scale``, each step rounded.

    Attributes:
        tables: Floats [T, L].
        codes: Of any shape, places in the flat tables.
        zero: f32, to be broadcast to the codes' shape; None for 0.
        scale: The same; None for 1.
    """

    tables: NDArray
    codes: NDArray
    zero: NDArray[np.float32] | None = None
    scale: NDArray[np.float32] | None = None

    def reshaped(self, change: Callable[[NDArray], NDArray]) -> LookUp:
        """With its elements moved."""
        whole = self.codes.shape
        zero, scale = (
            None if one is None else change(np.broadcast_to(one, whole))
            for one in (self.zero, self.scale)
        )
        return LookUp(self.tables, change(self.codes), zero, scale)

    def values(self) -> NDArray:
        """The floats themselves."""
        values = self.tables.reshape(-1)[self.codes]
        values = values if self.zero is None else values - self.zero
        return values if self.scale is None else values * self.scale


Known = NDArray | LookUp


class Constants:
    """What the constants of one function are computed to."""

    def __init__(self, function: relax.Function) -> None:
        self.values = dataflow.values(function)
        self._done: dict[relax.Var, Known | None] = {}

    def of(self, expr: relax.Expr) -> Known | None:
        """What an expression is, or None: it depends on inputs, or is computed in another way."""
        if isinstance(expr, GenericConst):
            return np.asarray(expr.value.numpy())
        if isinstance(expr, relax.Call):
            return self._call(expr)
        if not isinstance(expr, relax.Var) or expr not in self.values:
            return None
        if expr in self._done:
            return self._done[expr]
        known = self.of(self.values[expr])
        if not isinstance(known, np.ndarray) or known.nbytes <= _KEPT:
            self._done[expr] = known
        return known

    def behind(self, expr: relax.Expr) -> relax.Expr:
        """What a variable is bound to."""
        while isinstance(expr, relax.Var) and expr in self.values:
            expr = self.values[expr]
        return expr

    def leaves(self, expr: relax.Expr) -> list[relax.Expr]:
        """The constants and parameters that an expression is computed from."""
        leaves, waiting, seen = [], [expr], set()
        while waiting:
            one = waiting.pop()
            if isinstance(one, relax.Var):
                if one in seen:
                    continue
                seen.add(one)
            one = self.behind(one)
            if isinstance(one, relax.Call):
                waiting.extend(one.args)
            elif isinstance(one, relax.Tuple):
                waiting.extend(one.fields)
            elif isinstance(one, relax.TupleGetItem):
                waiting.append(one.tuple_value)
            elif isinstance(one, GenericConst | relax.Var):
                leaves.append(one)
        return leaves

    def _call(self, call: relax.Call) -> Known | None:
        name = str(getattr(call.op, "name", ""))
        rule = _RULES.get(name)
        if rule is None or not isinstance(call.ty, relax.TensorType) or call.ty.shape is None:
            return None
        shape = shape_of(call)
        if not all(isinstance(size, int) for size in shape):
            return None
        first = self.behind(call.args[0]) if call.args else None
        given = list(first.fields) if isinstance(first, relax.Tuple) else list(call.args)
        if name in _MOVES:
            given = given[:1]
        elif name in _INDEXED:
            return self._indexed(call, shape)
        known = [self.of(one) for one in given]
        if any(one is None for one in known):
            return None
        return rule(call, shape, known)

    def _indexed(self, call: relax.Call, shape: list[int]) -> Known | None:
        indices = self.behind(call.args[1])
        fields = list(indices.fields) if isinstance(indices, relax.Tuple) else [indices]
        data = _array(self.of(call.args[0]))
        arrays = [_array(self.of(one)) for one in fields]
        places = [one for one in arrays if one is not None and one.dtype.kind in "iu"]
        if data is None or len(places) < len(arrays):
            return None
        flat = _INDEXED[call.op.name](call, data, places)
        if flat is None or list(flat.shape) != shape:
            return None
        rows = is_operator(call, "relax.take") and data.ndim > 1
        if data.dtype.kind != "f" or rows or not 0 < data.size <= flat.size:
            return data.reshape(-1)[flat]
        entries = next((size for size in reversed(data.shape) if size > 1), 1)
        return LookUp(data.reshape(-1, entries), flat)


def _array(known: Known | None) -> NDArray | None:
    return known.values() if isinstance(known, LookUp) else known


def _moved(change: Callable[[relax.Call, list[int], NDArray], NDArray]) -> Any:
    """A rule of an operator that moves elements."""

    def rule(call: relax.Call, shape: list[int], known: list[Known]) -> Known:
        (one,) = known
        if isinstance(one, LookUp):
            return one.reshaped(lambda array: change(call, shape, array))
        return change(call, shape, one)

    return rule


def _transposed(call: relax.Call, _: list[int], array: NDArray) -> NDArray:
    axes = call.attrs.axes
    return array.transpose(None if axes is None else [int(axis) for axis in axes])


def _repeated(call: relax.Call, _: list[int], array: NDArray) -> NDArray:
    axis = call.attrs.axis
    return array.repeat(int(call.attrs.repeats), None if axis is None else int(axis))


def _sliced(call: relax.Call, shape: list[int], array: NDArray) -> NDArray:
    axes, begins, *_ = ([int(one.value) for one in part.fields] for part in call.args[1:])
    steps = (
        [int(one.value) for one in call.args[4].fields] if len(call.args) > 4 else [1] * len(axes)
    )
    slices = [slice(None)] * array.ndim
    for axis, begin, step in zip(axes, begins, steps, strict=True):
        begin = begin + array.shape[axis] if begin < 0 else begin
        slices[axis] = slice(begin, begin + shape[axis] * step, step)
    return array[tuple(slices)]


def _cast(call: relax.Call, _: list[int], known: list[Known]) -> Known | None:
    (one,), dtype = known, str(call.ty.dtype)
    if dtype not in _DTYPES:
        return None
    if not isinstance(one, LookUp):
        return (
            _integers(one) if one.dtype.kind in "iu" and dtype == "float32" else one.astype(dtype)
        )
    if one.zero is None and one.scale is None and dtype == "float32":
        return replace(one, tables=one.tables.astype(np.float32))
    return one.values().astype(dtype)


_DTYPES = ("float32", "float16", "bool", "uint8", "int8", "int16", "int32", "int64")


def _integers(codes: NDArray) -> Known:
    """Integers as floats: a look-up of themselves, where they are few."""
    least, most = (int(codes.min()), int(codes.max())) if codes.size else (0, _MOST)
    if most - least >= _MOST or max(-least, most) > 2**24:
        return codes.astype(np.float32)
    table = np.arange(least, most + 1, dtype=np.float32)[None]
    wide = codes if least == 0 else codes.astype(np.int16 if -least < 2**14 else np.int64) - least
    return LookUp(table, wide.astype(np.uint8))


def _arithmetic(compute: Callable[[NDArray, NDArray], NDArray]) -> Any:
    """A rule of an operator on two arrays; of a look-up it is a scale or a zero point."""

    def rule(call: relax.Call, shape: list[int], known: list[Known]) -> Known | None:
        if str(call.ty.dtype) not in _DTYPES:
            return None
        kept = _kept(str(call.op.name), shape, known)
        if kept is not None:
            return kept
        one, other = (_array(each) for each in known)
        if one is None or other is None or one.dtype != other.dtype:
            return None
        with np.errstate(all="ignore"):
            result = compute(one, other)
        return result.astype(str(call.ty.dtype))

    return rule


def _kept(name: str, shape: list[int], known: list[Known]) -> LookUp | None:
    if name not in ("relax.multiply", "relax.subtract", "relax.add"):
        return None
    one, other = known
    larger = not isinstance(one, LookUp) or (
        isinstance(other, LookUp) and other.codes.size > one.codes.size
    )
    if larger and name != "relax.subtract":
        one, other = other, one
    array = _array(other)
    if not isinstance(one, LookUp) or array is None or list(one.codes.shape) != shape:
        return None
    if one.tables.dtype != np.float32 or array.dtype != np.float32 or one.scale is not None:
        return None
    if name == "relax.multiply":
        return replace(one, scale=array)
    if one.zero is not None:
        return None
    return replace(one, zero=array if name == "relax.subtract" else -array)


def _joined(call: relax.Call, _: list[int], known: list[Known]) -> NDArray:
    axis = call.attrs.axis
    arrays: list[Any] = [_array(one) for one in known]
    return np.concatenate(arrays, None if axis is None else int(axis))


def _stacked(call: relax.Call, _: list[int], known: list[Known]) -> NDArray:
    arrays: list[Any] = [_array(one) for one in known]
    return np.stack(arrays, int(call.attrs.axis))


def _taken(call: relax.Call, data: NDArray, places: Sequence[NDArray]) -> NDArray | None:
    axis = 0 if call.attrs.axis is None else int(call.attrs.axis)
    (indices,) = places
    if axis != 0 or (call.attrs.axis is None and data.ndim > 1) or data.ndim < 1:
        return None
    if not _within(indices, data.shape[0]):
        return None
    if data.ndim == 1:
        return indices
    return np.arange(data.size).reshape(data.shape)[indices]


def _gathered(call: relax.Call, data: NDArray, places: Sequence[NDArray]) -> NDArray | None:
    (indices,), axis = places, int(call.attrs.axis) % data.ndim
    if not _within(indices, data.shape[axis]):
        return None
    if any(
        size > whole
        for at, (size, whole) in enumerate(zip(indices.shape, data.shape, strict=True))
        if at != axis
    ):
        return None
    where: list[NDArray] = list(np.indices(indices.shape, sparse=True))
    where[axis] = indices.astype(np.int64)
    return _flat(where, data.shape)


def _jointly(_: relax.Call, data: NDArray, places: Sequence[NDArray]) -> NDArray | None:
    count = len(places)
    if any(size > 1 for size in data.shape[count:]) or not all(map(_within, places, data.shape)):
        return None
    flat = _flat([one.astype(np.int64) for one in places], data.shape[:count])
    return flat.reshape(*flat.shape, *data.shape[count:])


def _flat(where: Sequence[NDArray], shape: Sequence[int]) -> NDArray:
    flat: Any = 0
    for one, size in zip(where, shape, strict=True):
        flat = flat * size + one
    return np.asarray(flat)


def _within(indices: NDArray, count: int) -> bool:
    return not indices.size or 0 <= int(indices.min()) <= int(indices.max()) < count


_INDEXED: dict[str, Callable[[relax.Call, NDArray, Sequence[NDArray]], NDArray | None]] = {
    "relax.take": _taken,
    "relax.gather_elements": _gathered,
    "relax.index_tensor": _jointly,
}

_MOVES: dict[str, Any] = {
    **dict.fromkeys(RESHAPES, _moved(lambda call, shape, array: array.reshape(shape))),
    "relax.broadcast_to": _moved(lambda call, shape, array: np.broadcast_to(array, shape)),
    "relax.permute_dims": _moved(_transposed),
    "relax.repeat": _moved(_repeated),
    "relax.strided_slice": _moved(_sliced),
}

_RULES: dict[str, Any] = {
    **_MOVES,
    "relax.astype": _cast,
    "relax.multiply": _arithmetic(np.multiply),
    "relax.subtract": _arithmetic(np.subtract),
    "relax.add": _arithmetic(np.add),
    "relax.bitwise_and": _arithmetic(np.bitwise_and),
    "relax.bitwise_or": _arithmetic(np.bitwise_or),
    "relax.left_shift": _arithmetic(np.left_shift),
    "relax.right_shift": _arithmetic(np.right_shift),
    "relax.concat": _joined,
    "relax.stack": _stacked,
    **dict.fromkeys(_INDEXED, lambda *_: None),
}
