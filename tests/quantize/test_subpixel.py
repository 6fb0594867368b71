"""Transposed convolutions, which become sub-pixel convolutions when they are quantised."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.codebook_models import compiled, relative_error
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import gq_tvm.quantize
from gq_tvm.quantize.drop_in.computed_weights import fold
from gq_tvm.quantize.drop_in.subpixel import SubpixelConv1d

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way
pytestmark = pytest.mark.filterwarnings("ignore:weights that are computed")


class Up(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.up = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(x)
        return y


def up(*options: Any, **more: Any) -> Any:
    torch.manual_seed(0)
    return Up(nn.ConvTranspose1d(*options, **more)).eval()


def frames(channels: int, count: int = 7, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, count, generator=torch.Generator().manual_seed(count))


@given(
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    stride=st.integers(1, 5),
    reach=st.integers(1, 3),
    count=st.integers(2, 6),
    bias=st.booleans(),
    data=st.data(),
)
def test_it_computes_the_same(inputs, outputs, stride, reach, count, bias, data):
    taps = stride * reach
    padding = data.draw(st.integers(0, (stride * (count - 1) + taps - 1) // 2))
    more = data.draw(st.integers(0, min(padding, stride - 1)))
    layer = nn.ConvTranspose1d(inputs, outputs, taps, stride, padding, more, bias=bias)
    turned: Any = copy.deepcopy(layer)
    assert set(fold(turned)) == {"weight"} | ({"bias"} if bias else set())
    assert type(turned) is SubpixelConv1d
    x = torch.randn(2, inputs, count)
    torch.testing.assert_close(turned(x), layer(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned(x[0]), layer(x[0]), atol=1e-5, rtol=1e-5)
    if padding:
        for size in range(layer(x).shape[-1] - more, layer(x).shape[-1] - more + stride):
            if size - (layer(x).shape[-1] - more) <= padding:
                wanted = layer(x, [size])
                torch.testing.assert_close(turned(x, [size]), wanted, atol=1e-5, rtol=1e-5)


def test_sizes_that_no_output_has_are_refused():
    model = up(4, 4, 4, 2, 1)
    small = quantize.compress(model, 8, activation="fp32")
    assert small.up(frames(4), [15]).shape == model.up(frames(4), [15]).shape
    for size in (13, 16):
        with pytest.raises(ValueError, match=f"must be 14 to 15, got {size}"):
            small.up(frames(4), [size])


def test_what_is_none_stays_in_float():
    layers = {
        "groups": nn.ConvTranspose1d(4, 4, 4, 2, groups=2),
        "dilation": nn.ConvTranspose1d(4, 4, 4, 2, dilation=2),
        "no multiple": nn.ConvTranspose1d(4, 4, 3, 2),
        "output_padding": nn.ConvTranspose1d(4, 4, 4, 2, output_padding=1),
    }
    model = nn.Sequential(nn.Linear(4, 4), *layers.values())
    with pytest.warns(UserWarning, match="left in float: 1.weight"):
        small = quantize.compress(model)
    remarks = [one.remark for one in quantize.describe(small)][1:]
    assert len(remarks) == len(layers)
    for word, remark in zip(layers, remarks, strict=True):
        assert word in remark
    assert [type(one) for one in small][1:] == [nn.ConvTranspose1d] * 4


def test_a_weight_norm_is_folded_and_calibration_reaches_it():
    model = up(16, 8, 4, 2, 1)
    parametrizations.weight_norm(model.up)
    x = [frames(16, 40), frames(16, 41)]
    with pytest.warns(UserWarning, match=r"up.weight \(WeightNorm\), up.bias \(ConvTranspose1d's"):
        small = quantize.compress(model, 8, None, "fp32", inputs=x, progress=None)
    (weight,) = quantize.describe(small)
    assert (weight.name, weight.shape) == ("up.weight", (16, 16, 2))
    assert relative_error(small(x[0]), model(x[0])) < 0.01
    blind = quantize.compress(model, 3, None, "fp32")
    seen = quantize.compress(model, 3, None, "fp32", inputs=x, progress=None)
    assert relative_error(seen(x[0]), model(x[0])) < relative_error(blind(x[0]), model(x[0]))


def test_it_trains_and_is_pickled():
    prepared = quantize.prepare(up(6, 3, 6, 3), 4)
    prepared.train()(frames(6)).square().sum().backward()
    assert prepared.up.weight.grad.shape == (9, 6, 2)
    converted = quantize.convert(prepared.eval())
    again = pickle.loads(pickle.dumps(converted))
    assert torch.equal(again(frames(6)), converted(frames(6)))
    assert torch.equal(prepared(frames(6)), converted(frames(6)))


@pytest.mark.export
@pytest.mark.native
@pytest.mark.parametrize("activation", ["int8", "fp32"])
@pytest.mark.parametrize(
    ("sizes", "bits"),
    [
        ((64, 32, 8, 4, 2), 4),
        ((3, 5, 3, 1), 8),
        ((16, 16, 4, 2, 1, 1), 2),
        ((8, 7, 16, 8, 4), 1),
        ((20, 1, 5, 5), 3),
    ],
)
def test_what_is_compiled_computes_the_same(sizes, bits, activation, tmp_path: Path):
    small = quantize.compress(up(*sizes), bits, activation=activation)
    dynamic = ({2: torch.export.Dim("t", min=2, max=100)},)
    program = torch.export.export(small, (frames(sizes[0]),), dynamic_shapes=dynamic)
    net = compiled(program, tmp_path)
    for count in (3, 20):
        x = frames(sizes[0], count)
        assert relative_error(torch.from_numpy(net(x.numpy())), small(x)) < 1e-5
