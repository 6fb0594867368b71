"""Quantise a trained model without training it further."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.quantize.convert import convert
from gq_tvm.quantize.drop_in.arguments import check_flags
from gq_tvm.quantize.drop_in.copying import copied
from gq_tvm.quantize.prepare import attach
from gq_tvm.quantize.quantisers.least_squares import LeastSquares
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer

_MUCH = 0.1  # of a weight's norm, that its codebook loses
_MOST_NAMED = 8


def compress(
    model: nn.Module,
    bits: int | None = 4,
    overrides: Mapping[str, int | None] | None = None,
    activation: str | Mapping[str, str] = "int8",
    *,
    per_row: bool | None = None,
) -> nn.Module:
    """Put each weight in the codebook of least squared error, as it is deployed [C].

    Weights that lose more than a tenth of their norm are named in a warning.

    Args:
        model: with trained float32 weights; it is left as it was.
        bits: see ``prepare``.
        overrides: see ``prepare``.
        activation: see ``prepare``.
        per_row: see ``prepare``; None: where the one int8 grid that integer activations leave a
            tensor would cost its rows dearly (an outlier, rows of unlike size).

    Returns:
        A copy with codebook layers, as ``convert`` gives it.

    Raises:
        Error: as ``prepare``.
    """

    def least_squares(weight: Tensor, bits: int, on_grid: bool) -> LeastSquares:
        return LeastSquares(weight, bits, on_grid, per_row)

    if per_row is not None:
        check_flags("compress", per_row=per_row)
    prepared = copied(model, "compress")
    try:
        attach(prepared, bits, overrides, activation, least_squares)
        _say_what_is_lost(prepared)
        return convert(prepared)
    except Error as refusal:
        raise Error(re.sub("^(prepare|convert):", "compress:", str(refusal))) from None


def _say_what_is_lost(prepared: nn.Module) -> None:
    """One warning of all weights that lose much, the worst first."""
    lost: dict[LeastSquares, str] = {}
    for name, module in prepared.named_modules():
        for attribute in module.quantizers if isinstance(module, QuantLayer) else ():
            quantizer = module.quantizer(attribute)
            assert isinstance(quantizer, LeastSquares)
            lost.setdefault(quantizer, f"{name}.{attribute}" if name else attribute)
    much = sorted((q for q in lost if q.lost > _MUCH), key=lambda q: -q.lost)
    if not much:
        return
    named = [f"{lost[q]} {q.lost:.0%} ({_bits(q)})" for q in much[:_MOST_NAMED]]
    more = ", ..." * (len(much) > len(named))
    warnings.warn(
        f"compress: {len(much)} of {len(lost)} weights lose more than {_MUCH:.0%} of their norm: "
        f"{', '.join(named)}{more}; {_cure(much)}.",
        stacklevel=3,
    )


def _bits(quantizer: LeastSquares) -> str:
    return f"{quantizer.bits} bit{'s' * (quantizer.bits > 1)}"


def _cure(much: list[LeastSquares]) -> str:
    if all(q.bits <= 2 for q in much):
        return "1 and 2 bits need training (quantize.prepare); or give them more bits"
    cures = ["give them more bits"] * any(q.bits < 8 for q in much)
    cures += ["per_row=True"] * any(not q.per_row for q in much)
    cures += ['activation "fp32"'] * any(q.int8_grid for q in much)
    return (
        ", ".join([*cures, "training (quantize.prepare)"]) + " or None, which leaves them in float"
    )
