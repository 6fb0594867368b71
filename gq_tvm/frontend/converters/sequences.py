"""Sequences of numbers, ``torch.arange`` and its like.

Where all their arguments are known PyTorch makes them, and they are constants. TVM counts the
elements wrongly where a step is negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx
from tvm import relax

from gq_tvm.frontend.importer import Importer
from gq_tvm.frontend.places import name_of

MAKERS = (
    "arange.default",
    "arange.start",
    "arange.start_step",
    "linspace.default",
    "logspace.default",
    "eye.default",
    "eye.m",
    "tril_indices.default",
    "triu_indices.default",
    *(
        f"{window}_window.{overload}"
        for window in ("hann", "hamming", "blackman", "bartlett", "kaiser")
        for overload in ("default", "periodic")
    ),
)


def convert_sequence(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit a sequence: a constant, or what TVM computes if a size is known at run time only."""
    if any(isinstance(one, fx.Node) for one in [*node.args, *node.kwargs.values()]):
        return _computed(node, importer)
    options = {key: one for key, one in node.kwargs.items() if key not in ("device", "pin_memory")}
    make: Any = node.target
    made = make(*node.args, **{**options, "dtype": node.meta["val"].dtype})
    return importer.block_builder.emit(relax.const(np.ascontiguousarray(made.numpy())))


def _computed(node: fx.Node, importer: Importer) -> relax.Expr:
    if not name_of(node).startswith("arange"):
        return importer.plain(node)
    values: list[Any] = importer.retrieve_args(node)
    start, end, step = [0, values[0], 1] if len(values) == 1 else [*values, 1][:3]
    dtype = importer.dtype_of(node.meta["val"].dtype)
    falling = isinstance(step, int | float) and step < 0
    if falling:  # the negative of a rising one
        start, end, step = -1 * start, -1 * end, -step
    y = importer.block_builder.emit(relax.op.arange(start, end, step, dtype))
    return importer.block_builder.emit(relax.op.negative(y)) if falling else y
