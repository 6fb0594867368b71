"""The operators at the ends of what they take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.codebook_models import Conv, export, frames

from gq_tvm.errors import Error
from gq_tvm.ops import reference
from gq_tvm.ops.weight import Weight

ONE = np.ones(1, np.float32)


def test_sums_do_not_wrap():
    k = 140_000  # beyond (2^31 - 1) / 127^2
    x, indices = np.ones((1, k), np.float32), np.ones((1, k), np.uint8)
    codebook = np.array([[0, 1]], np.float32)
    y = reference.codebook_linear(x, Weight(indices, codebook, ONE), None, "int8")
    np.testing.assert_allclose(y, [[k]], rtol=1e-6)


def test_an_input_shorter_than_the_kernel_is_refused_when_exporting():
    model = Conv(4, 2, 5)
    with pytest.raises(Error, match="fewer frames than the kernel spans"):
        export(model, torch.randn(1, 2, 4))
    with pytest.raises(Exception, match="min=5"):
        export(model, torch.randn(1, 2, 9), dynamic=({2: frames(1)},))
    export(model, torch.randn(1, 2, 9), dynamic=({2: frames(6)},))  # PyTorch tells one frame apart
