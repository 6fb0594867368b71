#!/bin/bash
# torch 2.13.0: torch.export of a model that is given one tensor for two of its arguments, as the two zero
# states of an LSTM, makes a program in which the last of them stands for both. The other is still an
# input, is checked, and is read by nothing: no error, no warning, and right for the example.
# Seen: f(h, c) = 2 h + c, exported with (s, s), gives 15 for h = 1 and c = 5, where the model gives 7; an LSTM
# exported with one tensor of zeros for h and c is wrong from its second step on. Exported with s and
# s.clone() both are right.
# Who exports gives each argument a tensor of its own; who imports looks for inputs without a reader.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder" && venv/bin/python -W ignore - <<'PYTHON'
import torch


class Sum(torch.nn.Module):
    def forward(self, h, c):
        return 2 * h + c


class Step(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(2, 3)

    def forward(self, x, h, c):
        y, (h, c) = self.lstm(x, (h, c))
        return y


def readers(program):
    inputs = set(program.graph_signature.user_inputs)
    return {n.name: len(n.users) for n in program.graph.nodes if n.name in inputs}


torch.manual_seed(0)
s, one, five = torch.zeros(1), torch.ones(1), torch.full((1,), 5.0)
for name, example in ("one tensor", (s, s)), ("two tensors", (s, s.clone())):
    program = torch.export.export(Sum(), example)
    got = float(program.module()(one, five))
    print(f"{name}: readers {readers(program)}, 2 * 1 + 5 = {got}")
    assert got == (15.0 if name == "one tensor" else 7.0)

step, zeros = Step(), torch.zeros(1, 1, 3)
x, h, c = torch.randn(1, 1, 2), torch.randn(1, 1, 3), torch.randn(1, 1, 3)
for name, example in ("one tensor", (zeros, zeros)), ("two tensors", (zeros, zeros.clone())):
    program = torch.export.export(step, (torch.zeros(1, 1, 2), *example))
    difference = float((program.module()(x, h, c) - step(x, h, c)).abs().max())
    print(f"LSTM, {name}: readers {readers(program)}, differs by {difference:.1e}")
    assert (difference > 1e-2) == (name == "one tensor")
PYTHON
