"""How much each weight of a float network minds few bits.

The measure is the divergence of the network's scores from those it has with float weights, which
is less noisy than the rise of the loss and needs no transcript to be right. Weights are put into
Lloyd-Max codebooks without training [C]: the order of layers is what matters, and that training
would take longer than it saves.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gq_tvm import quantize
from gq_tvm.models.allocation.sizes import deployed_bytes, deployed_weights
from gq_tvm.models.data.batches import Batch
from gq_tvm.models.networks.network import Network
from gq_tvm.models.training.trainer import Report
from gq_tvm.ops.torch_weight import WeightTensors, expand
from gq_tvm.quantize.allocation.weights import replaced
from gq_tvm.quantize.training_layers.quant_layers import quantised_weights

Allocation = Mapping[str, int]  # bits by weight


@dataclass(frozen=True)
class Sensitivity:
    """What was measured.

    Attributes:
        sizes: bytes by weight and bits, codebook included.
        divergence: nats by weight and bits, the weight being quantised alone.
        fixed: bytes of all that has no bits to choose: vectors, and weights that stay in float.
    """

    sizes: dict[str, dict[int, int]]
    divergence: dict[str, dict[int, float]]
    fixed: int


class Quantised:
    """A float network, and its weights as they are with so many bits.

    Args:
        model: float; left as it is.
        choices: bits, each 1 to 8.
        per_row: see ``quantize.prepare``.
    """

    def __init__(self, model: Network, choices: Sequence[int], per_row: bool = False) -> None:
        self.model = model.eval()
        self.choices = sorted(choices)
        self._codes: dict[int, dict[str, WeightTensors]] = {}
        self.sizes: dict[str, dict[int, int]] = {}
        for bits in self.choices:
            # In the linear space the centroids that prepare starts from are Lloyd-Max's.
            prepared = copy.deepcopy(model)
            quantize.prepare(prepared, bits, activation="fp32", per_row=per_row, mu=0.0)
            weights = [one for one in deployed_weights(prepared) if one.bits == bits]
            own = {one.name: one.size for one in weights if not one.shared}
            for name, size in own.items():
                self.sizes.setdefault(name, {})[bits] = size
            self._codes[bits] = _hardened(prepared, own)
            self.fixed = deployed_bytes(prepared) - sum(own.values())

    def size(self, allocation: Allocation) -> int:
        """Bytes of the whole network, deployed with these bits."""
        return self.fixed + sum(self.sizes[name][bits] for name, bits in allocation.items())

    def uniform(self, bits: int) -> dict[str, int]:
        """The same bits for all weights."""
        return dict.fromkeys(self.sizes, bits)

    def divergences(self, allocations: Sequence[Allocation], batch: Batch) -> list[float]:
        """Divergence in nats from the float network's scores, of each allocation."""
        with torch.inference_mode():
            goal = self.model.scores(batch)
            found = []
            for allocation in allocations:
                with self._with(allocation):
                    scores = self.model.scores(batch)
                found.append(float(self.model.divergence(scores, goal, batch)))
        return found

    def mean_divergences(
        self, allocations: Sequence[Allocation], batches: Sequence[Batch], report: Report
    ) -> list[float]:
        """Mean over utterances of what :meth:`divergences` gives of batches."""
        begun = time.monotonic()
        total = torch.zeros(len(allocations), dtype=torch.float64)
        count = sum(len(batch.frames) for batch in batches)
        for number, batch in enumerate(batches, 1):
            total += torch.tensor(self.divergences(allocations, batch)) * len(batch.frames)
            left = (time.monotonic() - begun) / number * (len(batches) - number) / 60
            report(f"batch {number}/{len(batches)}  {left:.0f} min left")
        return (total / count).tolist()

    def _values(self, name: str, bits: int) -> Tensor:
        """A weight f32 as it is with so many bits."""
        return expand(self._codes[bits][name])

    @contextmanager
    def _with(self, allocation: Allocation) -> Iterator[None]:
        """The network with some of its weights quantised."""
        parameters = dict(self.model.named_parameters())
        with replaced({parameters[name]: self._values(name, n) for name, n in allocation.items()}):
            yield


def measure(quantised: Quantised, batches: Sequence[Batch], report: Report) -> Sensitivity:
    """Quantise each weight alone, with each number of bits, on the same batches."""
    single = [{name: bits} for name, own in quantised.sizes.items() for bits in own]
    report(f"measuring {len(single)} ways to quantise one weight")
    found = quantised.mean_divergences(single, batches, report)
    divergence: dict[str, dict[int, float]] = {name: {} for name in quantised.sizes}
    for one, value in zip(single, found, strict=True):
        ((name, bits),) = one.items()
        divergence[name][bits] = value
    return Sensitivity(quantised.sizes, divergence, quantised.fixed)


def _hardened(prepared: Network, names: Collection[str]) -> dict[str, WeightTensors]:
    """Some quantised weights of a prepared network, by name."""
    return {
        name: layer.hardened(attribute)
        for name, layer, attribute in quantised_weights(prepared)
        if name in names
    }
