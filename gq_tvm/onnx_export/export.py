"""From a PyTorch model to an ONNX file."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

import gq_tvm.ops.torch_ops  # noqa: F401  (registers torch.ops.gq)
from gq_tvm.errors import Error
from gq_tvm.frontend.places import place_of
from gq_tvm.frontend.reading import checks
from gq_tvm.onnx_export import naming
from gq_tvm.onnx_export.compared import compare_with_onnx_runtime
from gq_tvm.onnx_export.file import save
from gq_tvm.onnx_export.operators import decompositions
from gq_tvm.onnx_export.rewrite import rewrite
from gq_tvm.onnx_functions import OPERATORS

Say = Callable[[str], object]

# BitwiseAnd and axes as inputs came with it, and PyTorch's exporter writes nothing older.
_LOWEST = 18


def export_onnx(
    model: nn.Module | ExportedProgram,
    args: Sequence[Any] | None,
    path: str | os.PathLike[str],
    *,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int = _LOWEST,
    matmul_nbits: bool = True,
    metadata: Mapping[str, str] | None = None,
    compare: bool = True,
    say: Say = lambda line: None,
) -> None:
    """Write a model as an ONNX file that ONNX Runtime runs, its weights packed.

    A layer with a weight in a codebook is a call of a function in the file, of nodes of ONNX's own:
    indices of n bits, n bits each, are shifted and masked to integers, looked up in the table
    (Gather), times scales, less zero points, and outliers are added. ONNX Runtime computes that
    once, when it loads the file. Activations of ``"int8"`` (``"int2"``, ``"int1"``) are rounded row
    by row as everywhere in gq-tvm and multiplied as integers (MatMulInteger), exactly; so results
    are PyTorch's but for last bits of float sums, within 1e-5 of their size (relative L2) as long
    as none of these tips a rounding over. Where a product with ``"fp32"`` activations has a table
    of 2, 4 or 8 bits that is a uniform grid, and no outliers, it is a node MatMulNBits of
    com.microsoft. Float layers are PyTorch's own (``torch.onnx``), but for LSTM, GRU and RNN, which
    run any number of frames from one on; sequences of length 0 keep their first state.

    A file over 2 GB has its tensors beside it, in a file with ``.data`` at its name's end.

    Args:
        model: What ``torch.export.export`` returned; or a module, with layers in codebooks or
            without, which is exported as in evaluation.
        args: Example inputs of a module, as a tuple; None for a program.
        path: The file.
        dynamic_shapes: Of a module, as ``torch.export.export`` takes them. Names in it (those of
            ``Dim``, or for a program texts) are names of sizes in the file.
        input_names: Names of the inputs; those of the model's arguments by default.
        output_names: Names of the outputs; by default the keys that the model gives them by, else
            ``output``, or ``output_0`` and so on.
        opset: Of ONNX, 18 or later.
        matmul_nbits: False writes no MatMulNBits.
        metadata: Texts that the file carries, by name.
        compare: Whether outputs are compared with ONNX Runtime's, where that is installed.
        say: Called with lines of text: how outputs compare.

    Raises:
        Error: PyTorch cannot export the model, a layer cannot be written, or outputs differ.
    """
    if opset < _LOWEST:
        raise Error(f"opset {opset} lacks operators that codebooks need; take {_LOWEST} or later")
    program = _program(model, args, dynamic_shapes)
    checks.check_inputs(program, "main")
    _check_known(program)
    with _quietly():
        lowered = program.run_decompositions(decompositions())
        checks.check_state(lowered, "main")
        exported = _exported(lowered, opset)
    rewrite(exported, opset, matmul_nbits)
    naming.name_all(exported, program, input_names, output_names, dynamic_shapes)
    save(exported, Path(path), metadata or {})
    if compare:
        compare_with_onnx_runtime(Path(path), program, exported, say)


def _program(
    model: nn.Module | ExportedProgram, args: Sequence[Any] | None, dynamic_shapes: Any
) -> ExportedProgram:
    if isinstance(model, ExportedProgram):
        return model
    if not isinstance(model, nn.Module):
        raise Error(
            f"cannot write a {type(model).__name__} to an ONNX file; give a module, or what "
            "torch.export.export returns"
        )
    if args is None:
        raise Error("a module is exported with example inputs; give them as a tuple")
    modes = {one: one.training for one in model.modules()}
    try:
        with _quietly(), torch.no_grad():
            return torch.export.export(model.eval(), tuple(args), dynamic_shapes=dynamic_shapes)
    except Error:
        raise
    except Exception as failure:
        raise Error(f"the model cannot be exported by PyTorch: {_reason(failure)}") from failure
    finally:
        for one, training in modes.items():
            one.training = training


def _check_known(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        name = str(node.target)
        if name.startswith("gq.") and name.split(".")[1] not in OPERATORS:
            raise Error(
                f"{place_of(node)} cannot be written to an ONNX file; leave this layer in float"
            )


def _exported(program: ExportedProgram, opset: int) -> Any:
    """What PyTorch's exporter gives."""
    try:
        with torch.no_grad():
            written = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
    except ModuleNotFoundError:
        raise
    except Exception as failure:
        raise _refusal(program, failure) from failure
    assert written is not None
    return written.model


def _refusal(program: ExportedProgram, failure: Exception) -> Error:
    unknown = re.search(r"No ONNX function found for <OpOverload\(op='([^']*)'", str(failure))
    for node in program.graph.nodes:
        if unknown and str(node.target).startswith(f"{unknown[1]}.".replace("::", ".")):
            return Error(
                f"PyTorch cannot write {place_of(node)} to an ONNX file; replace it by other "
                "operators"
            )
    return Error(f"PyTorch cannot write the model to ONNX: {_reason(failure)}")


def _reason(failure: Exception) -> str:
    lines = [one for one in str(failure).strip().splitlines() if one.strip()]
    return lines[0][:300] if lines else type(failure).__name__


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what PyTorch says of itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
