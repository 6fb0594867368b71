"""Word error rate."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer

from gq_tvm.errors import Error


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Substitutions, deletions and insertions over reference words, in percent."""
    if not references or len(references) != len(hypotheses):
        raise Error(
            f"{len(references)} references and {len(hypotheses)} hypotheses make no word error "
            "rate; give one hypothesis for each reference and at least one"
        )
    return 100.0 * jiwer.wer(list(references), list(hypotheses))
