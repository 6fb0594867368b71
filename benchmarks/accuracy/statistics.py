"""Word error rates with bootstrap intervals, of one recogniser and between two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gq_tvm.speech.wer import utterance_errors

RESAMPLES = 2000
_SEED = 20221018
_NONE = 1e-9  # stands for no errors, where a ratio is taken


@dataclass(frozen=True)
class Errors:
    """Word errors and words of each utterance: i64 [seeds, utterances] and [utterances]."""

    wrong: np.ndarray
    words: np.ndarray

    @classmethod
    def count(cls, texts: Sequence[str], heard: Sequence[Sequence[str]]) -> Errors:
        """Compare what each seed's recogniser heard with what was said."""
        counted = [utterance_errors(texts, one) for one in heard]
        return cls(np.array([errors for errors, _ in counted]), counted[0][1])

    @classmethod
    def together(cls, parts: Sequence[Errors]) -> Errors:
        """The errors on several sets as on one."""
        wrong = np.concatenate([part.wrong for part in parts], axis=1)
        return cls(wrong, np.concatenate([part.words for part in parts]))

    @property
    def rate(self) -> float:
        """Word error rate in percent, mean of the seeds."""
        return 100 * float(self.wrong.mean(0).sum() / self.words.sum())

    @property
    def rates(self) -> list[float]:
        """Word error rate in percent of each seed."""
        return [100 * float(one.sum() / self.words.sum()) for one in self.wrong]

    def interval(self) -> tuple[float, float]:
        """95% of the rates of resampled utterances, in percent (Bisani and Ney 2004)."""
        return _interval(self._resampled())

    def relative_to(self, other: Errors) -> tuple[float, tuple[float, float]]:
        """Rate over that of another, and 95% of it, with the same utterances resampled for both."""
        ratio = self._resampled() / np.maximum(other._resampled(), _NONE)
        return self.rate / max(other.rate, _NONE), _interval(ratio)

    def minus(self, other: Errors) -> tuple[float, tuple[float, float]]:
        """Rate less that of another, and 95% of it, with the same utterances resampled for both."""
        return self.rate - other.rate, _interval(self._resampled() - other._resampled())

    def _resampled(self) -> np.ndarray:
        rng = np.random.default_rng(_SEED)
        drawn = rng.integers(len(self.words), size=(RESAMPLES, len(self.words)))
        return 100 * self.wrong.mean(0)[drawn].sum(1) / self.words[drawn].sum(1)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
