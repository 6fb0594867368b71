"""Operators of PyTorch that TVM lacks, in terms of those it has.

Each computes what the operator does, on the same arguments, so that it can be tried in PyTorch
alone. Shapes may be symbolic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_aten = torch.ops.aten


def unfold(x: Tensor, axis: int, size: int, step: int) -> Tensor:
    """Windows of `size` every `step` along an axis: [.., T, ..] -> [.., frames, .., size]."""
    if x.ndim == 0:
        return x.reshape(1).repeat(size)
    axis = axis % x.ndim
    frames = (x.shape[axis] - size) // step + 1
    starts = torch.arange(frames, device=x.device)[:, None] * step
    where = (starts + torch.arange(size, device=x.device)).reshape(-1)
    y = x.index_select(axis, where)
    return y.reshape(*x.shape[:axis], frames, size, *x.shape[axis + 1 :]).movedim(axis + 1, -1)


def unfold_backward(y: Tensor, shape: list[int], axis: int, size: int, step: int) -> Tensor:
    """The sum of overlapping windows, [.., frames, .., size] -> `shape`; see `unfold`."""
    axis = axis % len(shape)
    y = y.movedim(axis, -2)  # [.., frames, size]
    blocks = -(-size // step)
    y = functional.pad(y, (0, blocks * step - size))
    frames = y.shape[-2]
    y = y.reshape(*y.shape[:-1], blocks, step)
    total: Any = 0
    for block in range(blocks):  # a window's block b lies b blocks behind its start
        total = total + functional.pad(y[..., block, :], (0, 0, block, blocks - 1 - block))
    total = total.reshape(*total.shape[:-2], (frames + blocks - 1) * step)
    length = shape[axis]
    made = (frames + blocks - 1) * step
    total = functional.pad(total, (0, length - made)) if length > made else total[..., :length]
    return total.movedim(-1, axis)


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums (mode 0), means (1) or greatest values (2) of bags of rows; modules read the first.

    Args:
        weight: f32 [rows, width].
        indices: integers [N], the rows of all bags.
        offsets: integers [bags], where each begins; one more with `include_last_offset`.
        scale_grad_by_freq: Of training.
        mode: See above.
        sparse: Of training.
        per_sample_weights: f32 [N], factors of a sum.
        include_last_offset: Whether the last offset is where the last bag ends.
        padding_idx: A row that counts for nothing; -1 is none.
    """
    place = torch.arange(indices.shape[0], device=indices.device)
    bag = (offsets <= place[:, None]).sum(1) - 1
    bags = offsets.shape[0] - int(include_last_offset)
    within = bag == torch.arange(bags, device=indices.device)[:, None]  # [bags, N]
    if padding_idx >= 0:
        within = within & (indices != padding_idx)
    rows = functional.embedding(indices, weight)
    count = within.sum(1, keepdim=True)
    if mode == 2:
        greatest = torch.where(within[:, :, None], rows, -float("inf")).amax(1)
        y = torch.where(count > 0, greatest, torch.zeros_like(greatest))
    else:
        if per_sample_weights is not None:
            rows = rows * per_sample_weights[:, None]
        y = within.to(rows.dtype) @ rows
        if mode == 1:
            y = y / count.clamp(min=1).to(rows.dtype)
    return y, bag, count[:, 0], torch.zeros_like(bag)


DECOMPOSITIONS = {
    _aten.unfold.default: unfold,
    _aten.unfold_backward.default: unfold_backward,
    _aten._embedding_bag.default: embedding_bag,
    _aten._embedding_bag_forward_only.default: embedding_bag,
}
