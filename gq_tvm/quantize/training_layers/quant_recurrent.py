"""``nn.LSTM`` and ``nn.GRU`` in training, one direction.

With integer activations the rows of x are rounded in training. The state h is rounded too, step by
step, which leaves PyTorch's fused layers for a loop and is several times slower: always at 1 and 2
bits; at 8 only with ``exact_state`` and once the quantisers are hard. ``eval`` always rounds both.
Layers left in float round nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gq_tvm.ops import torch_recurrent
from gq_tvm.ops.torch_weight import Operand
from gq_tvm.quantize.drop_in.recurrent import (
    State,
    biases_of_layer,
    float_gru,
    float_lstm,
    run_layers,
    weights_of_layer,
)
from gq_tvm.quantize.drop_in.replacement import scaled_input
from gq_tvm.quantize.training_layers.activation import fake_quantize_rows
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer, refuse_export


class QuantRecurrent(QuantLayer, nn.RNNBase):
    """What the two share."""

    exact_state: bool = False
    #: Is told what each layer gives in training: y f32 [B, T, H].
    observer: Callable[[Tensor], object] | None = None
    #: Is told what comes to the first layer as deployed: x f32 [B, T, I] and its state.
    entered: Callable[[Tensor, State], object] | None = None
    #: A letter for each part of the state.
    states: str

    def biases(self, number: int) -> tuple[Tensor, Tensor] | None:
        """The two biases of a layer, f32 [gates * H] each, or None."""
        if not self.bias:
            return None
        ih, hh = (getattr(self, name) for name in biases_of_layer(number))
        return ih, hh

    def quantised_layers(self) -> list[int]:
        """The numbers of those that are not left in float."""
        return [n for n in range(self.num_layers) if weights_of_layer(n)[0] in self.quantizers]

    def detach(self) -> None:
        """As ``QuantLayer.detach``."""
        super().detach()
        for own in ("exact_state", "observer", "entered"):
            vars(self).pop(own, None)

    def _run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        refuse_export()
        sizes = self.states, self.num_layers, self.hidden_size, self.batch_first
        if self.training:
            layer = self._training_layer if self.observer is None else self._observed
            return run_layers(layer, x, state, *sizes)
        with torch.no_grad():
            return run_layers(self._deployed_layer, x, state, *sizes)

    def _deployed_layer(self, x: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        if number == 0 and self.entered is not None:
            self.entered(x, state)
        ih, hh = weights_of_layer(number)
        if ih not in self.quantizers:
            return self._float_layer(x, state, number)
        x = scaled_input(self, x) if number == 0 else x
        return self._loop(x, state, (self.operand(ih), self.operand(hh)), number)

    def _float_layer(self, x: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        weights = [getattr(self, name) for name in weights_of_layer(number)]
        return self._fused(x, state, [*weights, *(self.biases(number) or ())])

    def _observed(self, x: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        y, after = self._training_layer(x, state, number)
        assert self.observer is not None
        self.observer(y)
        return y, after

    def _training_layer(self, x: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        if number and self.dropout:
            x = F.dropout(x, self.dropout)
        ih, hh = weights_of_layer(number)
        if ih not in self.quantizers:
            return self._float_layer(x, state, number)
        x = scaled_input(self, x) if number == 0 else x
        x = fake_quantize_rows(x, self.activation_of(ih))
        weights = [self.quantized(ih), self.quantized(hh)]
        if self._rounds_state(hh):
            return self._exact_layer(x, state, weights, number)
        return self._fused(x, state, [*weights, *(self.biases(number) or ())])

    def _rounds_state(self, hh: str) -> bool:
        activation = self.activation_of(hh)
        if activation == "int8":
            return self.exact_state and self.quantizer(hh).hardness.hard
        return activation != "fp32"

    def _exact_layer(
        self, x: Tensor, state: State, weights: list[Tensor], number: int
    ) -> tuple[Tensor, State]:
        activation, steps = self.activation_of(weights_of_layer(number)[1]), []
        for from_x in F.linear(x, weights[0]).unbind(1):
            from_h = F.linear(fake_quantize_rows(state[0], activation), weights[1])
            state = self.step(from_x, from_h, state, number)
            steps.append(state[0])
        return torch.stack(steps, 1), state

    def _loop(
        self,
        x: Tensor,
        state: State,
        weights: tuple[Operand, Operand],
        number: int,
    ) -> tuple[Tensor, State]:
        """A layer as it is deployed."""
        raise NotImplementedError

    def _fused(self, x: Tensor, state: State, parameters: list[Tensor]) -> tuple[Tensor, State]:
        """PyTorch's own layer."""
        raise NotImplementedError

    def step(self, from_x: Tensor, from_h: Tensor, state: State, number: int) -> State:
        """One step from both products [B, gates * H], without their biases."""
        raise NotImplementedError


class QuantLSTM(QuantRecurrent, nn.LSTM):
    """``nn.LSTM`` in training."""

    replaced = nn.LSTM
    states = "hc"

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As ``nn.LSTM``; see ``recurrent.run_layers``."""
        y, (h, c) = self._run(input, hx)
        return y, (h, c)

    def summed_bias(self, number: int) -> Tensor | None:
        """The two biases of a layer as the one that deployment adds: f32 [4H]."""
        biases = self.biases(number)
        return None if biases is None else biases[0] + biases[1]

    def _loop(
        self,
        x: Tensor,
        state: State,
        weights: tuple[Operand, Operand],
        number: int,
    ) -> tuple[Tensor, State]:
        h, c = state
        y, h, c = torch_recurrent.lstm_layer(x, h, c, *weights, self.summed_bias(number))
        return y, (h, c)

    def _fused(self, x: Tensor, state: State, parameters: list[Tensor]) -> tuple[Tensor, State]:
        return float_lstm(x, state, parameters, self.training)

    def step(self, from_x: Tensor, from_h: Tensor, state: State, number: int) -> State:
        """See ``QuantRecurrent``."""
        return torch_recurrent.lstm_cell(from_x + from_h, self.summed_bias(number), state[1])


class QuantGRU(QuantRecurrent, nn.GRU):
    """``nn.GRU`` in training."""

    replaced = nn.GRU
    states = "h"

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As ``nn.GRU``; see ``recurrent.run_layers``."""
        y, (h,) = self._run(input, None if hx is None else (hx,))
        return y, h

    def _loop(
        self,
        x: Tensor,
        state: State,
        weights: tuple[Operand, Operand],
        number: int,
    ) -> tuple[Tensor, State]:
        bias_ih, bias_hh = self.biases(number) or (None, None)
        y, h = torch_recurrent.gru_layer(x, state[0], *weights, bias_ih, bias_hh)
        return y, (h,)

    def _fused(self, x: Tensor, state: State, parameters: list[Tensor]) -> tuple[Tensor, State]:
        return float_gru(x, state, parameters, self.training)

    def step(self, from_x: Tensor, from_h: Tensor, state: State, number: int) -> State:
        """See ``QuantRecurrent``."""
        bias_ih, bias_hh = self.biases(number) or (None, None)
        return (torch_recurrent.gru_cell(from_x, from_h, bias_ih, bias_hh, state[0]),)
