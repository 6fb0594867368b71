"""The table: word errors with paired intervals, memory, speed and size."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from benchmarks.accuracy.statistics import Errors
from benchmarks.markdown import table
from examples.whisper.greedy import LONGEST_CYCLE, MOST_TIMES

REFERENCE = "PyTorch fp32"
_HEADS = [
    "system", "WER %", "against fp32", "real-time factor", "peak memory, MB", "at work, MB",
    "model, MB", "bits a weight",
]  # fmt: skip


def page(results: dict[str, Any], said: Sequence[str]) -> str:
    """The table in Markdown, and below it what did not run."""
    rows = {name: row for name, row in results["systems"].items() if "absent" not in row}
    errors = {name: count(said, row["texts"]) for name, row in rows.items()}
    lines = [_line(name, row, errors) for name, row in rows.items()]
    absent = [
        f"- {name} did not run: {row['absent']}"
        for name, row in results["systems"].items()
        if "absent" in row
    ]
    head = (
        f"{len(said)} clips, {results['threads']} thread(s), {results['machine']['cpu']}. "
        "Intervals hold 95% of 2,000 resamplings of the clips, the same for both systems of a "
        f"difference. In PyTorch and gq-tvm a text that says up to {LONGEST_CYCLE} tokens "
        f"{MOST_TIMES} times over ends there; the others are as their packages decode."
    )
    return "\n".join([head, "", table(_HEADS, lines), "", *absent])


def count(said: Sequence[str], heard: Sequence[str]) -> Errors:
    """Word errors of texts normalised as Whisper's authors do (transformers' normaliser)."""
    with warnings.catch_warnings(action="ignore"):
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    plain = EnglishTextNormalizer({})
    return Errors.count([plain(one) for one in said], [[plain(one) for one in heard]])


def _line(name: str, row: dict[str, Any], errors: dict[str, Errors]) -> list[str]:
    own = errors[name]
    low, high = own.interval()
    against = "-"
    if REFERENCE in errors and name != REFERENCE:
        difference, (least, most) = own.minus(errors[REFERENCE])
        against = f"{difference:+.2f} ({least:+.2f} to {most:+.2f})"
    mega = 1e6
    bits = row.get("bits_per_weight")
    return [
        name,
        f"{own.rate:.2f} ({low:.2f}-{high:.2f})",
        against,
        f"{sum(row['seconds']) / row['audio_seconds']:.3f}",
        f"{row['peak_bytes'] / mega:.0f}",
        f"{row['peak_bytes_at_work'] / mega:.0f}",
        f"{row['model_bytes'] / mega:.1f}" if row["model_bytes"] else "-",
        f"{bits:.2f}" if bits else "-",
    ]
