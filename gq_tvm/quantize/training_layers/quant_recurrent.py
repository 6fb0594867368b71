"""PyTorch's stacks of recurrent layers, and its cells, in training.

With integer activations the rows of x are rounded in training. The state h is rounded too, step by
step, which leaves PyTorch's fused layers for a loop and is several times slower: always at 1 and 2
bits; at 8 only with ``exact_state`` and once the quantisers are hard. So is what a projected LSTM
projects. ``eval`` always rounds all. Layers left in float round nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gq_tvm.ops import torch_recurrent
from gq_tvm.ops.checks_recurrent import LAYERS
from gq_tvm.quantize.deployed import codebook_recurrent as codebook
from gq_tvm.quantize.drop_in.recurrent import (
    State,
    biases_of,
    deployed_biases_of,
    endings,
    float_layer,
    is_first,
    is_reverse,
    operator_of,
    run,
    weights_of,
)
from gq_tvm.quantize.drop_in.replacement import factors_of, scaled_input
from gq_tvm.quantize.training_layers.activation import fake_quantize_rows
from gq_tvm.quantize.training_layers.quant_layers import BiasPlace, QuantLayer, refuse_export


class QuantRecurrent(QuantLayer):
    """What they share; a layer of a stack goes by its ending (``drop_in.recurrent``)."""

    exact_state: bool = False
    #: Is told what each layer gives in training: y f32 [B, T, P].
    observer: Callable[[Tensor], object] | None = None
    #: Is told what comes to a layer with the inputs of the stack as deployed: its ending, x f32
    #: [B, T, I] in its order of frames, and its state.
    entered: Callable[[str, Tensor, State], object] | None = None

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As PyTorch's; see ``drop_in.recurrent.run``."""
        refuse_export()
        if self.training:
            layer = self._training_layer if self.observer is None else self._observed
            return run(layer, self, input, hx, getattr(self, "dropout", 0.0))
        with torch.no_grad():
            return run(self._deployed_layer, self, input, hx)

    def kept_biases(self, ending: str) -> list[Tensor | None]:
        """The biases of a layer as the operators take them: PyTorch's two, or their sum."""
        kept = LAYERS[operator_of(self)].biases
        if not self.bias:
            return [None] * len(kept)
        ih, hh = (getattr(self, name) for name in biases_of(ending))
        return [ih, hh] if len(kept) > 1 else [ih + hh]

    def deployed_biases(self) -> dict[str, Tensor | None]:
        """See ``QuantLayer``; of the layers that are not left in float."""
        quantised = [e for e in endings(self) if weights_of(self, e)[0] in self.quantizers]
        return {
            name: bias
            for ending in quantised
            for name, bias in zip(
                deployed_biases_of(self, ending), self.kept_biases(ending), strict=True
            )
        }

    def bias_behind(self, attribute: str) -> BiasPlace | None:
        """See ``QuantLayer``."""
        bias = getattr(self, attribute.replace("weight", "bias"), None)
        return (bias, 0) if isinstance(bias, nn.Parameter) else None

    def scales_inputs_of(self, attribute: str) -> bool:
        """See ``QuantLayer``."""
        return bool(factors_of(attribute))

    def detach(self) -> None:
        """As ``QuantLayer.detach``."""
        super().detach()
        for own in ("exact_state", "observer", "entered"):
            vars(self).pop(own, None)

    def step(self, from_x: Tensor, from_h: Tensor, state: State, ending: str) -> State:
        """One step from both products [B, gates * H], without their biases; h not projected."""
        name, biases = operator_of(self), self.kept_biases(ending)
        return tuple(torch_recurrent.cell_step(name, from_x, from_h, state, biases))

    def _deployed_layer(self, x: Tensor, state: State, ending: str) -> tuple[Tensor, State]:
        reverse, names = is_reverse(ending), weights_of(self, ending)
        if self.entered is not None and is_first(ending):
            self.entered(ending, x.flip(1) if reverse else x, state)
        if names[0] not in self.quantizers:
            return self._fused(x, state, [getattr(self, name) for name in names], ending)
        operands = [self.operand(name) for name in names]
        y, after = torch_recurrent.recurrent_layer(
            operator_of(self),
            scaled_input(self, x, names[0]),
            state,
            operands,
            self.kept_biases(ending),
            reverse=reverse,
        )
        return y, tuple(after)

    def _fused(
        self, x: Tensor, state: State, weights: list[Tensor], ending: str
    ) -> tuple[Tensor, State]:
        """PyTorch's own layer."""
        biases = [getattr(self, name) for name in biases_of(ending) if self.bias]
        name, reverse = operator_of(self), is_reverse(ending)
        return float_layer(name, x, state, weights, biases, reverse, self.training)

    def _observed(self, x: Tensor, state: State, ending: str) -> tuple[Tensor, State]:
        y, after = self._training_layer(x, state, ending)
        assert self.observer is not None
        self.observer(y)
        return y, after

    def _training_layer(self, x: Tensor, state: State, ending: str) -> tuple[Tensor, State]:
        names = weights_of(self, ending)
        weights = [self.quantized(name) for name in names]
        if names[0] not in self.quantizers:
            return self._fused(x, state, weights, ending)
        x = fake_quantize_rows(scaled_input(self, x, names[0]), self.activation_of(names[0]))
        if self._rounds_state(names[1]):
            return self._exact_layer(x, state, weights, ending)
        return self._fused(x, state, weights, ending)

    def _rounds_state(self, hh: str) -> bool:
        activation = self.activation_of(hh)
        if activation == "int8":
            return self.exact_state and self.quantizer(hh).hardness.hard
        return activation != "fp32"

    def _exact_layer(
        self, x: Tensor, state: State, weights: list[Tensor], ending: str
    ) -> tuple[Tensor, State]:
        activation, steps = self.activation_of(weights_of(self, ending)[1]), []
        frames = F.linear(x, weights[0]).unbind(1)
        for from_x in frames[::-1] if is_reverse(ending) else frames:
            from_h = F.linear(fake_quantize_rows(state[0], activation), weights[1])
            state = self.step(from_x, from_h, state, ending)
            if len(weights) > 2:
                h = F.linear(fake_quantize_rows(state[0], activation), weights[2])
                state = h, *state[1:]
            steps.append(state[0])
        return torch.stack(steps[::-1] if is_reverse(ending) else steps, 1), state


class QuantLSTM(QuantRecurrent, nn.LSTM):  # type: ignore[misc]
    """``nn.LSTM`` in training."""

    replaced = nn.LSTM
    deployed = codebook.CodebookLSTM


class QuantGRU(QuantRecurrent, nn.GRU):  # type: ignore[misc]
    """``nn.GRU`` in training."""

    replaced = nn.GRU
    deployed = codebook.CodebookGRU


class QuantRNN(QuantRecurrent, nn.RNN):  # type: ignore[misc]
    """``nn.RNN`` in training."""

    replaced = nn.RNN
    deployed = codebook.CodebookRNN


class QuantLSTMCell(QuantRecurrent, nn.LSTMCell):
    """``nn.LSTMCell`` in training."""

    replaced = nn.LSTMCell
    deployed = codebook.CodebookLSTMCell


class QuantGRUCell(QuantRecurrent, nn.GRUCell):
    """``nn.GRUCell`` in training."""

    replaced = nn.GRUCell
    deployed = codebook.CodebookGRUCell


class QuantRNNCell(QuantRecurrent, nn.RNNCell):
    """``nn.RNNCell`` in training."""

    replaced = nn.RNNCell
    deployed = codebook.CodebookRNNCell
