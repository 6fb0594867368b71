from __future__ import annotations

import pytest
import torch
from helpers.codebook_models import Linear, export, frames
from torch import nn

from gq_tvm import Error, frontend, targets
from gq_tvm.build import build
from gq_tvm.deploy import plan


def planned(model: nn.Module, *example: torch.Tensor, dynamic=None) -> list[list[str]]:
    artefact = build(export(model.eval(), *example, dynamic=dynamic), target="x86-64")
    module = plan.lower(artefact.lowered, targets.get("x86-64").tvm)
    weights = {name: 64 * i for i, name in enumerate(artefact.parameters)}
    layers = {
        p: layer.call["layer"] for layer in artefact.manifest.layers for p in layer.parameters
    }
    functions = artefact.manifest.functions
    return [line.split() for line in plan.lines(module, functions, weights, layers)]


def of_kind(lines: list[list[str]], kind: str) -> list[list[str]]:
    return [line for line in lines if line[0] == kind]


def test_memory_of_results_is_used_again():
    layers = nn.Sequential(*(Linear(6, 6, seed=i) for i in range(5)))
    lines = planned(layers, torch.zeros(2, 6))
    calls = of_kind(lines, "call")
    assert [line[2] for line in calls] == ["0", "1", "2", "3", "4"]  # whose weights they read
    assert all([word[0] for word in line[3:]].count(">") == 1 for line in calls)
    slots = [line[4] for line in of_kind(lines, "value") if line[2] == "temporary"]
    assert len(slots) == 4
    assert len(set(slots)) == 2  # what is read and what is written
    ((_, name, registers, count),) = of_kind(lines, "function")
    assert (name, registers, count) == ("main", "0", "2")


def test_result_that_is_read_later_keeps_its_memory():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (Linear(6, 6, seed=i) for i in range(3))

        def forward(self, x):
            y = self.a(x)
            return torch.tanh(self.c(torch.tanh(self.b(y)))) * y

    lines = planned(Residual(), torch.zeros(2, 6))
    values = {line[1]: line for line in of_kind(lines, "value")}
    calls = [[word.lstrip(">") for word in line[3:]] for line in of_kind(lines, "call")]
    first = calls[0][-1]  # what the first kernel writes, and the last one reads
    assert first in calls[-1]
    between = [number for call in calls[1:-1] for number in call if number in values]
    assert values[first][4] not in [
        values[number][4]
        for number in between
        if values[number][2] == "temporary" and number != first
    ]


def test_sizes_are_told_by_inputs_and_computed():
    class Fold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Linear(3, 4)

        def forward(self, x):
            return torch.cat([self.layer(x.reshape(-1, 4)), self.layer(x.reshape(-1, 4))])

    lines = planned(Fold(), torch.zeros(5, 8), dynamic=({0: frames(1, 64)},))
    ((_, register, number, axis, least, most, _),) = of_kind(lines, "size")
    assert (register, number, axis, least, most) == ("0", "0", "0", "1", "64")
    operations = {line[2] for line in of_kind(lines, "let")}
    assert operations <= {"mul", "add"}
    assert "mul" in operations
    views = [line for line in of_kind(lines, "value") if line[2] == "view"]
    assert views  # reshaping moves nothing
    assert "-" in [line[2] for line in of_kind(lines, "call")]  # to join is no layer's


def test_what_no_plan_can_say_is_refused():
    program = frontend.read(export(Linear(3, 4).eval(), torch.zeros(2, 4)))
    module = frontend.translate(program, None).module  # of operators, not of kernels
    with pytest.raises(Error, match=r"function main uses relax\.gq.*, which cannot be bundled"):
        plan.lines(module, ["main"], {})
