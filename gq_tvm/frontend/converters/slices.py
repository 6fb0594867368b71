"""Open-ended slices, ``x[:, start:]``, where the size of the axis or the start is symbolic.

TVM ends them at the largest integer there is and then cannot tell their size.
"""

from __future__ import annotations

import sys

import tvm
from torch import fx
from tvm import relax, tirx

from gq_tvm.frontend.importer import Importer


def convert_slice(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit a slice that ends where its axis does; any other as TVM does.

    PyTorch's guards have made sure that it begins within the axis.
    """
    x, axis, start, end, step = [*importer.retrieve_args(node), *[None] * 4][:5]
    axis = 0 if axis is None else axis % x.ty.ndim
    start = 0 if start is None else start
    shape = list(x.ty.shape)
    open_ended = end is None or (isinstance(end, int) and end >= sys.maxsize)
    known = all(isinstance(one, int | tirx.IntImm) for one in (start, shape[axis]))
    if not open_ended or known or step not in (None, 1) or (isinstance(start, int) and start == 0):
        return importer._slice(node)
    size = shape[axis]
    begin = size + start if isinstance(start, int) and start < 0 else start
    y = importer.block_builder.emit(relax.op.strided_slice(x, [axis], [begin], [size]))
    shape[axis] = tvm.sym.Analyzer().simplify(size - begin)
    return importer.block_builder.match_cast(y, relax.TensorType(shape, x.ty.dtype))
