from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.codebook_models import export
from helpers.relax_modules import calls
from torch import nn

from gq_tvm import frontend
from gq_tvm.passes import operators
from gq_tvm.passes.match_codebook import MatchCodebook


class Packed(nn.Module):
    """Codes and zero points of 4 bits, two a byte, and scales of groups of 32, the last short."""

    codes: torch.Tensor
    zeros: torch.Tensor

    def __init__(self, rows: int = 12, width: int = 80) -> None:
        super().__init__()
        self.rows, self.width = rows, width
        groups = -(-width // 32)
        self.register_buffer("codes", torch.randint(0, 256, (rows, width // 2), dtype=torch.uint8))
        self.register_buffer("zeros", torch.randint(0, 256, (rows, 2), dtype=torch.uint8))
        self.scale = nn.Buffer(torch.randn(rows, groups))

    def weight(self):
        codes = torch.stack([self.codes & 15, self.codes >> 4], -1).flatten(1)
        zeros = torch.stack([self.zeros & 15, self.zeros >> 4], -1).flatten(1)[:, :3]
        zero, scale = (
            one.float().repeat_interleave(32, 1)[:, : self.width] for one in (zeros, self.scale)
        )
        return (codes.float() - zero) * scale

    def forward(self, x):
        return F.linear(x, self.weight())


def matched(model, *inputs):
    translated = frontend.translate(frontend.read(export(model, *inputs)))
    return MatchCodebook(translated.names)(translated.module)


@pytest.mark.export
def test_packed_codes_are_taken_apart_before_the_program_is_translated():
    packed = Packed()
    model = nn.Sequential(packed)
    (call,) = calls(matched(model, torch.randn(2, 80)), operators.LINEAR)
    weight = operators.weight_of(call)
    assert weight is not None
    assert np.array_equal(weight.expand(), packed.weight().numpy())
    assert (weight.bits, weight.groups, weight.scale.dtype) == (4, 3, np.float32)
    assert weight.zero is not None
    assert weight.zero.dtype == np.uint8
    assert operators.attributes(call)["layer"] == "0"


class Tables(nn.Module):
    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([3, 5, 6]))

    def forward(self, x, ids):
        return x * (self.mask >> 1), ids & self.mask


@pytest.mark.export
def test_what_depends_on_inputs_is_left():
    x, ids = torch.randn(2, 3), torch.tensor([[1, 2, 7]])
    module = frontend.translate(frontend.read(export(Tables(), x, ids))).module
    assert len(calls(module, "relax.bitwise_and")) == 1
    assert not calls(module, "relax.right_shift")
