"""Concatenations and slices that lie together in memory become plain copies of runs.

TVM decides for each element of a concatenation whence it comes, and makes a copy of each slice
before. A streaming model keeps its state by just these: ``cat([state[layer], new], 1)`` is two
runs, and the stack of ``[:, frames:]`` of the results one for each. What is no run is left to TVM:
other dtypes, pieces of several rows, steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir import GenericConst, IRModule

from gq_tvm.passes.operators import RESHAPES, is_float, is_operator, shape_of, simplified, volume
from gq_tvm.passes.relax_tools.dataflow import Values, values
from gq_tvm.passes.relax_tools.kernels import Kernels
from gq_tvm.passes.relax_tools.rewriter import BindingRewriter, ModulePass
from gq_tvm.schedules.cpu.float_ops import lanes_of
from gq_tvm.schedules.cpu.float_ops.runs import Run, join_runs
from gq_tvm.targets import Target


@tvm.transform.module_pass(opt_level=0)
class LowerCopies(ModulePass):
    """``concat``, and the ``strided_slice`` and ``take`` it reads, become calls of one kernel."""

    def __init__(self, target: Target) -> None:
        self.lanes = lanes_of(target)

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function; slices come last, as a concatenation may read them in place."""
        kernels = Kernels()
        for piece in (_joined, _sliced):
            module = self._rewritten(module, kernels, piece)
        return module

    def _rewritten(
        self, module: IRModule, kernels: Kernels, pieces: Callable[..., list[_Piece] | None]
    ) -> IRModule:
        new: dict[relax.Var, relax.Expr] = {}
        rewriter = BindingRewriter(module, new)
        for _, function in module.functions_items():
            if isinstance(function, relax.Function):
                value_of = values(function)
                for var, value in value_of.items():
                    found = pieces(value, value_of)
                    if found is not None:
                        new[var] = self._call(rewriter, kernels, var, found)
        return rewriter.run() if new else module

    def _call(
        self, rewriter: BindingRewriter, kernels: Kernels, var: relax.Var, pieces: list[_Piece]
    ) -> relax.Expr:
        runs = tuple(piece.run for piece in pieces)
        kernel = kernels.get(rewriter, ("join", *runs), lambda: join_runs(self.lanes, runs))
        shape = shape_of(var)
        flat = [relax.op.reshape(one.source, [volume(shape_of(one.source))]) for one in pieces]
        out = relax.TensorType([volume(shape)], "float32")
        return relax.op.reshape(relax.call_tir(kernel, flat, out), shape)


@dataclass
class _Piece:
    """Elements ``first`` to ``first + length`` of a tensor, in C order."""

    source: relax.Expr
    first: Any
    length: Any

    @property
    def run(self) -> Run:
        """How the kernel knows it."""
        size = volume(shape_of(self.source))
        known = size if isinstance(size, int) else None
        length = self.length if isinstance(self.length, int) else None
        return Run(known, self.first if isinstance(self.first, int) else None, length)

    @property
    def plain(self) -> bool:
        """Whether a kernel's run can say it."""
        size = volume(shape_of(self.source))
        last = simplified(size - self.first - self.length)
        if isinstance(self.first, int):
            return isinstance(self.length, int) or (isinstance(last, int) and last == 0)
        return isinstance(self.length, int) and isinstance(last, int) and last == 0


def _joined(value: relax.Expr, value_of: Values) -> list[_Piece] | None:
    """The pieces of a concatenation that lie one behind the other."""
    if not is_operator(value, "relax.concat") or not is_float(value):
        return None
    axis = value.attrs.axis
    parts = value_of.get(value.args[0], value.args[0])
    if axis is None or not isinstance(parts, relax.Tuple):
        return None
    if volume(shape_of(value)[: int(axis) % value.ty.ndim]) != 1:
        return None
    pieces = [_piece(part, value_of) for part in parts.fields]
    return pieces if all(piece.plain for piece in pieces) else None


def _sliced(value: relax.Expr, value_of: Values) -> list[_Piece] | None:
    """The one piece of a slice whose start is known only at run time."""
    if not is_operator(value, "relax.strided_slice") or not is_float(value):
        return None
    piece = _slice(value, value_of)
    if piece is None or not piece.plain or isinstance(piece.first, int):
        return None
    return [piece]


def _piece(part: relax.Expr, value_of: Values) -> _Piece:
    """A part of a concatenation as a piece of what it was cut from."""
    size = volume(shape_of(part))
    value = value_of.get(part)
    if isinstance(value, relax.Var):
        cast = _piece(value, value_of)
        return _Piece(cast.source, cast.first, size)  # of a cast, the shape that is known
    inner: _Piece | None = None
    if is_operator(value, *RESHAPES):
        inner = _piece(value.args[0], value_of)
    elif is_operator(value, "relax.strided_slice"):
        inner = _slice(value, value_of)
    elif is_operator(value, "relax.take"):
        inner = _taken(value, value_of)
    if inner is None or not inner.plain:
        return _Piece(part, 0, size)
    return inner


def _slice(call: relax.Call, value_of: Values) -> _Piece | None:
    """A slice along one axis, with ones before it."""
    x, axes, begin, end, *step = call.args
    if len(axes.fields) != 1 or (step and any(_number(one) != 1 for one in step[0].fields)):
        return None
    shape = shape_of(x)
    axis = int(_number(axes.fields[0]) or 0) % len(shape)
    first, last = (_size(one.fields[0]) for one in (begin, end))
    if volume(shape[:axis]) != 1 or simplified(last - shape[axis]) != 0:
        return None
    inside = volume(shape[axis + 1 :])
    if isinstance(first, int) and first < 0:
        return None
    return _within(x, first * inside, (shape[axis] - first) * inside, value_of)


def _taken(call: relax.Call, value_of: Values) -> _Piece | None:
    """One place of an axis, with ones before it."""
    x, index = call.args
    shape = shape_of(x)
    if not isinstance(index, GenericConst) or index.ty.ndim or call.attrs.axis is None:
        return None
    axis, place = int(call.attrs.axis) % len(shape), int(index.value.numpy())
    inside = volume(shape[axis + 1 :])
    known = isinstance(shape[axis], int) and isinstance(inside, int)
    if volume(shape[:axis]) != 1 or not known or not 0 <= place < shape[axis]:
        return None
    return _within(x, place * inside, inside, value_of)


def _within(x: relax.Expr, first: Any, length: Any, value_of: Values) -> _Piece:
    """A piece of `x`, which may be one itself."""
    outer = _piece(x, value_of)
    return _Piece(outer.source, simplified(outer.first + first), simplified(length))


def _size(expr: Any) -> Any:
    number = _number(expr)
    return expr if number is None else number


def _number(expr: Any) -> int | None:
    if isinstance(expr, int):
        return expr
    return int(expr) if isinstance(expr, tirx.IntImm) else None
