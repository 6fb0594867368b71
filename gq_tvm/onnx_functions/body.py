"""Nodes of ONNX, written one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class Body:
    """The nodes of a function, or of a graph within a node.

    Args:
        prefix: What names of values begin with: no two bodies of a function share one.
    """

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._prefix = prefix
        self._constants: dict[tuple[Any, ...], str] = {}

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Write a node with one output, and give its name; "" is an input left out."""
        return self.several(operator, 1, *inputs, **attributes)[0]

    def several(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Write a node with many outputs, and give their names."""
        stem = f"{self._prefix}{operator}{len(self.nodes)}"
        names = [stem] if outputs == 1 else [f"{stem}_{n}" for n in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def named(self, value: str, name: str) -> None:
        """Give a value the name of an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """A constant, the same for the same values."""
        array: NDArray = np.asarray(values, dtype)
        key = array.shape, array.dtype.str, array.tobytes()
        if key not in self._constants:
            self._constants[key] = self("Constant", value=numpy_helper.from_array(array))
        return self._constants[key]

    def sizes(self, *values: int) -> str:
        """A constant of sizes or axes, i64 [n]."""
        return self.constant(values, np.int64)

    def cast(self, value: str, to: int) -> str:
        """A value in another type, a number of ``onnx.TensorProto``."""
        return self("Cast", value, to=to)

    def reshape(self, value: str, *sizes: int) -> str:
        """A value in another shape; as in ONNX 0 keeps a size and -1 is what remains."""
        return self("Reshape", value, self.sizes(*sizes))

    def graph(self, name: str, inputs: Mapping[str, int], outputs: list[tuple[str, int]]) -> Any:
        """The nodes as a graph, with types of its inputs and outputs."""
        given = [helper.make_tensor_value_info(one, kind, None) for one, kind in inputs.items()]
        taken = [helper.make_tensor_value_info(one, kind, None) for one, kind in outputs]
        return helper.make_graph(self.nodes, name, given, taken)


FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
UINT8, UINT32, DOUBLE, BOOL = (
    TensorProto.UINT8,
    TensorProto.UINT32,
    TensorProto.DOUBLE,
    TensorProto.BOOL,
)
