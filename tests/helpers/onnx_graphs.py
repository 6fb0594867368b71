"""Small ONNX graphs, and what they compute: by the reference of the onnx package, and here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import gq_tvm.onnx_import.operators  # noqa: F401  (registers them)
from gq_tvm.onnx_import import graph_file
from gq_tvm.onnx_import.module import GraphModule

Arrays = Mapping[str, NDArray]


def value(name: str, shape: Sequence[Any] | None, dtype: Any = np.float32) -> Any:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[str],
    constants: Arrays | None = None,
    opset: int = 23,
) -> Any:
    """A model; com.microsoft's operators may be in it too."""
    held = [numpy_helper.from_array(one, name) for name, one in (constants or {}).items()]
    given = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), given, held)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def one_node(
    operator: str,
    inputs: Arrays,
    constants: Arrays | None = None,
    outputs: int = 1,
    opset: int = 23,
    order: Sequence[str] | None = None,
    domain: str = "",
    **attributes: Any,
) -> Any:
    """A model of one node, its inputs in the order given: first `inputs`, then `constants`."""
    names = order if order is not None else [*inputs, *(constants or {})]
    results = [f"y{n}" for n in range(outputs)]
    node = helper.make_node(operator, names, results, name="it", domain=domain, **attributes)
    given = [value(name, one.shape, one.dtype) for name, one in inputs.items()]
    return model([node], given, results, constants, opset)


def save(proto: Any, folder: Path, name: str = "model.onnx") -> Path:
    onnx.save(proto, folder / name)
    return folder / name


def run(proto: Any, inputs: Arrays, folder: Path) -> list[NDArray]:
    """What a model computes here, without an export."""
    module = GraphModule(graph_file.read(save(proto, folder))).eval()
    with torch.no_grad():
        result = module(*(torch.from_numpy(one) for one in inputs.values()))
    results = result if isinstance(result, tuple) else (result,)
    return [one.detach().numpy() for one in results]


def reference(proto: Any, inputs: Arrays) -> list[NDArray]:
    """What the onnx package says it computes."""
    found: Any = ReferenceEvaluator(proto).run(None, dict(inputs))
    return list(found)


def check(proto: Any, inputs: Arrays, folder: Path, atol: float = 1e-5) -> None:
    """Compare both, sizes and dtypes too."""
    for got, wanted in zip(run(proto, inputs, folder), reference(proto, inputs), strict=True):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=atol)
