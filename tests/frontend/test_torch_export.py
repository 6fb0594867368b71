"""How an exported program looks in Relax."""

from __future__ import annotations

import pytest
import torch
import tvm
from helpers.codebook_models import (
    Linear,
    Lstm,
    codebook,
    everything,
    export,
    frames,
    indices,
    linear_program,
)
from helpers.relax_modules import calls
from torch import nn

from gq_tvm import frontend
from gq_tvm.build import build
from gq_tvm.errors import Error
from gq_tvm.frontend.converters.codebook import layer_of
from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.passes import operators
from gq_tvm.quantize.deployed.codebook_layers import CodebookLinear

_RECURRENT = ("lstm", "gru")  # of the model with everything


def translated(program, activation=None):
    return frontend.translate(frontend.read(program), activation)


def test_each_operator_has_its_layer_and_options():
    found = {
        name: operators.attributes(call)
        for name in operators.WEIGHTS
        for call in calls(translated(everything("int8")[1]).module, name)
    }
    assert found[operators.EMBEDDING] == {"layer": "embedding"}
    assert found["relax.gq.codebook_lstm"] == {
        "activation": "int8",
        "layer": "lstm",
        "reverse": 0,
    }
    assert found[operators.LINEAR]["layer"] == "out"
    assert found[operators.LINEAR]["activation"] == "int8"


def test_everything_has_every_operator_with_a_weight():
    """The model of that name: what holds of its layers is shown for all there are."""
    module = translated(everything("int8")[1]).module
    called = {name for name in operators.WEIGHTS if list(calls(module, name))}
    (_, depthwise) = calls(module, operators.CONV1D)  # which makes one of a grouped convolution
    assert operators.attributes(depthwise)["groups"] > 1
    apart = {operators.DEPTHWISE, operators.CONV2D}  # the latter has models of its own
    # So have other recurrent layers: tests/runtime/test_recurrent_layers.py.
    apart |= operators.RECURRENT_LAYERS.keys() - {f"relax.gq.codebook_{one}" for one in _RECURRENT}
    assert called == operators.WEIGHTS.keys() - apart


def test_both_convolutions_keep_their_shape():
    strided, depthwise = calls(translated(everything("int8")[1]).module, operators.CONV1D)
    assert operators.attributes(strided)["stride"] == 2
    assert operators.attributes(strided)["activation"] == "int8"
    assert operators.attributes(depthwise)["groups"] == 16
    assert operators.attributes(depthwise)["activation"] == "fp32"


@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_the_activation_can_be_set_for_all(activation):
    other = "int8" if activation == "fp32" else "fp32"
    module = translated(linear_program(activation=other), activation).module
    (call,) = calls(module, operators.LINEAR)
    assert operators.attributes(call)["activation"] == activation


@pytest.mark.parametrize(
    ("buffer", "buffers", "layer"),
    [
        ("encoder.out.indices", [], "encoder.out"),
        ("lstm.indices_ih_l0", ["lstm.indices_ih_l0"], "lstm"),
        ("lstm.indices_hh_l0", ["lstm.indices_hh_l1"], "lstm.0"),
        ("lstm.indices_hh_l1", ["lstm.indices_hh_l1"], "lstm.1"),
        ("indices", [], "indices"),
    ],
)
def test_names_of_layers(buffer, buffers, layer):
    assert layer_of(buffer, buffers) == layer


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.ModuleList([Lstm(5, 4), Lstm(4, 4)])

    def forward(self, x, h, c):
        for layer in self.rnn:
            x, _, _ = layer(x, h, c)
        return x


def test_layers_in_a_list_are_named_by_their_number():
    program = export(Stacked(), torch.randn(1, 3, 5), torch.zeros(1, 4), torch.ones(1, 4))
    layers = calls(translated(program).module, "relax.gq.codebook_lstm")
    assert [operators.attributes(call)["layer"] for call in layers] == ["rnn.0", "rnn.1"]


class Tied(nn.Module):
    """Two layers with one weight, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        weight = WeightTensors(indices(6, 6, bits=4), codebook(4))
        self.a, self.b = (CodebookLinear(weight, torch.full((6,), b), "fp32") for b in (1.0, 2.0))

    def forward(self, x):
        return self.a(self.b(self.a(x)))


@pytest.mark.export
def test_tied_layers_keep_their_names():
    program = export(Tied(), torch.randn(1, 6))
    layers = calls(translated(program).module, operators.LINEAR)
    assert [operators.attributes(call)["layer"] for call in layers] == ["a", "b", "a"]
    artefact = build(program, kernel="scalar")
    assert [(one.name, artefact.plan.owners.get(one)) for one in artefact.plan.layers] == [
        ("a", None),
        ("b", "a"),
    ]


def test_functions_of_several_programs_name_their_layers():
    module = translated({"encoder": linear_program(), "joint": linear_program()}).module
    assert {gvar.name_hint for gvar in module.get_global_vars()} == {"encoder", "joint"}
    names = translated({"encoder": linear_program(), "joint": linear_program(4, 6)}).names
    assert {"encoder.0.indices", "joint.0.bias"} <= set(names.values())


class Plain(nn.Module):
    """A codebook layer in plain PyTorch."""

    codes: torch.Tensor
    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", indices(6, 10, bits=4))
        self.register_buffer("table", codebook(4)[0])
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return nn.functional.linear(x, self.table[self.codes.long()], self.bias)


@pytest.mark.export
def test_a_codebook_in_plain_pytorch_is_found():
    artefact = build(export(nn.Sequential(Plain()), torch.randn(2, 10)), kernel="scalar")
    (layer,) = artefact.plan.layers
    assert (layer.name, layer.bits, layer.shape) == ("0", 4, (6, 10))
    assert not any(
        array.size >= 60 and array.itemsize == 4 for array in artefact.parameters.values()
    )


@pytest.mark.export
def test_a_model_without_codebooks_is_told_of():
    said: list[str] = []
    artefact = build(export(nn.Linear(10, 6), torch.randn(2, 10)), progress=said.append)
    assert not artefact.plan.layers
    assert any("no codebook layer, all its weights stay in float" in line for line in said)


def test_an_index_beyond_the_codebook_is_refused():
    model = nn.Sequential(Linear(6, 10, 2)).eval()
    program = export(model, torch.randn(2, 10))
    dict(program.named_buffers())["0.indices"][3, 3] = 4
    with pytest.raises(Error, match="layer 0: index 4 is beyond the 4 centroids"):
        build(program)


class Counter(nn.Module):
    """Keeps count of its calls in a buffer."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count.add_(1)
        return self.layer(x) + self.count


class InPlace(nn.Module):
    """Clears its second input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)

    def forward(self, x, state):
        state.zero_()
        return self.layer(x)


@pytest.mark.parametrize(
    ("model", "inputs", "what"),
    [(Counter(), 1, "buffer 'count'"), (InPlace(), 2, "input 'state'")],
)
def test_a_change_in_place_is_refused(model, inputs, what):
    program = export(model, *[torch.randn(2, 10) for _ in range(inputs)])
    with pytest.raises(Error, match=f"program main changes its {what} in place"):
        build(program)


def test_a_size_that_no_input_tells_is_refused():
    program = export(Linear(6, 10), torch.randn(8, 10), dynamic=({0: 2 * frames()},))
    with pytest.raises(Error, match=r"x of function main has a size computed from \w+, which no"):
        build(program)


def test_a_failure_of_tvms_is_one_sentence(monkeypatch):
    def fail(module, target):
        raise RuntimeError("no register left\nstack trace\n")

    monkeypatch.setattr(tvm, "compile", fail)
    with pytest.raises(Error, match="TVM cannot compile the model: no register left; ") as refusal:
        build(linear_program(), kernel="scalar")
    assert isinstance(refusal.value.__cause__, RuntimeError)


class Unpacked(nn.Module):
    """A layer, and one in plain PyTorch whose indices lie two in a byte."""

    packed: torch.Tensor
    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)
        self.register_buffer("packed", indices(6, 5, bits=8))
        self.register_buffer("table", codebook(4)[0])

    def forward(self, x):
        packed = self.packed.int()
        codes = torch.cat([packed % 16, packed // 16], 1)
        return self.layer(x) + nn.functional.linear(x, self.table[codes])


def test_codes_that_are_packed_in_plain_pytorch_are_found():
    net = build(export(Unpacked(), torch.randn(2, 10)), kernel="scalar").plan
    assert [(list(one.shape), one.bits) for one in net.layers] == [([6, 10], 4)] * 2


class Indexed(nn.Module):
    """Indexes the output [4, 2, 3] of a layer by two tensors."""

    def __init__(self, indexed) -> None:
        super().__init__()
        self.layer = Linear(6, 10)
        self.indexed = indexed

    def forward(self, x, i):
        return self.indexed(self.layer(x).reshape(4, 2, 3), i)


@pytest.mark.parametrize("indexed", [lambda y, i: y[:, i, i], lambda y, i: y[i, :, i]])
def test_indexing_that_tvm_mistakes_is_refused(indexed):
    program = export(Indexed(indexed), torch.randn(4, 10), torch.tensor([0, 1]))
    with pytest.raises(Error, match="indexes a tensor by 2 tensors and a slice"):
        build(program)


def test_indexing_by_an_outer_product_is_translated():
    model = Indexed(lambda y, i: y[:, i[:, None], i])
    translated(export(model, torch.randn(4, 10), torch.tensor([0, 1])))
