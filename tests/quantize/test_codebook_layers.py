"""The layers that ``convert`` leaves behind."""

from __future__ import annotations

import torch

from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.quantize.deployed.codebook_layers import CodebookEmbedding


def test_an_embedding_takes_ids_of_both_widths():
    weight = WeightTensors(torch.randint(0, 4, (7, 3), dtype=torch.uint8), torch.randn(1, 4))
    embedding = CodebookEmbedding(weight, padding_idx=2)
    ids = torch.tensor([[0, 2, 6]])
    assert torch.equal(embedding(ids.int()), embedding(ids))
