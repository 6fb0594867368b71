"""Whole models: what is measured of one, and the report; no package, no download."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from benchmarks.harness import Plan
from benchmarks.machine import circumstances
from benchmarks.whole_models import report, work
from benchmarks.whole_models.listed import MODELS, Entry

FIGURES = {"ours": 2000.0, "onnxruntime": 5000.0, "pytorch": 3000.0, "bytes": 1_500_000}
FIGURES |= {"float_bytes": 9_000_000, "error": 1e-3, "compile_seconds": 12.3}


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), x


@pytest.mark.export
@pytest.mark.native
def test_a_model_is_compared_and_timed(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(work, "_PLAN", Plan(rounds=1, chunks=1, chunk_us=10, warm_us=10, cold=1))
    told = work.measure(Entry("it", "It", lambda: (TwoOutputs(), (torch.randn(3, 32),))))
    assert set(told) == set(FIGURES)
    assert told["error"] < 1e-5
    assert told["float_bytes"] == 4 * (32 * 16 + 16)


def test_the_report_has_a_line_for_each_model_measured(tmp_path):
    assert len({entry.name for entry in MODELS}) == len(MODELS)
    first, second, *_ = MODELS
    (tmp_path / f"{first.name}.json").write_text(json.dumps(FIGURES))
    report.write(tmp_path, tmp_path, circumstances())
    page = (tmp_path / "whole_models.md").read_text(encoding="utf-8")
    assert f"| {first.title} | 2.0 | 2.50 | 1.50 | 1.5 | 9.0 | 1.0e-03 | 12 |" in page
    assert f"Not measured: {second.title};" in page
    plain = json.loads((tmp_path / "whole_models.json").read_text(encoding="utf-8"))
    assert plain["models"][first.name]["title"] == first.title
