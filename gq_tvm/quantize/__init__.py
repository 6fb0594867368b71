"""GQ in PyTorch: train a model whose weights live in learned codebooks.

``prepare`` a model, train it while an ``Annealing`` hardens its quantisers, then ``convert`` it;
or ``compress`` it without training. ``describe`` says what became of each weight.
"""

from __future__ import annotations

from gq_tvm.quantize.annealing import Annealing
from gq_tvm.quantize.codebook_layers import (
    CodebookConv1d,
    CodebookEmbedding,
    CodebookLinear,
    CodebookLSTM,
    CodebookWeight,
)
from gq_tvm.quantize.compress import compress
from gq_tvm.quantize.convert import convert
from gq_tvm.quantize.describe import Report, WeightReport, describe
from gq_tvm.quantize.prepare import centroid_parameters, prepare

__all__ = [
    "Annealing",
    "CodebookConv1d",
    "CodebookEmbedding",
    "CodebookLSTM",
    "CodebookLinear",
    "CodebookWeight",
    "Report",
    "WeightReport",
    "centroid_parameters",
    "compress",
    "convert",
    "describe",
    "prepare",
]
