"""The problems as TensorFlow Lite graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.models import Conformer, ConformerBlock, FeedForward, StreamingLSTM
from benchmarks.peers.tflite import Graph

File = tuple[bytes, int]


def linear(weight: NDArray[np.float32], rows: int, bits: int) -> File:
    """One layer: the file, and the bytes of its weights."""
    graph = Graph(bits)
    x = graph.tensor(rows, weight.shape[1])
    y = graph.fully_connected(x, rows, weight)
    return graph.finish([x], [y]), graph.weight_bytes


def lstm(model: StreamingLSTM, bits: int) -> File:
    """One frame through a stack of LSTM layers.

    The recurrent and the input product of a layer are one, as a converter would make them. Inputs:
    x [1, width], then h and c of each layer; outputs alike.
    """
    graph, cells = Graph(bits), model.lstm
    width, one = cells.hidden_size, (1, cells.hidden_size)
    y = x = graph.tensor(*one)
    states, new = [], []
    axis = graph.constant(1, np.int32)
    for number in range(cells.num_layers):
        h, c = graph.tensor(*one), graph.tensor(*one)
        states += [h, c]
        (joined,) = graph.op("CONCATENATION", [y, h], (1, 2 * width),
                             kind="ConcatenationOptions", axis=1)  # fmt: skip
        gates = graph.fully_connected(joined, 1, *lstm_weight(cells, number))
        i, f, g, o = graph.op("SPLIT", [axis, gates], *[one] * 4, kind="SplitOptions", numSplits=4)
        i, f, o = (graph.op("LOGISTIC", [gate], one)[0] for gate in (i, f, o))
        kept = _times(graph, f, c, one)
        taken = _times(graph, i, graph.op("TANH", [g], one)[0], one)
        c = _plus(graph, kept, taken, one)
        y = _times(graph, o, graph.op("TANH", [c], one)[0], one)
        new += [y, c]
    return graph.finish([x, *states], [y, *new]), graph.weight_bytes


def lstm_weight(cells: nn.LSTM, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A layer's weights side by side, f32 [4H, I + H], and the sum of its biases, f32 [4H]."""
    ih, hh, bias_ih, bias_hh = (
        _array(getattr(cells, f"{kind}_l{number}"))
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    return np.concatenate([ih, hh], axis=1), bias_ih + bias_hh


def conformer(model: Conformer, bits: int) -> File:
    """A chunk through all blocks; the batch norm is folded into the depthwise convolution."""
    graph = Graph(bits)
    y = x = graph.tensor(model.frames, model.width)
    for block in model.blocks:
        y = _Block(graph, block, model.frames).add(y)
    return graph.finish([x], [y]), graph.weight_bytes


class _Block:
    def __init__(self, graph: Graph, block: nn.Module, frames: int) -> None:
        assert isinstance(block, ConformerBlock)
        self.graph, self.block, self.frames = graph, block, frames
        self.shape = (frames, block.width)

    def add(self, x: int) -> int:
        block, graph, shape = self.block, self.graph, self.shape
        x = _plus(graph, x, self._halved(self._feed(x, block.feed1)), shape)
        x = _plus(graph, x, self._attend(self._norm(x, block.attention_norm)), shape)
        x = _plus(graph, x, self._convolve(self._norm(x, block.convolution_norm)), shape)
        x = _plus(graph, x, self._halved(self._feed(x, block.feed2)), shape)
        return self._norm(x, block.norm)

    def _halved(self, x: int) -> int:
        return _times(self.graph, x, self.graph.constant(0.5), self.shape)

    def _linear(self, x: int, layer: nn.Linear) -> int:
        return self.graph.fully_connected(x, self.frames, _array(layer.weight), _array(layer.bias))

    def _feed(self, x: int, module: FeedForward) -> int:
        inner = (self.frames, module.wide.out_features)
        y = self._linear(self._norm(x, module.norm), module.wide)
        return self._linear(self._silu(y, inner), module.narrow)

    def _silu(self, x: int, shape: Sequence[int]) -> int:
        return _times(self.graph, x, self.graph.op("LOGISTIC", [x], shape)[0], shape)

    def _norm(self, x: int, norm: nn.LayerNorm) -> int:
        graph, shape, column = self.graph, self.shape, (self.frames, 1)
        axis = graph.constant([1], np.int32)

        def mean(value: int) -> int:
            return graph.op("MEAN", [value, axis], column, kind="ReducerOptions", keepDims=True)[0]

        (centred,) = graph.op("SUB", [x, mean(x)], shape, kind="SubOptions")
        variance = mean(_times(graph, centred, centred, shape))
        shifted = _plus(graph, variance, graph.constant(norm.eps), column)
        (inverse,) = graph.op("RSQRT", [shifted], column)
        y = _times(graph, centred, inverse, shape)
        y = _times(graph, y, graph.constant(_array(norm.weight)), shape)
        return _plus(graph, y, graph.constant(_array(norm.bias)), shape)

    def _attend(self, x: int) -> int:
        graph, block = self.graph, self.block
        frames, heads, size = self.frames, block.heads, block.width // block.heads
        swap = graph.constant([1, 0, 2], np.int32)
        apart = graph.constant([frames, heads, size], np.int32)
        together = graph.constant(self.shape, np.int32)
        split, scores = (heads, frames, size), (heads, frames, frames)

        def heads_of(layer: nn.Linear) -> int:
            (y,) = graph.op("RESHAPE", [self._linear(x, layer), apart], (frames, heads, size))
            return graph.op("TRANSPOSE", [y, swap], split, kind="TransposeOptions")[0]

        q, k, v = heads_of(block.query), heads_of(block.key), heads_of(block.value)
        (y,) = graph.op("BATCH_MATMUL", [q, k], scores, kind="BatchMatMulOptions", adjY=True)
        (y,) = graph.op("SOFTMAX", [y], scores, kind="SoftmaxOptions", beta=size**-0.5)
        (y,) = graph.op("BATCH_MATMUL", [y, v], split, kind="BatchMatMulOptions")
        (y,) = graph.op("TRANSPOSE", [y, swap], (frames, heads, size), kind="TransposeOptions")
        (y,) = graph.op("RESHAPE", [y, together], self.shape)
        return self._linear(y, block.attended)

    def _convolve(self, x: int) -> int:
        graph, block, shape = self.graph, self.block, self.shape
        image = (1, self.frames, 1, block.width)
        y, gate = graph.op(
            "SPLIT", [graph.constant(1, np.int32), self._linear(x, block.gated)], shape, shape,
            kind="SplitOptions", numSplits=2,
        )  # fmt: skip
        y = _times(graph, y, graph.op("LOGISTIC", [gate], shape)[0], shape)
        (y,) = graph.op("RESHAPE", [y, graph.constant(image, np.int32)], image)
        weight, bias = folded(block)
        taps = graph.constant(weight.T.reshape(1, block.kernel, 1, block.width))
        (y,) = graph.op(
            "DEPTHWISE_CONV_2D", [y, taps, graph.constant(bias)], image,
            kind="DepthwiseConv2DOptions", padding=0, strideW=1, strideH=1, depthMultiplier=1,
            dilationWFactor=1, dilationHFactor=1,
        )  # fmt: skip
        (y,) = graph.op("RESHAPE", [y, graph.constant(shape, np.int32)], shape)
        return self._linear(self._silu(y, shape), block.convolved)


def folded(block: ConformerBlock) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Depthwise convolution and batch norm as one: f32 [width, kernel] and f32 [width]."""
    norm, convolution = block.batch_norm, block.depthwise
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert convolution.bias is not None
    scale = _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)
    bias = (_array(convolution.bias) - _array(norm.running_mean)) * scale + _array(norm.bias)
    return _array(convolution.weight)[:, 0, :] * scale[:, None], bias


def _plus(graph: Graph, a: int, b: int, shape: Sequence[int]) -> int:
    return graph.op("ADD", [a, b], shape, kind="AddOptions")[0]


def _times(graph: Graph, a: int, b: int, shape: Sequence[int]) -> int:
    return graph.op("MUL", [a, b], shape, kind="MulOptions")[0]


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().numpy()
