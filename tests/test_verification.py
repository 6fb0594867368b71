"""What is taken for right, and what for wrong, follows what rounding does to the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers.codebook_models import (
    Embedding,
    Linear,
    Lstm,
    compiled,
    everything,
    export,
    linear_program,
)
from torch import Tensor, nn
from torch.export import ExportedProgram

from gq_tvm.runtime.manifest import Function, Layer, Manifest
from gq_tvm.runtime.manifest import Tensor as About
from gq_tvm.verification import bound as verification
from gq_tvm.verification import drawn_inputs
from gq_tvm.verification.bound import Comparison, _arithmetic, _Trial
from gq_tvm.verification.replay import Replay, activations


class Residual(nn.Module):
    """``x`` and what one layer makes of it."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.layer = Linear(width, width, 2, "int8", seed=seed)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.layer(x))


@pytest.fixture(scope="module")
def fifty() -> ExportedProgram:
    """Fifty layers, one behind the other."""
    return export(nn.Sequential(*(Residual(24, seed) for seed in range(50))), torch.randn(2, 3, 24))


@contextmanager
def changed(program: ExportedProgram, layer: int, how: str) -> Iterator[ExportedProgram]:
    """One layer is another one: a centroid, the bias, or the weights of one output."""
    name, wrong = {
        "centroid": ("codebook", lambda x: x[:, -1].neg_()),
        "bias": ("bias", lambda x: x.zero_()),
        "output": ("indices", lambda x: x[5].copy_(x[6])),
    }[how]
    tensor = program.state_dict[f"{layer}.layer.{name}"].data
    before = tensor.clone()
    wrong(tensor)
    yield program
    tensor.copy_(before)


def drawn(program: ExportedProgram, calls: int = 4) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    shapes = [one.shape for one in program.example_inputs[0]]
    return [[rng.standard_normal(s).astype(np.float32) for s in shapes] for _ in range(calls)]


def judged(program: ExportedProgram, activation: str | None = None) -> Comparison:
    """As if the program were compiled to code that sums in an order of its own."""
    inputs, run = drawn(program), Replay(program, activation)
    got = [run(arrays, noise=1, seed=9) for arrays in inputs]
    return Comparison("main", 4, 0, *_Trial(run, inputs, verification.FLOOR).judge(got, 0))


@pytest.mark.export
def test_one_wrong_layer_of_fifty_is_noticed(fifty, tmp_path):
    compiled(fifty, tmp_path)
    report = verification.verify(fifty, tmp_path / "model.gq")
    assert report.failures() == ""
    assert report.table().startswith("main: passed with 4 random inputs: max abs error ")
    for layer, how in ((0, "output"), (0, "centroid"), (24, "bias"), (24, "output"), (49, "bias")):
        with changed(fifty, layer, how) as other:
            wrong = verification.verify(other, tmp_path / "model.gq")
        assert wrong.comparisons[0].verdict == "failed", (layer, how)
        assert wrong.failures().startswith("main differs from PyTorch by ")


@pytest.mark.parametrize("activation", ["fp32", "int8", "int2", "int1"])
def test_right_code_passes_at_any_depth(fifty, activation):
    assert judged(fifty, activation).verdict == "passed"


def test_a_recurrent_layer_passes_over_many_steps():
    model = Lstm(12, 16, "int8")
    program = export(model, torch.randn(1, 100, 12), torch.zeros(1, 16), torch.zeros(1, 16))
    assert judged(program).verdict == "passed"


class Chaos(nn.Module):
    """The logistic map, which doubles errors at each of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.layer(x))
        for _ in range(40):
            x = 4 * x * (1 - x)
        return x - 0.5


def test_where_noise_alone_changes_everything_it_says_so():
    program = export(Chaos(), torch.randn(4, 8))
    one = judged(program)
    assert one.verdict == "undecided"
    assert "main: undecided with 4 random inputs" in one.line()
    assert "whether main is right cannot be told" in one.failure()
    assert verification.Report([one]).failures() == one.failure()
    # What is no number is wrong even so.
    trial = _Trial(Replay(program), drawn(program), verification.FLOOR)
    got = [[np.full_like(y, np.nan) for y in outputs] for outputs in trial.wanted]
    wrong = Comparison("main", 4, 0, *trial.judge(got, 0))
    assert wrong.relative == np.inf
    assert wrong.verdict == "failed"


class Tokens(nn.Module):
    """Numbers of tokens and a mask, as a language model takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding(11, 12)
        self.layer = Linear(12, 12, activation="int8")

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask[..., None], self.layer(self.embedding(ids)), torch.inf)


def test_noise_moves_what_is_computed_and_nothing_else():
    program = export(Tokens(), torch.arange(6)[None], torch.ones(1, 6, dtype=torch.bool))
    arrays = [np.array([[0, 3, 10, 3, 7, 1]]), np.array([[True, True, False, True, True, True]])]
    run = Replay(program)
    ((still,), (moved,)) = run(arrays), run(arrays, noise=8)
    assert np.isinf(moved[0, 2]).all()
    assert (moved[0, 0] != still[0, 0]).any()
    np.testing.assert_allclose(moved, still, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(run(arrays, noise=8)[0], moved)  # the seed decides
    zeros = Replay(linear_program(activation="int1"))
    x = np.zeros((2, 3, 10), np.float32)
    np.testing.assert_array_equal(zeros([x], noise=100)[0], zeros([x])[0])


def test_a_program_is_replayed_with_the_activations_it_was_compiled_with():
    program, trained = linear_program(), linear_program(activation="int8")
    inputs = drawn(program)[0]
    np.testing.assert_array_equal(Replay(program, "int8")(inputs), Replay(trained)(inputs))
    assert (Replay(program)(inputs)[0] != Replay(trained)(inputs)[0]).any()
    everything_ = everything("fp32")[1]
    assert activations(everything_) == {"fp32": 8}
    assert activations(everything_, "int8") == {"int8": 7, "fp32": 1}  # the grouped one stays


def _manifest(*layers: tuple[str, str]) -> Manifest:
    rows = [
        Layer("a", "linear", [2, 2], 4, activation, kernel, "", [], 1, 1)
        for activation, kernel in layers
    ]
    return Manifest({}, {}, rows, {})


def test_the_artefact_tells_its_arithmetic():
    as_trained = {"main": linear_program(activation="int8")}
    floor, other = verification.FLOOR, verification.BOUND_OTHER
    assert _arithmetic(_manifest(("int8", "lookup")), as_trained) == (None, floor)
    assert _arithmetic(_manifest(("int2", "xnor")), as_trained) == ("int2", floor)
    # Kernels of rounded sums, and look-ups in plain PyTorch, round what PyTorch does not.
    exported = {"main": linear_program()}
    assert _arithmetic(_manifest(("fp32", "table8")), exported) == (None, other)
    plain = {"main": export(nn.Linear(3, 3), torch.ones(1, 3))}
    assert _arithmetic(_manifest(("fp32", "lookup_f32")), plain) == (None, floor)
    assert _arithmetic(_manifest(("int8", "lookup")), plain) == (None, other)


def test_inputs_are_drawn_where_a_size_is_computed_from_others():
    program = export(nn.ReLU(), torch.ones(2, 5))
    function = Function([About("x", "float32", [2, "2*n"])], [], {}, [], True)
    assert [one.shape for (one,) in drawn_inputs.draw(function, program)] == [(2, 5)] * 4
