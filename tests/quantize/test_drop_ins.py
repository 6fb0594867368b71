"""A quantised layer is what it replaces to all code around it: class, attributes, arguments."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.relax_modules import calls
from torch import nn

import gq_tvm.quantize
from gq_tvm import frontend
from gq_tvm.errors import Error
from gq_tvm.passes import operators
from gq_tvm.passes.match_codebook import MatchCodebook

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way


class Causal(nn.Conv1d):
    """Looks back alone."""

    def forward(self, input):
        return super().forward(F.pad(input, (2, 0)))


class Outputs(nn.LSTM):
    """Gives no state back."""

    def forward(self, input, hx=None):
        return super().forward(input, hx)[0]


class Plain(nn.Linear):
    """Overrides nothing."""

    scale = 2.0


X = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
# A layer, its arguments by PyTorch's names.
LAYERS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "linear": (lambda: nn.Linear(8, 6), {"input": X}),
    "no bias": (lambda: nn.Linear(8, 6, bias=False), {"input": X}),
    "conv": (lambda: nn.Conv1d(8, 6, 3, 2, 1, groups=2), {"input": X.permute(1, 2, 0)}),
    "same": (
        lambda: nn.Conv1d(8, 6, 3, padding="same", padding_mode="reflect"),
        {"input": X.permute(1, 2, 0)},
    ),
    "conv2d": (
        lambda: nn.Conv2d(3, 6, (3, 2), 2, (1, 0), padding_mode="circular"),
        {"input": X.unsqueeze(0).transpose(1, 2).reshape(2, 3, 2, 4)},
    ),
    "embedding": (lambda: nn.Embedding(9, 8, padding_idx=2), {"input": torch.tensor([[1, 2]])}),
    "bag": (
        lambda: nn.EmbeddingBag(9, 8, mode="mean", padding_idx=2),
        {"input": torch.tensor([[1, 2, 4], [3, 3, 0], [2, 2, 2]])},
    ),
    "bags": (
        lambda: nn.EmbeddingBag(9, 8, mode="sum"),
        {
            "input": torch.tensor([1, 2, 4, 3]),
            "offsets": torch.tensor([0, 3, 3]),
            "per_sample_weights": torch.tensor([1.0, 0.5, -2.0, 3.0]),
        },
    ),
    "greatest": (
        lambda: nn.EmbeddingBag(9, 8, mode="max", include_last_offset=True),
        {"input": torch.tensor([1, 2, 4]), "offsets": torch.tensor([0, 2, 3])},
    ),
    "lstm": (lambda: nn.LSTM(8, 5, 2, dropout=0.1), {"input": X, "hx": None}),
    "gru": (lambda: nn.GRU(8, 5, batch_first=True), {"input": X, "hx": torch.zeros(1, 3, 5)}),
    "both ways": (
        lambda: nn.LSTM(8, 5, 2, bidirectional=True, proj_size=3, dropout=0.1),
        {"input": X},
    ),
    "rnn": (lambda: nn.RNN(8, 5, nonlinearity="relu", bidirectional=True), {"input": X}),
    "lstm cell": (lambda: nn.LSTMCell(8, 5), {"input": X[0], "hx": None}),
    "gru cell": (lambda: nn.GRUCell(8, 5), {"input": X[0], "hx": torch.zeros(2, 5)}),
    "rnn cell": (lambda: nn.RNNCell(8, 5), {"input": X[0, 0]}),
    "attention": (
        lambda: nn.MultiheadAttention(8, 2, 0.1),
        {"query": X, "key": X, "value": X, "attn_mask": torch.zeros(3, 3)},
    ),
    "other widths": (
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=5),
        {"query": X, "key": X[..., :6], "value": X[..., :5]},
    ),
    "causal": (lambda: Causal(8, 6, 3), {"input": X.permute(1, 2, 0)}),
    "outputs": (lambda: Outputs(8, 5, batch_first=True), {"input": X}),
    "plain": (lambda: Plain(8, 6), {"input": X}),
}


@pytest.fixture(params=LAYERS)
def layers(request):
    """A float layer, the same prepared, the same converted, and its arguments."""
    torch.manual_seed(0)
    make, arguments = LAYERS[request.param]
    layer = make().eval()
    prepared = quantize.prepare(copy.deepcopy(layer), 8, activation="fp32").eval()
    return layer, prepared, quantize.convert(prepared), dict(arguments)


def first(outputs):
    return outputs[0] if isinstance(outputs, tuple) else outputs


def tensors(layer, names):
    """Weights and biases; the two of a recurrent layer as the sum that they are used as."""
    found = {name: getattr(layer, name) for name in names}
    for name in [name for name in names if name.startswith("bias_ih")]:
        found[name] = found[name] + found.pop(name.replace("ih", "hh"))
    return found


def test_a_layer_has_all_that_the_one_it_replaces_has(layers):
    layer, prepared, converted, _ = layers
    names = [name for name, tensor in layer._parameters.items() if tensor is not None]
    for quantised in (prepared, converted):
        assert isinstance(quantised, type(layer))
        for name, value in vars(layer).items():
            assert name.startswith("_") or getattr(quantised, name) == value
        for name, wanted in tensors(layer, names).items():
            got = tensors(quantised, names)[name]
            torch.testing.assert_close(got, wanted, atol=0.01, rtol=0)  # dtype and shape too
        assert type(layer).__name__ in repr(quantised)
        assert "activation=fp32" in repr(quantised)
    assert not dict(converted.named_parameters())


def test_a_converted_layer_stays_what_it_is(layers):
    converted, before = layers[2], copy.deepcopy(layers[2].state_dict())
    for change in (converted.half, converted.double, lambda: converted.to(torch.bfloat16)):
        with pytest.raises(Error, match=r"converted layer computes in float32; leave out half\(\)"):
            change()
    for module in converted.modules():
        with pytest.raises(Error, match="reset those of a float model"):
            module.reset_parameters()
    with pytest.raises(Error, match="is converted already; start from the float model"):
        quantize.prepare(converted)
    torch.testing.assert_close(dict(converted.float().to("cpu").state_dict()), dict(before))


def test_arguments_are_given_by_position_or_by_name(layers):
    layer, prepared, converted, arguments = layers
    wanted, evaluated = first(layer(**arguments)), first(prepared(**arguments))
    torch.testing.assert_close(evaluated, wanted, atol=0.05, rtol=0)
    torch.testing.assert_close(first(converted(**arguments)), evaluated)
    given = [
        arguments.pop(name) for name in ("input", "query", "key", "value") if name in arguments
    ]
    torch.testing.assert_close(first(converted(*given, **arguments)), evaluated)


def test_a_layer_is_copied_pickled_and_loaded(layers):
    layer, prepared, converted, arguments = layers
    again = quantize.compress(layer, 8, activation="fp32", scales="tensor")
    again.load_state_dict({name: one.clone() for name, one in converted.state_dict().items()})
    copies = [copy.deepcopy(converted), pickle.loads(pickle.dumps(converted)), again]
    for one in (*copies, pickle.loads(pickle.dumps(prepared))):
        torch.testing.assert_close(first(one(**arguments)), first(converted(**arguments)))
    assert {type(one) for one in copies} == {type(converted)}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        *(
            "linear",
            "conv",
            "embedding",
            "bag",
            "bags",
            "lstm",
            "gru",
            "both ways",
            "rnn",
            "lstm cell",
            "attention",
        ),
    ],
)
def test_what_is_exported_is_a_converted_model(kind, strict):
    make, arguments = LAYERS[kind]
    prepared = quantize.prepare(nn.Sequential(make()), 4)
    with pytest.raises(Error, match=r"call quantize\.convert\(model\) before exporting"):
        torch.export.export(prepared[0], (), arguments, strict=strict)
    converted = quantize.convert(prepared)[0]
    program = torch.export.export(converted, (), arguments, strict=strict)
    called = {str(node.target) for node in program.graph.nodes}
    assert any(name.startswith("gq.codebook_") for name in called)
    assert "aten.index.Tensor" not in called  # no weight is looked up
    assert set(program.graph_signature.buffers) <= set(converted.state_dict())


class Model(nn.Module):
    """Reads the weights of its layers as code around PyTorch's layers does."""

    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(50, 8), nn.Linear(8, 8)

    def forward(self, ids):
        x = self.linear(self.embedding(ids).to(self.linear.weight.dtype))
        return F.linear(x, self.embedding.weight)


@pytest.mark.parametrize("scales", ["tensor", "row"])
def test_a_weight_that_is_read_stays_in_its_codebook(scales):
    model = quantize.compress(Model(), 4, scales=scales)
    program = torch.export.export(model, (torch.tensor([[1, 2]]),))
    told: list[str] = []
    translated = frontend.translate(frontend.read(program))
    module = MatchCodebook(translated.names, warn=told.append)(translated.module)
    layers = [operators.attributes(call)["layer"] for call in calls(module, operators.LINEAR)]
    assert layers == ["linear", "embedding"]
    assert not told
    assert not calls(module, "relax.take")
    assert not calls(module, "relax.gather_elements")


class Lora(nn.Linear):
    """Adds to what its base computes."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.down = nn.Parameter(torch.randn(2, inputs))
        self.up = nn.Parameter(torch.randn(outputs, 2))

    def forward(self, input):
        y = super().forward(input.to(self.weight.dtype))
        return y + input @ self.down.T @ self.up.T


def test_a_subclass_goes_on_around_what_it_replaces():
    layer = Lora(8, 6).eval()
    with pytest.warns(UserWarning, match=r"down \(it is no weight of Linear\), up"):
        prepared = quantize.prepare(copy.deepcopy(layer), 8, activation="fp32")
    converted = quantize.convert(prepared)
    assert dict(converted.named_parameters()).keys() == {"down", "up"}
    torch.testing.assert_close(converted(X), layer(X), atol=0.05, rtol=0)
    prepared(X).sum().backward()
    assert prepared.up.grad.any()


class Around(nn.Linear):
    def forward(self, input):
        return F.linear(input, self.weight.to(input.dtype))


class Masked(nn.Linear):
    def mask(self):
        self.weight.data[0] = 0

    def forward(self, input):
        self.mask()
        return super().forward(input)


class Inside(nn.Conv1d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight * 2, bias)


class Activated(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.activation = nn.ReLU()


def patched():
    layer: Any = nn.Linear(8, 8)
    layer.forward = layer.forward
    return layer


@pytest.mark.filterwarnings("ignore:Initializing zero", "ignore::DeprecationWarning")  # PyTorch's
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Around(8, 8), r"Around computes without super\(\)\.forward"),
        (lambda: Masked(8, 8), r"Masked\.mask computes with weight itself"),
        (lambda: Inside(8, 8, 1), "Inside overrides _conv_forward of Conv1d"),
        (lambda: Activated(8, 8), "it has activation, which a quantised layer has too; rename it"),
        (patched, "its forward was set on the layer itself"),
        (lambda: nn.Linear(8, 8).half(), r"float16, not float32; call model\.float\(\) first"),
        (lambda: nn.Linear(8, 8).bfloat16(), r"bfloat16, not float32; call model\.float\(\) first"),
        (lambda: nn.Linear(8, 8, device="meta"), "on the meta device, without values; load them"),
        (lambda: nn.LazyLinear(8), "it has no values yet; call the model once first"),
        (lambda: nn.Linear(8, 0), "it has no elements"),
        (lambda: torch.jit.script(nn.Linear(8, 8)), "in a traced program.*start from the Python"),
        (lambda: nn.Conv3d(1, 1, 1), "Conv3d is not one of the supported layers"),
    ],
)
def test_what_cannot_be_quantised_says_why_alone_and_beside_others(make, reason):
    with pytest.raises(Error, match=rf"^compress: the model has no weight .*weight \(.*{reason}"):
        quantize.compress(make())
    beside = nn.ModuleList([make(), nn.Linear(8, 8)])
    with pytest.warns(UserWarning, match=rf"left in float: 0\.weight \(.*{reason}"):
        prepared = quantize.prepare(beside, 8)
    bits = [(one.bits, one.remark) for one in quantize.describe(prepared)]
    assert [one for one, _ in bits] == [32, 8]
    assert re.search(reason, bits[0][1])
