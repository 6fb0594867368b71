"""Word error rate, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gq_tvm.errors import Error


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Substitutions, deletions and insertions over reference words, in percent."""
    import jiwer

    _check(references, hypotheses)
    return 100.0 * jiwer.wer(list(references), list(hypotheses))


def bootstrap_interval(
    references: Sequence[str], hypotheses: Sequence[str], seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """The 95% interval of the word error rate, in percent (Bisani and Ney 2004, ICASSP).

    Utterances are drawn anew with replacement, so errors that share an utterance stay together;
    the ends are the 2.5th and the 97.5th percentile. The same seed gives the same interval.

    Args:
        references: what was said, an utterance each.
        hypotheses: what was recognised.
        seed: of the drawing.
        resamples: how often all utterances are drawn.

    Raises:
        Error: the two are empty or of different lengths.
    """
    errors, words = utterance_errors(references, hypotheses)
    rng = np.random.default_rng(seed)
    rates = np.empty(resamples)
    for number in range(resamples):
        drawn = rng.integers(len(words), size=len(words))
        rates[number] = 100.0 * errors[drawn].sum() / max(1, words[drawn].sum())
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def utterance_errors(
    references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Word errors and words of each utterance, i64 [utterances] twice; raises Error as above."""
    _check(references, hypotheses)
    import jiwer

    compared = jiwer.process_words(list(references), list(hypotheses))
    words = np.array([len(reference) for reference in compared.references])
    return np.array([sum(map(_errors, chunks)) for chunks in compared.alignments]), words


def _errors(chunk: Any) -> int:
    if chunk.type == "equal":
        return 0
    return max(
        chunk.ref_end_idx - chunk.ref_start_idx,
        chunk.hyp_end_idx - chunk.hyp_start_idx,
    )


def _check(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if not references or len(references) != len(hypotheses):
        raise Error(
            f"{len(references)} references and {len(hypotheses)} hypotheses make no word error "
            "rate; give one hypothesis for each reference and at least one"
        )
