"""Functions that TVM's importer makes of differences that are 0 near 0, or without a factor (SELU).

``e^x - 1 = tanh(x / 2) (e^x + 1) = 2 t / (1 - t)`` with ``t = tanh(x / 2)``, which the kernels keep
exact near 0; logarithms are their series there. In float32 all are exact to 2e-6, relatively.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx
from tvm import relax

from gq_tvm.frontend.importer import Importer


def _convert_elu(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit ``scale * (x if x > 0 else alpha * (e^(input_scale * x) - 1))``; of ELU, SELU, CELU."""
    x, *given = importer.retrieve_args(node)
    options = dict(zip(("alpha", "scale", "input_scale"), given, strict=False)) | dict(node.kwargs)
    alpha, scale, inner = (options.get(one, 1.0) for one in ("alpha", "scale", "input_scale"))
    emit, number = importer.block_builder.emit, _numbers(x)
    t = emit(relax.op.tanh(emit(relax.op.multiply(x, number(inner / 2)))))
    grown = emit(relax.op.divide(t, emit(relax.op.subtract(number(1.0), t))))
    below = emit(relax.op.multiply(grown, number(2.0 * alpha * scale)))
    above = emit(relax.op.multiply(x, number(scale)))
    return emit(relax.op.where(emit(relax.op.greater(x, number(0.0))), above, below))


def _convert_expm1(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit ``e^x - 1``."""
    (x,) = importer.retrieve_args(node)
    emit, number = importer.block_builder.emit, _numbers(x)
    t = emit(relax.op.tanh(emit(relax.op.multiply(x, number(0.5)))))
    return emit(relax.op.multiply(t, emit(relax.op.add(emit(relax.op.exp(x)), number(1.0)))))


def _convert_log1p(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit ``log(1 + x)``."""
    (x,) = importer.retrieve_args(node)
    emit, number = importer.block_builder.emit, _numbers(x)
    far = emit(relax.op.log(emit(relax.op.add(number(1.0), x))))
    return _near_zero(importer, x, 2**-4, _series(importer, x, [1, -2, 3, -4, 5, -6], x), far)


def _convert_atanh(node: fx.Node, importer: Importer) -> relax.Expr:
    """Emit ``atanh(x)``."""
    (x,) = importer.retrieve_args(node)
    square = importer.block_builder.emit(relax.op.multiply(x, x))
    far = importer.block_builder.emit(relax.op.atanh(x))
    return _near_zero(importer, x, 2**-3, _series(importer, x, [1, 3, 5, 7], square), far)


def _series(
    importer: Importer, x: relax.Expr, divisors: Sequence[int], power: relax.Expr
) -> relax.Expr:
    """``x (1 / d_0 + power (1 / d_1 + power (...)))``."""
    emit, number = importer.block_builder.emit, _numbers(x)
    series = number(1 / divisors[-1])
    for divisor in divisors[-2::-1]:
        product = emit(relax.op.multiply(series, power))
        series = emit(relax.op.add(product, number(1 / divisor)))
    return emit(relax.op.multiply(series, x))


def _near_zero(
    importer: Importer, x: relax.Expr, limit: float, near: relax.Expr, far: relax.Expr
) -> relax.Expr:
    """`near` where a float32 |x| is below `limit`; other dtypes have the digits for `far`."""
    if str(x.ty.dtype) != "float32":
        return far
    emit = importer.block_builder.emit
    small = emit(relax.op.less(emit(relax.op.abs(x)), relax.const(limit, "float32")))
    return emit(relax.op.where(small, near, far))


def _numbers(like: relax.Expr) -> Callable[[float], relax.Expr]:
    """Makes constants of a tensor's dtype."""
    return lambda value: relax.const(value, str(like.ty.dtype))


CONVERTERS = {
    "elu.default": _convert_elu,
    "expm1.default": _convert_expm1,
    "log1p.default": _convert_log1p,
    "atanh.default": _convert_atanh,
}
