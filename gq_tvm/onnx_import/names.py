"""What an ONNX file calls its inputs, outputs and sizes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import onnx


class Names(NamedTuple):
    """Names, as ``gq_tvm.export_onnx`` takes them.

    Attributes:
        input_names: Of the inputs.
        output_names: Of the outputs.
        dynamic_shapes: For each input, names of sizes by axis.
    """

    input_names: list[str]
    output_names: list[str]
    dynamic_shapes: list[dict[int, str]]


def names_of(path: Path, fixed: Collection[str] = ()) -> Names:
    """The names in a file that was read before.

    Args:
        path: The file.
        fixed: Inputs that are none any longer.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    held = {one.name for one in graph.initializer} | set(fixed)
    inputs = [one for one in graph.input if one.name not in held]
    sizes = [
        {axis: size.dim_param for axis, size in enumerate(dims) if size.dim_param.strip("? ")}
        for dims in (one.type.tensor_type.shape.dim for one in inputs)
    ]
    return Names([one.name for one in inputs], [one.name for one in graph.output], sizes)
