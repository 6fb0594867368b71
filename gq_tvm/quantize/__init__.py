"""GQ in PyTorch: train a model whose weights live in learned codebooks.

``prepare`` a model, train it while an ``Annealing`` hardens its quantisers, then ``convert`` it;
or ``compress`` it without training, best with inputs of its kind. ``load_weights`` takes weights as
others have quantised them. ``describe`` says what became of each weight, ``losses`` what a model
lost, ``sensitivity`` what each weight would lose at how many bits; ``allocate`` chooses bits from
that.

Docstrings here say where an idea is from: [P] the GQ paper (arXiv 2210.09188, of which only the
abstract and introduction were at hand), [A] its first author's earlier public quantiser (NSC, for
the activations of a codec), [C] our own choice.
"""

from __future__ import annotations

from gq_tvm.quantize.allocation.allocate import Allocation, allocate
from gq_tvm.quantize.allocation.measuring import sensitivity
from gq_tvm.quantize.allocation.sensitivity import Sensitivity
from gq_tvm.quantize.compress import Interrupted, compress
from gq_tvm.quantize.convert import convert
from gq_tvm.quantize.deployed.codebook_attention import CodebookMultiheadAttention
from gq_tvm.quantize.deployed.codebook_layers import (
    CodebookConv1d,
    CodebookConv2d,
    CodebookEmbedding,
    CodebookEmbeddingBag,
    CodebookLinear,
)
from gq_tvm.quantize.deployed.codebook_recurrent import (
    CodebookGRU,
    CodebookGRUCell,
    CodebookLSTM,
    CodebookLSTMCell,
    CodebookRNN,
    CodebookRNNCell,
)
from gq_tvm.quantize.describe import Report, WeightReport, describe
from gq_tvm.quantize.load_weights import load_weights
from gq_tvm.quantize.losses import Loss, Losses, losses
from gq_tvm.quantize.prepare import centroid_parameters, prepare
from gq_tvm.quantize.quantisers.annealing import Annealing

__all__ = [
    "Allocation",
    "Annealing",
    "CodebookConv1d",
    "CodebookConv2d",
    "CodebookEmbedding",
    "CodebookEmbeddingBag",
    "CodebookGRU",
    "CodebookGRUCell",
    "CodebookLSTM",
    "CodebookLSTMCell",
    "CodebookLinear",
    "CodebookMultiheadAttention",
    "CodebookRNN",
    "CodebookRNNCell",
    "Interrupted",
    "Loss",
    "Losses",
    "Report",
    "Sensitivity",
    "WeightReport",
    "allocate",
    "centroid_parameters",
    "compress",
    "convert",
    "describe",
    "load_weights",
    "losses",
    "prepare",
    "sensitivity",
]
