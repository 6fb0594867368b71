"""Layers that convolve a map with weights in codebooks, from compression to compiled code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.codebook_models import compiled, relative_error
from torch import Tensor, nn

from gq_tvm import quantize


class Front(nn.Module):
    """A front end as recognisers have: subsampling of a map, and frames of what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 8, (3, 2), padding="same", dilation=(2, 1)),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.Conv2d(8, 4, 1),
        )
        self.out = nn.Linear(4 * 4, 6)

    def forward(self, x: Tensor) -> Tensor:
        """x f32 [B, 1, T, 12] -> f32 [B, T', 6]."""
        return self.out(self.maps(x).transpose(1, 2).flatten(2))


def front() -> Front:
    torch.manual_seed(0)
    model = Front().eval()
    model.get_buffer("maps.3.running_mean").uniform_(-1, 1)
    return model


def test_a_convolution_in_groups_stays_in_float() -> None:
    with pytest.warns(UserWarning, match=r"maps.4.weight \(a Conv2d in groups is not supported"):
        converted = quantize.compress(front(), 4)
    kinds = [type(one).__name__ for one in converted.get_submodule("maps").children()]
    assert kinds[0] == kinds[2] == kinds[5] == "CodebookConv2d"
    assert kinds[4] == "Conv2d"


@pytest.mark.export
@pytest.mark.native
@pytest.mark.filterwarnings("ignore:left in float")
@pytest.mark.parametrize("activation", ["int8", "fp32"])
def test_what_is_compiled_computes_the_same_at_any_length(tmp_path: Path, activation: str) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 1, 21, 12)
    inputs = [(x,), (torch.randn(2, 1, 30, 12),)]
    options: dict[str, Any] = {"inputs": inputs, "tune": 0} if activation == "int8" else {}
    converted = quantize.compress(front(), 4, activation=activation, **options)
    frames = torch.export.Dim("frames", min=8, max=4000)
    program = torch.export.export(converted, (x,), dynamic_shapes=({2: frames},))
    model = compiled(program, tmp_path)
    bound = 5e-3 if activation == "int8" else 1e-5  # a last bit may tip a rounding
    for one in (x, torch.randn(2, 1, 57, 12)):
        assert relative_error(torch.from_numpy(model(one.numpy())), converted(one)) < bound
