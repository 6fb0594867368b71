"""Compressed models learn on from the float one: ``quantize.calibration.tuning``."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from gq_tvm import quantize
from gq_tvm.errors import Error
from gq_tvm.ops.torch_weight import WeightTensors, expand
from gq_tvm.quantize.quantisers.tuned import Tuned

pytestmark = pytest.mark.training


def _start(bits: int = 2, kind: torch.dtype = torch.float16, **more: Tensor) -> WeightTensors:
    torch.manual_seed(bits)
    indices = torch.randint(0, 2**bits, (6, 40), dtype=torch.uint8)
    codebook = torch.linspace(-0.7, 0.5, 2**bits)[None] * 3
    return WeightTensors(indices, codebook, torch.rand(6, 3).add(0.5).to(kind), **more)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_untaught_it_is_what_it_started_from(bits: int) -> None:
    start = _start(bits)
    held = Tuned(start, int8_grid=False)
    torch.testing.assert_close(held(torch.empty(0)), expand(start))
    torch.testing.assert_close(expand(held.harden(torch.empty(0))), expand(start))


def test_zero_points_and_outliers_stay_what_they_are() -> None:
    zero = torch.rand(6, 3).half()
    at, by = torch.tensor([3, 77, 200]), torch.tensor([9.0, -4.0, 2.5]).half()
    start = _start(zero=zero, positions=at, values=by)
    held = Tuned(start, int8_grid=False)
    torch.testing.assert_close(held(torch.empty(0)), expand(start))
    again = held.harden(torch.empty(0))
    torch.testing.assert_close(expand(again), expand(start), atol=1e-3, rtol=1e-3)
    assert again.zero is not None
    assert again.values is not None
    assert (again.zero.dtype, again.values.dtype) == (torch.float16, torch.float16)


@pytest.mark.parametrize("int8_grid", [False, True])
def test_what_it_learns_is_what_is_deployed(int8_grid: bool) -> None:
    held = Tuned(_start(3, torch.float32), int8_grid)
    goal = torch.randn(6, 40)
    optimiser = torch.optim.Adam(held.rates())
    before = float((held(torch.empty(0)) - goal).square().mean().detach())
    for _ in range(40):
        loss = (held(torch.empty(0)) - goal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    deployed = held.harden(torch.empty(0))
    torch.testing.assert_close(expand(deployed), held(torch.empty(0)).detach())
    assert (expand(deployed) - goal).square().mean() < 0.7 * before
    assert deployed.bits == 3


def test_weights_of_several_tables_do_not_learn() -> None:
    tables = WeightTensors(torch.zeros(4, 8, dtype=torch.uint8), torch.rand(2, 4), torch.ones(1))
    assert not Tuned.takes(tables)
    assert Tuned.takes(_start())
    assert not Tuned.takes(_start()._replace(scale=torch.ones(6, 3, dtype=torch.uint8)))


class _Speech(nn.Module):
    """A few layers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(12, 24, 3, padding=1)
        self.norm = nn.BatchNorm1d(24)
        self.lstm = nn.LSTM(24, 32, 2, batch_first=True, dropout=0.3)
        self.out = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.norm(self.front(x)).relu().transpose(1, 2))
        return self.out(y)


def _case() -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    model = _Speech().eval()
    with torch.no_grad():  # fresh ones hardly depend on their inputs
        for parameter in model.lstm.parameters():
            parameter.mul_(4)
        model.out.bias.zero_()
    return model, [torch.randn(16, 12, 20) for _ in range(9)]


def _noise(model: nn.Module, small: nn.Module, inputs: list[Tensor]) -> float:
    with torch.no_grad():
        goals = torch.stack([model(x) for x in inputs])
        found = torch.stack([small(x) for x in inputs])
    return float((found - goals).square().sum() / goals.square().sum())


def test_tuning_brings_a_model_nearer_to_the_float_one() -> None:
    model, inputs = _case()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    others = [torch.randn(2, 12, 20) for _ in range(4)]
    noise = [
        _noise(
            model,
            quantize.compress(model, 2, inputs=inputs, tune=steps, progress=None),
            others,
        )
        for steps in (0, 60)
    ]
    assert noise[1] < 0.97 * noise[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_function_is_learnt_from_by_the_calls_it_makes() -> None:
    model, inputs = _case()

    def run(one: nn.Module) -> None:
        for x in inputs:
            one(x)

    lines: list[str] = []
    given, told = (
        quantize.compress(model, 2, inputs=one, tune=8, progress=say)
        for one, say in ((inputs, None), (run, lines.append))
    )
    assert any("tuning, step 8 of 8" in line for line in lines)
    torch.testing.assert_close(given(inputs[0]), told(inputs[0]), atol=0.05, rtol=0.05)


def test_few_bits_are_tuned_where_nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["gq_tvm.quantize.compress"], "_STEPS", 2)
    model, inputs = _case()
    lines: list[str] = []
    for bits, tuned in ((4, True), (5, False)):
        lines.clear()
        quantize.compress(model, bits, inputs=inputs[:1], progress=lines.append)
        assert any(line.startswith("tuning, step") for line in lines) == tuned


@pytest.mark.parametrize("wrong", [-1, 2.5, True])
def test_steps_that_are_no_number_of_steps_are_refused(wrong: object) -> None:
    with pytest.raises(Error, match="tune must be a number of steps"):
        quantize.compress(nn.Linear(3, 2), tune=wrong)  # type: ignore[arg-type]


def test_a_model_that_no_step_helps_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = _case()
    monkeypatch.setattr("gq_tvm.quantize.quantisers.tuned._PLACE", 1e3)
    monkeypatch.setattr("gq_tvm.quantize.quantisers.tuned._SCALE", 10.0)
    plain, tuned = (
        quantize.compress(model, 4, inputs=inputs, tune=steps, progress=None) for steps in (0, 6)
    )
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name], value)
