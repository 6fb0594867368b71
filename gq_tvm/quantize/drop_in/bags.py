"""What ``nn.EmbeddingBag`` does with the rows of its bags."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gq_tvm.errors import Error


def bags(
    layer: nn.EmbeddingBag,
    rows: Callable[[Tensor], Tensor],
    input: Tensor,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
) -> Tensor:
    """Sums, means or greatest values of bags of rows.

    Args:
        layer: says which, and what counts for nothing.
        rows: looks rows up: ids i64 [...] -> f32 [..., D].
        input: ids [bags, N], or those of all bags, [N].
        offsets: of the second form, where each bag begins.
        per_sample_weights: f32 like ``input``, factors of a sum.

    Returns:
        f32 [bags, D]; 0 of a bag without rows.

    Raises:
        Error: offsets come with the first form or not with the second, or factors with no sum.
    """
    if (offsets is None) != (input.dim() == 2):
        raise Error(
            "quantised EmbeddingBag: ids [bags, N] come without offsets, ids [N] with; got ids of "
            f"{input.dim()} axes."
        )
    if per_sample_weights is not None and layer.mode != "sum":
        raise Error(f'quantised EmbeddingBag: mode "{layer.mode}" takes no per_sample_weights.')
    ids = input.long()
    found = rows(ids)
    if per_sample_weights is not None:
        found = found * per_sample_weights.unsqueeze(-1)
    within = torch.ones_like(ids, dtype=torch.bool)
    if layer.padding_idx is not None:
        within = ids != layer.padding_idx
    if offsets is not None:
        begins = offsets[:-1] if layer.include_last_offset else offsets
        place = torch.arange(ids.shape[0], device=ids.device)
        bag = (offsets.long() <= place[:, None]).sum(1) - 1
        own = bag == torch.arange(begins.shape[0], device=ids.device)[:, None]
        within, found = within & own, found.unsqueeze(0)
    shown = within.unsqueeze(-1)
    count = within.sum(1, keepdim=True)
    if layer.mode == "max":
        greatest = torch.where(shown, found, -float("inf")).amax(1)
        return torch.where(count > 0, greatest, torch.zeros_like(greatest))
    y = torch.where(shown, found, torch.zeros_like(found)).sum(1)
    return y / count.clamp(min=1) if layer.mode == "mean" else y
