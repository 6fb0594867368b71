"""Reductions TVM's importer lacks or gets wrong, of operands in the dtype `promotion` says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx
from tvm import relax

from gq_tvm.frontend.importer import Importer


def _convert_by(operator: Callable[..., relax.Expr]) -> Callable[[fx.Node, Importer], relax.Expr]:
    """A converter for ``f(x, dim, keepdim)`` by an operator of Relax's."""

    def convert(node: fx.Node, importer: Importer) -> relax.Expr:
        x, axes, keep = _arguments(node, importer)
        return importer.block_builder.emit(operator(x, axes, keepdims=keep))

    return convert


def _convert_any(node: fx.Node, importer: Importer) -> relax.Expr:
    x, axes, keep = _arguments(node, importer)
    emit = importer.block_builder.emit
    if str(x.ty.dtype) != "bool":
        x = emit(relax.op.not_equal(x, relax.const(0, x.ty.dtype)))
    number = emit(relax.op.astype(x, "int8"))  # TVM has no maximum of bools
    return emit(relax.op.astype(emit(relax.op.max(number, axes, keepdims=keep)), "bool"))


def _convert_extreme(largest: bool) -> Callable[[fx.Node, Importer], Any]:
    """A converter for ``max`` and ``min`` along an axis: the values, and where they are."""

    def convert(node: fx.Node, importer: Importer) -> Any:
        x, axes, keep = _arguments(node, importer)
        axis = (axes or [0])[0]
        emit = importer.block_builder.emit
        found = emit(
            relax.op.topk(x, k=1, axis=axis, largest=largest, ret_type="both", dtype="int64")
        )
        both = [emit(found[0]), emit(found[1])]
        return both if keep else [emit(relax.op.squeeze(one, [axis])) for one in both]

    return convert


def _arguments(node: fx.Node, importer: Importer) -> tuple[relax.Expr, list[int] | None, bool]:
    """The operand, the axes (None is all of them) and whether they stay."""
    given = dict(zip(("x", "dim", "keepdim"), importer.retrieve_args(node), strict=False))
    given = {**given, **node.kwargs}
    axes = given.get("dim")
    axes = [axes] if isinstance(axes, int) else [*(axes or ())]
    return given["x"], axes or None, bool(given.get("keepdim", False))


CONVERTERS = {
    "prod.dim_int": _convert_by(relax.op.prod),
    "amax.default": _convert_by(relax.op.max),
    "amin.default": _convert_by(relax.op.min),
    "any.default": _convert_any,
    "any.dim": _convert_any,
    "any.dims": _convert_any,
    "max.dim": _convert_extreme(largest=True),
    "min.dim": _convert_extreme(largest=False),
}
