"""Operators TVM's importer lacks or mistakes, compiled, against PyTorch: values, dtypes, shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.codebook_models import Linear, compiled, frames
from torch import Tensor, nn

from gq_tvm import frontend
from gq_tvm.build import build
from gq_tvm.errors import Error
from gq_tvm.frontend.converters.decompositions import embedding_bag, unfold, unfold_backward

pytestmark = pytest.mark.export

Programs = dict[str, Callable[..., Any]]


class All(nn.Module):
    """Every function of some, on the same inputs, and a layer."""

    def __init__(self, programs: Programs) -> None:
        super().__init__()
        self.layer = Linear(3, 2)
        self.programs = programs

    def forward(self, *inputs: Tensor):
        return {name: f(*inputs) for name, f in self.programs.items()}, self.layer(torch.ones(1, 2))


def assert_all_equal(programs: Programs, tmp_path, *inputs: Tensor, dynamic=None, others=()):
    """Compile all functions as one model, and compare each result with PyTorch's."""
    model = All(programs).eval()
    program = torch.export.export(model, inputs, dynamic_shapes=dynamic)
    made = compiled(program, tmp_path, kernel="scalar")
    for given in (inputs, *others):
        results = dict(zip(programs, _grouped(made(*given), model(*given)[0]), strict=True))
        for name, (got, wanted) in results.items():
            try:
                torch.testing.assert_close(got, wanted, rtol=2e-5, atol=2e-5)
            except AssertionError as difference:
                raise AssertionError(f"{name}: {difference}") from None


def _grouped(made: Any, wanted: dict[str, Any]) -> list[tuple[list[Tensor], list[Tensor]]]:
    rest = iter(made)
    both = []
    for values in wanted.values():
        values = list(values) if isinstance(values, list | tuple) else [values]
        got = [torch.as_tensor(next(rest)) for _ in values]
        both.append((got, values))
    return both


def number(dtype: torch.dtype, *shape: int) -> Tensor:
    x = torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape) * 37 % 101 - 30
    if dtype is torch.bool:
        return x % 2 == 0
    return (x.abs() if dtype is torch.uint8 else x).to(dtype)


REDUCTIONS: Programs = {
    "sum": lambda x: x.sum(-1),
    "prod": lambda x: ((x % 3).prod(), (x % 3).prod(0, keepdim=True)),
    "cumsum": lambda x: (x.cumsum(-1), x.cumsum(0, dtype=torch.float32)),
    "cumprod": lambda x: (x % 3).cumprod(1),
    "any": lambda x: (x.any(-1), x.any(), x.all(0, keepdim=True)),
    "extremes": lambda x: (x.amax(-1), x.amin(0, keepdim=True), x.max(), x.min()),
    "where": lambda x: (*x.max(-1), *x.min(0, keepdim=True), x.int().argmax(-1)),
    "mean": lambda x: x.mean(-1, dtype=torch.float32),
    "sorted": lambda x: x.sort(-1).values,
}


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_reductions(dtype, tmp_path):
    assert_all_equal(REDUCTIONS, tmp_path, number(dtype, 3, 4))


ARITHMETIC: Programs = {
    "numbers": lambda x: (x + 1.5, x * 0.5, 1.5 - x, x / 2, 1 / (x + 200), x > 0.5, x == 1),
    "factors": lambda x: (
        *(torch.add(x, x, alpha=2), torch.sub(x, x + 1, alpha=-3)),
        *(F.selu(x / 30), F.celu(x / 30, 2.0)),
    ),
    "rounded": lambda x: (x // 3, torch.div(x, 3, rounding_mode="trunc"), x % 3),
    "powers": lambda x: (x**2, x**3, x**0, 2 ** (x % 5), (x % 5) ** (x % 3), (x * x) ** 0.5),
    "functions": lambda x: (x.sigmoid(), (x * x).sqrt(), (x % 5).exp(), (x + 200).reciprocal()),
    "bounds": lambda x: (x.clamp(min=1), x.clamp(0, 2), x.clamp(max=0.5), x.relu()),
    "chosen": lambda x: (torch.where(x > 0, x, 0.5), x.masked_fill(x > 0, 2)),
    "bools": lambda x: ((x > 0) + (x > 1), (x > 0) * (x > 1), (x > 0) * x, (x > 1) == (x > 0)),
    "mixed": lambda x: (
        x + torch.ones(4),
        x * torch.tensor(2.5),
        torch.cat([x, torch.ones(3, 1)], 1),
    ),
    "products": lambda x: (x @ x.T, x.float() @ x.T.float()),
}


def test_arithmetic(tmp_path):
    assert_all_equal(ARITHMETIC, tmp_path, number(torch.int64, 3, 4))


def bag(mode: str, **options: Any) -> Callable[..., Tensor]:
    def f(x: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
        return F.embedding_bag(indices, x.T.repeat(3, 1), offsets, mode=mode, **options)

    return f


def cache(x: Tensor) -> Tensor:
    """Keys behind a cache that is empty yet, as transformers' ``DynamicCache`` begins."""
    return torch.cat([torch.tensor([]), x], -2)


def causal(x: Tensor, indices: Tensor) -> Tensor:
    """Which positions see which, packed sequences apart, as transformers' decoders tell."""
    positions = torch.arange(indices.shape[0])[None]
    sequence = (positions.diff(prepend=positions[:, :1] - 1) != 1).cumsum(-1)
    same = sequence[:, None, :] == sequence[:, :, None]
    return same & torch.ones(indices.shape[0], indices.shape[0], dtype=torch.bool).tril()


FALLING: Programs = {
    "falling": lambda x: (torch.arange(x.shape[1] - 1, -x.shape[1], -1), torch.arange(4, -5, -1)),
    "by threes": lambda x: torch.arange(x.shape[1], 0, -3) * x[0, 0],
    "windows": lambda x: x.unfold(1, 6, 4),
}


def test_sequences_and_windows_of_any_size(tmp_path):
    x, other = torch.randn(3, 40), torch.randn(3, 11)
    dynamic = {"inputs": ({1: frames(10, 99)},)}
    assert_all_equal(FALLING, tmp_path, x, dynamic=dynamic, others=[(other,)])


SHAPES: Programs = {
    "sequences": lambda x, *_: (
        torch.arange(0.5, 3, 0.3) * x[0, 0],
        torch.linspace(0, 1, 7),
        torch.arange(5, 5),
    ),
    "cat": lambda x, *_: (cache(x), torch.cat([x, torch.zeros(0)]), torch.cat([x[:, :0], x], 1)),
    "causal": lambda x, indices, _: causal(x, indices),
    "means": bag("mean", padding_idx=1),
    "greatest": bag("max", include_last_offset=True),
}


def test_shapes(tmp_path):
    indices, offsets = torch.tensor([1, 3, 3, 5, 1, 7, 8]), torch.tensor([0, 2, 2, 7])
    assert_all_equal(SHAPES, tmp_path, torch.randn(3, 4), indices, offsets)


def spectrum(n: int = 16, step: int = 4, **options: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.stft(x, n, step, return_complex=True, **options)


def inverse(x: Tensor, **options: Any) -> Tensor:
    options["window"] = torch.hann_window(16)
    return torch.istft(spectrum(**options)(x), 16, 4, **options)


FOURIER: Programs = {
    "window": lambda x: spectrum(win_length=12, window=torch.hann_window(12))(x).abs(),
    "odd": lambda x: torch.view_as_real(spectrum(15, 5, center=False, onesided=False)(x)),
    "back": lambda x: inverse(x, normalized=True),
    "transforms": lambda x: (
        torch.fft.rfft(x, n=8, dim=0).imag,
        torch.fft.irfft(torch.fft.rfft(x), n=59),
    ),
    "parts": lambda x: torch.view_as_real(
        torch.cat([spectrum()(x)[:, :3], spectrum()(x)[:, -2:].conj()], 1)
    ),
    "angle": lambda x: torch.complex(x, x * x + 1).angle(),
    "quotient": lambda x: torch.view_as_real(
        torch.complex(x, x) / (2 + torch.polar(x * x, x) * 1j)
    ),
}


def test_fourier_transforms(tmp_path):
    assert_all_equal(FOURIER, tmp_path, torch.randn(2, 60))


def test_other_computations_with_complex_numbers_are_refused():
    programs: Programs = {"solve": lambda x: torch.complex(x, x).sqrt().abs()}
    program = torch.export.export(All(programs).eval(), (torch.randn(2, 2),))
    with pytest.raises(Error, match=r"aten.sqrt.default in the top level \(test_like_pytorch.py,"):
        frontend.translate(frontend.read(program))


class Half(nn.Module):
    """Half precision beside a layer of codebooks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8).half(), nn.Linear(8, 6).half()
        self.conv = nn.Conv1d(6, 4, 3, padding=1).half()

    def forward(self, x):
        y = self.head(self.norm(self.layer(x).half()))
        return self.conv(y.T), (y @ y.T).softmax(-1).float()


def test_half_precision_beside_codebooks(tmp_path):
    model, x = Half().eval(), torch.randn(3, 8)
    made = compiled(torch.export.export(model, (x,)), tmp_path, kernel="scalar")
    for got, wanted in zip(made(x), model(x), strict=True):
        torch.testing.assert_close(torch.as_tensor(got), wanted, rtol=5e-3, atol=5e-3)


# --- without a compiler ---


@pytest.mark.parametrize(("axis", "size", "step"), [(-1, 6, 4), (0, 2, 1), (1, 5, 7), (1, 3, 3)])
def test_windows_and_their_sum(axis, size, step):
    x = torch.randn(3, 20)
    windows = x.unfold(axis, size, step)
    assert torch.equal(unfold(x, axis, size, step), windows)
    wanted = torch.ops.aten.unfold_backward(windows, [3, 20], axis, size, step)
    torch.testing.assert_close(unfold_backward(windows, [3, 20], axis, size, step), wanted)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("padding", [-1, 3])
def test_bags_of_embeddings(mode, last, padding):
    weight, indices = torch.randn(9, 4), torch.tensor([1, 3, 3, 5, 3, 7, 8])
    offsets = torch.tensor([0, 1, 3, 3, 7])
    factors = torch.rand(7) if mode == "sum" else None
    wanted = F.embedding_bag(
        *(indices, weight, offsets),
        mode=mode,
        per_sample_weights=factors,
        include_last_offset=last,
        padding_idx=None if padding < 0 else padding,
    )
    number = ("sum", "mean", "max").index(mode)
    got, *_ = embedding_bag(weight, indices, offsets, False, number, False, factors, last, padding)
    torch.testing.assert_close(got, wanted)


# --- what is refused ---


class Negative(nn.Module):
    def forward(self, x):
        return -(x * 100).to(torch.uint8)


class Failing(nn.Module):
    """TVM cannot negate what has no sign."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = Linear(8, 8), Negative()

    def forward(self, x):
        return self.head(self.layer(x).relu())


def test_an_operator_tvm_cannot_compile_is_named():
    program = torch.export.export(Failing().eval(), (torch.randn(2, 8),))
    with pytest.raises(Error) as refusal:
        build(program, kernel="scalar")
    assert "TVM cannot prepare aten.neg.default in head (test_like_pytorch.py, line" in str(
        refusal.value
    )


class Casts(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = Linear(8, 8), dtype

    def forward(self, x):
        return self.layer(x.float()), self.layer(x.float()).to(self.dtype)


@pytest.mark.parametrize(
    ("given", "taken", "what"),
    [
        (torch.float32, torch.bfloat16, "output 1 of program main is bfloat16"),
        (torch.bfloat16, torch.float32, "input 'x' of program main is bfloat16"),
        (torch.float32, torch.complex64, "output 1 of program main is complex64"),
        (torch.float32, torch.float8_e4m3fn, "output 1 of program main is float8_e4m3fn"),
    ],
)
def test_dtypes_the_runtimes_lack_are_refused(given, taken, what):
    program = torch.export.export(Casts(taken).eval(), (torch.zeros(2, 8).to(given),))
    with pytest.raises(Error, match=what + ", which the runtimes lack; "):
        frontend.translate(frontend.read(program))
