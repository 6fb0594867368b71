"""The way of a model: prepare, anneal, convert, compress, describe."""

from __future__ import annotations

import copy
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from helpers.small_recogniser import inputs, recogniser, train
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gq_tvm.quantize
from gq_tvm.errors import Error
from gq_tvm.ops.checks import ACTIVATIONS

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way
BITS = range(1, 9)
FEW_BITS = ("int1", "int2")


def same(got, wanted):
    for g, w in zip(got, wanted, strict=True):
        assert torch.equal(g, w)


@pytest.mark.parametrize(
    ("bits", "activation"),
    [*product((1, 3, 4, 8), ("fp32", "int8")), *product((1, 2), FEW_BITS)],
)
@pytest.mark.parametrize("per_row", [False, True])
def test_converted_computes_what_prepared_evaluates(bits, activation, per_row):
    model = quantize.prepare(recogniser(), bits, activation=activation, per_row=per_row)
    train(model, 3, quantize.Annealing(model, 6))
    converted = quantize.convert(model)
    same(converted(*inputs()), model.eval()(*inputs()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hard_training_computes_what_eval_does(activation):
    model = quantize.prepare(recogniser(), 3, activation=activation, exact_state=True)
    trained = model.train()(*inputs())
    evaluated = model.eval()(*inputs())
    for t, e in zip(trained, evaluated, strict=True):
        # Sums in another order may move an activation to the next of its 255 steps.
        torch.testing.assert_close(t, e, atol=1e-5 if activation == "fp32" else 1e-2, rtol=0)
    model.train()
    model.encoder.exact_state = False
    rough = model(*inputs())[0]
    if activation == "int8":
        assert not torch.equal(rough, trained[0])
        torch.testing.assert_close(rough, trained[0], atol=5e-2, rtol=0)
    else:  # as it is, or of so few bits that the state is always rounded
        torch.testing.assert_close(rough, trained[0])


@pytest.mark.training
@pytest.mark.parametrize(
    ("method", "bits", "limit"),
    [
        ("gq", 2, 1.0),
        ("gq", 1, 1.8),
        ("lsq", 2, 1.2),
        ("int8", 8, 0.7),
    ],
)
def test_training_repairs_what_quantising_breaks(method, bits, limit):
    def loss(model):
        ids, h, c = inputs(batch=64, seed=1000)
        with torch.no_grad():
            logits = model(ids, h, c)[0]
        return nn.functional.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten())

    model = recogniser(tie=False)
    train(model, 100, lr=1e-2)
    untrained = loss(quantize.compress(model, bits))
    quantize.prepare(model, bits, method=method)
    train(model, 100, quantize.Annealing(model, 100) if method == "gq" else None)
    assert loss(quantize.convert(model)) < min(limit, 0.8 * untrained)


def test_no_float_copy_of_a_weight_stays():
    model = recogniser()
    converted = quantize.convert(quantize.prepare(model, 4))
    shapes = {tuple(w.shape) for w in quantize.describe(model)}
    for _, tensor in [*converted.named_parameters(), *converted.named_buffers()]:
        assert not (tensor.is_floating_point() and tuple(tensor.shape) in shapes)
    assert {n for n, _ in converted.named_parameters()} == {"norm.weight", "norm.bias"}
    assert not converted.training
    assert isinstance(model.encoder, nn.LSTM)  # the prepared one is as it was
    assert model.encoder.weight_hh_l0.dtype == torch.float32
    train(model, 1)


def test_tied_weights():
    model = quantize.prepare(recogniser(), 4, {"output": 3})
    assert model.output.weight is model.embedding.weight
    assert model.output.quantizers["weight"] is model.embedding.quantizers["weight"]
    assert model.embedding.quantizers["weight"].bits == 3
    assert len(quantize.centroid_parameters(model)) == 1 + 2 + 4 + 1
    converted = quantize.convert(model)
    assert converted.output.indices is converted.embedding.indices
    assert converted.output.codebook is converted.embedding.codebook
    report = {w.name: w for w in quantize.describe(converted)}
    assert report["output.weight"].remark == "shared with embedding.weight"
    assert report["output.weight"].size == 0
    with pytest.raises(Error, match="are one shared weight; give both the same bits"):
        quantize.prepare(recogniser(), 4, {"output": 3, "embedding": 2})


def test_a_layer_used_twice_is_one_layer():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    converted = quantize.convert(quantize.prepare(model, 4))
    assert converted[0] is converted[2]
    same([converted(torch.ones(2, 4))], [model.eval()(torch.ones(2, 4))])


def test_overrides():
    def bits(overrides, default=4):
        model = quantize.prepare(recogniser(), default, overrides)
        return {w.name: w.bits for w in quantize.describe(model)}

    assert set(bits({}).values()) == {4}
    by_name = bits({"encoder.*": 2, "encoder.weight_hh_l1": 1, "front": 8, "projection": None})
    assert by_name["encoder.weight_ih_l0"] == 2
    assert by_name["encoder.weight_hh_l1"] == 1
    assert by_name["front.weight"] == 8
    assert by_name["projection.weight"] == 32
    last = bits({"encoder.weight_hh_l1": 1, "encoder": 2})
    assert last["encoder.weight_hh_l1"] == 2
    alone = bits({"*_hh_*": 3, "*_ih_*": 2}, default=None)
    assert {n for n, b in alone.items() if b != 32} == {
        f"encoder.weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in (0, 1)
    }


def test_activations_by_layer():
    def kinds(activation):
        model = quantize.prepare(recogniser(), 2, activation=activation)
        return {name: m.activation for name, m in model.named_modules() if hasattr(m, "attach")}

    alike = kinds("int1")
    assert set(alike.values()) == {"int1", "fp32"}  # an embedding has floats
    some = kinds({"encoder": "int1", "projection.*": "int2"})
    assert {n for n, kind in some.items() if kind == "int1"} == {"encoder"}
    assert {n for n, kind in some.items() if kind == "int2"} == {"projection"}
    assert set(some.values()) == {"int1", "int2", "int8", "fp32"}
    last = kinds({"*": "fp32", "encoder.*": "int2"})
    assert {n for n, kind in last.items() if kind != "fp32"} == {"encoder"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": {"encodr": 2}}, r"pattern 'encodr' matches no .*near it: encoder"),
        ({"overrides": {"norm": 2}}, "pattern 'norm' matches no weight"),
        ({"overrides": {"front": 9}}, "front: bits must be 1 to 8, None or 32, got 9"),
        ({"bits": 0}, "^prepare: bits must be 1 to 8, None or 32, got 0"),
        ({"bits": 2.5}, "bits must be 1 to 8, None or 32, got 2.5"),
        ({"bits": None}, "no weight to quantise: bits and overrides leave them all in float"),
        ({"activation": "int4"}, 'activation must be "fp32", "int8", "int2" or "int1"'),
        ({"activation": {"front": "int4"}}, 'activation must be "fp32", "int8"'),
        ({"activation": {"encodr": "int1"}}, r"pattern 'encodr' matches no .*near it: encoder"),
        ({"activation": {"encoder.weight_hh_l0": "int1"}}, "give both the same activation"),
        ({"method": "lloyd"}, "method must be one of gq, int8, lsq, got 'lloyd'"),
        ({"method": "int8"}, 'method "int8" has 8 bits only'),
        ({"mu": -1.0}, "mu must be 0 or more"),
        ({"mu": float("nan")}, "mu must be 0 or more"),
        ({"mu": 0, "learn_mu": True}, "learn_mu needs a mu above 0"),
        ({"start": "zero"}, "start must be one of lloyd-max, uniform, got 'zero'"),
        ({"overrides": ["encoder"]}, "overrides must be a dictionary by pattern"),
        ({"overrides": {0: 2}}, 'a pattern must be a string, such as "0", got 0'),
        ({"mu": "a"}, "mu must be a number, got 'a'"),
        ({"learn_mu": 1}, "learn_mu must be True or False, got 1"),
        ({"method": ["gq"]}, r"method must be one of .*, got \['gq'\]"),
        ({"method": "lsq", "mu": 63}, 'method "lsq" has no mu; leave it out'),
        ({"method": "lsq", "learn_mu": True}, 'method "lsq" has no learn_mu'),
        ({"method": "lsq", "learn_centroids": False}, 'method "lsq" has no learn_centroids'),
        ({"method": "int8", "bits": 8, "start": "uniform"}, 'method "int8" has no start'),
        ({"method": "int8", "bits": 8, "int8_grid": True}, 'method "int8" has no int8_grid'),
        ({"overrides": {"encoder.weight_hh_l1": 32}}, "weight_hh_l1 would stay in float beside"),
    ],
)
def test_prepare_refuses(options, message):
    model = recogniser()
    before = type(model.encoder)
    with pytest.raises(Error, match=message):
        quantize.prepare(model, **options)
    assert type(model.encoder) is before  # nothing half done


def test_other_refusals():
    for argument, message in (
        (recogniser().state_dict(), "got a state_dict .*load it with model.load_state_dict"),
        (None, "the model must be an nn.Module, got NoneType"),
    ):
        for verb in ("prepare", "compress", "convert", "describe"):
            with pytest.raises(Error, match=f"^{verb}: {message}"):
                getattr(quantize, verb)(argument)
    with pytest.raises(Error, match=r"^compress: bits must be 1 to 8"):
        quantize.compress(recogniser(), 9)
    with pytest.raises(Error, match=r"^convert: 0\.weight is float16; call model\.float\(\) first"):
        quantize.convert(quantize.prepare(nn.Sequential(nn.Linear(4, 4))).half())
    model = quantize.prepare(recogniser(), 4)
    with pytest.raises(Error, match="prepared already"):
        quantize.prepare(model, 4)
    with pytest.raises(Error, match=r"no quantised layer; call quantize\.prepare first"):
        quantize.convert(recogniser())
    with pytest.raises(Error, match="has no quantisers"):
        quantize.Annealing(recogniser(), 10)
    with pytest.raises(Error, match="0 < start <= end"):
        quantize.Annealing(model, 10, start=5, end=4)
    with pytest.raises(Error, match="at least 1"):
        quantize.Annealing(model, 0)
    with pytest.raises(Error, match=r"steps must be a whole number, got 10\.5"):
        quantize.Annealing(model, 10.5)
    with torch.no_grad():
        model.projection.weight[0, 0] = torch.nan
    with pytest.raises(Error, match=r"projection\.weight: the weight holds NaN"):
        quantize.convert(model)
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 12)])
    with pytest.raises(Error, match="instead of a PackedSequence"):
        model.encoder(packed)
    with pytest.raises(Error, match=r"state h must have shape \[2, batch, 10\]"):
        model.encoder(torch.zeros(1, 3, 12), (torch.zeros(1, 1, 10), torch.zeros(1, 1, 10)))


class Odd(nn.Module):
    """Layers that stay in float, beside some that do not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.gru = nn.GRU(8, 4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.transformer = nn.TransformerEncoderLayer(8, 2, 8)
        self.two_ways = nn.LSTM(8, 4, bidirectional=True)
        self.two_ways_gru = nn.GRU(8, 4, bidirectional=True)
        self.projected = nn.LSTM(8, 4, proj_size=2)
        self.biased = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.zero = nn.MultiheadAttention(8, 2, add_zero_attn=True)
        self.picture = nn.Conv3d(2, 3, 3)
        self.upwards = nn.ConvTranspose2d(2, 3, 3)
        self.clipped = nn.Embedding(5, 8, max_norm=1.0)
        self.wide = nn.Linear(8, 8).double()
        self.free = nn.Parameter(torch.zeros(8, 8))
        self.tied = nn.Linear(8, 5)
        self.tied.weight = self.clipped.weight


QUANTISED = {
    *("linear", "gru", "attention", "transformer", "two_ways", "two_ways_gru", "projected"),
}


def test_what_cannot_be_quantised_is_left_and_said():
    with pytest.warns(UserWarning, match=r"left in float: free \(Odd is not .*biased.in_proj"):
        model = quantize.prepare(Odd(), 4)
    report = quantize.describe(model)
    reasons = {w.name: w.remark for w in report if w.bits == 32}
    assert {w.name.split(".")[0] for w in report if w.bits == 4} == QUANTISED
    assert not {name for name in reasons if name.split(".")[0] in QUANTISED}
    assert "add_bias_kv" in reasons["biased.in_proj_weight"]
    assert "goes with biased.in_proj_weight" in reasons["biased.out_proj.weight"]
    assert "add_zero_attn" in reasons["zero.in_proj_weight"]
    assert reasons["picture.weight"].startswith("Conv3d is not one of the supported layers")
    assert reasons["upwards.weight"].startswith("ConvTranspose2d is not one of")
    assert "max_norm" in reasons["clipped.weight"]
    assert reasons["tied.weight"] == "shared with clipped.weight"
    assert "float64" in reasons["wide.weight"]
    assert "Odd is not one of" in reasons["free"]
    text = str(report)
    assert "linear.weight" in text
    assert "max_norm" in text
    with pytest.raises(Error, match=r"matches only weights that cannot be quantised.*Conv3d"):
        quantize.prepare(Odd(), 4, {"picture": 2})
    x = torch.randn(3, 1, 8)
    converted = quantize.convert(model)
    model.eval()
    for name in ("gru", "two_ways", "two_ways_gru", "projected"):
        same([getattr(converted, name)(x)[0]], [getattr(model, name)(x)[0]])
    same([converted.attention(x, x, x)[0]], [model.attention(x, x, x)[0]])
    same([converted.transformer(x)], [model.transformer(x)])


def test_no_word_is_lost_on_what_was_to_stay_in_float(recwarn):
    model = Odd()
    others = {f"{name}*": None for name, _ in model.named_children() if name not in QUANTISED}
    quantize.prepare(model, 4, {**others, "free": 32})
    assert not [w for w in recwarn if "left in float" in str(w.message)]


def test_describe_counts_large_buffers():
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_buffer("table", torch.zeros(128, 128))
    model.register_buffer("small", torch.zeros(4, 4))
    for one in (model, quantize.prepare(copy.deepcopy(model)), quantize.compress(model)):
        report = {one.name: one for one in quantize.describe(one)}
        assert report.keys() == {"table", "0.weight"}
        assert report["table"].size == 4 * 128 * 128
        assert report["table"].remark == "a buffer is no weight"


def test_describe_counts_bytes():
    model = nn.Linear(64, 32)
    assert quantize.describe(model)[0].remark == "not prepared"
    entry = quantize.describe(quantize.prepare(model, 3, per_row=True))[0]
    assert entry.size == 64 * 32 * 3 // 8 + 64 + 4 * 32
    assert entry.float_size == 64 * 32 * 4
    converted = quantize.convert(model)  # the root itself is a layer
    assert isinstance(converted, quantize.CodebookLinear)
    assert quantize.describe(converted)[0] == entry


def test_annealing():
    model = quantize.prepare(recogniser(), 4)
    quantizers = [m for m in model.modules() if hasattr(m, "hardness")]
    assert all(q.hardness.hard for q in quantizers)
    annealing = quantize.Annealing(model, steps=20, start=4, end=36, hard=0.25, every=3)
    ks, applied = [], []
    for _ in range(20):
        ks.append(annealing.k)
        applied.append(quantizers[0].hardness.applied)
        annealing.step()
    assert ks[0] == 4
    assert ks[14] == pytest.approx(36)
    ratios = [b / a for a, b in pairwise(ks[:15])]
    assert max(ratios) == pytest.approx(min(ratios))  # geometric
    assert all(k == float("inf") for k in ks[15:])
    assert applied == [True, False, False] * 5 + [True] * 5
    assert annealing.hard
    assert all(q.hardness is annealing.hardness for q in quantizers)


def test_annealing_resumes():
    def halfway():
        model = quantize.prepare(recogniser(), 2)
        return model, quantize.Annealing(model, 10)

    model, annealing = halfway()
    train(model, 4, annealing)
    again, resumed = halfway()
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(annealing.state_dict())
    assert resumed.k == annealing.k
    same(again(*inputs()), model(*inputs()))
    assert train(again, 6, resumed) == train(model, 6, annealing)
    assert resumed.hard


def test_off_steps_use_the_float_weights():
    model = recogniser()
    floats = model(*inputs())
    quantize.prepare(model, 2, activation="fp32")
    annealing = quantize.Annealing(model, 10, every=2)
    assert not torch.equal(model(*inputs())[0], floats[0])
    annealing.step()
    torch.testing.assert_close(model(*inputs()), floats)


def test_eval_follows_the_weights():
    model = quantize.prepare(recogniser(), 4).eval()
    before = model(*inputs())[0]
    same([model(*inputs())[0]], [before])
    with torch.no_grad():
        model.projection.weight.mul_(2)
    assert not torch.equal(model(*inputs())[0], before)
    with torch.no_grad():
        model.projection.weight.div_(2)
        model.encoder.quantizers["weight_ih_l0"].centroids.mul_(0.5)
    assert not torch.equal(model(*inputs())[0], before)
    assert not before.requires_grad


def test_compress_loses_less_with_more_bits():
    model = recogniser()
    ids, h, c = inputs(batch=16)
    wanted = model(ids, h, c)[0]
    before = copy.deepcopy(model.state_dict())
    errors, weight_errors = [], []
    for bits in BITS:
        compressed = quantize.compress(model, bits, activation="fp32")
        errors.append((compressed(ids, h, c)[0] - wanted).norm().item())
        weight_errors.append((compressed.front.weight - model.front.weight).norm().item())
    assert all(narrow < wide for wide, narrow in pairwise(errors))
    assert errors[7] < 0.01 * wanted.norm()
    assert all(narrow < 0.6 * wide for wide, narrow in pairwise(weight_errors))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert type(model.encoder) is nn.LSTM


def test_compress_is_lloyd_max_in_the_weight_domain():
    model = nn.Linear(100, 100)
    weight = model.weight.detach()
    compressed = quantize.compress(model, 3, activation="fp32", scales="tensor")
    linear = compressed.weight
    companded = quantize.convert(quantize.prepare(copy.deepcopy(model), 3, activation="fp32"))
    torch.testing.assert_close(
        companded.weight, linear
    )  # where training starts, whatever the space
    means = [weight[compressed.indices == j].mean() for j in range(8)]
    centroids = compressed.weight_scale * compressed.codebook[0]
    torch.testing.assert_close(torch.stack(means), centroids, atol=1e-3, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    bits=st.integers(1, 8),
    batch=st.integers(1, 3),
    frames=st.integers(1, 5),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 6)),
    layers=st.integers(1, 3),
    bias=st.booleans(),
    batch_first=st.booleans(),
    state=st.booleans(),
    batched=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_lstm_is_a_drop_in(
    bits, batch, frames, sizes, layers, bias, batch_first, state, batched, activation
):
    torch.manual_seed(0)
    model = nn.LSTM(*sizes, num_layers=layers, bias=bias, batch_first=batch_first)
    shape = (batch, frames) if batch_first else (frames, batch)
    x = torch.randn(*(shape if batched else (frames,)), sizes[0])
    lead = (layers, batch) if batched else (layers,)
    hx = (torch.randn(*lead, sizes[1]), torch.randn(*lead, sizes[1])) if state else None
    wanted, (wanted_h, wanted_c) = model(x, hx)
    prepared = quantize.prepare(model, bits, activation=activation)
    quantize.Annealing(prepared, 10)
    trained, _ = prepared(x, hx)
    assert trained.shape == wanted.shape
    trained.sum().backward()
    converted = quantize.convert(prepared)
    y, (h, c) = converted(x, hx)
    assert (y.shape, h.shape, c.shape) == (wanted.shape, wanted_h.shape, wanted_c.shape)
    evaluated, (h2, c2) = prepared.eval()(x, hx)
    if activation == "fp32":  # floats may be added up in another order
        torch.testing.assert_close([y, h, c], [evaluated, h2, c2], atol=1e-6, rtol=1e-5)
    else:
        same([y, h, c], [evaluated, h2, c2])
    if bits == 8 and activation == "fp32":
        torch.testing.assert_close(y, wanted, atol=0.05, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    taps=st.integers(1, 4),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.one_of(st.integers(0, 2), st.sampled_from(["same", "valid"])),
    mode=st.sampled_from(["zeros", "replicate", "reflect", "circular"]),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    batched=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_conv1d_is_a_drop_in(
    taps, stride, dilation, padding, mode, groups, bias, batched, activation
):
    torch.manual_seed(0)
    stride = 1 if padding == "same" else stride
    model = nn.Conv1d(4, 8, taps, stride, padding, dilation, groups, bias, padding_mode=mode)
    x = torch.randn(*([2] if batched else []), 4, 12)
    wanted = model(x)
    prepared = quantize.prepare(model, 8, activation=activation)
    trained = prepared(x)
    trained.sum().backward()
    converted = quantize.convert(prepared)
    assert converted.activation == ("fp32" if groups > 1 else activation)
    y = converted(x)
    same([y], [prepared.eval()(x)])
    torch.testing.assert_close(y, trained, atol=1e-4, rtol=0)
    if converted.activation not in FEW_BITS:
        torch.testing.assert_close(y, wanted, atol=0.05, rtol=0)


@pytest.mark.parametrize("activation", ["fp32", "int8", "int2"])
def test_a_convolution_in_groups_of_many_outputs_rounds_what_each_reads(activation):
    torch.manual_seed(0)
    model = nn.Conv1d(6, 48, 3, stride=2, padding=1, groups=3)
    x = torch.randn(2, 6, 12) * torch.tensor([1.0, 1, 100, 100, 1e4, 1e4])[:, None]
    prepared = quantize.prepare(model, 8, activation=activation)
    trained = prepared(x)
    trained.sum().backward()
    converted = quantize.convert(prepared)
    assert converted.activation == activation
    y = converted(x)
    same([y], [prepared.eval()(x)])
    torch.testing.assert_close(y, trained, atol=1e-4, rtol=1e-3)
    if activation != "int2":
        for got, wanted in zip(y.chunk(3, 1), model(x).chunk(3, 1), strict=True):
            assert (got - wanted).norm() < 0.03 * wanted.norm()


def test_padding_row_of_an_embedding_is_zero():
    model = nn.Embedding(7, 5, padding_idx=2)
    prepared = quantize.prepare(model, 2)
    ids = torch.tensor([[0, 2], [2, 6]])
    rows = prepared(ids)
    rows.sum().backward()
    assert not rows[ids == 2].any()
    assert rows[ids != 2].all()
    converted = quantize.convert(prepared)
    same([converted(ids)], [prepared.eval()(ids)])
    assert not converted(ids)[ids == 2].any()


def test_optimiser_made_before_still_trains_the_weights():
    model = recogniser()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    quantize.prepare(model, 2)
    optimizer.add_param_group({"params": quantize.centroid_parameters(model)})
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model(*inputs())[0].square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters())


def test_a_model_deep_copies_and_saves(tmp_path):
    model = quantize.prepare(recogniser(), 3)
    annealing = quantize.Annealing(model, 10)
    copied = copy.deepcopy(model)
    same(copied(*inputs()), model(*inputs()))
    hardness = {id(m.hardness) for m in copied.modules() if hasattr(m, "hardness")}
    assert len(hardness) == 1
    assert id(annealing.hardness) not in hardness
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh = quantize.prepare(recogniser(seed=1), 3)
    fresh.load_state_dict(torch.load(tmp_path / "model.pt"))
    same(fresh.eval()(*inputs()), model.eval()(*inputs()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_export_with_symbolic_frames(activation):
    model = quantize.compress(recogniser(), 4, {"encoder": 2}, activation)
    frames = torch.export.Dim("T", min=1, max=512)
    program = torch.export.export(
        model, inputs(batch=1, frames=5), dynamic_shapes=({1: frames}, None, None)
    )
    ops = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert ops.count("gq.codebook_lstm.default") == 2
    assert ops.count("gq.codebook_conv1d.default") == 2
    assert ops.count("gq.codebook_linear.default") == 2
    assert ops.count("gq.codebook_embedding.default") == 1
    for length in (1, 40):
        arguments = inputs(batch=1, frames=length)
        same(program.module()(*arguments), model(*arguments))
