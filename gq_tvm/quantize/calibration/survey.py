"""The order in which a model's weights are multiplied by, from one run of the float model."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gq_tvm.errors import Error
from gq_tvm.quantize.calibration.fitted import Fitted
from gq_tvm.quantize.calibration.tap import Use


@dataclass(eq=False)
class Reached:
    """A weight, and what reaches it in the float model.

    Attributes:
        quantizer: the weight's.
        name: the weight's.
        rows: rows of inputs, over all runs.
        uses: how often each run multiplies by it.
        read: whether code past the layer multiplies by it too.
        looked_up: whether ids choose among its rows.
        multiplied: whether inputs meet it as a matrix.
    """

    quantizer: Fitted
    name: str
    rows: int = 0
    uses: dict[int, int] = field(default_factory=dict)
    looked_up: bool = False
    multiplied: bool = False
    read: bool = False
    _sample: list[Tensor] = field(default_factory=list)
    _kept: int = 0  # of the present run's
    _inputs: int = 0  # a hash of which inputs it met, one after the other

    @property
    def inputs(self) -> tuple[int, int]:
        """Alike for weights that met the same inputs, one for one."""
        return self._inputs, self.quantizer.rows.shape[1]

    @property
    def sample(self) -> Tensor:
        """Some of the rows, f32 [M, K]."""
        return torch.cat(self._sample)

    def stand_apart(self) -> None:
        """Meet inputs of its own from now on."""
        self._inputs = hash((self._inputs, self.name))

    def add(self, rows: Tensor, most: int) -> None:
        """Count rows, and keep some, ``most`` of those of a run."""
        self.multiplied = True
        flat = rows.reshape(-1, rows.shape[-1])
        self.rows += len(flat)
        room = most - self._kept
        if room > 0 and len(flat):
            taken = flat[:: -(-len(flat) // room)].detach().cpu().clone()
            self._sample.append(taken)
            self._kept += len(taken)

    @property
    def work(self) -> float:
        """Multiplications in all runs."""
        return float(self.rows) * self.quantizer.rows.numel()


class Survey:
    """Collects what is reached, and refuses what is not finite.

    Args:
        names: of the weights.
        verb: who refuses.
        most: rows to be kept of each weight's in a run.
    """

    def __init__(self, names: dict[Fitted, str], verb: str, most: int) -> None:
        self._most = most
        self._names = names
        self._verb = verb
        self._found: dict[Fitted, Reached] = {}
        self._run, self._where = 0, ""
        self._last: Tensor | None = None
        self._number = 0

    def begin(self, run: int, where: str) -> None:
        """Before each run: its number and name."""
        self._run, self._where, self._last = run, where, None

    def __call__(self, use: Use, rows: Tensor, source: Tensor) -> None:
        """See a product; as a ``Watcher``."""
        quantizer = use.quantizer
        one = self._found.setdefault(quantizer, Reached(quantizer, self._names[quantizer]))
        if source is not self._last:
            self._last, self._number = source, self._number + 1
        if rows.is_floating_point():
            if not torch.isfinite(rows).all():
                raise Error(
                    f"{self._verb}: {self._where} bring NaN or infinity to {one.name}; leave such "
                    "examples out, or mend the float model."
                )
            if self._run not in one.uses:
                one._kept = 0
            one.add(rows, self._most)
            one.read |= use.activation == "fp32"
        else:
            one.looked_up = True
        one.uses[self._run] = one.uses.get(self._run, 0) + 1
        one._inputs = hash((one._inputs, self._number, use.activation, one.looked_up))

    def found(self) -> list[Reached]:
        """The weights that were reached, in the order of their first uses."""
        return list(self._found.values())


def groups(reached: list[Reached], most_bytes: int, most_runs: int) -> list[list[Reached]]:
    """Weights to be compressed from one run of all inputs, in the order of execution.

    Those that meet the same inputs go together. Where that makes more groups than ``most_runs``,
    neighbours are joined, as long as their moments take at most ``most_bytes``.
    """
    alike: dict[object, list[Reached]] = {}
    for one in reached:
        alike.setdefault(one.inputs, []).append(one)
    strict = list(alike.values())
    if len(strict) <= most_runs:
        return strict
    joined: list[list[Reached]] = []
    together = -(-len(strict) // most_runs)
    number, held = 0, 0
    for group in strict:
        size = 4 * group[0].quantizer.rows.shape[1] ** 2
        if joined and held + size <= most_bytes and number < together:
            joined[-1] += group
        else:
            joined.append(list(group))
            number, held = 0, 0
        number, held = number + 1, held + size
    return joined
