"""What a compiled model computes, against PyTorch."""

from __future__ import annotations

import pytest
import torch
from helpers.codebook_models import (
    Conv,
    Embedding,
    Linear,
    built_everything,
    compiled,
    everything,
    export,
    frames,
    relative_error,
)
from torch import nn

import gq_tvm
from gq_tvm import targets
from gq_tvm.build import build
from gq_tvm.schedules import FAMILIES, Product

pytestmark = pytest.mark.export

# The error of int8 models is that of fp32 sums, unless a last bit moves a rounding.
BOUNDS = {"fp32": 1e-5, "int8": 1e-5}
ODD_SHAPES = [
    (17, 31),
    (1, 1),
    (64, 65),
]


class Linears(nn.Module):
    """One layer of each bit-width on the same input."""

    def __init__(self, n: int, k: int, activation: str, per_row: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Linear(n, k, bits, activation, bias=bits % 2 == 0, per_row=per_row, seed=bits)
            for bits in range(1, 9)
        )

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


def kernels(activation: str) -> list[str]:
    product = Product(4, 4, 4, activation, None)
    native = targets.get("native")
    return [one.name for one in FAMILIES if one.supports(native, product) and one.exact(product)]


@pytest.mark.parametrize("shape", ODD_SHAPES)
@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_every_bit_width_and_odd_shapes(shape, activation, tmp_path):
    n, k = shape
    model = Linears(n, k, activation, per_row=n % 2 == 1).eval()
    program = export(model, torch.randn(2, 3, k), dynamic=({1: frames()},))
    net = compiled(program, tmp_path)
    for rows in (1, 4, 7):
        x = torch.randn(2, rows, k, generator=torch.Generator().manual_seed(rows))
        for bits, got, wanted in zip(range(1, 9), net(x), model(x), strict=True):
            assert relative_error(got, wanted) <= BOUNDS[activation], f"{bits} bits"


@pytest.mark.parametrize("kernel", kernels("fp32"))
@pytest.mark.parametrize("rows", [1, 5])
def test_every_kernel_on_rows_known_when_compiling(kernel, rows, tmp_path):
    model = nn.Sequential(Linear(37, 50)).eval()
    net = compiled(export(model, torch.randn(rows, 50)), tmp_path, kernel=kernel)
    x = torch.randn(rows, 50)
    assert net.layers[0].kernel == kernel
    assert relative_error(net(x), model(x)) <= 1e-5


@pytest.mark.parametrize("kernel", ["auto", "scalar"])
@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_every_operator(kernel, activation, tmp_path):
    model, program = everything(activation)
    artefact = built_everything(activation) if kernel == "auto" else build(program, kernel=kernel)
    artefact.save(tmp_path / "model.gq")
    net = gq_tvm.load(tmp_path / "model.gq")
    for length in (4, 7, 20):
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(0, 11, (1, length), generator=generator)
        h, c = torch.randn(2, 1, 8, generator=generator).unbind(0)
        logits, (h1, c1) = model(ids, h, c)
        for got, wanted in zip(net(ids, h, c), (logits, h1, c1), strict=True):
            assert relative_error(got, wanted) <= BOUNDS[activation]


@pytest.mark.parametrize(
    "options",
    [
        {"taps": 1},
        {"taps": 3, "padding": 2, "dilation": 2},
        {"taps": 2, "stride": 3},
        {"taps": 3, "groups": 2, "stride": 2, "padding": 1},
        {"taps": 5, "groups": 6, "dilation": 2, "padding": 3},
        {"taps": 3, "groups": 2, "stride": 2, "padding": 1, "outputs": 40},
        {"taps": 5, "groups": 3, "dilation": 2, "padding": 3, "outputs": 54},
        {"taps": 3, "groups": 2, "activation": "int8"},
        {"taps": 4, "groups": 3, "padding": 1, "activation": "int8", "outputs": 48},
        {"taps": 3, "groups": 2, "activation": "int2", "outputs": 32},
    ],
)
def test_convolutions(options, tmp_path):
    options = dict(options)
    model = nn.Sequential(Conv(options.pop("outputs", 12), 6, **options)).eval()
    program = export(model, torch.randn(2, 6, 24), dynamic=({2: frames(12)},))
    net = compiled(program, tmp_path)
    for length in (12, 19):
        x = torch.randn(2, 6, length)
        assert net(x).shape == model(x).shape
        assert relative_error(net(x), model(x)) <= 1e-5


def test_nothing_foreign_is_read_for_a_bad_id(tmp_path):
    model = nn.Sequential(Embedding(7, 5, per_row=True)).eval()
    net = compiled(export(model, torch.zeros(1, 4, dtype=torch.long)), tmp_path)
    rows = net(torch.tensor([[2, -1, 7, 1 << 40]]))
    assert torch.equal(rows[0, 0], model(torch.tensor([2]))[0])
    assert rows[0, 1:].isnan().all()


@pytest.mark.parametrize("activation", ["fp32", "int8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_bad_activations_reach_the_output_of_their_row_only(activation, bad, tmp_path):
    model = nn.Sequential(Linear(9, 6, activation=activation), nn.ReLU(), nn.Hardtanh())
    net = compiled(export(model, torch.randn(3, 6)), tmp_path)
    x = torch.randn(3, 6)
    wanted = net(x)
    x[1, 2] = bad
    got = net(x)
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[2], wanted[2])
    if activation == "int8" or bad != bad:
        assert got[1].isnan().all()


def test_another_arithmetic_than_trained(tmp_path):
    model = nn.Sequential(Linear(16, 32, activation="fp32")).eval()
    net = compiled(export(model, torch.randn(4, 32)), tmp_path, activation="int8")
    assert [layer.activation for layer in net.layers] == ["int8"]
    x = torch.randn(4, 32)
    assert 1e-5 < relative_error(net(x), model(x)) < 2e-2


class Indexing(nn.Module):
    """Every way to index by a tensor, on the outputs y [T, 6] of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)

    def forward(self, x, i):
        y, rows = self.layer(x), torch.arange(4)
        first, columns = y[:4], i[:, 0]
        put = first.clone()
        put[rows, columns] = 1.0
        wrapped = torch.where(i < 0, i + 6, i)  # what gather and scatter demand
        return (
            y[columns],
            first[rows, columns],
            y[columns, columns],
            put,
            torch.gather(first, 1, wrapped),
            first.scatter(1, wrapped, first[:, :2] + 1),
        )


def test_indices_count_from_the_end_and_reach_nothing_foreign(tmp_path):
    model = Indexing().eval()
    good = torch.tensor([[-1, 0], [-4, 1], [2, 5], [0, 3]])
    program = export(model, torch.randn(8, 10), good, dynamic=({0: frames(4)}, None))
    net = compiled(program, tmp_path, kernel="scalar")
    x = torch.randn(7, 10)
    for got, wanted in zip(net(x, good), model(x, good), strict=True):
        torch.testing.assert_close(got, wanted)
    own = model.layer(x)
    for bad in (1 << 40, -(1 << 40), 7):
        read = net(x, torch.full((4, 2), bad))
        for place in (0, 1, 2, 4):  # only what is in y
            assert (read[place].flatten()[:, None] - own.flatten()).abs().amin(1).max() < 1e-5
        for written in (read[3], read[5]):
            assert ((written - own[:4]).abs() > 1e-4).sum() <= 8


class Extremes(nn.Module):
    """What may lose a NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)

    def forward(self, x):
        y = self.layer(x)
        zero, z = torch.zeros(()), torch.zeros_like(y)
        return (
            torch.maximum(y, zero),
            torch.maximum(zero, y),
            torch.minimum(y, z),
            torch.minimum(z, y),
            y.clamp(z, z + 1),
        )


def test_maximum_and_minimum_keep_nan(tmp_path):
    model = Extremes().eval()
    net = compiled(export(model, torch.randn(3, 10)), tmp_path, kernel="scalar")
    x = torch.randn(3, 10)
    x[1, 2] = float("nan")
    for got, wanted in zip(net(x), model(x), strict=True):
        assert wanted[1].isnan().all()
        torch.testing.assert_close(got, wanted, equal_nan=True)


class NearZero(nn.Module):
    """Functions of differences that are 0 near 0, as PyTorch has them and behind layers."""

    functions = (
        torch.tanh,
        nn.functional.elu,
        nn.functional.selu,
        lambda x: nn.functional.celu(x, 0.7),
        torch.expm1,
        lambda x: torch.log1p(x.abs()),
        lambda x: torch.atanh(x.clamp(-0.9, 0.9)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(9, 6, bias=False)
        self.conv = Conv(4, 6, 1, groups=2)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x):
        y = [function(x) for function in self.functions]
        return *y, torch.tanh(self.linear(x)), torch.tanh(self.conv(x[..., None]))


def test_functions_keep_their_digits_near_zero(tmp_path):
    model = NearZero().eval()
    net = compiled(export(model, torch.randn(20, 6)), tmp_path, target="x86-64")
    ones = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    for size in (1e-9, 1e-6, 1e-4, 1e-2, 0.2, 1, 10):
        x = size * ones
        for got, wanted in zip(net(x), model(x), strict=True):
            assert relative_error(got, wanted) <= 2e-6
