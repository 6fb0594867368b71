"""``scaled_dot_product_attention`` from PyTorch to ``relax.nn.attention``.

PyTorch would decompose it into products, transpositions and guards of masked rows, which no pass
could put together again. So it is kept whole wherever one operator of Relax says the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from tvm import relax, tirx

from gq_tvm.frontend.importer import Importer

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def is_kept(program: ExportedProgram) -> bool:
    """Whether every attention of a program can be kept whole."""
    calls = [node for node in program.graph.nodes if node.target is ATTENTION]
    return bool(calls) and all(map(_is_plain, calls))


def convert_attention(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit attention over heads in the layout [B, T, N, D], transposed from and to PyTorch's."""
    emit = importer.block_builder.emit
    options = _arguments(node)
    rank = options["query"].meta["val"].ndim

    def heads_last(x: relax.Expr) -> relax.Expr:
        if rank == 4:
            return emit(relax.op.permute_dims(x, [0, 2, 1, 3]))
        x = emit(relax.op.expand_dims(x, [0])) if rank == 2 else x
        return emit(relax.op.expand_dims(x, [2]))  # one head

    q, k, v = (heads_last(importer.env[options[name]]) for name in ("query", "key", "value"))
    mask = None
    if options["attn_mask"] is not None:
        mask = _mask(importer.env[options["attn_mask"]], rank, k.ty.shape[1], emit)
    scale = options["scale"]
    y = emit(
        relax.op.nn.attention(
            q,
            k,
            v,
            bias=mask,
            scale=None if scale is None else tirx.FloatImm("float32", float(scale)),
            causal_mask="TopLeft" if options["is_causal"] else None,
        )
    )
    if rank == 4:
        return emit(relax.op.permute_dims(y, [0, 2, 1, 3]))
    return emit(relax.op.squeeze(y, [2] if rank == 3 else [0, 2]))


def _mask(mask: relax.Expr, rank: int, keys: Any, emit: Any) -> relax.Expr:
    """The mask as numbers to add, f32 [B or 1, N or 1, T or 1, S]."""
    if str(mask.ty.dtype) == "bool":
        zero, minus = relax.const(0.0, "float32"), relax.const(-float("inf"), "float32")
        mask = emit(relax.op.where(mask, zero, minus))
    if rank == 3 and mask.ty.ndim == 3:
        mask = emit(relax.op.expand_dims(mask, [1]))
    if mask.ty.ndim < 4:
        mask = emit(relax.op.expand_dims(mask, list(range(4 - mask.ty.ndim))))
    *leading, last = mask.ty.shape
    if last == 1:
        mask = emit(relax.op.broadcast_to(mask, [*leading, keys]))
    return mask


def _arguments(node: fx.Node) -> dict[str, Any]:
    names = [argument.name for argument in ATTENTION._schema.arguments]
    defaults = {
        argument.name: argument.default_value
        for argument in ATTENTION._schema.arguments
        if argument.has_default_value()
    }
    return defaults | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _is_plain(node: fx.Node) -> bool:
    """Whether ``relax.nn.attention`` computes this call."""
    options = _arguments(node)
    q, k, v = (options[name].meta["val"] for name in ("query", "key", "value"))
    mask = options["attn_mask"].meta["val"] if options["attn_mask"] is not None else None
    return (
        2 <= q.ndim == k.ndim == v.ndim <= 4
        and all(one.dtype == torch.float32 for one in (q, k, v))
        and all(one.shape[:-2] == q.shape[:-2] for one in (k, v))
        and options["dropout_p"] == 0
        and (mask is None or (mask.dtype in (torch.float32, torch.bool) and mask.ndim <= q.ndim))
    )
