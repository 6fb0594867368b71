"""What ``manifest.json`` says of an artefact."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gq_tvm.errors import Error

FORMAT = "gq-tvm artefact"
VERSION = 1


@dataclass
class Tensor:
    """An input or output.

    Attributes:
        name: Its name in the exported program; outputs are called ``output_0``, ...
        dtype: E.g. ``"float32"``.
        shape: Sizes; a string names a size known only at run time, or an expression of such.
    """

    name: str
    dtype: str
    shape: list[int | str]

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        return f"{self.name} {self.dtype} [{sizes}]"


@dataclass
class Function:
    """One of an artefact's functions.

    Attributes:
        inputs: In the order it takes them.
        outputs: In the order it returns them.
        bounds: Least and greatest value of each named size, None where there is no bound.
        parameters: Names of the weights it takes behind its inputs.
        single: Whether it returns its one output bare rather than in a tuple.
        kernel: If all it does is to call one kernel on its inputs and weights: the kernel's symbol
            in the library, and the names of its arguments; what follows are the outputs.
        calls: The kernels it calls; see ``passes.kernel_calls``.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    bounds: dict[str, list[int | None]]
    parameters: list[str]
    single: bool
    kernel: list[str] | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Layer:
    """A weight in a codebook; see ``passes.Layer``, whose fields these are."""

    name: str
    kind: str
    shape: list[int]
    bits: int
    activation: str
    kernel: str
    schedule: str
    parameters: list[str]
    bytes: int
    float_bytes: int
    tied_to: str | None = None
    origin: str = ""
    call: dict[str, Any] = field(default_factory=dict)


@dataclass
class Manifest:
    """Everything about an artefact but its code and weights.

    Attributes:
        target: ``name``, ``machine``, ``features`` (needed to run), ``instruction_set``.
        functions: By name.
        layers: The codebook layers.
        parameter_bytes: Bytes of every parameter, by name.
        threads: Threads it was compiled for; kernels for several run on any number.
        metadata: JSON that came with the programs.
        versions: Of gq-tvm and TVM.
        files: SHA-256 of each other file, by name.
    """

    target: dict[str, Any]
    functions: dict[str, Function]
    layers: list[Layer]
    parameter_bytes: dict[str, int]
    threads: int = 1
    metadata: Any = None
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON."""
        return {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(data: Any, where: str) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            Error: `data` is no manifest of this version; `where` names it in the text.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise Error(f"{where} is not a gq-tvm artefact; compile the model again")
        if data.get("version") != VERSION:
            raise Error(
                f"{where} has artefact format {data.get('version')}, this gq-tvm reads format "
                f"{VERSION}; compile the model again"
            )
        try:
            return _parse({k: v for k, v in data.items() if k not in ("format", "version")})
        except (TypeError, KeyError, AttributeError, ValueError) as failure:
            raise Error(f"{where} has a damaged manifest; compile the model again") from failure


def _parse(data: dict[str, Any]) -> Manifest:
    functions = {
        name: Function(
            **{
                **one,
                "inputs": [Tensor(**tensor) for tensor in one["inputs"]],
                "outputs": [Tensor(**tensor) for tensor in one["outputs"]],
            }
        )
        for name, one in data["functions"].items()
    }
    layers = [Layer(**layer) for layer in data["layers"]]
    manifest = Manifest(**{**data, "functions": functions, "layers": layers})
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    """Raise ValueError where a field is not what its type says, or names what is not there."""
    target, sizes = manifest.target, manifest.parameter_bytes
    _demand(_are(str, [target["name"], target["machine"], target["instruction_set"]]))
    _demand(_is_list(target["features"], str))
    for table, kind in ((sizes, int), (manifest.files, str), (manifest.versions, str)):
        _demand(_are(str, table) and _are(kind, table.values()))
    _demand(isinstance(manifest.threads, int) and manifest.threads >= 1)
    _demand(bool(manifest.functions))
    for function in manifest.functions.values():
        for tensor in (*function.inputs, *function.outputs):
            _demand(_are(str, [tensor.name, tensor.dtype]) and _is_list(tensor.shape, int | str))
            np.dtype(tensor.dtype)
        for bounds in function.bounds.values():
            _demand(_is_list(bounds, int | None) and len(bounds) == 2)
        _demand(isinstance(function.single, bool))
        _demand(not function.single or len(function.outputs) == 1)
        _demand(function.kernel is None or _is_list(function.kernel, str))
        _demand(_is_list(function.calls, dict))
        _demand(_is_list(function.parameters, str) and sizes.keys() >= set(function.parameters))
    for layer in manifest.layers:
        _demand(_are(str, [layer.name, layer.kind, layer.activation, layer.kernel]))
        _demand(_are(str, [layer.schedule, layer.origin]))
        _demand(_are(int, [layer.bits, layer.bytes, layer.float_bytes]))
        _demand(_is_list(layer.shape, int) and isinstance(layer.tied_to, str | None))
        _demand(_is_list(layer.parameters, str) and sizes.keys() >= set(layer.parameters))
        _demand(isinstance(layer.call, dict))


def _demand(holds: bool) -> None:
    if not holds:
        raise ValueError


def _is_list(value: Any, kind: Any) -> bool:
    return isinstance(value, list) and _are(kind, value)


def _are(kind: Any, values: Iterable[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)
