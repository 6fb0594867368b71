"""Exported programs as modules of layers, and those as programs again."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
from helpers.float_models import Mixed, mixed, mixed_inputs
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree

from gq_tvm import quantize
from gq_tvm.exported import as_module, as_programs

pytestmark = pytest.mark.export


def flat(outputs: Any) -> list[Tensor]:
    return _pytree.tree_leaves(outputs)


def ran(program: ExportedProgram, *inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        return flat(program.module()(*inputs))


def layers_of(module: nn.Module) -> dict[str, str]:
    return {
        name: type(one).__name__
        for name, one in module.named_modules()
        if isinstance(one, nn.Linear | nn.Conv1d | nn.Embedding | nn.RNNBase)
    }


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    return mixed()


def compressed(module: nn.Module, bits: int | None = 4, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantize.compress(module, bits, **options)


def test_products_are_layers_by_the_names_of_the_exporter(program):
    assert layers_of(as_module({"main": program})) == {
        "embed": "Embedding",
        "lstm": "LSTM",
        "gru": "GRU",
        "normed": "Conv1d",
        "conv": "Conv1d",
        "attention.in_proj_weight": "Linear",
        "attention.in_proj_weight_1": "Linear",
        "attention.in_proj_weight_2": "Linear",
        "attention.out_proj": "Linear",
        "cell.weight_ih": "Linear",
        "cell.weight_hh": "Linear",
        "gru_cell.weight_ih": "Linear",
        "gru_cell.weight_hh": "Linear",
        "out": "Linear",
    }


def test_module_and_program_compute_what_was_exported_to_the_bit(program):
    module = as_module({"main": program})
    again = as_programs(module, {"main": program})["main"]
    ids, h, c = mixed_inputs(3)
    wanted = ran(program, ids, {"h": h, "c": c})
    with torch.no_grad():
        got = module(ids, h, c)
    for found in (got, ran(again, ids, {"h": h, "c": c})):
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[2], wanted[2])
        # PyTorch's own step of a GRU works in place, where tanh may give another last bit.
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-6, atol=1e-7)


def test_a_compressed_program_is_the_compressed_module(program):
    module = compressed(as_module({"main": program}), overrides={"lstm": 2, "out": 8})
    again = as_programs(module, {"main": program})["main"]
    signature, before = again.graph_signature, program.graph_signature
    assert signature.user_inputs == before.user_inputs
    assert signature.user_outputs == before.user_outputs
    assert again.call_spec == program.call_spec
    assert again.range_constraints == program.range_constraints
    assert again.example_inputs is program.example_inputs
    floats = [name for name in signature.parameters if name.endswith("weight")]
    assert floats == ["norm.weight"]
    for batch in (1, 4):
        ids, h, c = mixed_inputs(batch)
        with torch.no_grad():
            wanted = module(ids, h, c)
        assert all(map(torch.equal, ran(again, ids, {"h": h, "c": c}), wanted))


def test_weights_have_the_codebooks_they_have_in_python(program):
    torch.manual_seed(0)
    torch.randn(2, 8), torch.randn(2, 8), torch.randint(0, 20, (2, 5))
    model = Mixed().eval()
    model.load_state_dict(program.state_dict)
    python = compressed(model).state_dict()
    module = compressed(as_module({"main": program}))
    alike = {name: one for name, one in module.state_dict().items() if name in python}
    assert {"lstm.indices_ih_l1", "normed.indices", "out.indices", "gru.codebook_hh_l0"} <= {*alike}
    assert all(torch.equal(one, python[name]) for name, one in alike.items())


def test_a_shared_weight_stays_one(program):
    module = compressed(as_module({"main": program}))
    assert module.get_buffer("out.indices") is module.get_buffer("embed.indices")
    packed = io.BytesIO()
    torch.export.save(as_programs(module, {"main": program})["main"], packed)
    packed.seek(0)
    state = torch.export.load(packed).state_dict
    assert state["out.indices"].data_ptr() == state["embed.indices"].data_ptr()


def test_layers_left_in_float_stay_the_operators_they_were(program):
    module = compressed(as_module({"main": program}), None, overrides={"conv": 4})
    module.get_parameter("normed.bias").data.fill_(0.5)  # as whoever trains it may
    again = as_programs(module, {"main": program})["main"]
    names = [str(node.target) for node in again.graph.nodes]
    assert "aten.lstm.input" in names
    assert "aten.conv1d.padding" in names
    assert sum(name.startswith("gq.") for name in names) == 1
    inputs = mixed_inputs(2)
    with torch.no_grad():
        wanted = module(*inputs)
    assert all(map(torch.equal, ran(again, inputs[0], {"h": inputs[1], "c": inputs[2]}), wanted))


def test_a_program_taken_apart_has_the_same_layers(program):
    apart = program.run_decompositions()
    module = as_module({"main": apart})
    kinds = layers_of(module)
    assert {"embed", "normed", "conv", "attention.out_proj", "out"} <= kinds.keys()
    assert kinds["lstm.weight_hh_l1"] == "Linear"
    ids, h, c = mixed_inputs(2)
    with torch.no_grad():
        got = module(ids, h, c)
    torch.testing.assert_close(list(got), ran(apart, ids, {"h": h, "c": c}))
    again = as_programs(compressed(module, 8), {"main": apart})["main"]
    assert again.graph_signature.user_outputs == apart.graph_signature.user_outputs


class Odd(nn.Module):
    """Products spelled in other ways, a weight that is read as well, and state in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 5))
        self.bias = nn.Parameter(torch.randn(5))
        self.table = nn.Embedding(7, 5, padding_idx=2)
        self.table.weight.data[2] = 1.0
        self.positions = nn.Parameter(torch.randn(4, 5))
        self.count: Tensor
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        self.count.add_(1)
        y = torch.addmm(self.bias, x, self.w) + self.positions
        y = y + self.table(ids) + self.table.weight.sum(0)
        return y @ self.w.T + x @ self.w @ self.w.t() + self.count


def odd() -> tuple[ExportedProgram, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    inputs = torch.randn(4, 6), torch.tensor([1, 2, 3, 6])
    return torch.export.export(Odd().eval(), inputs), inputs


def test_products_in_other_words_and_weights_that_are_read():
    program, inputs = odd()
    module = as_module({"main": program})
    assert set(layers_of(module)) == {"w", "w_1", "w_2", "table"}
    assert module.get_submodule("table").padding_idx is None  # its row is not zero
    with torch.no_grad():
        torch.testing.assert_close([module(*inputs)], ran(program, *inputs))
    small = compressed(module, 8, activation="fp32")
    again = as_programs(small, {"main": program})["main"]
    for count in (again.state_dict["count"], small.get_buffer("count")):
        count.zero_()  # runs have counted
    got = ran(again, *inputs)[0]
    with torch.no_grad():
        torch.testing.assert_close(got, small(*inputs), rtol=0, atol=0)
    assert "table.weight" not in again.state_dict
    assert "positions" in again.state_dict
    assert "count" in again.state_dict


def test_recurrent_layers_of_both_directions_are_layers_again():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 6, bidirectional=True, proj_size=3)
            self.rnn = nn.RNN(6, 6, bidirectional=True, nonlinearity="relu")
            self.cell = nn.RNNCell(12, 12)
            self.out = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.rnn(self.lstm(x)[0])[0]
            return self.out(self.cell(y[:, 0]))

    program = torch.export.export(Both().eval(), (torch.randn(3, 1, 6),))
    module = as_module({"main": program})
    kinds = {"lstm": "LSTM", "rnn": "RNN", "out": "Linear"}
    cell = {f"cell.weight_{part}": "Linear" for part in ("ih", "hh")}
    assert layers_of(module) == kinds | cell
    assert all(one.remark == "not prepared" for one in quantize.describe(module))
    x = torch.randn(3, 1, 6)
    with torch.no_grad():
        assert torch.equal(module(x), ran(program, x)[0])


def test_what_is_no_layer_keeps_the_name_of_its_class():
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.Flatten(), nn.Linear(32, 4)).eval()
    program = torch.export.export(model, (torch.randn(1, 4, 3, 1),))
    remarks = {one.name: one.remark for one in quantize.describe(as_module({"main": program}))}
    assert remarks["0.weight"].startswith("ConvTranspose2d is not one of the supported layers")


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": 4, "bias": False},
        {"groups": 2, "dilation": 3},
    ],
)
def test_transposed_convolutions_are_layers_again(options: dict[str, Any]):
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 4, **options), nn.ReLU()).eval()
    x = torch.randn(2, 4, 5)
    programs = [torch.export.export(model, (x,))]
    programs.append(programs[0].run_decompositions())
    for program in programs:
        module = as_module({"main": program})
        (layer,) = [one for one in module.modules() if isinstance(one, nn.ConvTranspose1d)]
        assert repr(layer) == repr(model[0])
        with torch.no_grad():
            assert torch.equal(module(x), model(x))


def test_programs_are_run_by_name_and_share_weights_that_are_alike():
    torch.manual_seed(0)
    body = nn.Linear(6, 6)
    models = {"first": body, "then": nn.Sequential(body, nn.Linear(6, 3))}
    x = torch.randn(2, 6)
    programs = {name: torch.export.export(one.eval(), (x,)) for name, one in models.items()}
    module = as_module(programs)
    with torch.no_grad():
        assert torch.equal(module("then", x), ran(programs["then"], x)[0])
    held = [one.weight for one in module.modules() if isinstance(one, nn.Linear)]
    assert len(held) == 3
    assert held[0] is held[1]
    again = as_programs(compressed(module), programs)
    assert list(again) == ["first", "then"]
    states = [next(iter(one.state_dict.values())) for one in again.values()]
    assert torch.equal(*states)
