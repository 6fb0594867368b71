"""Arithmetic that TVM's importer does in the wrong dtype, for floats only, or without a factor."""

from __future__ import annotations

from typing import Any

from torch import fx
from tvm import relax

from gq_tvm.frontend.importer import Importer
from gq_tvm.frontend.places import name_of

_PRODUCTS = (2, 3, 4)  # powers that products compute


def _convert_product(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit a matrix product in the dtype of its operands, which TVM makes float32."""
    x, y = importer.retrieve_args(node)
    return importer.block_builder.emit(relax.op.matmul(x, y))


def _convert_sum(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit ``x + alpha * y``, or the difference; TVM forgets the factor."""
    alpha = node.kwargs.get("alpha", 1)
    if alpha == 1:
        return importer.plain(node)
    x, y = importer.retrieve_args(node)
    emit = importer.block_builder.emit
    operator = relax.op.add if name_of(node).startswith("add") else relax.op.subtract
    if not isinstance(y, relax.Expr):
        return emit(operator(x, relax.const(alpha * y, x.ty.dtype)))
    return emit(operator(x, emit(relax.op.multiply(y, relax.const(alpha, y.ty.dtype)))))


def _convert_power(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit a power: a small whole one as products; of integers through float64, as TVM has none."""
    x, y = importer.retrieve_args(node)
    emit = importer.block_builder.emit
    if isinstance(y, int | float) and y in _PRODUCTS:
        product = x
        for _ in range(int(y) - 1):
            product = emit(relax.op.multiply(product, x))
        return product
    dtype = next(str(one.ty.dtype) for one in (x, y) if isinstance(one, relax.Expr))
    if not dtype.startswith(("int", "uint")) or y == 0:
        return importer.plain(node)
    base, exponent = (
        emit(relax.op.astype(one, "float64"))
        if isinstance(one, relax.Expr)
        else relax.const(one, "float64")
        for one in (x, y)
    )
    return emit(relax.op.astype(emit(relax.op.power(base, exponent)), dtype))


def _convert_clamp(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit a clamp; of integers without the infinities that stand for an absent bound."""
    x, *bounds = importer.retrieve_args(node)
    given = dict(zip(("min", "max"), bounds, strict=False)) | dict(node.kwargs)
    dtype = str(x.ty.dtype)
    numbers = all(not isinstance(one, relax.Expr) for one in given.values())
    if dtype.startswith("float") or not numbers:
        return importer.plain(node)
    emit = importer.block_builder.emit
    for name, operator in (("min", relax.op.maximum), ("max", relax.op.minimum)):
        bound: Any = given.get(name)
        if bound is not None:
            x = emit(operator(x, relax.const(bound, dtype)))
    return x


def _convert_quotient(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit a quotient that is rounded down, or towards zero."""
    x, y = importer.retrieve_args(node)
    dtype = next(one.ty.dtype for one in (x, y) if isinstance(one, relax.Expr))
    x, y = (one if isinstance(one, relax.Expr) else relax.const(one, dtype) for one in (x, y))
    emit = importer.block_builder.emit
    mode = node.kwargs.get("rounding_mode", "floor")
    if mode is None:
        return emit(relax.op.divide(x, y))
    if mode == "floor":
        return emit(relax.op.floor_divide(x, y))
    if str(dtype).startswith("float"):
        return emit(relax.op.trunc(emit(relax.op.divide(x, y))))
    # Rounded down, and up by one where that was past zero and something is left.
    down = emit(relax.op.floor_divide(x, y))
    zero, one = relax.const(0, dtype), relax.const(1, dtype)
    left = emit(relax.op.not_equal(emit(relax.op.multiply(down, y)), x))
    past = emit(relax.op.logical_and(emit(relax.op.less(down, zero)), left))
    return emit(relax.op.where(past, emit(relax.op.add(down, one)), down))


CONVERTERS = {
    "add.Tensor": _convert_sum,
    "add.Scalar": _convert_sum,
    "sub.Tensor": _convert_sum,
    "sub.Scalar": _convert_sum,
    "mm.default": _convert_product,
    "bmm.default": _convert_product,
    "matmul.default": _convert_product,
    "pow.Scalar": _convert_power,
    "pow.Tensor_Scalar": _convert_power,
    "pow.Tensor_Tensor": _convert_power,
    "clamp.default": _convert_clamp,
    "div.Tensor_mode": _convert_quotient,
    "floor_divide.default": _convert_quotient,
}
