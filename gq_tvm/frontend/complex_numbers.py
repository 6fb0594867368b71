"""Complex tensors, which TVM has none of, as pairs of real ones; Fourier transforms as products.

A pair lives from the transform (or ``torch.complex``, ``torch.polar``) to what makes it real again:
an absolute value, an angle, a part of it, the transform back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx
from tvm import relax, tirx

from gq_tvm.errors import Error
from gq_tvm.frontend.places import place_of

if TYPE_CHECKING:
    from gq_tvm.frontend.importer import Importer

# What moves or scales numbers does the same to both parts.
_SAME_FOR_BOTH = (
    *("permute", "transpose", "view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "expand"),
    *("slice", "select", "flip", "cat", "clone", "alias", "detach", "constant_pad_nd", "index"),
    *("index_select", "neg", "sum", "mean", "getitem", "split_with_sizes", "unfold"),
)


@dataclass(frozen=True)
class Complex:
    """A complex tensor: its parts have one shape."""

    real: relax.Expr
    imaginary: relax.Expr


def is_complex(node: fx.Node) -> bool:
    """Whether an operator takes or gives complex numbers."""
    return any(_dtype_is_complex(one) for one in (node, *node.all_input_nodes))


def convert(node: fx.Node, importer: Importer, plain: Callable[[fx.Node], Any]) -> Any:
    """Emit an operator on complex numbers; `plain` is the converter of the same on real ones.

    Raises:
        Error: it is none of those known here.
    """
    name = node.target.__name__.partition(".")[0]
    if name in _RULES:
        return _RULES[name](_Emit(importer), *_arguments(node, importer))
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


class _Emit:
    """Real operators, by short names."""

    def __init__(self, importer: Importer) -> None:
        self.emit = importer.block_builder.emit

    def __call__(self, operator: Callable[..., relax.Expr], *args: Any, **options: Any) -> Any:
        return self.emit(operator(*args, **options))

    def add(self, x: Any, y: Any) -> Any:
        return self(relax.op.add, x, y)

    def subtract(self, x: Any, y: Any) -> Any:
        return self(relax.op.subtract, x, y)

    def multiply(self, x: Any, y: Any) -> Any:
        return self(relax.op.multiply, x, y)

    def scaled(self, x: Any, factor: float) -> Any:
        return x if factor == 1 else self.multiply(x, relax.const(factor, x.ty.dtype))


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


def _add(do: _Emit, x: Any, y: Any) -> Complex:
    x, y = _pairs(x, y)
    return Complex(do.add(x.real, y.real), do.add(x.imaginary, y.imaginary))


def _subtract(do: _Emit, x: Any, y: Any) -> Complex:
    x, y = _pairs(x, y)
    return Complex(do.subtract(x.real, y.real), do.subtract(x.imaginary, y.imaginary))


def _multiply(do: _Emit, x: Any, y: Any) -> Complex:
    x, y = _pairs(x, y)
    return Complex(
        do.subtract(do.multiply(x.real, y.real), do.multiply(x.imaginary, y.imaginary)),
        do.add(do.multiply(x.real, y.imaginary), do.multiply(x.imaginary, y.real)),
    )


def _divide(do: _Emit, x: Any, y: Any) -> Complex:
    x, y = _pairs(x, y)
    squared = do.add(do.multiply(y.real, y.real), do.multiply(y.imaginary, y.imaginary))
    product = _multiply(do, x, _conjugate(do, y))
    return Complex(
        do(relax.op.divide, product.real, squared), do(relax.op.divide, product.imaginary, squared)
    )


def _conjugate(do: _Emit, x: Complex) -> Complex:
    return Complex(x.real, do(relax.op.negative, x.imaginary))


def _absolute(do: _Emit, x: Complex) -> relax.Expr:
    squared = do.add(do.multiply(x.real, x.real), do.multiply(x.imaginary, x.imaginary))
    return do(relax.op.sqrt, squared)


def _angle(do: _Emit, x: Complex) -> relax.Expr:
    return do(relax.op.atan2, x.imaginary, x.real)


def _polar(do: _Emit, size: relax.Expr, angle: relax.Expr) -> Complex:
    return Complex(
        do.multiply(size, do(relax.op.cos, angle)), do.multiply(size, do(relax.op.sin, angle))
    )


def _exponential(do: _Emit, x: Complex) -> Complex:
    return _polar(do, do(relax.op.exp, x.real), x.imaginary)


# --- between real and complex --------------------------------------------------------------------


def _to_real(do: _Emit, x: Complex) -> relax.Expr:
    return do(relax.op.stack, [x.real, x.imaginary], axis=-1)


def _to_complex(do: _Emit, x: relax.Expr) -> Complex:
    axis = x.ty.ndim - 1
    parts = [do(relax.op.strided_slice, x, [axis], [i], [i + 1]) for i in range(2)]
    return Complex(*(do(relax.op.squeeze, one, [axis]) for one in parts))


def _copy(do: _Emit, x: Any) -> Any:
    return x if isinstance(x, Complex) else Complex(x, do(relax.op.zeros_like, x))


# --- Fourier transforms --------------------------------------------------------------------------


def _real_to_complex(
    do: _Emit, x: relax.Expr, axes: list[int], mode: int, onesided: bool
) -> Complex:
    *others, last = axes
    n = _length(x, last)
    bins = n // 2 + 1 if onesided else n
    cosine, sine = _waves(n, bins)
    y = _product(do, x, np.concatenate([cosine, -sine], axis=1), last)
    parts = [do(relax.op.strided_slice, y, [last], [i * bins], [(i + 1) * bins]) for i in range(2)]
    pair = _along(do, Complex(*parts), others, forward=True)
    return _scaled(do, pair, mode, n * math.prod(_length(x, one) for one in others))


def _complex_to_complex(
    do: _Emit, x: Complex, axes: list[int], mode: int, forward: bool
) -> Complex:
    size = math.prod(_length(x.real, one) for one in axes)
    return _scaled(do, _along(do, x, axes, forward), mode, size)


def _complex_to_real(do: _Emit, x: Complex, axes: list[int], mode: int, n: int) -> relax.Expr:
    *others, last = axes
    size = n * math.prod(_length(x.real, one) for one in others)
    x = _along(do, x, others, forward=False)
    bins = n // 2 + 1
    cosine, sine = _waves(n, bins)
    # Every bin stands for its mirror image too, but the first and, of an even length, the last.
    weight = np.full(bins, 2.0)
    weight[0] = 1
    weight[n - bins + 1 :] = 1
    y = do.subtract(
        _product(do, x.real, (cosine * weight).T, last),
        _product(do, x.imaginary, (sine * weight).T, last),
    )
    return do.scaled(y, _factor(mode, size))


def _along(do: _Emit, x: Complex, axes: list[int], forward: bool) -> Complex:
    """Transform along axes, one after the other."""
    for axis in axes:
        n = _length(x.real, axis)
        cosine, sine = _waves(n, n)
        sine = sine if forward else -sine
        x = Complex(
            do.add(_product(do, x.real, cosine, axis), _product(do, x.imaginary, sine, axis)),
            do.subtract(_product(do, x.imaginary, cosine, axis), _product(do, x.real, sine, axis)),
        )
    return x


def _product(do: _Emit, x: relax.Expr, matrix: np.ndarray, axis: int) -> relax.Expr:
    """The matrix product of an axis of `x`, [.., n, ..], and `matrix`, [n, m]."""
    rank = x.ty.ndim
    order = [*(one for one in range(rank) if one != axis % rank), axis % rank]
    last = axis % rank == rank - 1
    moved = x if last else do(relax.op.permute_dims, x, order)
    y = do(relax.op.matmul, moved, relax.const(matrix.astype(np.float32)))
    return y if last else do(relax.op.permute_dims, y, [order.index(one) for one in range(rank)])


def _waves(n: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi t k / n, f64 [n, bins]."""
    phase = 2 * np.pi / n * (np.outer(np.arange(n), np.arange(bins)) % n)
    return np.cos(phase), np.sin(phase)


def _scaled(do: _Emit, x: Complex, mode: int, size: int) -> Complex:
    factor = _factor(mode, size)
    return Complex(do.scaled(x.real, factor), do.scaled(x.imaginary, factor))


def _factor(mode: int, size: int) -> float:
    """PyTorch's modes: as it is, by the root of the size, by the size."""
    return (1.0, size**-0.5, 1 / size)[mode]


def _length(x: relax.Expr, axis: int) -> int:
    size = x.ty.shape[axis]
    if not isinstance(size, int | tirx.IntImm):
        raise Error(
            "a Fourier transform along an axis whose size is known at run time only cannot be "
            "translated; give it a number of points (n, n_fft)"
        )
    return int(size)


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
    "_fft_r2c": _real_to_complex,
    "_fft_c2c": _complex_to_complex,
    "_fft_c2r": _complex_to_real,
}

CONVERTERS = dict.fromkeys(
    (
        *("_fft_r2c.default", "_fft_c2c.default", "_fft_c2r.default", "view_as_real.default"),
        *("view_as_complex.default", "complex.default", "polar.default", "angle.default"),
        *("_conj.default", "conj_physical.default"),
    ),
    lambda node, importer: convert(node, importer, importer.convert_map[node.target.__name__]),
)
