"""``nn.MultiheadAttention`` as it is deployed, its projections in codebooks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gq_tvm.quantize.attention import Options, attend


class CodebookMultiheadAttention(nn.Module):
    """``nn.MultiheadAttention`` of four ``CodebookLinear``; no dropout.

    Each projection is a layer, so query, key and value may differ. The products inside attention
    are ``F.scaled_dot_product_attention``, which compiles.

    Args:
        projections: those of query, key and value, and the one behind, each to E outputs.
        embed_dim: E.
        heads: a divisor of E.
        batch_first: as in ``nn.MultiheadAttention``.
    """

    # nn.TransformerEncoderLayer asks before it reads weights directly; "no bias" keeps it from it.
    in_proj_bias = None

    def __init__(
        self,
        projections: Sequence[nn.Module],
        embed_dim: int,
        heads: int,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = projections
        self.embed_dim = embed_dim
        self.num_heads = heads
        self.batch_first = batch_first

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

    def extra_repr(self) -> str:
        """Width and heads, for ``print``."""
        return f"{self.embed_dim}, heads={self.num_heads}, batch_first={self.batch_first}"
