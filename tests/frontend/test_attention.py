from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import codebook_models
from helpers.codebook_models import Linear, compiled, relative_error
from torch import nn

from gq_tvm import frontend

KEYS = 9


class Attending(nn.Module):
    """`heads` attend to fixed keys, behind a codebook layer (a model needs one)."""

    def __init__(self, shape, mask=None, **options):
        super().__init__()
        self.layer = Linear(shape[-1], shape[-1])
        generator = torch.Generator().manual_seed(0)
        keys = (*shape[:-2], KEYS, shape[-1])
        self.keys = nn.Parameter(torch.randn(keys, generator=generator))
        self.values = nn.Parameter(torch.randn(keys, generator=generator))
        if mask is not None:
            self.register_buffer("mask", mask)
        self.options = options

    def forward(self, x):
        mask = getattr(self, "mask", None)
        return F.scaled_dot_product_attention(
            self.layer(x), self.keys, self.values, attn_mask=mask, **self.options
        )


def seen(*shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) > 0.4
    mask.view(-1, shape[-1])[0] = False  # nothing to see: zeros
    return mask


CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 3, 5, 8), {}),
    "scaled": ((2, 3, 5, 8), {"scale": 0.3}),
    "causal": ((2, 3, 5, 8), {"is_causal": True}),
    "bool": ((2, 3, 5, 8), {"mask": seen(5, KEYS)}),
    "keys": ((2, 3, 5, 8), {"mask": seen(2, 1, 1, KEYS)}),
    "float": ((2, 3, 5, 8), {"mask": torch.linspace(-2, 2, 3 * 5 * KEYS).view(3, 5, KEYS)}),
    "column": ((2, 3, 5, 8), {"mask": torch.linspace(-2, 2, 5).view(5, 1)}),
    "one head": ((2, 5, 8), {"mask": seen(2, 5, KEYS)}),
    "matrices": ((5, 8), {}),
    "five axes": ((2, 1, 3, 5, 8), {}),
}


class Several(nn.Module):
    """Some of the cases, each with its own input."""

    def __init__(self, names):
        super().__init__()
        self.cases = nn.ModuleList(
            Attending(shape, **o) for shape, o in map(CASES.__getitem__, names)
        )

    def forward(self, *inputs):
        return [case(x) for case, x in zip(self.cases, inputs, strict=True)]


@pytest.mark.export
@pytest.mark.parametrize("kept", [True, False])
def test_attention(kept, tmp_path):
    names = [name for name in CASES if (name != "five axes") == kept]
    model = Several(names).eval()
    inputs = [2 * torch.randn(CASES[name][0]) for name in names]
    program = codebook_models.export(model, *inputs)
    translated = frontend.translate(frontend.read(program), None).module
    assert str(translated["main"]).count("nn.attention") == kept * len(names)
    got = compiled(program, tmp_path)(*inputs)
    for name, one, wanted in zip(names, got if kept else [got], model(*inputs), strict=True):
        assert relative_error(one, wanted) < 1e-5, name
