"""A streaming Conformer: what a frame sees, however the signal is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gq_tvm.errors import Error
from gq_tvm.models.networks.conformer import ConformerEncoder, ConformerSettings

FEATURES, OUTPUTS = 6, 5
SIZES = ConformerSettings(size=8, layers=2, heads=2, inner=12, taps=3, context=4)


def encoder(sizes: ConformerSettings = SIZES) -> ConformerEncoder:
    torch.manual_seed(0)
    model = ConformerEncoder(sizes, FEATURES, OUTPUTS).eval()
    with torch.no_grad():
        model.positions.normal_(0, 1)
    return model


def start(model: ConformerEncoder, batch: int = 1) -> list[Tensor]:
    return [torch.zeros(shape) for shape in model.state_shapes(batch).values()]


def frames(count: int, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(batch, count, FEATURES, generator=torch.Generator().manual_seed(seed))


MODEL = encoder()


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 2))
@torch.inference_mode()
def test_pieces_give_what_the_whole_gives(pieces, batch):
    x = frames(sum(pieces), batch)
    whole, *end = MODEL(x, *start(MODEL, batch))
    state, heard = start(MODEL, batch), []
    for piece in x.split(pieces, 1):
        y, *state = MODEL(piece, *state)
        heard.append(y)
    torch.testing.assert_close(torch.cat(heard, 1), whole, rtol=1e-4, atol=1e-5)
    for one, other in zip(state, end, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_nothing_is_seen_before_the_first_frame():
    x = frames(6)
    keys, values, past, seen = start(MODEL)
    plain = MODEL(x, keys, values, past, seen)[0]
    noise = torch.randn_like(keys)
    unseen = MODEL(x, 100 * noise, 100 * noise, past, seen)[0]
    torch.testing.assert_close(unseen, plain, rtol=0, atol=0)
    there = MODEL(x, noise, noise, past, torch.ones_like(seen))[0]
    assert (there - plain).abs().max() > 0.01  # else they are never seen


def reach(model: ConformerEncoder, frame: int, count: int) -> list[int]:
    """The frames that the answer at a frame depends on."""
    x = frames(count).requires_grad_()
    model(x, *start(model))[0][0, frame].sum().backward()
    assert x.grad is not None
    return [t for t in range(count) if x.grad[0, t].any()]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_frame_depends_on_the_frames_in_reach_and_none_ahead(layers):
    model = encoder(replace(SIZES, layers=layers))
    back = layers * (SIZES.context + SIZES.taps - 1)
    assert reach(model, back + 2, back + 6) == list(range(2, back + 3))
    assert reach(model, 1, 4) == [0, 1]


def test_positions_are_a_bias_by_head_and_distance():
    seen = torch.tensor([[0.0, 0, 1, 1, 1, 1, 1]])  # two of four frames of context, three new
    bias = MODEL._bias(3, seen)
    table = MODEL.positions.view(SIZES.heads, SIZES.context + 1)
    for t in range(3):
        for s in range(7):
            distance = SIZES.context + t - s
            if 0 <= distance <= SIZES.context and seen[0, s]:
                assert torch.equal(bias[0, :, t, s], table[:, distance])
            else:
                assert (bias[0, :, t, s] < -1e8).all()


def test_heads_must_divide_the_size():
    with pytest.raises(Error, match=r"10 values cannot be cut into 4 heads; choose"):
        ConformerSettings(size=10, heads=4)
