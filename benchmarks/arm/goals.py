"""The goals on ARM, as data, and whether the modelled figures meet them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.arm.ours import SYSTEM
from benchmarks.arm.results import Results, Row

#: The cores the ratios are promised for; they are shown for all.
CORES = ("cortex-a55", "cortex-a76")
#: Bits -> cycles of a row, at most, as a share of those of int8 weights, in the cache.
CYCLES = {4: 1.0, 2: 0.75, 1: 0.4}
#: The same of 4-bit weights' bytes: half, and a table and scales.
BYTES = {4: 0.51}

_INT8 = "our int8"


@dataclass(frozen=True)
class Compared:
    """A goal on one core.

    Attributes:
        goal: What is compared.
        core: Where.
        ours: Our figure.
        against: Whose figure it is held against.
        theirs: That.
        limit: The most that ours may be of theirs; None where nothing is promised.
        note: What else there is to say.
    """

    goal: str
    core: str
    ours: float
    against: str
    theirs: float
    limit: float | None
    note: str = ""

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs

    @property
    def met(self) -> bool | None:
        """Whether it is met, to a tenth of a percent; None where nothing is promised."""
        return None if self.limit is None else self.ratio < self.limit + 1e-3


def chosen(results: Results, core: str, rows: int, bits: int) -> Row | None:
    """The kernel that a user gets at a bit-width with int8 activations."""
    fitting = _alike(results, core, rows, bits, SYSTEM)
    return next((one for one in fitting if one.chosen), None)


def int8(results: Results, core: str, rows: int) -> Row | None:
    """Our fastest kernel of 8-bit weights: the plain loop over int8, or the look-up of as many."""
    fitting = _alike(results, core, rows, 8, SYSTEM)
    return min(fitting, key=lambda row: row.cycles, default=None)


def fastest(results: Results, core: str, rows: int, bits: int, system: str) -> Row | None:
    """Another system's kernel with the fewest cycles at a bit-width, int8 activations."""
    fitting = _alike(results, core, rows, bits, system)
    return min(fitting, key=lambda row: row.cycles, default=None)


def cycles(results: Results) -> Iterator[Compared]:
    """One row: our cycles and bytes against our int8 kernel's."""
    for core in results.cores:
        for bits, limit in CYCLES.items():
            ours, plain = chosen(results, core, 1, bits), int8(results, core, 1)
            if ours is None or plain is None:
                continue
            promised = limit if core in CORES else None
            what = f"{bits}-bit, 1 row"
            yield Compared(
                f"cycles, {what}", core, ours.share(ours.cycles),
                _INT8, plain.share(plain.cycles), promised,
                f"streaming {ours.streaming / plain.streaming:.2f}",
            )  # fmt: skip
            if bits in BYTES:
                yield Compared(
                    f"bytes, {what}", core, ours.share(ours.weight_bytes),
                    _INT8, plain.share(plain.weight_bytes), BYTES[bits],
                )  # fmt: skip


def instructions(results: Results, codebook: str) -> Iterator[Compared]:
    """No more instructions than the leanest kernel of each other system, bits for bits.

    Args:
        results: The figures.
        codebook: The kernels ours are held against: those of ``"any"`` codebook, or ``"uniform"``.
    """
    systems = sorted({one.system for one in results.rows} - {SYSTEM})
    for core in results.cores:
        for rows in sorted({one.rows for one in results.rows}):
            for bits in range(8, 0, -1):
                ours = chosen(results, core, rows, bits)
                for system in systems:
                    found = _alike(results, core, rows, bits, system)
                    theirs = [one for one in found if one.codebook == codebook]
                    if ours is None or not theirs:
                        continue
                    least = min(theirs, key=lambda row: row.instructions)
                    yield Compared(
                        f"instructions, {bits}-bit, {rows} row{'s' * (rows > 1)}", core,
                        ours.share(ours.instructions), f"{system} {least.name}",
                        least.share(least.instructions), 1.0,
                    )  # fmt: skip


def _alike(results: Results, core: str, rows: int, bits: int, system: str) -> list[Row]:
    """A system's kernels of a bit-width with int8 activations."""
    wanted = (system, bits, "int8")
    found = results.find(core, rows)
    return [one for one in found if (one.system, one.bits, one.activation) == wanted]
