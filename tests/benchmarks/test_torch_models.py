"""Models of other packages: what is told of one, and the report; no package, no download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.machine import circumstances
from benchmarks.torch_models import report, work
from benchmarks.torch_models.listed import ROWS, Row
from benchmarks.torch_models.wrapped import Chosen


class Named(nn.Module):
    """Takes arguments by name, one of them no tensor, and gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 6)

    def forward(self, *, features: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return scale * self.layer(features), features


def _named(folder: Path | None) -> nn.Module:
    return Chosen(Named(), ("features",), {"scale": 2.0})


@pytest.mark.export
def test_a_model_goes_all_the_way_and_is_compared_on_other_inputs():
    told = work.measure(Row("it", "here", _named, lambda: (torch.randn(3, 32),)))
    assert (told["stage"], told["exports"], told["weights"], told["left"]) == ("done", None, 1, 0)
    assert told["error"] < 1e-5
    assert told["moved"] < 1e-2
    assert told["ratio"] > 0


def test_a_model_that_fails_says_where_and_how():
    def make(folder: Path | None) -> nn.Module:
        raise RuntimeError("no such model\nat all")

    told = work.measure(Row("it", "here", make, tuple))
    assert told["failed"] == "make: RuntimeError: no such model"
    told = work.measure(Row("it", "here", lambda folder: nn.ReLU(), lambda: (torch.ones(1),)))
    assert told["failed"].startswith("compress: Error:")


def test_rows_have_names_and_files_of_their_own():
    assert len({row.name for row in ROWS}) == len({report.file_name(row) for row in ROWS})
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_report_has_a_line_for_each_model_measured(tmp_path):
    first, second, *_ = ROWS
    good = {"stage": "done", "exports": None, "weights": 9, "left": 1, "error": 3e-3, "moved": 1e-3,
            "seconds": 7.2, "ratio": 1.5}  # fmt: skip
    bad = {"stage": "run", "exports": "it has | in it", "failed": "run: Error: a | b"}
    for row, told in ((first, good), (second, bad)):
        (tmp_path / f"{report.file_name(row)}.json").write_text(json.dumps(told))
    report.write(tmp_path, tmp_path, circumstances())
    text = (tmp_path / "torch_models.md").read_text()
    assert f"| {first.name} | transformers | yes | 1 of 9 | 3.0e-03 | 1.0e-03 | 7 | 1.5 |" in text
    assert "run: Error: a / b (nor does PyTorch export the float model)" in text
    assert "Not measured: " in text
    assert json.loads((tmp_path / "torch_models.json").read_text())["models"][second.name] == {
        "package": "transformers", **bad
    }  # fmt: skip
