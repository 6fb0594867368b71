"""Whether ONNX Runtime computes of a file what PyTorch computes of the program it was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
from torch.export import ExportedProgram

from gq_tvm.onnx_import.comparison import compare
from gq_tvm.onnx_import.graph_file import Input
from gq_tvm.onnx_import.sizes import axes_of


def compare_with_onnx_runtime(
    path: Path, program: ExportedProgram, model: ir.Model, say: Callable[[str], object]
) -> None:
    """Compare outputs at two sizes of each axis known at run time.

    Args:
        path: The file.
        program: The program.
        model: What is in the file.
        say: Called with a line: the greatest error, or why there is none.

    Raises:
        Error: an output differs.
    """
    inputs = [
        Input(
            str(one.name),
            int(one.dtype or 1),
            tuple(size if isinstance(size, int) else size.value for size in one.shape or ()),
        )
        for one in model.graph.inputs
    ]
    axes = axes_of(inputs, {}, {})
    values = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    sizes = {
        name: int(size.node.hint)
        for one, names in zip(program.graph_signature.user_inputs, axes.names, strict=True)
        for name, size in zip(names, values[str(one)].shape, strict=True)
        if isinstance(name, str)
    }
    compare(path, program, axes, sizes, {}, say)
