"""The GRU among the codebook operators in PyTorch: ``torch.ops.gq.codebook_gru``.

Importing this module registers it; as in ``torch_ops``, it means what ``reference`` says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gq_tvm.ops import checks
from gq_tvm.ops.torch_ops import Operand, check_codebook, check_indices, operand, product

_OP = "codebook_gru"


def gru_layer(
    x: Tensor,
    h: Tensor,
    weight_ih: Operand,
    weight_hh: Operand,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One GRU layer, batch first: x f32 [B, T, I], h f32 [B, H] -> y f32 [B, T, H], the last h."""
    steps = []
    for from_x in product(x, weight_ih).unbind(1):
        h = gru_cell(from_x, product(h, weight_hh), bias_ih, bias_hh, h)
        steps.append(h)
    y = torch.stack(steps, 1) if steps else x.new_empty(x.shape[0], 0, h.shape[1])
    return y, h


def gru_cell(
    from_x: Tensor, from_h: Tensor, bias_ih: Tensor | None, bias_hh: Tensor | None, h: Tensor
) -> Tensor:
    """One GRU step: both products f32 [B, 3H] (r, z, n), state f32 [B, H] -> the new state."""
    if bias_ih is not None:
        from_x = from_x + bias_ih
    if bias_hh is not None:
        from_h = from_h + bias_hh
    (r_x, z_x, n_x), (r_h, z_h, n_h) = from_x.chunk(3, dim=1), from_h.chunk(3, dim=1)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return n + torch.sigmoid(z_x + z_h) * (h - n)


@torch.library.custom_op(
    "gq::codebook_gru",
    mutates_args=(),
    schema="(Tensor x, Tensor h0, Tensor indices_ih, Tensor codebook_ih, Tensor indices_hh,"
    " Tensor codebook_hh, Tensor? bias_ih, Tensor? bias_hh, int bits_ih, int bits_hh,"
    " str activation) -> (Tensor, Tensor)",
)
def codebook_gru(
    x: Tensor,
    h0: Tensor,
    indices_ih: Tensor,
    codebook_ih: Tensor,
    indices_hh: Tensor,
    codebook_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    bits_ih: int,
    bits_hh: int,
    activation: str,
) -> tuple[Tensor, Tensor]:
    """``reference.codebook_gru``: x f32 [B, T, I] -> y f32 [B, T, H] and h f32 [B, H]."""
    check_codebook(_OP, indices_ih, codebook_ih, bits_ih)
    check_codebook(_OP, indices_hh, codebook_hh, bits_hh)
    shapes = indices_ih.shape, indices_hh.shape
    checks.check_gru(_OP, x, h0, *shapes, bias_ih, bias_hh, activation)
    check_indices(_OP, indices_ih, bits_ih)
    check_indices(_OP, indices_hh, bits_hh)
    weights = (
        operand(indices_ih, codebook_ih, activation),
        operand(indices_hh, codebook_hh, activation),
    )
    # The outputs of an operator may not be its inputs, as they would be without any frame.
    return gru_layer(x, h0.clone(), *weights, bias_ih, bias_hh)


@codebook_gru.register_fake
def _(
    x: Tensor,
    h0: Tensor,
    indices_ih: Tensor,
    codebook_ih: Tensor,
    indices_hh: Tensor,
    codebook_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    bits_ih: int,
    bits_hh: int,
    activation: str,
) -> tuple[Tensor, Tensor]:
    check_codebook(_OP, indices_ih, codebook_ih, bits_ih)
    check_codebook(_OP, indices_hh, codebook_hh, bits_hh)
    shapes = indices_ih.shape, indices_hh.shape
    checks.check_gru(_OP, x, h0, *shapes, bias_ih, bias_hh, activation)
    return x.new_empty([x.shape[0], x.shape[1], h0.shape[1]]), h0.new_empty(h0.shape)
