"""What compression has to keep, as data, and whether the figures do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.compression.cells import ACTIVATIONS, OURS_ALLOCATED, OURS_INPUTS
from benchmarks.compression.models import MODELS
from benchmarks.compression.results import Results, geometric_mean

MOST_OVERHEAD = 0.6  # bits a weight of a row of n bits, beyond n
#: By network and measure: whether at least, at most, or so near below the float network's, and the
#: bound by bits; int8 activations.
BOUNDS: dict[tuple[str, str], tuple[str, dict[int, float]]] = {
    ("silero", "correlation"): ("least", {8: 0.9995, 4: 0.998, 3: 0.994, 2: 0.95}),
    ("resemblyzer", "cosine"): ("least", {8: 0.998, 4: 0.985, 3: 0.95, 2: 0.8}),
    ("resemblyzer", "eer"): ("most", {4: 7.6}),
    ("minilm", "module"): ("near", {4: 1.0}),
    ("imgfocus", "picture"): ("near", {4: 1.0}),
}
#: The loss over that of the best rival at equal bytes, geometric mean over the networks.
MOST_OF_RIVALS, RIVALLED_BITS = 0.8, (4, 3)


@dataclass(frozen=True)
class Goal:
    """One promise and the figures it is judged by.

    Attributes:
        met: None: not measured.
    """

    title: str
    figures: str = ""
    met: bool | None = None


def goals(results: Results) -> Iterator[Goal]:
    """All goals, also those whose cells are not there."""
    yield from _measures(results)
    for activation in ACTIVATIONS:
        for bits in RIVALLED_BITS:
            yield from _rivals(results, bits, activation)


def _measures(results: Results) -> Iterator[Goal]:
    for (model, measure), (kind, bounds) in BOUNDS.items():
        for bits, bound in bounds.items():
            what = f"at {kind} {bound:g}"
            if kind == "near":
                what = f"at most {bound:g} below the float network's"
            title = f"{MODELS[model].title}, {measure} at {bits} bits: {what}"
            figures, met = [], None
            for method in (OURS_INPUTS, OURS_ALLOCATED):
                for entry in results.find(model, method, bits, "int8"):
                    value, fits = entry.measures[measure], entry.rate <= bits + MOST_OVERHEAD
                    kept = _keeps(value, kind, bound, results.facts[model]["measures"][measure])
                    with_what = ", bits allocated" * (method == OURS_ALLOCATED)
                    figures.append(f"{value:.4f} at {entry.rate:.2f} bits a weight{with_what}")
                    met = bool(met) or (kept and fits)
            yield Goal(title, "; ".join(figures), met)


def _keeps(value: float, kind: str, bound: float, floats: float) -> bool:
    if kind == "near":
        return value >= floats - bound
    return value >= bound if kind == "least" else value <= bound


def _rivals(results: Results, bits: int, activation: str) -> Iterator[Goal]:
    found, fits, most = {}, True, bits + MOST_OVERHEAD
    for model in results.models:
        ours = [
            entry
            for method in (OURS_INPUTS, OURS_ALLOCATED)
            for entry in results.find(model, method, bits, activation)
        ]
        for entry in sorted(ours, key=lambda one: (one.rate > most, one.loss))[:1]:
            compared = results.against_rivals(entry)
            if compared is not None:
                found[model] = compared
                fits &= entry.rate <= most
    title = (
        f"Loss over the best rival's at equal bytes, {bits} bits, {activation} activations: "
        f"at most {MOST_OF_RIVALS}"
    )
    if not found:
        yield Goal(title)
        return
    mean = geometric_mean([one.ratio for one in found.values()])
    each = ", ".join(
        f"{MODELS[model].title} {one.ratio:.2f} ({one.rival})" for model, one in found.items()
    )
    yield Goal(title, f"{mean:.2f}: {each}", mean <= MOST_OF_RIVALS and fits)
