"""Deployed bytes against what the converted network really holds."""

from __future__ import annotations

import copy
from math import ceil
from typing import Any, cast

import pytest
import torch
from helpers.small_networks import ALL

from gq_tvm import quantize
from gq_tvm.models.allocation.sizes import deployed_bytes
from gq_tvm.models.networks.network import build


@pytest.mark.parametrize("method", ["gq", "lsq"])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_bytes_are_those_of_the_converted_network(name, method, per_row):
    torch.manual_seed(0)
    model: Any = build(ALL[name])
    quantize.prepare(model, 3, method=method, per_row=per_row)
    names = [weight.name for weight in quantize.describe(model)]
    assert not any("quantizers" in name for name in names)
    converted = cast(Any, quantize.convert(copy.deepcopy(model)))
    held = {**dict(converted.named_parameters()), **dict(converted.named_buffers())}
    size = 0
    for key, tensor in held.items():
        if key.startswith("auxiliary.") or "codebook" in key or "weight_scale" in key:
            continue  # packed: a cache line, and a float for each row
        packed = ceil(tensor.numel() * 3 / 8) + 64 + 4 * len(tensor)
        size += packed if "indices" in key else 4 * tensor.numel()
    assert deployed_bytes(model) == size
