"""Quantise a trained model without training it further."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from gq_tvm.errors import Error
from gq_tvm.quantize.convert import convert
from gq_tvm.quantize.copying import copied
from gq_tvm.quantize.prepare import prepare


def compress(
    model: nn.Module,
    bits: int | None = 4,
    overrides: Mapping[str, int | None] | None = None,
    activation: str | Mapping[str, str] = "int8",
    *,
    per_row: bool = False,
) -> nn.Module:
    """Put each weight in the codebook of least mean squared error (Lloyd-Max) [C].

    Args:
        model: with trained float32 weights; it is left as it was.
        bits: see ``prepare``.
        overrides: see ``prepare``.
        activation: see ``prepare``.
        per_row: see ``prepare``.

    Returns:
        A copy with codebook layers, as ``convert`` gives it.

    Raises:
        Error: as ``prepare``.
    """
    # In the linear space the centroids that prepare starts from are already the answer.
    copy = copied(model, "compress")
    try:
        return convert(prepare(copy, bits, overrides, activation, per_row=per_row, mu=0.0))
    except Error as refusal:
        raise Error(re.sub("^(prepare|convert):", "compress:", str(refusal))) from None
