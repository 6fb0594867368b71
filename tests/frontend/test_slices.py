from __future__ import annotations

import pytest
import torch
import tvm
from helpers.codebook_models import Linear, compiled, export, frames, relative_error
from torch import Tensor, nn
from tvm.tirx import IntImm

from gq_tvm import frontend
from gq_tvm.runtime.profiling import compare

WIDTH, PAST = 6, 3


CUTS = {
    "the new past": lambda x, count: x[:, count:],
    "from a place on": lambda x, count: x[:, 2:],
    "the last": lambda x, count: x[:, -2:],
    "every second": lambda x, count: x[:, 1::2],
    "without the last": lambda x, count: x[:, :-1],
    "within": lambda x, count: x[:, 1:-2],
    "to a place counted": lambda x, count: x[:, 1 : count + 2],
    "channels": lambda x, count: x[:, :, 4:],
    "everything": lambda x, count: x[:, 0:],
}


class Cutting(nn.Module):
    """A layer (a model needs one), whose frames behind a past are cut in all these ways."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, past: Tensor) -> list[Tensor]:
        whole = torch.cat([past, self.layer(x)], 1)
        return [cut(whole, x.shape[1]) for cut in CUTS.values()]


def program():
    example = torch.randn(2, 5, WIDTH), torch.randn(2, PAST, WIDTH)
    return export(Cutting(), *example, dynamic=({1: frames()}, None))


@pytest.mark.export
def test_slices_of_any_length(tmp_path):
    net = compiled(program(), tmp_path)
    for length in (1, 2, 9):
        x, past = torch.randn(2, length, WIDTH), torch.randn(2, PAST, WIDTH)
        for name, got, want in zip(CUTS, net(x, past), Cutting()(x, past), strict=True):
            assert got.shape == want.shape, name
            assert relative_error(got, want) < 1e-5, name
    # Some of the kernels take a length that is known at run time only: they are timed with one.
    (lines,) = compare({"": net}, rounds=1).timings.values()
    assert sum(one.calls for one in lines) > len(CUTS)


def test_a_slice_has_the_size_that_it_has():
    module = frontend.translate(frontend.read(program())).module
    sizes = dict(zip(CUTS, module["main"].ret_ty.fields, strict=True))
    assert list(sizes["the new past"].shape) == [2, PAST, WIDTH]
    assert list(sizes["the last"].shape) == [2, 2, WIDTH]
    (count, *_) = (one for one in module["main"].params[0].ty.shape if not isinstance(one, IntImm))
    same = tvm.sym.Analyzer().can_prove_equal
    assert same(sizes["without the last"].shape[1], count + PAST - 1)
    assert same(sizes["within"].shape[1], count + PAST - 3)
    assert same(sizes["to a place counted"].shape[1], count + 1)
