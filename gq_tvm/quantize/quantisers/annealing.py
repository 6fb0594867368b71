"""The schedule that turns soft assignments hard.

[P] says that the softmax is annealed from soft to hard, and studies how often the quantiser is
applied. The schedule itself - K geometric in the step, then hard with a straight-through
gradient - and its figures are our choice [C].
"""

from __future__ import annotations

from typing import Any

from torch import nn

from gq_tvm.errors import Error
from gq_tvm.quantize.drop_in.arguments import check_numbers
from gq_tvm.quantize.quantisers.quantizer import Hardness, Quantizer


class Annealing:
    """Anneals all quantisers of a prepared model; call ``step()`` after ``optimizer.step()``.

    Args:
        model: what ``prepare`` returned. Its quantisers turn soft at once.
        steps: optimiser steps until training ends.
        start: hardness K = alpha * spacing of the centroids at the first step.
        end: hardness at the last soft step; about 2.8 / K of the rounding error is then left.
        hard: share of the steps, at the end, with hard weights and straight-through gradients.
        every: apply the soft quantisers on every ``every``-th step only; float in between.

    Raises:
        Error: the model has no quantisers, or a figure is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        start: float = 4.0,
        end: float = 40.0,
        hard: float = 0.3,
        every: int = 1,
    ) -> None:
        quantizers = [m for m in model.modules() if isinstance(m, Quantizer)]
        if not quantizers:
            raise Error("annealing: the model has no quantisers; call quantize.prepare first.")
        check_numbers("annealing", int, steps=steps, every=every)
        check_numbers("annealing", start=start, end=end, hard=hard)
        if steps < 1 or every < 1:
            raise Error(f"annealing: steps ({steps}) and every ({every}) must be at least 1.")
        if not 0 < start <= end or not 0 <= hard <= 1:
            raise Error(
                f"annealing: need 0 < start <= end and 0 <= hard <= 1, got start={start}, "
                f"end={end}, hard={hard}."
            )
        self.steps = steps
        self.soft_steps = steps - round(steps * hard)
        self.start, self.end, self.every = start, end, every
        self.done = 0
        self.hardness = Hardness()
        for quantizer in quantizers:
            quantizer.hardness = self.hardness
        self._apply()

    @property
    def k(self) -> float:
        """The present hardness K; infinite once hard."""
        return self.hardness.k

    @property
    def hard(self) -> bool:
        """Whether weights already take their nearest centroid."""
        return self.hardness.hard

    def step(self) -> None:
        """One optimiser step is done."""
        self.done += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on from here."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, on this object's own schedule."""
        self.done = int(state["done"])
        self._apply()

    def _apply(self) -> None:
        if self.done >= self.soft_steps:
            self.hardness.k, self.hardness.applied = float("inf"), True
            return
        progress = self.done / max(self.soft_steps - 1, 1)
        self.hardness.k = self.start * (self.end / self.start) ** progress
        self.hardness.applied = self.done % self.every == 0
