"""The layers that ``convert`` leaves behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.weights import weight
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gq_tvm.quantize
from gq_tvm import targets
from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.ops.weight import Weight
from gq_tvm.quantize.deployed.codebook_layers import CodebookEmbedding, CodebookLinear
from gq_tvm.quantize.deployed.codebook_recurrent import CodebookLSTM
from gq_tvm.schedules import Choice, Product, family

quantize: Any = gq_tvm.quantize


def test_an_embedding_takes_ids_of_both_widths():
    held = WeightTensors(torch.randint(0, 4, (7, 3), dtype=torch.uint8), torch.randn(1, 4))
    embedding = CodebookEmbedding(held, padding_idx=2)
    ids = torch.tensor([[0, 2, 6]])
    assert torch.equal(embedding(ids.int()), embedding(ids))


def test_a_layer_of_a_weight_gives_it_back():
    held = weight(12, 70, 3, "group", 32, zero=True, outliers=4)
    layer = CodebookLinear(held, torch.zeros(12), "fp32")
    back = layer.codebook_weight("weight").numpy()
    for name in ("indices", "codebook", "scale", "zero"):
        assert getattr(back, name) is not None
        assert (getattr(back, name) == getattr(held, name)).all()
    assert back.outliers
    assert held.outliers
    for ours, theirs in zip(back.outliers, held.outliers, strict=True):
        assert (ours == theirs).all()
    assert torch.equal(layer.weight, torch.from_numpy(held.expand()))
    x = torch.randn(4, 70)
    torch.testing.assert_close(layer(x), x @ layer.weight.T)


def test_a_recurrent_layer_of_weights_gives_them_back():
    pairs = [(weight(24, 70, 3), weight(24, 6, 3, outliers=4)), (weight(24, 6), weight(24, 6))]
    layer = CodebookLSTM(pairs, [torch.zeros(24)] * 2, "fp32")
    for (_, back), held in zip(layer.codebook_weights(), [*pairs[0], *pairs[1]], strict=True):
        assert (back.numpy().expand() == held.expand()).all()
    assert not list(layer.parameters())


def test_outliers_are_saved_and_loaded(tmp_path):
    held, plain = weight(12, 70, 3, outliers=4), weight(12, 70, 3)
    layer = CodebookLinear(held, None, "fp32")
    other = CodebookLinear(weight(12, 70, 3, outliers=4, seed=1), None, "fp32")
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)
    assert "outlier_values" not in CodebookLinear(plain, None, "fp32").state_dict()
    torch.save(layer, tmp_path / "layer.pt")
    again = torch.load(tmp_path / "layer.pt", weights_only=False)
    assert torch.equal(again.weight, layer.weight)


def test_a_layer_pickled_before_there_were_outliers_computes():
    layer = CodebookLinear(weight(12, 70, 3), None, "int8")
    del layer.outlier_positions, layer.outlier_values
    assert layer(torch.randn(2, 70)).shape == (2, 12)


@pytest.mark.parametrize("per_row", [False, True])
def test_a_checkpoint_from_before_weights_had_scales_loads(per_row):
    """Its tables were multiplied by the scales."""
    torch.manual_seed(0)

    def recogniser():
        layers = nn.LSTM(6, 5, batch_first=True), nn.Linear(6, 4), nn.Embedding(9, 6)
        model = nn.ModuleDict(dict(zip(("lstm", "out", "ids"), layers, strict=True)))
        return quantize.convert(quantize.prepare(model, 4, per_row=per_row))

    model = recogniser()
    state = model.state_dict()
    for name in [name for name in state if "weight_scale" in name]:
        book = name.replace("weight_scale", "codebook")
        state[book] = state[book] * state.pop(name)[:, None]
    other = recogniser()
    other.load_state_dict(state)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(other["lstm"](x)[0], model["lstm"](x)[0])
    torch.testing.assert_close(other["out"](x), model["out"](x))
    torch.testing.assert_close(other["ids"].weight, model["ids"].weight)


def packed(where, activation, held: Weight) -> dict[str, int]:
    """The bytes of each operand of the best kernel there is."""
    product = Product(held.rows, held.width, held.bits, activation, 1).of(held)
    chosen = family("lookup_f32" if activation == "fp32" else "lookup")
    space = chosen.space(where, product)
    operands = chosen.pack(Choice(where, product, chosen, space[0]), held)
    return {name: array.nbytes for name, array in operands.items()}


@pytest.mark.parametrize("where", ["x86-64-v4", "x86-64-v3", "cortex-a76"])
@settings(max_examples=20, deadline=None)
@given(
    tiles=st.integers(1, 2),
    units=st.integers(1, 3),
    bits=st.integers(1, 8),
    activation=st.sampled_from(["fp32", "int8"]),
    scale=st.sampled_from(["tensor", "row", "group"]),
    zero=st.booleans(),
    stored=st.sampled_from(["float32", "float16", "uint8"]),
)
def test_described_bytes_are_packed_bytes(
    where, tiles, units, bits, activation, scale, zero, stored
):
    """Of whole tiles; but for the copies of a table that an instruction set wants."""
    size = 32 if units < 3 else 128
    held = weight(128 * tiles, 128 * units, bits, scale, size, zero, stored=stored)
    layer = CodebookLinear(held, None, activation)
    (described,) = quantize.describe(layer)
    sizes = packed(targets.get(where), activation, held)
    table = sizes.pop("table")
    least = (
        64 if activation == "int8" and bits == 8 else 2**bits * (4 if activation == "fp32" else 1)
    )
    assert described.size == sum(sizes.values()) + max(64, least)
    assert table == max(64, least) or (activation == "int8" and table <= 384)


@pytest.mark.parametrize(("stored", "more"), [("float32", 1), ("float16", 0.5), ("uint8", 0.25)])
def test_scales_of_groups_of_32_cost_their_bits(stored, more):
    held = weight(512, 1024, 4, "group", stored=stored)
    (described,) = quantize.describe(CodebookLinear(held, None, "int8"))
    assert described.size == 512 * 1024 * (4 + more) // 8 + 64 + (0 if stored == "float32" else 4)
    assert sum(packed(targets.get("cortex-a76"), "int8", held).values()) == described.size


def test_a_scale_for_each_row_costs_four_bytes():
    model = quantize.compress(nn.Linear(1024, 512, bias=False), 8, scales="row")
    (described,) = quantize.describe(model)
    held = model.codebook_weight("weight").numpy()
    assert described.size == 526_400
    assert sum(packed(targets.get("x86-64-v4"), "int8", held).values()) == 526_400


def test_an_outlier_costs_five_bytes():
    """And nothing where there is none; but for entries that fill up a tile."""
    held = weight(128, 128, 4, outliers=60)
    (plain,) = quantize.describe(CodebookLinear(replace(held, outliers=None), None, "int8"))
    (described,) = quantize.describe(CodebookLinear(held, None, "int8"))
    assert described.size == plain.size + 5 * 60
    sizes = packed(targets.get("x86-64-v3"), "int8", held)
    entries = sizes["outlier_outputs"]
    assert 60 <= entries <= 60 + 4 * 7
    assert sizes["outlier_columns"] == sizes["outlier_values"] == 2 * entries
