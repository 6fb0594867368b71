"""What the project promised of its accuracy, and whether the figures keep it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.accuracy.cells import NETWORKS, ROWS, TITLES
from benchmarks.accuracy.statistics import Errors
from benchmarks.accuracy.work import ROLES

if TYPE_CHECKING:
    from benchmarks.accuracy.report import Results

LEVEL = 1.05  # what counts as level: less than trainings of one recipe differ by


@dataclass(frozen=True)
class Goal:
    """One promise and the figures it is judged by."""

    title: str
    figures: str
    met: bool


def goals(results: Results) -> Iterator[Goal]:
    """All goals whose cells are there."""
    for network in NETWORKS:
        for role in ROLES:
            yield from _against_floats(results, network, role)
    for network in NETWORKS:
        for row in ROWS:
            yield from _against_lsq(results, network, row)


def _against_floats(results: Results, network: str, role: str) -> Iterator[Goal]:
    floats = results.entry(network, "fp32", "fp32")
    if floats is None:
        return
    reference = floats.errors[role]
    low, high = reference.interval()
    place = f"{TITLES[network]}, {role}"
    if entry := results.entry(network, "4", "gq"):
        rate = entry.errors[role].rate
        yield Goal(
            f"{place}: 4 bits within the interval of fp32",
            f"{rate:.1f}% in [{low:.1f}, {high:.1f}]",
            rate <= high,
        )
    for row, most in (("2", 1.05), ("2-1", 1.10)):
        if entry := results.entry(network, row, "gq"):
            ratio, (least, highest) = entry.errors[role].relative_to(reference)
            yield Goal(
                f"{place}: {ROWS[row].title}, at most {most:.2f} of fp32's WER",
                f"{ratio:.2f} [{least:.2f}, {highest:.2f}]",
                ratio <= most,
            )


def _against_lsq(results: Results, network: str, row: str) -> Iterator[Goal]:
    """GQ's WER over LSQ's, both speakers together: below 1 at two bits and one, else about 1."""
    gq, lsq = results.entry(network, row, "gq"), results.entry(network, row, "lsq")
    if gq is None or lsq is None:
        return
    one, other = (Errors.together(list(entry.errors.values())) for entry in (gq, lsq))
    ratio, (low, high) = one.relative_to(other)
    few = ROWS[row].bits < 3 or "1" in row
    yield Goal(
        f"{TITLES[network]}: {ROWS[row].title}, GQ "
        + ("better than LSQ" if few else f"level with LSQ (at most {LEVEL:.2f} of its WER)"),
        f"{ratio:.2f} [{low:.2f}, {high:.2f}]",
        ratio < 1 if few else ratio <= LEVEL,
    )
