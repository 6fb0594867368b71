"""Bits for each weight within a budget of bytes, from measured sensitivity.

Divergences of weights quantised alone are taken to add up; how wrong that is shows when the whole
allocation is measured. Activations are floats in all that is measured, also where the deployed
network has integers: only the error of the weights counts [C].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gq_tvm.errors import Error
from gq_tvm.models.allocation.sensitivity import Quantised, Sensitivity
from gq_tvm.models.configuration.config import Config
from gq_tvm.models.data import loading as data
from gq_tvm.models.data.batches import Batch, collate, of_like_length
from gq_tvm.models.torch_recogniser import deployed_features
from gq_tvm.models.training.trainer import Report
from gq_tvm.quantize.allocation.allocate import no_budget
from gq_tvm.quantize.allocation.knapsack import Choice, choose
from gq_tvm.speech import FeatureSettings, tokens

_BATCH_FRAMES = 2048  # of a batch, padding included: the lattice of a transducer is held whole


@dataclass(frozen=True)
class Proposal:
    """Bits by weight, with sizes in bytes and divergences in nats.

    ``sum`` is the divergence as it should be if those of single weights added up, ``measured`` as
    it is; ``uniform`` is the bit-width that gives all weights the size nearest to this one.
    """

    bits: dict[str, int]
    size: int
    sum: float
    measured: float
    uniform: int
    uniform_size: int
    uniform_measured: float


def propose(
    quantised: Quantised,
    sensitivity: Sensitivity,
    budget: int,
    batches: Sequence[Batch],
    report: Report,
) -> Proposal:
    """The allocation of least summed divergence within a budget of bytes, measured as a whole.

    Raises Error when even the fewest bits do not fit.
    """
    bits = allocate(sensitivity, budget)
    size = quantised.size(bits)
    widths = quantised.choices
    nearest = min(widths, key=lambda n: abs(quantised.size(quantised.uniform(n)) - size))
    uniform = quantised.uniform(nearest)
    report("measuring the whole, and the uniform bit-width nearest in size")
    measured, uniform_measured = quantised.mean_divergences([bits, uniform], batches, report)
    return Proposal(
        bits,
        size,
        sum(sensitivity.divergence[name][n] for name, n in bits.items()),
        measured,
        nearest,
        quantised.size(uniform),
        uniform_measured,
    )


def allocate(sensitivity: Sensitivity, budget: int) -> dict[str, int]:
    """Bits by weight, of least summed divergence within a budget of bytes.

    Raises Error when even the fewest bits do not fit.
    """
    groups = [
        [Choice(size, sensitivity.divergence[name][bits]) for bits, size in own.items()]
        for name, own in sensitivity.sizes.items()
    ]
    chosen = choose(groups, budget - sensitivity.fixed)
    if chosen is None:
        least = sensitivity.fixed + sum(min(own.values()) for own in sensitivity.sizes.values())
        raise Error(no_budget(budget, least, sensitivity.fixed))
    return {
        name: list(own)[number]
        for (name, own), number in zip(sensitivity.sizes.items(), chosen, strict=True)
    }


def development_batches(config: Config, features: FeatureSettings, most: int) -> list[Batch]:
    """Utterances of the development corpora as deployment hears them, at most ``most`` of a set.

    Raises Error when the configuration has no development corpus, or one of no frames.
    """
    found = data.recordings(config, roles=("development",))
    pairs = []
    for spoken in data.evaluation_sets(config, found, "development").values():
        for one in spoken[:: -(-len(spoken) // most)]:
            heard = deployed_features(one.samples(features.sample_rate), features)
            pairs.append((heard, tokens.encode(one.text)))
    if not pairs:
        raise Error('the configuration has no [[corpus]] with role = "development"; add one')
    batches = of_like_length([len(heard) for heard, _ in pairs], _BATCH_FRAMES)
    if not batches:
        raise Error("all development recordings are too short for a frame of features; give others")
    return [collate([pairs[n] for n in numbers]) for numbers in batches]
