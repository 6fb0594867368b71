"""com.microsoft's GroupQueryAttention: attention of decoders, with keys and values of the past.

"Contrib operators" in ONNX Runtime's documentation defines it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gq_tvm.onnx_import.operators.attention import attend, both, heads, joined
from gq_tvm.onnx_import.registry import MICROSOFT, Node, operator
from gq_tvm.onnx_import.values import Host


@operator("GroupQueryAttention", host=(6,), domain=MICROSOFT)
def _group_query(
    node: Node,
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    last: Tensor,
    total: Host,
    cosines: Tensor | None = None,
    sines: Tensor | None = None,
    places: Tensor | None = None,
    added: Tensor | None = None,
    *rest: Any,
) -> Any:
    _check(node, rest)
    count, few = int(node.get("num_heads")), int(node.get("kv_num_heads"))
    if key is None or value is None:  # all in one
        width = query.shape[-1] // (count + 2 * few)
        query, key, value = query.split([count * width, few * width, few * width], -1)
    q, k, v = heads(query, count), heads(key, few), heads(value, few)
    new = q.shape[2]
    before = torch.zeros_like(last.reshape(-1)).long()  # keys of the past that count, [B]
    if past_key is not None and past_value is not None:
        before = (last.reshape(-1).long() + 1 - new).clamp(min=0)
    own = before[:, None] + torch.arange(new)  # [B, T]: the place of each query
    if node.get("do_rotary", 0):
        if cosines is None or sines is None:
            raise node.refuse("turns its queries and is given no cosines and sines")
        at = own if places is None else places.long()
        turns = cosines[at][:, None], sines[at][:, None], bool(node.get("rotary_interleaved", 0))
        q, k = _turned(q, *turns), _turned(k, *turns)
    if past_key is not None and past_value is not None:
        k, v = (_behind(*one, before) for one in ((past_key, k), (past_value, v)))
    if total.number() != k.shape[2]:
        raise node.refuse(
            f"has {total.number()} keys in all and is given {k.shape[2]}, those of the past and "
            "the new ones; give sizes that fit (--size NAME=N), or a past without spare room"
        )
    seen = torch.arange(k.shape[2]) <= own[..., None]
    window = int(node.get("local_window_size", -1))
    if window > 0:
        seen = seen & (torch.arange(k.shape[2]) > own[..., None] - window)
    mask = both(added, seen[:, None])
    each, its = (one.repeat_interleave(count // few, 1) for one in (k, v))
    scale = node.get("scale", 0.0) or None
    y = attend(q, each, its, mask, scale, float(node.get("softcap", 0.0)))
    return joined(y), k, v


def _check(node: Node, rest: Any) -> None:
    if any(one is not None for one in rest) or node.get("smooth_softmax", 0) not in (0, -1):
        raise node.refuse(
            "smooths its softmax or holds its keys quantised, which is not taken here"
        )
    if node.get("qk_output", 0) or (len(node.outputs) > 3 and node.outputs[3]):
        raise node.refuse("gives its scores, which are not computed here")
    if node.get("k_quant_type", "NONE") != "NONE" or node.get("v_quant_type", "NONE") != "NONE":
        raise node.refuse("holds its keys quantised, which is not taken here")


def _turned(x: Tensor, cosines: Tensor, sines: Tensor, interleaved: bool) -> Tensor:
    """Rotary places (Su et al., arXiv 2104.09864) of x [B, heads, T, d], of its first r numbers.

    Args:
        x: It.
        cosines: [B, 1, T, r / 2], and `sines` alike.
        sines: See there.
        interleaved: Whether pairs are neighbours, or half of r apart.
    """
    width = 2 * cosines.shape[-1]
    part, kept = x[..., :width], x[..., width:]
    if interleaved:
        a, b = part[..., 0::2], part[..., 1::2]
    else:
        a, b = part.chunk(2, -1)
    ends = [a * cosines - b * sines, b * cosines + a * sines]
    y = torch.stack(ends, -1).flatten(-2) if interleaved else torch.cat(ends, -1)
    return torch.cat([y, kept], -1)


def _behind(past: Tensor, new: Tensor, before: Tensor) -> Tensor:
    """New keys [B, heads, T, d] behind the first ones of the past [B, heads, P, d]; [.., P + T, d].

    Args:
        past: It.
        new: They.
        before: How many of the past count, [B]; what is over at the end is a copy of the last.
    """
    whole = torch.cat([past, new], 2)
    spare = (past.shape[2] - before)[:, None]
    at = torch.arange(whole.shape[2])[None]
    at = torch.where(at < before[:, None], at, at + spare).clamp(max=whole.shape[2] - 1)
    return whole.gather(2, at[:, None, :, None].expand_as(whole))
