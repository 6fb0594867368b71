from __future__ import annotations

import pytest
import torch
from helpers import codebook_models
from helpers.codebook_models import compiled, frames
from helpers.relax_modules import assert_same, calls, module, var
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from tvm import relax, tirx

from gq_tvm import targets
from gq_tvm.passes.lower_copies import LowerCopies

T = tirx.Var("T", "int64")
NEW, STATE = var("new", 1, T, 8), var("state", 3, 1, 5, 8)


def lowered(params, body):
    return LowerCopies(targets.get("x86-64-v4"))(module(params, body))


def kernels(mod):
    return [call.args[0].name_hint.rstrip("0123456789") for call in calls(mod, "relax.call_tir")]


def longer(emit, layer):
    past = emit(relax.op.take(STATE, relax.const(layer, "int64"), axis=0))
    return emit(relax.op.concat([past, NEW], axis=1))


def newest(emit, x):
    return emit(relax.op.strided_slice(x, [1], [T], [T + 5]))


def test_a_state_and_what_is_new_are_one_copy():
    mod = lowered([NEW, STATE], lambda emit: longer(emit, 1))
    assert kernels(mod) == ["join"]
    assert not calls(mod, "relax.take")
    (call,) = calls(mod, "relax.call_tir")
    assert list(call.args[1].fields[0].ty.shape) == [3 * 5 * 8]  # read where the state lies


def test_new_states_are_stacked_in_one_copy():
    def body(emit):
        pieces = [newest(emit, longer(emit, layer)) for layer in range(3)]
        return relax.op.reshape(emit(relax.op.concat(pieces, axis=0)), [3, 1, 5, 8])

    mod = lowered([NEW, STATE], body)
    assert kernels(mod) == ["join"] * 4
    assert not calls(mod, "relax.strided_slice")


def test_a_slice_alone_is_a_copy_if_its_start_is_not_known():
    x = var("x", 1, T + 5, 8)
    assert kernels(lowered([NEW, x], lambda emit: newest(emit, x))) == ["join"]


TWO, COUNTS, INDEX = var("x", 2, T, 8), var("n", 1, T, dtype="int64"), var("i", 1, dtype="int64")
LONG = var("long", 1, T + 5, 8)


@pytest.mark.parametrize(
    ("params", "call"),
    [
        ([TWO], lambda emit: relax.op.concat([TWO, TWO], axis=1)),
        ([NEW], lambda emit: relax.op.concat([NEW, NEW], axis=2)),
        ([COUNTS], lambda emit: relax.op.concat([COUNTS, COUNTS], axis=0)),
        ([LONG], lambda emit: relax.op.strided_slice(LONG, [1], [T], [T + 5], [2])),
        ([LONG], lambda emit: relax.op.strided_slice(LONG, [1], [1], [T])),
        ([LONG], lambda emit: relax.op.strided_slice(LONG, [2], [3], [8])),
        ([STATE, INDEX], lambda emit: relax.op.take(STATE, INDEX, axis=0)),
    ],
)
def test_what_is_left_to_tvm(params, call):
    before = module(params, call)
    assert_same(LowerCopies(targets.get("x86-64-v4"))(before), before)


def test_a_piece_that_is_no_run_is_copied_first():
    def body(emit):
        middle = emit(relax.op.strided_slice(LONG, [2], [3], [8]))
        return relax.op.concat([middle, middle], axis=1)

    mod = lowered([NEW, LONG], body)
    assert kernels(mod) == ["join"]
    assert len(calls(mod, "relax.strided_slice")) == 1


class Keeping(nn.Module):
    """Layers that keep their last frames: x [1, T, 8] and state [3, 1, 5, 8] to sums and state."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(codebook_models.Linear(8, 8, seed=i) for i in range(3))

    def forward(self, x, state):
        kept = []
        for number, layer in enumerate(self.layers):
            whole = torch.cat([state[number], layer(x)], 1)
            kept.append(whole[:, x.shape[1] :])
            x = x + whole[:, : x.shape[1]]
        return x, torch.stack(kept)


@pytest.fixture(scope="module")
def keeping(tmp_path_factory):
    model = Keeping()
    example = torch.randn(1, 4, 8), torch.randn(3, 1, 5, 8)
    program = codebook_models.export(model, *example, dynamic=({1: frames(1, 40)}, None))
    return model, compiled(program, tmp_path_factory.mktemp("keeping"))


@pytest.mark.export
@given(length=st.integers(1, 40), seed=st.integers(0, 99))
def test_copies_are_what_pytorch_keeps(keeping, length, seed):
    model, net = keeping
    torch.manual_seed(seed)
    x, state = torch.randn(1, length, 8), torch.randn(3, 1, 5, 8)
    for got, want in zip(net(x, state), model(x, state), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
