"""A model as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

import gq_tvm
from gq_tvm import files
from gq_tvm.errors import Error

_MOST_BYTES = 2**31 - 2**26  # of a file that is one message; the tensors of more lie beside it


def save(model: ir.Model, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a model, whole or not at all, and check it.

    Args:
        model: It; notes of PyTorch's on where nodes come from are taken out.
        path: The file; tensors of over 2 GB go to ``path`` with ``.data`` behind it.
        metadata: Texts it carries.

    Raises:
        Error: the file cannot be written, or what it holds is no valid model.
    """
    model.producer_name, model.producer_version = "gq-tvm", gq_tvm.__version__
    _without_notes(model)
    model.metadata_props.update(metadata)
    tensors = [one.const_value for one in model.graph.initializers.values()]
    size = sum(int(one.nbytes) for one in tensors if one is not None)
    beside = f"{path.name}.data" if size > _MOST_BYTES else None
    with files.whole(path) as temporary:
        ir.save(model, temporary, format="protobuf", external_data=beside)
        try:
            onnx.checker.check_model(str(temporary))
        except onnx.checker.ValidationError as failure:
            line = str(failure).strip().splitlines()[0]
            raise Error(
                f"what PyTorch wrote of the model is no valid ONNX ({line[:200]}); export another "
                "form of it"
            ) from failure


def _without_notes(model: ir.Model) -> None:
    model.metadata_props.clear()
    for graph in (model.graph, *(one.graph for one in model.functions.values())):
        graph.metadata_props.clear()
        for value in graph.initializers.values():
            value.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    for value in model.graph.inputs:
        value.metadata_props.clear()
