"""Slices ``x[:, start:end]`` where the size of the axis or the start is symbolic.

TVM ends open ones at the largest integer there is, and cannot tell the size of others whose end it
does not know to lie within the axis.
"""

from __future__ import annotations

import sys
from typing import Any

import tvm
from torch import fx
from tvm import relax, tirx

from gq_tvm.frontend.importer import Importer


def convert_slice(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit a slice that ends a known number of places before its axis does; others as TVM does.

    PyTorch's guards have made sure that it begins within the axis.
    """
    x, axis, start, end, step = [*importer.retrieve_args(node), *[None] * 4][:5]
    axis = 0 if axis is None else axis % x.ty.ndim
    shape = list(x.ty.shape)
    size = shape[axis]
    begin = _place(0 if start is None else start, size)
    stop = size if end is None or _is_open(end) else _place(end, size)
    behind = tvm.sym.Analyzer().simplify(size - stop)
    known = all(isinstance(one, int | tirx.IntImm) for one in (begin, size))
    whole = isinstance(begin, int) and begin == 0 and stop is size
    inside = isinstance(behind, tirx.IntImm) and behind.value >= 0
    if known or whole or not inside or step not in (None, 1):
        return importer._slice(node)
    cut = relax.op.strided_slice(x, [axis], [begin], [stop], assume_inbound=True)
    y = importer.block_builder.emit(cut)
    shape[axis] = tvm.sym.Analyzer().simplify(stop - begin)
    return importer.block_builder.match_cast(y, relax.TensorType(shape, x.ty.dtype))


def _is_open(end: Any) -> bool:
    return isinstance(end, int) and end >= sys.maxsize


def _place(at: Any, size: Any) -> Any:
    """A place on an axis; below 0 it counts from the end."""
    return size + at if isinstance(at, int) and at < 0 else at
