"""``nn.MultiheadAttention`` as it is deployed, its projections in codebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer, CodebookLinear
from gq_tvm.quantize.drop_in.attention import Options, attend

#: The weights of query, key and value where PyTorch keeps them apart.
PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


class CodebookMultiheadAttention(CodebookLayer, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` of four ``CodebookLinear``, some perhaps ``nn.Linear``; no dropout.

    Each projection is a layer, so query, key and value may differ. The products inside attention
    are ``F.scaled_dot_product_attention``, which compiles.

    Args:
        projections: those of query, key and value, and the one behind, each to E outputs.
        embed_dim: E.
        heads: a divisor of E.
        batch_first: as in ``nn.MultiheadAttention``.
    """

    replaced = nn.MultiheadAttention
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    _one_weight: bool

    def __init__(
        self,
        projections: Sequence[nn.Linear],
        embed_dim: int,
        heads: int,
        batch_first: bool = False,
    ) -> None:
        widths = {"kdim": projections[1].in_features, "vdim": projections[2].in_features}
        like = nn.MultiheadAttention(
            embed_dim, heads, batch_first=batch_first, **widths, device="meta"
        )
        vars(self).update(vars(like))
        self.add_module("out_proj", projections[3])
        self.hold_projections(projections[:3])

    def hold_projections(self, projections: Sequence[nn.Linear]) -> None:
        """Take those of query, key and value in the place of PyTorch's parameters."""
        self._one_weight = self._parameters["in_proj_weight"] is not None
        for name in ("in_proj_weight", *PROJECTIONS, "in_proj_bias"):
            del self._parameters[name]
        behind = self._modules.pop("out_proj")
        self.q_proj, self.k_proj, self.v_proj = projections
        self.add_module("out_proj", behind)
        inside = [one.activation for one in projections if isinstance(one, CodebookLinear)]
        self.activation = inside[0] if inside else "fp32"
        # nn.TransformerEncoderLayer asks it before it reads weights past the layers.
        self._qkv_same_embed_dim = False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``; see ``attention.attend``."""
        options = Options(
            key_padding_mask, attn_mask, need_weights, average_attn_weights, is_causal
        )
        return attend(
            query, key, value, self._project, self.out_proj, options, self.num_heads,
            self.batch_first,
        )  # fmt: skip

    def _project(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(q), self.k_proj(k), self.v_proj(v)

    def weight_names(self) -> list[str]:
        """None but those of the layers inside."""
        return []

    def _joined(self, name: str) -> Tensor | None:
        parts = [getattr(one, name) for one in (self.q_proj, self.k_proj, self.v_proj)]
        return None if parts[0] is None else torch.cat(parts)

    # Weights and biases as PyTorch has them, each None where it has none.
    in_proj_weight: Any = property(lambda one: one._joined("weight") if one._one_weight else None)
    in_proj_bias: Any = property(lambda one: one._joined("bias"))
    q_proj_weight: Any = property(lambda one: None if one._one_weight else one.q_proj.weight)
    k_proj_weight: Any = property(lambda one: None if one._one_weight else one.k_proj.weight)
    v_proj_weight: Any = property(lambda one: None if one._one_weight else one.v_proj.weight)

    def extra_repr(self) -> str:
        """Width and heads, for ``print``."""
        return f"{self.embed_dim}, heads={self.num_heads}, batch_first={self.batch_first}"
