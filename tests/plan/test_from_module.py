from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from helpers.codebook_models import Linear, export, frames
from helpers.plans import plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gq_tvm import Error, frontend, quantize, tune
from gq_tvm.build import products
from gq_tvm.plan import from_module
from gq_tvm.plan.plan import Function, Operand
from gq_tvm.plan.size import Computed, evaluate


def planned(model: nn.Module, *example: torch.Tensor, dynamic=None) -> Function:
    return plan_of(export(model.eval(), *example, dynamic=dynamic)).functions["main"]


def test_memory_of_results_is_used_again():
    function = planned(nn.Sequential(*(Linear(6, 6, seed=i) for i in range(5))), torch.zeros(2, 6))
    assert [call.layer for call in function.calls] == ["0", "1", "2", "3", "4"]
    assert [[one.name for one in call.layers] for call in function.calls] == [[c] for c in "01234"]
    for call in function.calls:
        assert [one.written for one in call.arguments if isinstance(one, Operand)].count(True) == 1
    slots = [one.where for one in function.of_kind("temporary")]
    assert len(slots) == 4
    assert len(set(slots)) == function.slots == 2  # what is read and what is written


def test_large_results_share_the_large_memory():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.ModuleList(Linear(60, 6, seed=i) for i in range(3))
            self.narrow = nn.ModuleList(Linear(6, 60, seed=i) for i in range(3))

        def forward(self, x):
            for wide, narrow in zip(self.wide, self.narrow, strict=True):
                x = torch.tanh(x) + narrow(wide(x))
            return x

    function = planned(Residual(), torch.zeros(2, 6))
    most = [0] * function.slots
    for value in function.of_kind("temporary"):
        most[value.where] = max(most[value.where], math.prod(map(int, value.shape)))
    assert sorted(most).count(120) == 1


def numbers(arguments: Sequence[object]) -> list[int]:
    return [one.value for one in arguments if isinstance(one, Operand)]


def test_result_that_is_read_later_keeps_its_memory():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (Linear(6, 6, seed=i) for i in range(3))

        def forward(self, x):
            y = self.a(x)
            return torch.tanh(self.c(torch.tanh(self.b(y)))) * y

    function = planned(Residual(), torch.zeros(2, 6))
    calls = [numbers(call.arguments) for call in function.calls]
    first = calls[0][-1]  # what the first kernel writes, and the last one reads
    assert first in calls[-1]
    between = {function.root(number) for call in calls[1:-1] for number in call} - {first}
    others = [function.values[number] for number in between]
    assert function.values[first].where not in [v.where for v in others if v.kind == "temporary"]


def test_sizes_are_told_by_inputs_and_computed():
    class Fold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Linear(3, 4)

        def forward(self, x):
            return torch.cat([self.layer(x.reshape(-1, 4)), self.layer(x.reshape(-1, 4))])

    function = planned(Fold(), torch.zeros(5, 8), dynamic=({0: frames(1, 64)},))
    ((name, size),) = function.sizes.items()
    assert (size.input, size.axis, size.least, size.most) == (0, 0, 1, 64)
    (output,) = function.outputs
    rows, width = output.shape
    assert isinstance(rows, Computed)
    assert (evaluate(rows, {name: 5}), width) == (20, 3)
    assert list(function.of_kind("view"))  # reshaping moves nothing
    assert "" in [call.layer for call in function.calls]  # to join is no layer's


def test_what_is_sorted_is_left_to_tvm():
    class Best(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Linear(6, 4)

        def forward(self, x):
            y = self.layer(x)
            return torch.sort(y, -1)[0], torch.cumsum(y, -1)

    assert plan_of(export(Best().eval(), torch.zeros(2, 4))).runtime == (
        "tvm.contrib.sort.argsort",
    )
    assert plan_of(export(Linear(6, 4).eval(), torch.zeros(2, 4))).runtime == ()


def test_what_no_plan_can_say_is_refused():
    program = frontend.read(export(Linear(3, 4).eval(), torch.zeros(2, 4)))
    module = frontend.translate(program, None).module  # of operators, not of kernels
    with pytest.raises(
        Error, match=r"function main uses relax\.gq.*, which no plan of calls can say"
    ):
        from_module.functions(module, ["main"], {}, {})


class Layers(nn.Module):
    """Layers one after another, of widths that fit, called once or twice."""

    def __init__(self, kinds: Sequence[str], twice: bool) -> None:
        super().__init__()
        self.kinds = kinds
        self.twice = twice
        made = {
            "linear": lambda: nn.Linear(8, 8),
            "glu": lambda: nn.Linear(8, 16),
            "lstm": lambda: nn.LSTM(8, 8, batch_first=True),
            "gru": lambda: nn.GRU(8, 8, batch_first=True),
            "conv": lambda: nn.Conv1d(8, 8, 3, padding=1),
            "depthwise": lambda: nn.Conv1d(8, 8, 3, padding=1, groups=8),
        }
        self.layers = nn.ModuleList([made[kind]() for kind in kinds])

    def forward(self, x):
        for kind, layer in [*zip(self.kinds, self.layers, strict=True)] * (1 + self.twice):
            if kind in ("lstm", "gru"):
                x = layer(x)[0]
            elif kind in ("conv", "depthwise"):
                x = layer(x.transpose(1, 2)).transpose(1, 2)
            else:
                x = nn.functional.glu(layer(x)) if kind == "glu" else layer(x)
        return x


@settings(max_examples=4)
@given(
    st.lists(
        st.sampled_from(["linear", "glu", "lstm", "gru", "conv", "depthwise"]),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
    st.sampled_from(["auto", "scalar"]),
    st.booleans(),
)
def test_a_plan_has_the_products_of_its_model(kinds, twice, kernel, dynamic):
    model = quantize.compress(Layers(kinds, twice).eval(), bits=4)
    frame = ({1: frames(2, 40)},) if dynamic else None
    program = export(model, torch.randn(1, 5, 8), dynamic=frame)
    found = tune.products_of(plan_of(program, kernel))
    assert set(found) == set(products(program))
