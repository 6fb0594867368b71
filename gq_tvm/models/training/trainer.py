"""The training loop, the same for float weights and for weights on their way to codebooks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gq_tvm.errors import Error
from gq_tvm.models.data.batches import Batch
from gq_tvm.models.networks.network import Network
from gq_tvm.models.training import checkpoint
from gq_tvm.models.training.objective import Teacher, objective
from gq_tvm.quantize import Annealing, centroid_parameters

Report = Callable[[str], None]

_CURES = {
    "fp32": "fp32.learning_rate; fp32.initial=CHECKPOINT goes on from the last checkpoint",
    "quantised": "quantise.learning_rate; fp32.start_from=CHECKPOINT spares the float training",
}


@dataclass(frozen=True)
class Schedule:
    """How long and how hard one phase of training works.

    The learning rate rises linearly for ``warmup`` steps and falls as a cosine to a hundredth.
    ``curriculum`` names shares of the steps after which strings may have 3 and then all words
    (2 before); ``masked`` is the share, at the start, with SpecAugment. The auxiliary CTC loss
    (Graves et al. 2006) on the encoder counts ``auxiliary[0]`` in the first quarter and
    ``auxiliary[1]`` afterwards.
    """

    steps: int
    learning_rate: float = 2e-3
    warmup: int = 100
    curriculum: tuple[float, float] = (0.06, 0.15)
    masked: float = 0.7
    auxiliary: tuple[float, float] = (0.5, 0.2)
    weight_decay: float = 0.01
    quantiser_rate: float = 1.0  # of centroids and steps, a factor on the learning rate
    clip: float = 5.0
    evaluate_every: int = 500
    save_every: int = 250

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def longest(self, step: int) -> int | None:
        """Most words in a joined string at a step; None: no limit beyond the batches' own."""
        done = step / self.steps
        return 2 if done < self.curriculum[0] else 3 if done < self.curriculum[1] else None

    def auxiliary_weight(self, step: int) -> float:
        """Weight of the CTC loss at a step."""
        return self.auxiliary[0 if step < self.steps / 4 else 1]


class Supply(Protocol):
    """Where batches come from: the one of a step, the same whenever it is asked for."""

    def draw(self, step: int, longest: int | None = None, masked: bool = True) -> Batch:
        """See ``Batches.draw``."""


class Trainer:
    """Trains one network through one phase; stops and resumes at any step.

    ``annealing`` is stepped with the optimiser; a ``teacher`` is learned from; ``evaluate`` gives
    word error rates as the network stands; all may be left out. Resuming repeats exactly what an
    uninterrupted run would have done.
    """

    def __init__(
        self,
        model: Network,
        batches: Supply,
        schedule: Schedule,
        seed: int,
        *,
        phase: str = "fp32",
        annealing: Annealing | None = None,
        teacher: Teacher | None = None,
        evaluate: Callable[[], dict[str, float]] | None = None,
        report: Report = print,
        path: str | Path | None = None,
        description: dict[str, Any] | None = None,
    ):
        self.model, self.batches, self.schedule, self.seed = model, batches, schedule, seed
        self.phase, self.report = phase, report
        self.step = 0
        self.stopping = False
        self._annealing, self._teacher, self._evaluate = annealing, teacher, evaluate
        self._path, self._description = path, description or {}
        self._apart = apart(model)
        self._optimiser = optimiser_for(model, schedule)

    def run(self, steps: int | None = None) -> None:
        """Train to the end of the schedule, or for so many steps; writes checkpoints.

        Returns early, with a checkpoint of the last whole step, once ``stopping`` is true.
        """
        end = min(self.schedule.steps, self.step + (steps or self.schedule.steps))
        begun, first = time.monotonic(), self.step
        losses: list[float] = []
        while self.step < end and not self.stopping:
            losses.append(self._one_step())
            self.step += 1
            if self.step % 50 == 0 or self.step == end:
                pace = (time.monotonic() - begun) / (self.step - first)
                left = (self.schedule.steps - self.step) * pace / 60
                self.report(
                    f"{self.phase}  step {self.step}/{self.schedule.steps}  "
                    f"loss {sum(losses) / len(losses):.4f}  {pace:.2f} s a step  "
                    f"{left:.0f} min left"
                )
                losses.clear()
            if self.step % self.schedule.save_every == 0 or self.step == end:
                self.save()
            if self._evaluate and self.step % self.schedule.evaluate_every == 0:
                rates = "  ".join(f"{name} {wer:.1f}%" for name, wer in self._evaluate().items())
                self.report(f"{self.phase}  step {self.step}/{self.schedule.steps}  WER {rates}")
        if self.stopping:
            self.save()

    def _one_step(self) -> float:
        self.model.train()
        torch.manual_seed(hash((self.seed, self.step)) & 0x7FFFFFFF)  # dropout of this step
        for group in self._optimiser.param_groups:
            group["lr"] = self.schedule.rate(self.step) * group["factor"]
        masked = self.step / self.schedule.steps < self.schedule.masked
        try:
            batch = self.batches.draw(self.step, self.schedule.longest(self.step), masked)
        except Error:
            self.save()  # once the recording is mended, training goes on from here
            raise
        auxiliary = self.schedule.auxiliary_weight(self.step)
        loss = objective(self.model, batch, auxiliary, self._teacher)
        self._check_finite("loss", loss)
        self._optimiser.zero_grad()
        loss.backward()
        for parameters in self._apart:  # a centroid's gradient is a sum over its weights
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.schedule.clip)
            self._check_finite("gradient's norm", norm)
        self._optimiser.step()
        if self._annealing:
            self._annealing.step()
        return loss.item()

    def _check_finite(self, what: str, value: Tensor) -> None:
        if not torch.isfinite(value):
            raise Error(
                f"{self.phase}: the {what} is {value.item()} at step {self.step}; train to another "
                f"output with a smaller {_CURES.get(self.phase, 'learning rate')}"
            )

    def save(self) -> None:
        """Write the checkpoint, if this trainer has a path."""
        if self._path is None:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        state = checkpoint.optimiser_tensors(self._optimiser)
        tensors |= {f"optimiser.{k}": v for k, v in state.items()}
        description = {**self._description, "phase": self.phase, "step": self.step}
        checkpoint.save(self._path, tensors, description)

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Continue from a checkpoint's tensors at its step."""
        restore_model(self.model, tensors)
        checkpoint.restore_optimiser(self._optimiser, _under("optimiser.", tensors))
        self.step = step
        if self._annealing:
            self._annealing.load_state_dict({"done": step})


def restore_model(model: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load a checkpoint's model; raises Error when it is of another shape."""
    try:
        model.load_state_dict(_under("model.", tensors))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise Error(
            f"the checkpoint holds another model ({first}); use the options it was trained with"
        ) from None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def apart(model: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """What a model learns: its own weights, and what its quantisers learn."""
    quantisers = [p for p in centroid_parameters(model) if p.requires_grad]
    known = {id(p) for p in quantisers}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in known], quantisers


def optimiser_for(model: torch.nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW; only matrices decay, and what quantisers learn has a rate of its own."""
    weights, quantisers = apart(model)
    matrices, others = ([p for p in weights if (p.ndim > 1) is wide] for wide in (True, False))
    groups = [
        {"params": matrices, "factor": 1.0, "weight_decay": schedule.weight_decay},
        {"params": others, "factor": 1.0, "weight_decay": 0.0},
        {"params": quantisers, "factor": schedule.quantiser_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))
