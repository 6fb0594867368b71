"""Concatenation, as PyTorch does it: tensors of the shape [0] are left out, whatever their rank."""

from __future__ import annotations

from typing import Any

from torch import fx
from tvm import relax

from gq_tvm.frontend.importer import Importer


def convert_cat(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit a concatenation, in PyTorch's dtype for all of its parts."""
    parts: Any = node.args[0]
    kept = [one for one in parts if tuple(one.meta["val"].shape) != (0,)] or parts[:1]
    dtype = importer.dtype_of(node.meta["val"].dtype)
    emit = importer.block_builder.emit
    values = [importer.env[one] for one in kept]
    values = [x if str(x.ty.dtype) == dtype else emit(relax.op.astype(x, dtype)) for x in values]
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if len(values) == 1:
        return values[0]
    return emit(relax.op.concat(values, axis=axis))
