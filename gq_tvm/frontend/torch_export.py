"""From ``torch.export`` to Relax, with codebook operators and names users know.

TVM translates the plain operators; the converters below do the ``gq::`` ones. Everything TVM lacks
is collected before translation, so that one refusal names it all.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram, default_decompositions
from tvm.ir import IRModule

import gq_tvm.ops.torch_ops  # noqa: F401  (registers torch.ops.gq, which programs call)
from gq_tvm.errors import Error
from gq_tvm.frontend.converters import arithmetic, complex_numbers, exponentials, reductions
from gq_tvm.frontend.converters.attention import ATTENTION, convert_attention, is_kept
from gq_tvm.frontend.converters.codebook import Converters
from gq_tvm.frontend.converters.decompositions import DECOMPOSITIONS
from gq_tvm.frontend.converters.joins import convert_cat
from gq_tvm.frontend.converters.sequences import MAKERS, convert_sequence
from gq_tvm.frontend.converters.slices import convert_slice
from gq_tvm.frontend.importer import Converter, Importer, reason
from gq_tvm.frontend.reading import checks
from gq_tvm.frontend.reading.folding import fold_constants
from gq_tvm.ops import torch_float_recurrent
from gq_tvm.passes.parameters import digest

_CONVERTERS: dict[str, Converter] = {
    "scaled_dot_product_attention.default": convert_attention,
    "slice.Tensor": convert_slice,
    "cat.default": convert_cat,
    **dict.fromkeys(MAKERS, convert_sequence),
    **reductions.CONVERTERS,
    **arithmetic.CONVERTERS,
    **complex_numbers.CONVERTERS,
    **exponentials.CONVERTERS,
}


def translate(
    program: ExportedProgram, name: str, prefix: str, activation: str | None
) -> tuple[IRModule, dict[str, str], dict[str, fx.Node]]:
    """Translate one program.

    Args:
        program: What ``torch.export.export`` returned.
        name: What refusals call the program.
        prefix: What layer names begin with, "" or e.g. ``"encoder."``.
        activation: one of ``ops.checks.ACTIVATIONS`` for all layers, None as each was trained.

    Returns:
        A module with the function ``main``, the names of its constants by ``parameters.digest``,
        and ``Importer.places``.

    Raises:
        Error: an input is no tensor, the program changes a buffer or an input in place, or
            operators cannot be translated.
    """
    checks.check_inputs(program, name)
    checks.check_dtypes(program, name)
    with warnings.catch_warnings():  # PyTorch deprecates what its own copying of programs uses
        warnings.simplefilter("ignore", FutureWarning)
        try:
            program = program.run_decompositions(_decompositions(program))
        except Exception as failure:
            raise Error(
                f"PyTorch cannot take program {name} apart ({reason(failure)}); export it again "
                "with this version of PyTorch"
            ) from failure
    checks.check_state(program, name)
    importer = Importer({**_CONVERTERS, **Converters(program, prefix, activation).table()})
    fold_constants(program, importer.convert_map)
    checks.check_operators(program, name, importer.convert_map)
    checks.check_indexing(program, name)
    module = importer.translate(program)
    return module, _names_of_constants(program, prefix), importer.places


def _decompositions(program: ExportedProgram) -> Any:
    table = default_decompositions()
    table.update(DECOMPOSITIONS)
    table.update(torch_float_recurrent.DECOMPOSITIONS)
    if is_kept(program):
        table.pop(ATTENTION, None)
    return table


def _names_of_constants(program: ExportedProgram, prefix: str) -> dict[str, str]:
    tensors: dict[str, Any] = {**program.state_dict, **program.constants}
    return {
        digest(tensor.detach().cpu().numpy()): prefix + target
        for target, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor) and tensor.dtype != torch.bfloat16
    }
