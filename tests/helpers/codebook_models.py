"""Small PyTorch models with codebook operators, for the tests of the compile side."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import gq_tvm
import gq_tvm.ops.torch_ops
from gq_tvm.build import build
from gq_tvm.runtime import Model
from gq_tvm.runtime.artefact.folder import Artefact


def indices(*shape: int, bits: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**bits, shape, dtype=torch.uint8, generator=generator)


def codebook(bits: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 2**bits, generator=generator)


def scale(rows: int) -> Tensor:
    """A scale for each row, powers of two; 1 for one row."""
    generator = torch.Generator().manual_seed(1)
    exponents = torch.randint(-2, 3, (rows,), generator=generator).float()
    return torch.ones(1) if rows == 1 else 2.0**exponents


class Linear(nn.Module):
    """n x k, with or without a bias or a scale per row."""

    def __init__(
        self, n: int, k: int, bits: int = 4, activation: str = "fp32", bias: bool = True,
        per_row: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_buffer("indices", indices(n, k, bits=bits, seed=seed))
        self.register_buffer("codebook", codebook(bits, seed + 1) / k**0.5)
        self.register_buffer("scale", scale(n if per_row else 1))
        self.bias = nn.Parameter(torch.linspace(-1, 1, n)) if bias else None
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.gq.codebook_linear(
            x, self.indices, self.codebook, self.scale, None, self.bias, self.activation
        )


class Lstm(nn.Module):
    """One LSTM layer, batch first, states in and out."""

    def __init__(self, width: int, hidden: int, activation: str = "fp32") -> None:
        super().__init__()
        self.register_buffer("indices_ih_l0", indices(4 * hidden, width, bits=4))
        self.register_buffer("codebook_ih_l0", codebook(4) / width**0.5)
        self.register_buffer("indices_hh_l0", indices(4 * hidden, hidden, bits=3, seed=5))
        self.register_buffer("codebook_hh_l0", codebook(3, seed=6) / hidden**0.5)
        self.register_buffer("bias_l0", torch.linspace(-1, 1, 4 * hidden))
        self.activation = activation

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ops.gq.codebook_lstm(
            x, h, c, self.indices_ih_l0, self.codebook_ih_l0, None, None, self.indices_hh_l0,
            self.codebook_hh_l0, None, None, self.bias_l0, self.activation,
        )  # fmt: skip


class Gru(nn.Module):
    """One GRU layer, batch first, state in and out."""

    def __init__(self, width: int, hidden: int, activation: str = "fp32") -> None:
        super().__init__()
        self.register_buffer("indices_ih_l0", indices(3 * hidden, width, bits=2))
        self.register_buffer("codebook_ih_l0", codebook(2) / width**0.5)
        self.register_buffer("indices_hh_l0", indices(3 * hidden, hidden, bits=4, seed=5))
        self.register_buffer("codebook_hh_l0", codebook(4, seed=6) / hidden**0.5)
        self.register_buffer("bias_ih_l0", torch.linspace(-1, 1, 3 * hidden))
        self.register_buffer("bias_hh_l0", torch.linspace(1, -1, 3 * hidden))
        self.activation = activation

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.gq.codebook_gru(
            x, h, self.indices_ih_l0, self.codebook_ih_l0, None, None, self.indices_hh_l0,
            self.codebook_hh_l0, None, None, self.bias_ih_l0, self.bias_hh_l0, self.activation,
        )  # fmt: skip


class Conv(nn.Module):
    """A Conv1d of any stride, padding, dilation and groups."""

    def __init__(
        self, n: int, channels: int, taps: int, stride: int = 1, padding: int = 0,
        dilation: int = 1, groups: int = 1, activation: str = "fp32",
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_buffer("indices", indices(n, channels // groups, taps, bits=4))
        self.register_buffer("codebook", codebook(4))
        self.register_buffer("scale", scale(n if groups > 1 else 1))
        self.bias = nn.Parameter(torch.linspace(-1, 1, n))
        self.options = (stride, padding, dilation, groups, activation)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.gq.codebook_conv1d(
            x, self.indices, self.codebook, self.scale, None, self.bias, *self.options
        )


class Embedding(nn.Module):
    """rows x width."""

    def __init__(self, rows: int, width: int, bits: int = 3, per_row: bool = False) -> None:
        super().__init__()
        self.register_buffer("indices", indices(rows, width, bits=bits))
        self.register_buffer("codebook", codebook(bits))
        self.register_buffer("scale", scale(rows if per_row else 1))

    def forward(self, ids: Tensor) -> Tensor:
        return torch.ops.gq.codebook_embedding(ids, self.indices, self.codebook, self.scale, None)


class Everything(nn.Module):
    """Every codebook operator, a gated linear unit, and operators of TVM's between them."""

    def __init__(self, activation: str = "fp32") -> None:
        super().__init__()
        self.embedding = Embedding(11, 12)
        self.strided = Conv(16, 12, 3, stride=2, padding=1, activation=activation)
        self.depthwise = Conv(16, 16, 5, padding=2, groups=16)
        self.norm = nn.LayerNorm(16)
        self.lstm = Lstm(16, 8, activation)
        self.gated = Linear(24, 8, activation=activation)
        self.gru = Gru(12, 8, activation)
        self.out = Linear(9, 8, activation=activation, per_row=True)

    def forward(self, ids: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x = torch.relu(self.strided(self.embedding(ids).transpose(1, 2)))
        x = nn.functional.silu(self.depthwise(x)).transpose(1, 2)
        y, h, c = self.lstm(self.norm(x), h, c)
        y, h = self.gru(nn.functional.glu(self.gated(y), dim=-1), h)
        return self.out(y).sigmoid(), (h, c)


def frames(least: int = 1, most: int = 64) -> Dim:
    return Dim("T", min=least, max=most)


def export(
    model: nn.Module, *inputs: Tensor, dynamic: tuple[Any, ...] | None = None
) -> ExportedProgram:
    return torch.export.export(model.eval(), inputs, dynamic_shapes=dynamic)


def linear_program(n: int = 6, k: int = 10, **options: object) -> ExportedProgram:
    """A model with the layer ``0``, over any number of frames."""
    model = nn.Sequential(Linear(n, k, **options))  # type: ignore[arg-type]
    return export(model, torch.randn(2, 3, k), dynamic=({1: frames()},))


@functools.cache
def everything(activation: str = "fp32") -> tuple[Everything, ExportedProgram]:
    model = Everything(activation).eval()
    example = torch.arange(6)[None] % 11, torch.zeros(1, 8), torch.ones(1, 8)
    return model, export(model, *example, dynamic=({1: frames(4)}, None, None))


@functools.cache
def built_everything(activation: str = "fp32") -> Artefact:
    """`everything`, compiled for this machine."""
    return build(everything(activation)[1])


def compiled(program: object, folder: Path, **options: object) -> Model:
    """Build, save and load."""
    build(program, **options).save(folder / "model.gq")  # type: ignore[arg-type]
    return gq_tvm.load(folder / "model.gq")


def relative_error(got: Tensor, wanted: Tensor) -> float:
    got, wanted = got.detach().double(), wanted.detach().double()
    return float((got - wanted).norm() / wanted.norm())
