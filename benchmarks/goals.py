"""The goals, as data, and whether the figures meet them.

A ratio goal compares what a user gets at a bit-width (the rows of ``kernel="auto"``) with the best
peer of the same run, hot minimum with hot minimum and cold median with cold median; the best peer
may be another hot and cold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import ceilings
from benchmarks.results import Figures, Results, Row

OURS = "gq-tvm"
MAIN_SHAPE = (4096, 1024)
ENCODER = "LSTM encoder, 5 x 1024, one frame"
PREDICTOR = "LSTM predictor, 2 x 1024, one label"
CONFORMER = "Conformer, 8 blocks of 256, 64 frames"

#: The family with 8-bit sums in its tables, and the error of y it may have.
ROUNDED, ROUNDED_ERROR = "table8", 0.01
#: Time of a layer whose groups of inputs have scales over that of one with a scale a row, at most.
GROUPED = 1.25


@dataclass(frozen=True)
class Ratio:
    """Our time over the best peer's, at most.

    Attributes:
        bits: Of our row.
        peer_bits: Of the peers compared with.
        hot: The most it may be, or None where there is no such goal.
        cold: The same for cold calls.
        rows: Of the layers it holds for; None for a model's.
        model: Its name.
        peer: Only this peer's row, by label.
        kernel: Our row with this family, by name, in place of what a user gets unasked.
    """

    bits: int
    peer_bits: int
    hot: float | None
    cold: float | None
    rows: int | None = None
    model: str | None = None
    peer: str | None = None
    kernel: str = ""

    @property
    def name(self) -> str:
        """E.g. ``4-bit, 1 row``."""
        where = self.model.partition(",")[0] if self.model else f"{self.rows} row"
        kernel = f", {self.kernel}" * bool(self.kernel)
        return f"{self.bits}-bit, {where}{'s' * ((self.rows or 1) > 1)}{kernel}"


RATIOS = (
    Ratio(8, 8, 1.0, 1.0, rows=1),
    Ratio(4, 4, 1.0, 0.95, rows=1),
    Ratio(3, 4, 0.85, 0.8, rows=1, peer="LiteRT int4"),
    Ratio(2, 2, 0.55, 0.6, rows=1),
    Ratio(2, 2, 0.4, None, rows=1, kernel=ROUNDED),
    Ratio(1, 2, 0.3, 0.6, rows=1, peer="LiteRT int2"),
    Ratio(4, 4, 0.65, None, rows=4),
    Ratio(4, 4, 0.97, None, rows=64),
    Ratio(4, 4, 0.9, None, model=ENCODER),
    Ratio(2, 2, 0.55, None, model=ENCODER),
    Ratio(1, 2, 0.35, None, model=ENCODER),
    Ratio(4, 4, 0.9, None, model=CONFORMER),
)
#: The whole RNN-T (encoder and predictor) at 2 to 4 mixed bits over the best int8: a cut of 60%.
RNNT = 0.4
#: Two threads over one, at least, on layers of this many weights and more.
SPEED_UP, LARGE = 1.6, 4096 * 1024
#: Microseconds that a call through the runtime costs a one-layer model, at most.
OVERHEAD = 5.0
#: Share of the popcount ceiling that 1-bit weights with 1-bit activations reach, at least.
BINARY_SHARE = 0.5


@dataclass(frozen=True)
class Side:
    """One half of a comparison: microseconds on both sides.

    Attributes:
        ours: Ours.
        peer: The best peer's.
        against: Its label.
        limit: The most that ours may be of the peer's, or None.
    """

    ours: float
    peer: float
    against: str
    limit: float | None

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        return None if self.limit is None else self.ratio <= self.limit


@dataclass(frozen=True)
class Compared:
    """A ratio goal on one problem."""

    goal: Ratio
    problem: str
    row: Row
    hot: Side
    cold: Side


@dataclass(frozen=True)
class Reached:
    """A goal that is no ratio to one peer's time.

    Attributes:
        name: What is wanted.
        value: What was measured, in words.
        met: Whether that is enough; None where it was not measured.
    """

    name: str
    value: str
    met: bool | None


def compare(results: Results, goal: Ratio, threads: int = 1) -> Iterator[Compared]:
    """Evaluate a ratio goal on every problem measured that it holds for."""
    for figures in results.find("model" if goal.model else "layer", threads):
        problem = figures.problem
        if goal.model not in (None, problem["name"]) or goal.rows not in (
            None,
            problem.get("rows"),
        ):
            continue
        own = _ours(figures, f"{goal.bits} bit {goal.kernel}".strip())
        peers = [
            row
            for row in figures.rows
            if row.system != OURS
            and (row.label == goal.peer if goal.peer else row.bits == goal.peer_bits)
        ]
        if own is None or not peers:
            continue
        hot = min(peers, key=lambda row: row.timing.hot_min)
        cold = min(peers, key=lambda row: row.timing.cold_median)
        yield Compared(
            goal, problem["name"], own,
            Side(own.timing.hot_min, hot.timing.hot_min, hot.label, goal.hot),
            Side(own.timing.cold_median, cold.timing.cold_median, cold.label, goal.cold),
        )  # fmt: skip


def automatic(figures: Figures, bits: int) -> Row | None:
    """Our row at a bit-width as a user gets it."""
    return _ours(figures, f"{bits} bit")


def others(results: Results) -> list[Reached]:
    """Evaluate the goals that are no ratios."""
    return [
        *_rnnt(results),
        _threads(results),
        _overhead(results),
        _binary(results),
        _rounded(results),
        _grouped(results),
    ]


def _rnnt(results: Results) -> list[Reached]:
    models = [results.get(name, 1) for name in (ENCODER, PREDICTOR)]
    latency = size = 0.0
    peer_latency = peer_size = 0.0
    for figures in models:
        mixed = [row for row in figures.rows if row.name.startswith("mixed")] if figures else []
        int8 = [r for r in figures.rows if r.system != OURS and r.bits == 8] if figures else []
        if not mixed or not int8:
            wanted = "RNN-T at mixed bits against the best int8"
            return [Reached(wanted, "not measured", None)]
        best = min(int8, key=lambda row: row.timing.hot_min)
        latency += mixed[0].timing.hot_min
        size += mixed[0].weight_bytes
        peer_latency += best.timing.hot_min
        peer_size += best.weight_bytes
    return [
        Reached(
            f"RNN-T (encoder and predictor) at mixed bits: {what} at most {RNNT:.0%} of best int8",
            f"{mine:.0f} {unit} of {theirs:.0f} {unit}: {mine / theirs:.0%}",
            mine <= RNNT * theirs,
        )
        for what, mine, theirs, unit in (
            ("latency", latency, peer_latency, "us"),
            ("memory", size / 1e3, peer_size / 1e3, "kB"),
        )
    ]


def _threads(results: Results) -> Reached:
    name = f"two threads at least {SPEED_UP}x as fast as one on 4096x1024 and larger, 4 bits"
    found = []
    for two in results.find("layer", 2):
        one = results.get(two.problem["name"], 1)
        if one is None or two.problem["outputs"] * two.problem["inputs"] < LARGE:
            continue
        before, after = automatic(one, 4), automatic(two, 4)
        if before and after:
            gain = before.timing.hot_min / after.timing.hot_min
            found.append((gain, two.problem["name"]))
    if not found:
        return Reached(name, "not measured", None)
    gain, where = min(found)
    return Reached(name, f"least {gain:.2f}x ({where})", gain >= SPEED_UP)


def _overhead(results: Results) -> Reached:
    name = f"a call net(x) of a one-layer model costs at most {OVERHEAD:.0f} us beside its kernel"
    found = []
    for figures in results.find("layer", 1):
        call, kernel = _ours(figures, "4 bit net(x)"), _ours(figures, "4 bit kernel alone")
        if figures.problem["rows"] == 1 and call and kernel:
            more = call.timing.hot_min - kernel.timing.hot_min
            found.append((kernel.timing.hot_min, more, figures.problem["name"]))
    if not found:
        return Reached(name, "not measured", None)
    _, more, where = min(found)
    return Reached(name, f"{more:.1f} us ({where})", more <= OVERHEAD)


def _binary(results: Results) -> Reached:
    name = f"1-bit weights x 1-bit activations: {BINARY_SHARE:.0%} of the popcount ceiling"
    outputs, inputs = MAIN_SHAPE
    figures = results.get(f"{outputs}x{inputs}, 1 row", 1)
    row = _ours(figures, "1 bit x int1") if figures else None
    rates = results.ceilings.get("1", {}).get("operations", {})
    ceiling = ceilings.kind(rates, ceilings.BINARY)
    if row is None or not ceiling:
        return Reached(name, "not measured", None)
    share = 2 * outputs * inputs / row.timing.hot_min / 1e3 / ceiling
    return Reached(name, f"{share:.0%} ({row.timing.hot_min:.1f} us)", share >= BINARY_SHARE)


def _rounded(results: Results) -> Reached:
    name = f"{ROUNDED}, 2 bits: y within {ROUNDED_ERROR:.0%} of the exact product"
    outputs, inputs = MAIN_SHAPE
    figures = results.get(f"{outputs}x{inputs}, 1 row", 1)
    row = _ours(figures, f"2 bit {ROUNDED}") if figures else None
    if row is None or row.arithmetic_error is None:
        return Reached(name, "not measured", None)
    error = row.arithmetic_error
    return Reached(name, f"{error:.2%}", error < ROUNDED_ERROR)


def _grouped(results: Results) -> Reached:
    name = f"scales of groups of 32, 4 bits, one row: at most {GROUPED:.2f}x of a scale a row"
    outputs, inputs = MAIN_SHAPE
    figures = results.get(f"{outputs}x{inputs}, 1 row", 1)
    rows = [
        _ours(figures, f"4 bit {kind}kernel alone") if figures else None
        for kind in ("in groups of 32 ", "")
    ]
    if rows[0] is None or rows[1] is None:
        return Reached(name, "not measured", None)
    grouped, plain = (row.timing.hot_min for row in rows if row)
    value = f"{grouped / plain:.2f}x ({grouped:.1f} us)"
    return Reached(name, value, grouped <= GROUPED * plain)


def _ours(figures: Figures, name: str) -> Row | None:
    found = (row for row in figures.rows if (row.system, row.name) == (OURS, name))
    return next(found, None)
