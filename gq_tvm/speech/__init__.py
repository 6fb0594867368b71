"""Speech around the networks: features, tokens, corpora, decoding, word error rate.

Everything works on NumPy arrays and needs no PyTorch.
"""

from __future__ import annotations

from gq_tvm.speech.features import FeatureSettings, FeatureStream, extract
from gq_tvm.speech.recogniser import Recogniser, Session
from gq_tvm.speech.wer import bootstrap_interval, word_error_rate

__all__ = [
    "FeatureSettings",
    "FeatureStream",
    "Recogniser",
    "Session",
    "bootstrap_interval",
    "extract",
    "word_error_rate",
]
