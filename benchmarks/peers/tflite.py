"""Writing TensorFlow Lite models, which LiteRT runs: no converter takes 4- and 2-bit weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np
from numpy.typing import NDArray

_TYPES = {8: schema.TensorType.INT8, 4: schema.TensorType.INT4, 2: schema.TensorType.INT2}
# The first version of FULLY_CONNECTED with weights quantised per channel and float activations.
_HYBRID = 12


def quantize(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.int8], NDArray]:
    """Quantise symmetrically, a scale a row: int8 [N, K] and the scales f32 [N]."""
    largest = 2 ** (bits - 1) - 1
    if bits == 2:  # four levels -2 .. 1; the largest value would make a poor scale
        scale, least = np.abs(weight).mean(1) * 1.2, -2
    else:
        scale, least = np.abs(weight).max(1) / largest, -largest
    codes = np.clip(np.round(weight / scale[:, None]), least, largest).astype(np.int8)
    return codes, scale.astype(np.float32)


def pack(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Put codes of so many bits into bytes, the first in the low bits."""
    per_byte = 8 // bits
    fields = codes.reshape(-1, per_byte).astype(np.uint8) & np.uint8(2**bits - 1)
    packed = np.zeros(len(fields), np.uint8)
    for place in range(per_byte):
        packed |= fields[:, place] << (bits * place)
    return packed


class Graph:
    """A model under construction; tensors are numbers.

    Args:
        bits: Of the weights of fully connected layers; 32 leaves them in float.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.weight_bytes = 0
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.buffers = [schema.BufferT()]
        self._model.operatorCodes = []
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._model.subgraphs = [self._graph]
        self._codes: dict[tuple[int, int], int] = {}

    def tensor(self, *shape: int) -> int:
        """A float tensor that is computed, or an input."""
        return self._tensor(shape, schema.TensorType.FLOAT32)

    def constant(self, value: Any, dtype: Any = np.float32) -> int:
        """A tensor with a value."""
        array = np.asarray(value, dtype)
        kind = schema.TensorType.FLOAT32 if dtype == np.float32 else schema.TensorType.INT32
        return self._tensor(array.shape, kind, array)

    def op(
        self, name: str, inputs: Sequence[int], *shapes: Sequence[int], **options: Any
    ) -> tuple[int, ...]:
        """Add an operator with outputs of these shapes.

        Args:
            name: As in the schema, e.g. ``"MUL"``.
            inputs: Tensors; -1 for one left out.
            shapes: Of the outputs.
            options: ``kind`` is the table of options, ``version`` the operator's; the rest are
                fields of the table.
        """
        kind, version = options.pop("kind", None), options.pop("version", 1)
        code = getattr(schema.BuiltinOperator, name)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(code, version)
        operator.inputs = list(inputs)
        outputs = tuple(self.tensor(*shape) for shape in shapes)
        operator.outputs = list(outputs)
        if kind:
            table = getattr(schema, f"{kind}T")()
            for field, value in options.items():
                setattr(table, field, value)
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = table
        self._graph.operators.append(operator)
        return outputs

    def fully_connected(
        self, x: int, rows: int, weight: NDArray[np.float32], bias: NDArray | None = None
    ) -> int:
        """``x W^T + bias`` with the weight quantised to the graph's bits."""
        if self.bits == 32:
            held, version = self.constant(weight), 1
            self.weight_bytes += weight.nbytes
        else:
            codes, scale = quantize(weight, self.bits)
            packed = pack(codes, self.bits)
            held, version = self._tensor(weight.shape, _TYPES[self.bits], packed, scale), _HYBRID
            self.weight_bytes += packed.nbytes + scale.nbytes
        added = -1 if bias is None else self.constant(bias)
        (y,) = self.op(
            "FULLY_CONNECTED", [x, held, added], (rows, weight.shape[0]),
            kind="FullyConnectedOptions", version=version, keepNumDims=True,
        )  # fmt: skip
        return y

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file."""
        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _code(self, code: int, version: int) -> int:
        if (code, version) not in self._codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.version = code, version
            entry.deprecatedBuiltinCode = min(code, 127)
            self._codes[code, version] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(entry)
        return self._codes[code, version]

    def _tensor(
        self,
        shape: Sequence[int],
        kind: int,
        data: NDArray | None = None,
        scale: NDArray | None = None,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name = f"t{len(self._graph.tensors)}"
        tensor.shape, tensor.type, tensor.buffer = list(shape), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self._model.buffers)
            self._model.buffers.append(buffer)
        if scale is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = scale
            quantization.zeroPoint = np.zeros(len(scale), np.int64)
            quantization.quantizedDimension = 0
            tensor.quantization = quantization
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1
