"""What ``nn.MultiheadAttention`` does around its projections: layouts, masks, heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gq_tvm.errors import Error

#: Of query, key and value, batch first [B, ..., E]: each projected to [B, ..., E].
Projections = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Options:
    """The arguments of ``nn.MultiheadAttention.forward`` but query, key and value.

    Attributes:
        key_padding_mask: bool [B, S] or [S], True where a key is left out, or f32 to be added.
        attn_mask: bool or f32 likewise, [T, S] or [B * heads, T, S].
        need_weights: whether the weights of attention are wanted.
        average_attn_weights: whether as a mean over the heads.
        is_causal: a hint that ``attn_mask`` is the causal mask.
    """

    key_padding_mask: Tensor | None = None
    attn_mask: Tensor | None = None
    need_weights: bool = True
    average_attn_weights: bool = True
    is_causal: bool = False


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    project: Projections,
    output: Callable[[Tensor], Tensor],
    options: Options,
    heads: int,
    batch_first: bool,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """Attention with the arguments, layouts and results of ``nn.MultiheadAttention``.

    Args:
        query: f32 [B, T, E] if ``batch_first``, else [T, B, E]; [T, E] without a batch.
        key: f32 [B, S, E'] in the same layout.
        value: f32 [B, S, E"].
        project: the three projections. It is given one tensor thrice where query, key and value
            are one.
        output: the projection behind the heads.
        options: the other arguments.
        heads: number of heads.
        batch_first: which layout the tensors have.
        dropout: share of weights that are dropped.

    Returns:
        f32 in the layout of ``query``, and the weights f32 [B, T, S], [B, heads, T, S], or None.

    Raises:
        Error: ``is_causal`` comes without a mask.
    """
    if options.is_causal and options.attn_mask is None:
        raise Error("quantised MultiheadAttention: is_causal is a hint and needs attn_mask too.")
    batched = query.dim() == 3

    def batch_leading(x: Tensor) -> Tensor:
        return x.unsqueeze(0) if not batched else x if batch_first else x.transpose(0, 1)

    alike = query is key and key is value
    rows = batch_leading(query)
    three = (rows, rows, rows) if alike else (rows, batch_leading(key), batch_leading(value))
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in project(*three))
    mask = _mask(options, heads, q)
    weights = None
    if options.need_weights:
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
    if weights is not None and dropout:
        y = weights @ v  # those that are given back
    else:
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout)
    y = output(y.transpose(1, 2).flatten(2))
    if weights is not None and options.average_attn_weights:
        weights = weights.mean(1)
    if not batched:
        return y.squeeze(0), None if weights is None else weights.squeeze(0)
    return y if batch_first else y.transpose(0, 1), weights


def _mask(options: Options, heads: int, q: Tensor) -> Tensor | None:
    """Both masks as numbers to add, f32 [B or 1, heads or 1, T or 1, S]."""
    mask = None
    if options.attn_mask is not None:
        mask = _added(options.attn_mask, q)
        mask = mask.view(1, 1, *mask.shape) if mask.dim() == 2 else mask.unflatten(0, (-1, heads))
    if options.key_padding_mask is not None:
        padding = _added(options.key_padding_mask, q)
        padding = padding.view(-1, 1, 1, padding.shape[-1])
        mask = padding if mask is None else mask + padding
    return mask


def _added(mask: Tensor, q: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(q.dtype)
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf"))
