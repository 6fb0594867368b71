"""Attention: the standard's, and com.microsoft's of encoders."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gq_tvm.onnx_import.registry import MICROSOFT, Node, operator


def heads(x: Tensor, count: int) -> Tensor:
    """[B, T, heads * d] as [B, heads, T, d]."""
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """[B, heads, T, d] as [B, T, heads * d]."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def _causal(queries: Any, keys: Any, past: Any) -> Tensor:
    """Which keys [T, S] a query may see: those up to its own place behind `past` others."""
    return torch.arange(keys)[None] <= torch.arange(queries)[:, None] + past


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    softcap: float = 0.0,
) -> Tensor:
    """Attention (Vaswani et al., arXiv 1706.03762, section 3.2.1) over [B, heads, T, d].

    Args:
        query: [B, heads, T, d].
        key: [B, heads, S, d].
        value: [B, heads, S, e].
        mask: Which keys count, or what is added to their scores; broadcasts to [B, heads, T, S].
        scale: Of the scores; None for ``1 / sqrt(d)``.
        softcap: Scores are kept below it by a tanh; 0 is none.
    """
    if not softcap:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale
        )
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.transpose(-1, -2) * scale
    scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        added = mask if mask.is_floating_point() else torch.where(mask, 0.0, -torch.inf)
        scores = scores + added
    return torch.softmax(scores, -1) @ value


def both(mask: Tensor | None, seen: Tensor) -> Tensor:
    """A mask, or what is added to scores, and which keys are seen besides."""
    if mask is None:
        return seen
    if mask.dtype == torch.bool:
        return mask & seen
    return mask + torch.where(seen, 0.0, -torch.inf)


@operator("Attention")
def _attention(
    node: Node,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Any:
    if len(node.outputs) > 3 and node.outputs[3]:
        raise node.refuse("gives its scores, which are not computed here")
    flat = query.dim() == 3
    if flat:
        query = heads(query, int(node.get("q_num_heads")))
        key, value = (heads(one, int(node.get("kv_num_heads"))) for one in (key, value))
    past: Any = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    kept = key, value
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (one.repeat_interleave(groups, 1) for one in (key, value))
    if mask is not None:
        short = key.shape[2] - mask.shape[-1]
        if not isinstance(short, int) or short > 0:
            fill = False if mask.dtype == torch.bool else -torch.inf
            mask = torch.nn.functional.pad(mask, (0, short), value=fill)
    if lengths is not None:
        seen = (torch.arange(key.shape[2]) < lengths[:, None])[:, None, None]
        mask = both(mask, seen)
    if node.get("is_causal", 0):
        mask = both(mask, _causal(query.shape[2], key.shape[2], past))
    y = attend(query, key, value, mask, node.get("scale"), node.get("softcap", 0.0))
    return (joined(y) if flat else y, *kept)


@operator("Attention", domain=MICROSOFT)
def _attention_of_microsoft(
    node: Node,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    *rest: Any,
) -> Any:
    count, sizes = int(node.get("num_heads")), node.get("qkv_hidden_sizes")
    y = x @ weight if bias is None else x @ weight + bias
    width = y.shape[-1] // 3
    query, key, value = (heads(one, count) for one in y.split(sizes or [width] * 3, -1))
    before: Any = 0
    if past is not None:
        before = past.shape[3]
        key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
    seen = _seen(node, mask, key.shape[2])
    if node.get("unidirectional", 0):
        seen = both(seen, _causal(query.shape[2], key.shape[2], before))
    out = joined(attend(query, key, value, _added(seen, added), node.get("scale") or None))
    return out, torch.stack([key, value])


@operator("MultiHeadAttention", domain=MICROSOFT)
def _multi_head(
    node: Node,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    added: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *rest: Any,
) -> Any:
    if key is None or value is None or key.dim() != 3:
        raise node.refuse("has its tensors packed; export it with three of three axes")
    count = int(node.get("num_heads"))
    if bias is not None:
        width = query.shape[-1]
        first, second, third = bias.split([width, width, bias.shape[0] - 2 * width])
        query, key, value = query + first, key + second, value + third
    query, key, value = (heads(one, count) for one in (query, key, value))
    before: Any = 0
    if past_key is not None and past_value is not None:
        before = past_key.shape[2]
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    seen = _seen(node, mask, key.shape[2])
    if node.get("unidirectional", 0):
        seen = both(seen, _causal(query.shape[2], key.shape[2], before))
    y = attend(query, key, value, _added(seen, added), node.get("scale") or None)
    return joined(y), key, value


def _added(seen: Tensor | None, added: Tensor | None) -> Tensor | None:
    if seen is None or added is None:
        return added if seen is None else seen
    return added + torch.where(seen, 0.0, -torch.inf)


def _seen(node: Node, mask: Tensor | None, keys: Any) -> Tensor | None:
    """Which keys count, [B, 1, 1 or T, S], of a mask [B, S], [B, T, S] or lengths [B]."""
    if mask is None:
        return None
    if mask.dim() == 1:
        return (torch.arange(keys) < mask[:, None])[:, None, None]
    if mask.dim() == 2:
        return mask.bool()[:, None, None]
    if mask.dim() == 3:
        return mask.bool()[:, None]
    raise node.refuse("has a mask of four axes, which is not taken here")
