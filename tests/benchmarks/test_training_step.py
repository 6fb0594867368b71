"""The benchmark of a training step, with steps that are small or made up."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import training_step
from benchmarks.training_step import Case, all_cases, times
from gq_tvm.errors import Error
from gq_tvm.models.networks.lstm_encoder import LSTMEncoderSettings
from gq_tvm.models.networks.network import Network, NetworkSettings, build
from gq_tvm.models.networks.rnnt import RNNTSettings
from gq_tvm.quantize.quantisers.quantizer import Quantizer

SMALL = NetworkSettings(
    LSTMEncoderSettings(size=4, layers=1),
    RNNTSettings(predictor_size=3, embedding_size=2, joint_size=3),
    features=6,
    tokens=4,
)


@pytest.mark.parametrize("case", [c for c in all_cases() if c.bits in (4, 32) or c.beyond])
def test_each_kind_of_step_trains(monkeypatch, case):
    models: list[Network] = []

    def kept(settings: NetworkSettings) -> Network:
        models.append(build(settings))
        return models[0]

    monkeypatch.setattr(training_step, "build", kept)
    step = training_step.training_step(case, SMALL, batch=2)
    before = [p.detach().clone() for p in models[0].encoder.parameters()]
    step()
    after = list(models[0].encoder.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
    hard = {m.hardness.hard for m in models[0].modules() if isinstance(m, Quantizer)}
    assert hard <= {case.hard or case.method != "gq"}


def test_ratios_are_taken_within_a_round(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(training_step.time, "process_time", lambda: clock[0])
    calls: list[str] = []

    def work(name: str, share: float):
        def step() -> None:
            calls.append(name)
            clock[0] += share * (1 + len(calls) // 3)  # the machine slows down

        return step

    found = times({"fp32": work("fp32", 1.0), "gq": work("gq", 1.2), "lsq": work("lsq", 2.4)}, 3)
    assert calls[3:9] == ["fp32", "gq", "lsq", "lsq", "gq", "fp32"]
    assert found["fp32"]["time_ratio"] == 1.0
    assert found["lsq"]["time_ratio"] > found["gq"]["time_ratio"] >= 1.0


def test_the_page_says_whether_the_limit_is_kept():
    def row(name: str, ratio: float, beyond: bool = False) -> dict[str, Any]:
        figures = {"ms": 100 * ratio, "time_ratio": ratio, "mib": 50.0, "memory_ratio": 1.1}
        return {"name": name, "beyond": beyond, **figures}

    def page(ratio: float) -> str:
        rows = [row("fp32", 1.0), row("gq 4 soft", ratio), row("gq 1, int1", 4.0, beyond=True)]
        versions = {"versions": {"torch": "2"}, "date": "today"}
        data = {"machine": {"cpu": "a CPU"}, "circumstances": versions, "weights": 12345}
        return training_step.text({**data, "rounds": 3, "rows": rows})

    assert "Kept: at most 1.40x the time and 1.10x the memory" in page(1.4)
    assert "Missed: at most 1.60x" in page(1.6)
    assert "| gq 1, int1 * | 400 | 4.00x | 50 | 1.10x |" in page(1.4)


@pytest.mark.slow
def test_memory_is_measured_in_a_process():
    floats = training_step.peak_memory(Case("fp32"))
    held = bytearray(2**30)  # of the process that asks, which must not count
    held[::4096] = b"1" * len(held[::4096])
    assert floats == pytest.approx(training_step.peak_memory(Case("fp32")), rel=0.1)
    assert 30 < floats < 2000
    with pytest.raises(Error, match="no step 'fp31'"):
        training_step.peak_memory(Case("fp31"))
