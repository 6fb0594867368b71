"""``nn.LSTM`` and ``nn.GRU`` as they are deployed, one direction, their weights in codebooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gq_tvm.ops import checks, torch_gru, torch_ops  # noqa: F401  (register torch.ops.gq)
from gq_tvm.quantize.codebook_layers import CodebookLayer, CodebookWeight
from gq_tvm.quantize.recurrent import State, run_layers


class CodebookRecurrent(CodebookLayer):
    """What the two share.

    Args:
        weights: for each layer (indices [gates * H, I or H], indices [gates * H, H]).
        activation: as in ``CodebookLinear``.
        batch_first: as in ``nn.LSTM``.

    Raises:
        Error: the weights' shapes, dtypes or indices are wrong.
    """

    def __init__(
        self,
        weights: Sequence[tuple[CodebookWeight, CodebookWeight]],
        activation: str,
        batch_first: bool,
    ) -> None:
        super().__init__()
        checks.check_activation(type(self).__name__, activation)
        self.bits: list[tuple[int, int]] = []
        for layer, (ih, hh) in enumerate(weights):
            self._register(f"_ih_l{layer}", ih)
            self._register(f"_hh_l{layer}", hh)
            self.bits.append((ih.bits, hh.bits))
        self.num_layers = len(self.bits)
        self.input_size = weights[0][0].indices.shape[1]
        self.hidden_size = weights[0][1].indices.shape[1]
        self.activation = activation
        self.batch_first = batch_first

    def codebook_weights(self) -> Iterator[tuple[str, CodebookWeight]]:
        """Two weights a layer."""
        for number in range(self.num_layers):
            for kind in ("ih", "hh"):
                yield f"weight_{kind}_l{number}", self._weight(kind, number)

    def _weight(self, kind: str, number: int) -> CodebookWeight:
        indices = getattr(self, f"indices_{kind}_l{number}")
        codebook = getattr(self, f"codebook_{kind}_l{number}")
        return CodebookWeight(indices, codebook, self.bits[number][kind == "hh"])

    def _operands(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ih, hh = self._weight("ih", number), self._weight("hh", number)
        return ih.indices, ih.codebook, hh.indices, hh.codebook

    def extra_repr(self) -> str:
        """Sizes, bits and activation, for ``print``."""
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"bits={self.bits}, activation={self.activation}"
        )


class CodebookLSTM(CodebookRecurrent):
    """``nn.LSTM`` in one direction with its weights in codebooks.

    Args:
        weights: for each layer (indices [4H, I or H], indices [4H, H]).
        biases: for each layer f32 [4H], the sum of PyTorch's two, or None.
        activation: as in ``CodebookLinear``.
        batch_first: as in ``nn.LSTM``.

    Raises:
        Error: the weights' shapes, dtypes or indices are wrong.
    """

    def __init__(
        self,
        weights: Sequence[tuple[CodebookWeight, CodebookWeight]],
        biases: Sequence[Tensor | None],
        activation: str,
        batch_first: bool = False,
    ) -> None:
        super().__init__(weights, activation, batch_first)
        for layer, bias in zip(range(self.num_layers), biases, strict=True):
            self.register_buffer(f"bias_l{layer}", bias)

    def forward(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As ``nn.LSTM``: x f32 [B, T, I] (or [T, B, I], or [T, I]) and the state (h, c)."""

        def layer(x: Tensor, state: State, number: int) -> tuple[Tensor, State]:
            y, h, c = torch.ops.gq.codebook_lstm(
                x, *state, *self._operands(number), getattr(self, f"bias_l{number}"),
                *self.bits[number], self.activation,
            )  # fmt: skip
            return y, (h, c)

        sizes = self.num_layers, self.hidden_size, self.batch_first
        y, (h, c) = run_layers(layer, x, hx, "hc", *sizes)
        return y, (h, c)


class CodebookGRU(CodebookRecurrent):
    """``nn.GRU`` in one direction with its weights in codebooks.

    Args:
        weights: for each layer (indices [3H, I or H], indices [3H, H]).
        biases: for each layer PyTorch's two, f32 [3H] each, or None.
        activation: as in ``CodebookLinear``.
        batch_first: as in ``nn.GRU``.

    Raises:
        Error: the weights' shapes, dtypes or indices are wrong.
    """

    def __init__(
        self,
        weights: Sequence[tuple[CodebookWeight, CodebookWeight]],
        biases: Sequence[tuple[Tensor, Tensor] | None],
        activation: str,
        batch_first: bool = False,
    ) -> None:
        super().__init__(weights, activation, batch_first)
        for layer, both in zip(range(self.num_layers), biases, strict=True):
            for kind, bias in zip(("ih", "hh"), both or (None, None), strict=True):
                self.register_buffer(f"bias_{kind}_l{layer}", bias)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As ``nn.GRU``: x f32 [B, T, I] (or [T, B, I], or [T, I]) and the state h."""

        def layer(x: Tensor, state: State, number: int) -> tuple[Tensor, State]:
            y, h = torch.ops.gq.codebook_gru(
                x, *state, *self._operands(number), getattr(self, f"bias_ih_l{number}"),
                getattr(self, f"bias_hh_l{number}"), *self.bits[number], self.activation,
            )  # fmt: skip
            return y, (h,)

        sizes = self.num_layers, self.hidden_size, self.batch_first
        y, (h,) = run_layers(layer, x, None if hx is None else (hx,), "h", *sizes)
        return y, h
