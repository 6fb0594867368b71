"""Whether a program computes what ONNX Runtime computes of the file it comes from.

At graph level BASIC: beyond it ONNX Runtime rounds activations of its own accord (MatMulNBits made
of DequantizeLinear). Of quantised operators it is given the graph that ``exact`` makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves, tree_unflatten

from gq_tvm.errors import Error
from gq_tvm.onnx_functions import DOMAIN
from gq_tvm.onnx_import.bounds import is_constant
from gq_tvm.onnx_import.exact import rewritten, to_exact
from gq_tvm.onnx_import.sizes import Axes, others

MOST = 1e-2  # relative L2 error
# Absolute errors that count for nothing: ONNX Runtime's own Sigmoid errs by 1e-7 near 0 too,
# where a detector that sees nothing has all of its outputs. [C]
_LEAST = 1e-6
MOST_ROUNDED = 1e-1  # where activations are rounded: some tip over [C]


def compare(
    path: Path,
    program: ExportedProgram,
    axes: Axes,
    sizes: Mapping[str, int],
    fixed: Mapping[str, NDArray],
    say: Any,
) -> None:
    """Compare outputs at two sizes of each axis known at run time.

    Args:
        path: The ONNX file.
        program: What was made of it.
        axes: Of its inputs.
        sizes: Some that work.
        fixed: Inputs that are constants.
        say: Called with a line: the greatest error, or why there is none.

    Raises:
        Error: an output differs.
    """
    if find_spec("onnxruntime") is None:
        say(
            "not compared with ONNX Runtime, which is not installed (pip install 'gq-tvm[compare]')"
        )
        return
    runtime, rounds, why = session(path)
    if runtime is None:
        say(f"not compared with ONNX Runtime, which does not load the file: {why}")
        return
    module: Any = program.module()
    free = {
        name: size
        for name, size in sizes.items()
        if any(
            name in each and not is_constant(shape[each.index(name)])
            for each, shape in zip(axes.names, _shapes(program), strict=True)
        )
    }
    worst, told = 0.0, []
    for tried in [dict(sizes), *[{**sizes, **one} for one in others(free) if free]]:
        inputs = axes.tensors(tried, seed=1)
        given = {
            one.name: tensor.numpy() for one, tensor in zip(axes.inputs, inputs, strict=True)
        } | dict(fixed)
        wanted, failure = _run(runtime, given)
        if wanted is None:
            why = failure
            continue
        try:
            with torch.no_grad():
                args, named = tree_unflatten(inputs, program.call_spec.in_spec)
                got = module(*args, **named)
        except Exception as problem:
            first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            say(f"warning: runs in ONNX Runtime but not here at {_told(tried)}: {first[:200]}")
            continue
        for output, one, its in zip(runtime.get_outputs(), wanted, tree_leaves(got), strict=True):
            apart = error(its.detach().numpy(), one)
            worst = max(worst, apart)
            if apart <= (MOST_ROUNDED if rounds else MOST):
                continue
            raise Error(
                f"{path}: output {output.name} differs from ONNX Runtime's by {apart:.2g} of its "
                f"size at {_told(tried)}, an error of ours; --no-compare goes on all the same"
            )
        told.append(_told(tried))
        if len(told) == 2:
            break
    if told:
        say(f"agrees with ONNX Runtime to {worst:.1e}, at {' and at '.join(told)}")
    else:
        say(f"not compared with ONNX Runtime, which does not run it: {why}")


def session(path: Path) -> tuple[Any, bool, str]:
    """What runs a file, whether that rounds activations, and why there is nothing that does."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    graph = onnx.load(str(path), load_external_data=False).graph
    rounds = any(map(_rounds, graph.node))
    given: Any = str(path)
    try:
        if rewritten(graph):
            model = onnx.load(str(path))
            given = model.SerializeToString() if to_exact(model) else given
        providers = ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(given, options, providers=providers), rounds, ""
    except Exception as failure:  # of many classes, all of its own
        return None, rounds, str(failure).strip().splitlines()[0][:200]


def _rounds(node: Any) -> bool:
    """Whether a node rounds activations, or is a call of our own that does."""
    if node.domain == DOMAIN:
        return any(one.s.startswith(b"int") for one in node.attribute)
    return "Dynamic" in node.op_type or "Quantize" in node.op_type


def _run(runtime: Any, given: Mapping[str, NDArray]) -> tuple[Any, str]:
    try:
        return runtime.run(None, dict(given)), ""
    except Exception as failure:
        return None, str(failure).strip().splitlines()[0][:200]


def _shapes(program: ExportedProgram) -> list[Any]:
    values = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    return [values[str(name)].shape for name in program.graph_signature.user_inputs]


def _told(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "the sizes it has"


def error(got: NDArray, wanted: NDArray) -> float:
    """The relative L2 error, 0 below what counts; infinite where shapes or NaNs differ."""
    if got.shape != wanted.shape:
        return float("inf")
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    same = np.array_equal(np.isnan(got), np.isnan(wanted))
    if not same:
        return float("inf")
    got, wanted = np.nan_to_num(got), np.nan_to_num(wanted)
    apart, norm = got - wanted, np.linalg.norm(wanted)
    greatest = float(np.abs(apart).max(initial=0))
    if greatest <= _LEAST:
        return 0.0
    return float(np.linalg.norm(apart) / norm) if norm else greatest
