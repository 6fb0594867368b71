"""Functions bound to arrays: read in place, written in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.codebook_models import Linear, Lstm, compiled, export, frames, linear_program
from torch import nn

import gq_tvm
from gq_tvm.build import build
from gq_tvm.errors import Error
from gq_tvm.runtime import Model

pytestmark = pytest.mark.export


class Stream(nn.Module):
    """A step of a stream: an output, the state after it, and the state before it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = Lstm(10, 8), Linear(6, 8)

    def forward(self, x, h, c):
        y, new_h, new_c = self.lstm(x, h, c)
        return self.out(y), new_h, new_c, h


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> Model:
    example = torch.randn(1, 3, 10), torch.zeros(1, 8), torch.zeros(1, 8)
    program = export(Stream(), *example, dynamic=({1: frames(1, 8)}, None, None))
    return compiled(program, tmp_path_factory.mktemp("stream"), kernel="scalar")


@pytest.fixture(scope="module")
def linear(tmp_path_factory) -> Model:
    return compiled(linear_program(), tmp_path_factory.mktemp("linear"), kernel="scalar")


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def aligned(array: np.ndarray, offset: int = 0) -> np.ndarray:
    memory = np.zeros(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    made = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "aligned": aligned,
    "unaligned": lambda x: aligned(x, 4),
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "columns": np.asfortranarray,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_call_reads_what_its_inputs_hold(linear, layout):
    x = LAYOUTS[layout](numbers(2, 5, 10))
    bound = linear.bind(x)
    first = bound()
    assert first is bound() is bound.outputs
    np.testing.assert_array_equal(first, linear(x))
    before = first.copy()
    x[...] = numbers(2, 5, 10, seed=1)
    np.testing.assert_array_equal(bound(), linear(x))
    assert not np.array_equal(before, first)


def test_read_only_inputs(linear):
    for offset in (0, 4):
        x = aligned(numbers(2, 5, 10), offset)
        x.setflags(write=False)
        np.testing.assert_array_equal(linear.bind(x)(), linear(x))


def test_tensors(linear):
    x = torch.randn(2, 5, 10)
    for same in (x, x.clone().requires_grad_(), x.transpose(1, 2).contiguous().transpose(1, 2)):
        bound = linear.bind(same)
        y = bound()
        assert isinstance(y, torch.Tensor)
        assert y is bound()
        assert torch.equal(y, linear(same))
        with torch.no_grad():
            same.neg_()
        assert torch.equal(bound(), linear(same))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_of_the_callers(linear, layout):
    x = numbers(2, 5, 10)
    y = LAYOUTS[layout](np.zeros((2, 5, 6), np.float32))
    assert linear.bind(x, outputs=[y])() is y
    np.testing.assert_array_equal(y, linear(x))
    t = torch.zeros(2, 6, 5).transpose(1, 2)
    assert linear["main"].bind(x, outputs=[t])() is t
    np.testing.assert_array_equal(t.numpy(), linear(x))


@pytest.mark.parametrize("layout", ["aligned", "unaligned"])
def test_state_that_stays_where_it_is(stream, layout):
    """Outputs may be inputs, even where an output is an old input handed through."""
    x, h, c = (LAYOUTS[layout](a) for a in (numbers(1, 4, 10), numbers(1, 8), numbers(1, 8)))
    y, old = np.zeros((1, 4, 6), np.float32), np.zeros((1, 8), np.float32)
    bound = stream.bind(x, h, c, outputs=(y, h, c, old))
    for i in range(5):
        x[...] = numbers(1, 4, 10, seed=i)
        wanted = stream(x, h, c)
        for got, exact in zip(bound(), wanted, strict=True):
            np.testing.assert_array_equal(got, exact)


def test_several_outputs_made_here(stream):
    inputs = numbers(1, 4, 10), numbers(1, 8), numbers(1, 8)
    for got, exact in zip(stream.bind(*inputs)(), stream(*inputs), strict=True):
        np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ((numbers(2, 5, 9),), None, r"input input of function main wants float32 \[\d, \w+, 10\]"),
        (([1.0],), None, "wants a NumPy array or PyTorch CPU tensor of float32, got list"),
        ((), None, "takes 1 inputs, got 0"),
        ((numbers(2, 5, 10),), (), "function main has 1 outputs, got memory for 0"),
        (
            (numbers(2, 5, 10),),
            (numbers(2, 4, 6),),
            r"output_0 .* wants .* \[2, 5, 6\], got .*4, 6",
        ),
        ((numbers(2, 5, 10),), (np.zeros((2, 5, 6)),), "of float32 .*, got float64"),
        ((numbers(2, 5, 10),), (np.broadcast_to(np.float32(0), (2, 5, 6)),), "got read-only"),
        ((numbers(2, 5, 10),), (None,), "a writable array or tensor of float32 .*, got NoneType"),
        ((numbers(2, 5, 10),), (torch.zeros(2, 5, 6).bfloat16(),), r"got torch\.bfloat16"),
    ],
)
def test_what_does_not_fit_is_refused(linear, inputs, outputs, message):
    with pytest.raises(Error, match=message):
        linear.bind(*inputs, outputs=outputs)


def test_of_several_functions_one_must_be_named(tmp_path):
    build({"a": linear_program(), "b": linear_program()}, kernel="scalar").save(tmp_path / "m.gq")
    with pytest.raises(Error, match="say which function to call"):
        gq_tvm.load(tmp_path / "m.gq").bind(numbers(2, 5, 10))


@pytest.mark.emulated
def test_on_a_board(emulated, tmp_path):
    device = emulated("cortex-a76")
    build(linear_program(), "cortex-a76").save(tmp_path / "m.gq")
    net = gq_tvm.load(tmp_path / "m.gq", device)
    x, y = numbers(2, 5, 10), np.zeros((2, 5, 6), np.float32)
    bound = net.bind(x, outputs=[y])
    for seed in range(3):
        x[...] = numbers(2, 5, 10, seed=seed)
        assert bound() is y
        np.testing.assert_array_equal(y, net(x))
        device.release_memory()  # kept for calls to come; not what is bound


@pytest.fixture(scope="module")
def layer(tmp_path_factory) -> Model:
    program = export(nn.Sequential(Linear(6, 8), nn.ReLU()), torch.randn(3, 8))
    return compiled(program, tmp_path_factory.mktemp("layer"))


def test_a_function_that_is_one_kernel_is_called_without_the_virtual_machine(layer, monkeypatch):
    function = layer.manifest.functions["main"]
    _symbol, x_name, *weights = function.kernel
    assert x_name == function.inputs[0].name
    assert set(weights) == set(function.parameters)
    x = aligned(numbers(3, 8))
    wanted = layer(x)
    bound = layer.bind(x)
    monkeypatch.setattr(layer["main"]._calls, "_function", None)
    np.testing.assert_array_equal(bound(), wanted)
    x[...] = 2 * x
    assert not np.array_equal(bound(), wanted)


def test_outputs_that_are_not_aligned_are_written_too(layer):
    x = aligned(numbers(3, 8))
    y = aligned(np.zeros((3, 6), np.float32), 4)
    np.testing.assert_array_equal(layer.bind(x, outputs=[y])(), layer(x))


def test_a_function_of_more_than_one_kernel_has_none_of_its_own(stream):
    assert stream.manifest.functions["main"].kernel is None
