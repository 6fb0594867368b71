"""What outliers cost: ``python -m benchmarks.outliers`` [--rounds N] [--json FILE].

Models of one layer at 4 bits and int8 activations, with more and more of their weights kept apart
at 16 bits in places drawn at random, are called in turns within one process. What counts is the
median over the rounds of a call's time by that of the layer without outliers in the same round: a
machine that is slower for a while is so for both.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

import gq_tvm
from gq_tvm import files
from gq_tvm.columns import columns
from gq_tvm.ops.weight import Outliers, Weight
from gq_tvm.quantize.deployed.codebook_layers import CodebookLinear
from gq_tvm.quantize.deployed.codebook_recurrent import CodebookLSTM
from gq_tvm.targets import native

SHARES = (0.0, 0.0005, 0.001, 0.002, 0.005)
_CALL = 300e-6  # seconds of calls behind one figure


@dataclass(frozen=True)
class Layer:
    """A layer to measure: ``"linear"`` or ``"lstm"``, outputs, inputs, rows or frames a call."""

    kind: str
    outputs: int
    inputs: int
    rows: int

    def __str__(self) -> str:
        return f"{self.kind} {self.outputs}x{self.inputs}, {self.rows} rows"

    def module(self, share: float) -> nn.Module:
        """The layer, so much of its weights kept apart."""
        if self.kind == "linear":
            return CodebookLinear(_weight(self.outputs, self.inputs, share), None, "int8")
        hidden = self.outputs
        pair = _weight(4 * hidden, self.inputs, share), _weight(4 * hidden, hidden, share)
        return _Outputs(CodebookLSTM([pair], [None], "int8", batch_first=True))

    def example(self) -> Tensor:
        """Inputs of a call."""
        x = torch.randn(self.rows, self.inputs)
        return x if self.kind == "linear" else x[None]


LAYERS = (
    *(Layer("linear", n, k, rows) for n, k in ((1024, 1024), (2048, 512)) for rows in (1, 16)),
    *(Layer("lstm", 512, 512, rows) for rows in (1, 16)),
)


class _Outputs(nn.Module):
    """An LSTM without the state it ends in."""

    def __init__(self, lstm: nn.Module) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(x)[0]
        return y


def _weight(rows: int, width: int, share: float) -> Weight:
    rng = np.random.default_rng(0)
    made = Weight(
        rng.integers(0, 16, (rows, width), dtype=np.uint8),
        np.linspace(-1, 1, 16, dtype=np.float32)[None],
        np.full(1, 0.02, np.float32),
    )
    count = round(share * rows * width)
    at = np.sort(rng.choice(rows * width, count, replace=False))
    values = rng.standard_normal(count).astype(np.float16)
    return replace(made, outliers=Outliers(at, values)) if count else made


def measure(layer: Layer, rounds: int) -> dict[float, float]:
    """Time of a call for each of `SHARES`, by that without outliers; of 0 microseconds."""
    x = layer.example()
    nets = {share: _compiled(layer.module(share), x) for share in SHARES}
    tied = {share: net["main"].timed([x.numpy()]) for share, net in nets.items()}
    count = max(1, round(_CALL / min(tied[0.0].time(3))))
    ratios: dict[float, list[float]] = {share: [] for share in SHARES}
    for number in range(rounds):
        order = SHARES if number % 2 else SHARES[::-1]
        times = {share: median(tied[share].time(count)) for share in order}
        for share in SHARES:
            ratios[share].append(times[share] if share == 0 else times[share] / times[0.0])
    found = {share: median(values) for share, values in ratios.items()}
    return found | {0.0: 1e6 * found[0.0]}


def _compiled(module: nn.Module, x: Tensor) -> gq_tvm.runtime.Model:
    program = torch.export.export(module.eval(), (x,))
    with tempfile.TemporaryDirectory() as folder:
        gq_tvm.build(program).save(f"{folder}/layer.gq")
        return gq_tvm.load(f"{folder}/layer.gq")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Time layers with outliers and without.")
    parser.add_argument("--rounds", type=int, default=200, help="turns of each (%(default)s)")
    parser.add_argument("--json", metavar="FILE", default="build/outliers.json")
    options = parser.parse_args()
    rows, found = [["layer", "us", *(f"{share:.2%}" for share in SHARES[1:])]], {}
    for layer in LAYERS:
        times = measure(layer, options.rounds)
        found[str(layer)] = times
        print(layer, times, file=sys.stderr, flush=True)
        more = [f"{times[share] - 1:+.1%}" for share in SHARES[1:]]
        rows.append([str(layer), f"{times[0.0]:.1f}", *more])
    print(columns(rows, right=range(1, len(rows[0]))))
    about = {"cpu": native.name(), "rounds": options.rounds}
    files.write_text(options.json, json.dumps({**about, "layers": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
