"""A run that stops and goes on, in another process, is the run that never stopped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_recogniser import Recogniser, inputs
from torch import nn

from gq_tvm import quantize

STEPS, STOP = 10, 4


class Training:
    """A prepared recogniser with dropout, its optimiser and its annealing."""

    def __init__(self, options: dict[str, Any]) -> None:
        torch.manual_seed(0)
        model: Any = Recogniser()
        model.encoder.dropout = 0.3
        self.model = quantize.prepare(model, 2, **options)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-2)
        self.annealing = quantize.Annealing(self.model, STEPS, every=2)

    def run(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            number = self.annealing.done
            torch.manual_seed(number)  # of dropout
            ids, h, c = inputs(batch=8, seed=number)
            logits = self.model(ids, h, c)[0]
            loss = nn.functional.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.annealing.step()
            losses.append(loss.item())
        return losses

    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "annealing": self.annealing}

    def save(self, path: Path) -> None:
        torch.save({name: part.state_dict() for name, part in self.parts().items()}, path)

    def load(self, path: Path) -> None:
        states = torch.load(path)
        for name, part in self.parts().items():
            part.load_state_dict(states[name])


OPTIONS: dict[str, dict[str, Any]] = {
    "gq": {},
    "learned mu": {"learn_mu": True, "per_row": True},
    "fixed centroids": {"learn_centroids": False, "start": "uniform", "activation": "int1"},
    "lsq": {"method": "lsq"},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_new_objects_go_on(tmp_path, options):
    whole = Training(OPTIONS[options])
    losses = whole.run(STOP)
    whole.save(tmp_path / "stopped.pt")
    losses = whole.run(STEPS - STOP)
    resumed = Training(OPTIONS[options])
    resumed.run(1)  # on its way elsewhere
    resumed.load(tmp_path / "stopped.pt")
    assert resumed.run(STEPS - STOP) == losses
    assert resumed.annealing.hard
    for name, wanted in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], wanted), name


@pytest.mark.training
def test_a_new_process_goes_on(tmp_path):
    whole = Training(OPTIONS["learned mu"])
    whole.run(STOP)
    whole.save(tmp_path / "stopped.pt")
    losses = whole.run(STEPS - STOP)
    script = (
        "import sys; from pathlib import Path; from test_resume import *\n"
        "training = Training(OPTIONS['learned mu']); training.load(Path(sys.argv[1]))\n"
        "print(training.run(STEPS - STOP))"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "stopped.pt")],
        env={"PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(losses)
