"""Calling a loaded model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.codebook_models import Linear, compiled, everything, export, frames, linear_program
from torch import nn
from torch.export import Dim

import gq_tvm
from gq_tvm import inspect
from gq_tvm.build import build
from gq_tvm.errors import Error
from gq_tvm.runtime import Model
from gq_tvm.runtime.devices import placement
from gq_tvm.runtime.devices.device import LocalDevice
from gq_tvm.targets import native

pytestmark = pytest.mark.export


class Scaled(nn.Module):
    """Two inputs whose frames must be as many, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)

    def forward(self, x, gain):
        y = self.layer(x) * gain
        return y, y.sum(1)


@pytest.fixture(scope="module")
def scaled_folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("scaled") / "m.gq"
    time = frames(1, 8)
    program = export(
        Scaled(), torch.randn(1, 3, 10), torch.randn(1, 3, 1), dynamic=({1: time}, {1: time})
    )
    build(program, kernel="scalar").save(place)
    return place


@pytest.fixture(scope="module")
def scaled(scaled_folder) -> Model:
    return gq_tvm.load(scaled_folder)


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Model:
    place = tmp_path_factory.mktemp("several") / "m.gq"
    programs = {"encoder": linear_program(), "joint": linear_program(4, 6, seed=3)}
    build(programs, kernel="scalar").save(place)
    return gq_tvm.load(place)


def inputs(length: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, length, 10)).astype(np.float32)
    return x, np.ones((1, length, 1), np.float32)


def test_numpy_in_numpy_out(scaled):
    y, total = scaled(*inputs())
    assert isinstance(y, np.ndarray)
    assert (y.shape, total.shape) == ((1, 4, 6), (1, 6))
    np.testing.assert_allclose(y.sum(1), total, rtol=1e-5, atol=1e-5)


def test_torch_in_torch_out(scaled):
    x, gain = inputs()
    y, _ = scaled(torch.from_numpy(x), torch.from_numpy(gain))
    assert isinstance(y, torch.Tensor)
    np.testing.assert_array_equal(y.numpy(), scaled(x, gain)[0])


def test_memory_of_any_layout(scaled):
    x, gain = inputs()
    wanted = scaled(x, gain)[0]
    frozen = x.copy()
    frozen.setflags(write=False)
    odd = np.zeros(x.size + 1, np.float32)[1:].reshape(x.shape)
    odd[...] = x
    for same in (np.asfortranarray(x), frozen, odd, np.repeat(x, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(scaled(same, gain)[0], wanted)
    strided = torch.from_numpy(x).transpose(1, 2).contiguous().transpose(1, 2)
    np.testing.assert_array_equal(scaled(strided, torch.from_numpy(gain))[0].numpy(), wanted)


def test_outputs_are_the_callers_own(scaled):
    x, gain = inputs()
    first, _ = scaled(x, gain)
    kept = first.copy()
    scaled(-x, gain)
    np.testing.assert_array_equal(first, kept)
    first[...] = 0
    np.testing.assert_array_equal(scaled(x, gain)[0], kept)


class Odd(nn.Module):
    """Outputs of other kinds: an input, a weight, booleans, nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)

    def forward(self, x):
        return self.layer(x), x, self.layer.bias, x > 0, x[:0]


def test_outputs_of_every_kind(tmp_path):
    model = Odd().eval()
    build(export(model, torch.randn(3, 10)), kernel="scalar").save(tmp_path / "m.gq")
    net = gq_tvm.load(tmp_path / "m.gq")
    x = torch.randn(3, 10)
    for _ in range(2):
        outputs = net(x)
        for got, wanted in zip(outputs, model(x), strict=True):
            assert got.dtype == wanted.dtype
            torch.testing.assert_close(got, wanted.detach())
            got.zero_()  # the caller's own: no later call sees it


def test_many_shapes_one_after_the_other(scaled):
    for round_ in range(12):
        for length in range(1, 9):
            x, gain = inputs(length)
            y, _ = scaled(x + round_, gain)
            assert y.shape == (1, length, 6)
            np.testing.assert_array_equal(scaled(x + round_, gain)[0], y)


def test_calls_from_several_threads(scaled):
    wanted = {length: scaled(*inputs(length))[0] for length in range(1, 9)}
    with ThreadPoolExecutor(4) as pool:
        for length, (y, _) in zip(
            [*range(1, 9)] * 20,
            pool.map(lambda n: scaled(*inputs(n)), [*range(1, 9)] * 20),
            strict=True,
        ):
            np.testing.assert_array_equal(y, wanted[length])


def test_tensors_that_need_gradients(scaled):
    x, gain = map(torch.from_numpy, inputs())
    assert not scaled(x.requires_grad_(), gain)[0].requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, g: (x,), "function main takes 2 inputs, got 1; it wants: x float32"),
        (lambda x, g: (x, g, g), "takes 2 inputs, got 3"),
        (lambda x, g: (x, 1.0), "input gain of function main wants a NumPy array .* got float"),
        (lambda x, g: (x.astype(np.float64), g), "input x .*wants float32 .*got float64"),
        (lambda x, g: (x[..., :9], g), r"input x .*wants float32 \[1, \w+, 10\].*got float32"),
        (lambda x, g: (x[0], g), r"got float32 \[4, 10\]"),
        (lambda x, g: (x[:, :0], g[:, :0]), r"with \w+ from 1 to 8, got float32 \[1, 0, 10\]"),
        (lambda x, g: (np.repeat(x, 3, 1), np.repeat(g, 3, 1)), r"from 1 to 8, got .*\[1, 12, 10"),
        (lambda x, g: (x, g[:, :2]), r"input gain .*wants float32 \[1, 4, 1\], got .*\[1, 2, 1\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(scaled, change, message):
    with pytest.raises(Error, match=message):
        scaled(*change(*inputs()))


def test_a_refused_call_changes_nothing(scaled):
    wanted = scaled(*inputs())[0]
    with pytest.raises(Error):
        scaled(*inputs(9))
    np.testing.assert_array_equal(scaled(*inputs())[0], wanted)


def test_the_first_input_says_the_kind_of_the_outputs(scaled):
    x, gain = inputs()
    wanted = scaled(x, gain)[0]
    from_numpy = scaled(x, torch.from_numpy(gain))[0]
    from_torch = scaled(torch.from_numpy(x), gain)[0]
    assert isinstance(from_numpy, np.ndarray)
    assert isinstance(from_torch, torch.Tensor)
    np.testing.assert_array_equal(from_numpy, wanted)
    np.testing.assert_array_equal(from_torch.numpy(), wanted)


def test_a_dtype_numpy_lacks_is_refused(scaled):
    x, gain = map(torch.from_numpy, inputs())
    with pytest.raises(Error, match=r"input x .* tensor of float32, got torch\.bfloat16"):
        scaled(x.bfloat16(), gain)


def test_a_model_can_be_kept_in_a_set(scaled, several):
    assert {scaled, several, scaled} == {several, scaled}


class Sizes(nn.Module):
    """A square input, and one of a size computed from it that comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)

    def forward(self, twice, square, x):
        return self.layer(x), square + square.T, twice * 2


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> Model:
    size = Dim("s", min=2, max=9)
    example = torch.randn(8), torch.randn(4, 4), torch.randn(1, 10)
    program = export(Sizes(), *example, dynamic=({0: 2 * size}, {0: size, 1: size}, None))
    return compiled(program, tmp_path_factory.mktemp("sizes"), kernel="scalar")


def test_sizes_that_hang_together(sizes):
    x = np.zeros((1, 10), np.float32)

    def call(twice: int, *square: int) -> None:
        sizes(np.ones(twice, np.float32), np.ones(square, np.float32), x)

    call(12, 6, 6)
    with pytest.raises(Error, match=r"input square .*got float32 \[6, 7\]"):
        call(12, 6, 7)
    with pytest.raises(Error, match=r"input twice .*wants float32 \[12\], got float32 \[13\]"):
        call(13, 6, 6)


def test_several_functions(several):
    assert several.functions == ["encoder", "joint"]
    x = np.ones((2, 3, 10), np.float32)
    assert several["joint"](several["encoder"](x)).shape == (2, 3, 4)
    assert [layer.name for layer in several.layers] == ["encoder.0", "joint.0"]
    assert repr(several["joint"]).startswith("joint(")


def test_a_function_must_be_named_where_there_are_several(several):
    with pytest.raises(Error, match=r"say which function .* encoder, joint"):
        several(np.ones((2, 3, 10), np.float32))
    with pytest.raises(Error, match="there is no function 'decoder'; there are: encoder, joint"):
        several["decoder"]
    assert "decoder" not in several
    assert "joint" in several


def two_programs() -> dict:
    return {"main": everything("int8")[1], "joint": linear_program(4, 6, seed=3)}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return compiled(two_programs(), tmp_path_factory.mktemp("here"))


@pytest.mark.emulated
@pytest.mark.parametrize("cpu", ["cortex-a76", "cortex-a72"])
def test_a_board_computes_the_same(cpu, here, emulated, tmp_path):
    device = emulated(cpu)
    build(two_programs(), cpu).save(tmp_path / "board.gq")
    board = gq_tvm.load(tmp_path / "board.gq", device)
    rng = np.random.default_rng(0)
    state = rng.standard_normal((2, 1, 8)).astype(np.float32)
    for length in (4, 9):
        ids = rng.integers(0, 11, (1, length))
        for got, wanted in zip(board(ids, *state), here(ids, *state), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    x = rng.standard_normal((2, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(board["joint"](x), here["joint"](x), rtol=1e-5, atol=1e-6)


def test_an_artefact_for_a_board_is_refused_here(tmp_path):
    build(linear_program(), "cortex-a72").save(tmp_path / "board.gq")
    if native.machine() != "aarch64":
        message = (
            r"board\.gq is for aarch64, this device is \w+; .* such a device \(--rpc, --emulate"
        )
        for device in (None, LocalDevice()):
            with pytest.raises(Error, match=message):
                gq_tvm.load(tmp_path / "board.gq", device)


def test_an_artefact_of_32_bits_is_refused_and_the_way_to_run_it_named(tmp_path):
    path = tmp_path / "board.gq"
    build(linear_program(), "cortex-a7").save(path)
    assert inspect.main([str(path)]) == 0
    with pytest.raises(Error, match=r"is for armhf, this device is \w+; .* \(compile --bundle DIR"):
        gq_tvm.load(path)
    message = r"is for armhf, and TVM has no runtime .* --bundle"
    with pytest.raises(Error, match=message):
        gq_tvm.load(path, LocalDevice())
    with pytest.raises(Error, match=message), placement.emulated(path):
        pass


def test_tvm_computes_the_same_kernel_by_kernel(scaled, scaled_folder):
    by_tvm = gq_tvm.load(scaled_folder, LocalDevice())
    for length in (1, 5):
        for got, wanted in zip(by_tvm(*inputs(length)), scaled(*inputs(length)), strict=True):
            np.testing.assert_array_equal(got, wanted)
