"""What is computed: linear layers and whole models, the same for every system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.models import Conformer, StreamingLSTM

F32 = NDArray[np.float32]

#: Outputs x inputs: gates of an LSTM of 1024 (streaming RNN-T), of one of 640, a feed-forward layer
#: of a small Conformer both ways, a square one, and one that no L2 holds.
SHAPES = ((4096, 1024), (2560, 640), (1024, 256), (256, 1024), (512, 512), (4096, 4096))
ROWS = (1, 4, 16, 64)


@dataclass(frozen=True)
class Layer:
    """``y = x W^T``: W f32 [outputs, inputs] Gaussian, x f32 [rows, inputs]."""

    outputs: int
    inputs: int
    rows: int
    threads: int

    @property
    def name(self) -> str:
        """E.g. ``4096x1024, 4 rows``."""
        return f"{self.outputs}x{self.inputs}, {self.rows} row{'s' * (self.rows > 1)}"

    @cached_property
    def weight(self) -> F32:
        """The same for every number of rows and threads."""
        shape = (self.outputs, self.inputs)
        weight = np.random.default_rng(0).standard_normal(shape, np.float32)
        return weight / np.float32(np.sqrt(self.inputs))

    @cached_property
    def x(self) -> F32:
        """The activations, aligned to 64 bytes so that every library can read them in place."""
        return aligned(np.random.default_rng(1).standard_normal((self.rows, self.inputs)))

    @cached_property
    def reference(self) -> NDArray[np.float64]:
        """The product in float64."""
        return self.x.astype(np.float64) @ self.weight.T.astype(np.float64)

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.outputs * self.inputs * self.rows


@dataclass(frozen=True)
class Model:
    """A whole model; its first output is y."""

    name: str
    threads: int

    @cached_property
    def module(self) -> StreamingLSTM | Conformer:
        """In PyTorch, with float weights; not to be changed."""
        torch.manual_seed(0)
        made = MODELS[self.name]()
        made.eval()
        return made

    @cached_property
    def inputs(self) -> tuple[F32, ...]:
        """What each call takes."""
        return tuple(aligned(tensor.numpy()) for tensor in self.module.example_inputs())

    @cached_property
    def reference(self) -> F32:
        """The y of float weights."""
        with torch.inference_mode():
            return self.module(*map(torch.from_numpy, self.inputs))[0].numpy()

    @cached_property
    def weights(self) -> int:
        """How many weights its matrices have."""
        layers = [m for m in self.module.modules() if isinstance(m, nn.Linear | nn.LSTM)]
        return sum(p.numel() for layer in layers for p in layer.parameters() if p.dim() == 2)


MODELS: dict[str, Callable[[], StreamingLSTM | Conformer]] = {
    "LSTM encoder, 5 x 1024, one frame": lambda: StreamingLSTM(1024, 5),
    "LSTM predictor, 2 x 1024, one label": lambda: StreamingLSTM(1024, 2),
    "Conformer, 8 blocks of 256, 64 frames": Conformer,
}


def aligned(array: NDArray) -> F32:
    """A float32 copy whose memory is aligned to 64 bytes."""
    memory = np.empty(array.size + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    copy = memory[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy
