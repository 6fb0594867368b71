"""Complex tensors, which TVM has none of, as pairs of real ones; Fourier transforms as products.

A pair lives from the transform (or ``torch.complex``, ``torch.polar``) to what makes it real again:
an absolute value, an angle, a part of it, the transform back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from tvm import relax

from gq_tvm.errors import Error
from gq_tvm.frontend.converters import fourier
from gq_tvm.frontend.converters.complex_pair import Complex, Emit
from gq_tvm.frontend.places import name_of, place_of

if TYPE_CHECKING:
    from gq_tvm.frontend.importer import Importer

# What moves or scales numbers does the same to both parts.
_SAME_FOR_BOTH = (
    *("permute", "transpose", "view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "expand"),
    *("slice", "select", "flip", "cat", "clone", "alias", "detach", "constant_pad_nd", "index"),
    *("index_select", "neg", "sum", "mean", "getitem", "split_with_sizes", "unfold"),
)


def is_complex(node: fx.Node) -> bool:
    """Whether an operator takes or gives complex numbers."""
    return any(_dtype_is_complex(one) for one in (node, *node.all_input_nodes))


def convert(node: fx.Node, importer: Importer, plain: Callable[[fx.Node], Any]) -> Any:
    """Emit an operator on complex numbers; `plain` is the converter of the same on real ones.

    Raises:
        Error: it is none of those known here.
    """
    name = name_of(node).partition(".")[0]
    if name in _RULES:
        return _RULES[name](Emit(importer), *_arguments(node, importer))
    if name in _SAME_FOR_BOTH:
        return Complex(*(_part(part, node, importer, plain) for part in ("real", "imaginary")))
    raise Error(
        f"{place_of(node)} computes with complex numbers in a way that cannot be translated; "
        "compute with torch.view_as_real(x) instead"
    )


def _dtype_is_complex(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype.is_complex


def _part(part: str, node: fx.Node, importer: Importer, plain: Callable[[fx.Node], Any]) -> Any:
    """Convert a node with one part of each complex operand."""
    given = {one: importer.env[one] for one in node.all_input_nodes}
    importer.env.update(
        {one: getattr(x, part) for one, x in given.items() if isinstance(x, Complex)}
    )
    try:
        return plain(node)
    finally:
        importer.env.update(given)


def _arguments(node: fx.Node, importer: Importer) -> list[Any]:
    return [importer.env[one] if isinstance(one, fx.Node) else one for one in node.args]


# --- arithmetic ----------------------------------------------------------------------------------


def _pairs(*operands: Any) -> list[Complex]:
    """Pairs, real tensors and numbers, all as pairs."""
    tensor = next(one for one in operands if isinstance(one, Complex | relax.Expr))
    dtype = (tensor.real if isinstance(tensor, Complex) else tensor).ty.dtype

    def number(x: float) -> relax.Expr:
        return relax.const(x, dtype)

    return [
        one
        if isinstance(one, Complex)
        else Complex(one, number(0))
        if isinstance(one, relax.Expr)
        else Complex(number(complex(one).real), number(complex(one).imag))
        for one in operands
    ]


def _add(do: Emit, x: Any, y: Any) -> Complex:
    x, y = _pairs(x, y)
    return Complex(do.add(x.real, y.real), do.add(x.imaginary, y.imaginary))


def _subtract(do: Emit, x: Any, y: Any) -> Complex:
    x, y = _pairs(x, y)
    return Complex(do.subtract(x.real, y.real), do.subtract(x.imaginary, y.imaginary))


def _multiply(do: Emit, x: Any, y: Any) -> Complex:
    x, y = _pairs(x, y)
    return Complex(
        do.subtract(do.multiply(x.real, y.real), do.multiply(x.imaginary, y.imaginary)),
        do.add(do.multiply(x.real, y.imaginary), do.multiply(x.imaginary, y.real)),
    )


def _divide(do: Emit, x: Any, y: Any) -> Complex:
    x, y = _pairs(x, y)
    squared = do.add(do.multiply(y.real, y.real), do.multiply(y.imaginary, y.imaginary))
    product = _multiply(do, x, _conjugate(do, y))
    return Complex(
        do(relax.op.divide, product.real, squared), do(relax.op.divide, product.imaginary, squared)
    )


def _conjugate(do: Emit, x: Complex) -> Complex:
    return Complex(x.real, do(relax.op.negative, x.imaginary))


def _absolute(do: Emit, x: Complex) -> relax.Expr:
    squared = do.add(do.multiply(x.real, x.real), do.multiply(x.imaginary, x.imaginary))
    return do(relax.op.sqrt, squared)


def _angle(do: Emit, x: Complex) -> relax.Expr:
    return do(relax.op.atan2, x.imaginary, x.real)


def _polar(do: Emit, size: relax.Expr, angle: relax.Expr) -> Complex:
    return Complex(
        do.multiply(size, do(relax.op.cos, angle)), do.multiply(size, do(relax.op.sin, angle))
    )


def _exponential(do: Emit, x: Complex) -> Complex:
    return _polar(do, do(relax.op.exp, x.real), x.imaginary)


# --- between real and complex --------------------------------------------------------------------


def _to_real(do: Emit, x: Complex) -> relax.Expr:
    return do(relax.op.stack, [x.real, x.imaginary], axis=-1)


def _to_complex(do: Emit, x: relax.Expr) -> Complex:
    axis = x.ty.ndim - 1
    parts = [do(relax.op.strided_slice, x, [axis], [i], [i + 1]) for i in range(2)]
    return Complex(*(do(relax.op.squeeze, one, [axis]) for one in parts))


def _copy(do: Emit, x: Any) -> Any:
    return x if isinstance(x, Complex) else Complex(x, do(relax.op.zeros_like, x))


_RULES: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _subtract,
    "mul": _multiply,
    "div": _divide,
    "_conj": _conjugate,
    "conj_physical": _conjugate,
    "abs": _absolute,
    "angle": _angle,
    "exp": _exponential,
    "polar": _polar,
    "complex": lambda do, real, imaginary: Complex(real, imaginary),
    "view_as_real": _to_real,
    "view_as_complex": _to_complex,
    "_to_copy": _copy,
    **fourier.RULES,
}

CONVERTERS = dict.fromkeys(
    (
        *("_fft_r2c.default", "_fft_c2c.default", "_fft_c2r.default", "view_as_real.default"),
        *("view_as_complex.default", "complex.default", "polar.default", "angle.default"),
        *("_conj.default", "conj_physical.default"),
    ),
    lambda node, importer: convert(node, importer, importer.plain),
)
