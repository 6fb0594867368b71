"""What is compiled: one or several exported programs, read from memory or from a ``.pt2`` file."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gq_tvm.errors import Error
from gq_tvm.frontend.reading.archive import Archive
from gq_tvm.frontend.reading.kinds import check_is_pt2
from gq_tvm.ops import METADATA

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram
    from tvm.ir import GlobalVar, IRModule

    from gq_tvm.onnx_import import Options

_ONLY = ("main", "model")  # what the one program of a plain model is called


@dataclass
class Program:
    """Exported programs by name, with what else came along.

    Attributes:
        programs: What ``torch.export.export`` returned, by function name; a plain model has
            ``"main"`` alone.
        metadata: JSON that came with them, not looked into; None if there was none.
        extra: All texts that came with them, by name.
    """

    programs: dict[str, ExportedProgram]
    metadata: Any = None
    extra: dict[str, str] = field(default_factory=dict)


@dataclass
class Translated:
    """A Relax module with a function for each program.

    Attributes:
        module: Functions with codebook operators, weights as constants.
        names: What those constants are called, by ``passes.parameters.digest``.
        places: By function, the node of the program that each value comes from, by its name.
    """

    module: IRModule
    names: dict[str, str] = field(default_factory=dict)
    places: dict[str, dict[str, fx.Node]] = field(default_factory=dict)


def read(
    source: Any, onnx: Options | None = None, say: Callable[[str], object] = lambda line: None
) -> Program:
    """Take whatever ``gq_tvm.build`` takes.

    Args:
        source: An exported program, a mapping of names to them, or the path of a ``.pt2`` or
            ``.onnx`` file, whose author need not be trusted: nothing in it is unpickled or run
            (see `archive`).
        onnx: What is said of a ``.onnx`` file beside it.
        say: Called with lines of text on what becomes of a ``.onnx`` file.

    Raises:
        Error: the file is missing, damaged, of another kind or one that asks to be trusted; or
            `source` is something else.
    """
    from torch.export import ExportedProgram

    if isinstance(source, Program):
        return source
    if isinstance(source, ExportedProgram):
        return Program({"main": source})
    if isinstance(source, Mapping):
        return _named(dict(source), None)
    if isinstance(source, str | os.PathLike):
        return _read_onnx(Path(source), onnx, say) if is_onnx(source) else _read_pt2(Path(source))
    raise Error(
        f"cannot compile a {type(source).__name__}; give what torch.export.export returns, a "
        "mapping of names to such programs, or the path of a .pt2 or .onnx file"
    )


def translate(program: Program, activation: str | None = None) -> Translated:
    """Translate all programs into one module.

    Args:
        program: The programs.
        activation: one of ``ops.checks.ACTIVATIONS`` for all layers, None as each was trained.

    Raises:
        Error: see ``torch_export.translate``.
    """
    from tvm.ir import GlobalVar, IRModule

    from gq_tvm.frontend import torch_export

    functions: dict[GlobalVar, Any] = {}
    names: dict[str, str] = {}
    places: dict[str, dict[str, fx.Node]] = {}
    for name, exported in program.programs.items():
        prefix = "" if len(program.programs) == 1 else f"{name}."
        module, its_names, places[name] = torch_export.translate(exported, name, prefix, activation)
        functions[GlobalVar(name)] = module["main"].with_attr("global_symbol", name)
        names = {**its_names, **names}
    return Translated(IRModule(functions), names, places)


def unused_inputs(program: ExportedProgram) -> list[str]:
    """The inputs a program ignores.

    ``torch.export`` takes one tensor given for two arguments as one input, and ignores the other.
    """
    inputs = set(program.graph_signature.user_inputs)
    return [
        node.name
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in inputs and not node.users
    ]


def _named(programs: dict[Any, Any], metadata: Any) -> Program:
    from torch.export import ExportedProgram

    if not programs:
        raise Error("there is no program to compile; give at least one")
    for name, exported in programs.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise Error(f"program name {name!r} cannot be a function name; use letters and digits")
        if not isinstance(exported, ExportedProgram):
            raise Error(
                f"program {name} is a {type(exported).__name__}; give what torch.export.export "
                "returns"
            )
    if len(programs) == 1 and next(iter(programs)) in _ONLY:
        return Program({"main": next(iter(programs.values()))}, metadata)
    return Program(programs, metadata)


def is_onnx(source: Any) -> bool:
    """Whether a source is the path of what is called an ONNX file."""
    return isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".onnx"


def _read_onnx(path: Path, options: Options | None, say: Callable[[str], object]) -> Program:
    from gq_tvm import onnx_import

    return Program({"main": onnx_import.read(path, options, say)})


def _read_pt2(path: Path) -> Program:
    check_is_pt2(path)
    from torch.export.pt2_archive._package import load_pt2

    import gq_tvm.ops.torch_ops  # noqa: F401  (programs call torch.ops.gq)

    try:
        archive = Archive(path)
        programs = load_pt2(archive.rewritten()).exported_programs
        for name, exported in programs.items():
            exported.example_inputs = archive.samples(name)
    except Error:
        raise
    except Exception as failure:
        raise Error(
            f"{path} cannot be read by this PyTorch ({_reason(failure)}); write it again with "
            "torch.export.save"
        ) from failure
    if not programs:
        raise Error(f"{path} holds no exported program; write it with torch.export.save")
    read = _named(dict(programs), _metadata(path, archive.extra))
    return replace(read, extra=archive.extra)


def _metadata(path: Path, extra_files: Mapping[str, Any]) -> Any:
    text = extra_files.get(METADATA)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Error(f"{path}: its {METADATA} is not valid JSON; write the file again") from None


def _reason(failure: Exception) -> str:
    lines = str(failure).strip().splitlines()
    return textwrap.shorten(lines[0], 200, placeholder=" ...") if lines else type(failure).__name__
