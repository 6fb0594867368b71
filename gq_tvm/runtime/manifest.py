"""What ``manifest.json`` says of an artefact."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gq_tvm import records
from gq_tvm.errors import Error
from gq_tvm.records import Wrong
from gq_tvm.runtime.weights import DTYPES

FORMAT = "gq-tvm artefact"
VERSION = 1
_MOST_SIZES = 64  # of a tensor: NumPy's limit


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
class KernelCall:
    """A kernel that a function calls, for profiling.

    Attributes:
        symbol: In the library.
        arguments: A parameter's name, dtype and sizes of a tensor, or ``"size"`` and one.
        outputs: Dtype and sizes of each.
        sizes: Numbers it takes behind these.
        times: How often the function makes this very call.
    """

    symbol: str
    arguments: list[str | list[int | str]]
    outputs: list[list[int | str]]
    sizes: list[int | str]
    times: int


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
        calls: The kernels it calls, in the order of the first call of each.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    bounds: dict[str, list[int | None]]
    parameters: list[str]
    single: bool
    kernel: list[str] | None = None
    calls: list[KernelCall] = field(default_factory=list)


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
class Product:
    """A weight matrix product; see ``schedules.Product``, whose fields these are."""

    n: int
    k: int
    bits: int
    activation: str
    rows: int | None
    gates: int
    glu: bool
    group: int = 0
    zero: bool = False
    tables: int = 1


@dataclass
class Manifest:
    """Everything about an artefact but its code and weights.

    Attributes:
        target: ``name``, ``machine``, ``features`` (needed to run), ``instruction_set``.
        functions: By name.
        layers: The codebook layers.
        parameter_bytes: Bytes of every parameter, by name.
        products: The weight matrix products that kernel families compute: what `gq_tvm.tune`
            tunes. None in artefacts older than this list.
        threads: Threads it was compiled for; kernels for several run on any number.
        metadata: JSON that came with the programs.
        versions: Of gq-tvm and TVM.
        files: SHA-256 of each other file, by name.
    """

    target: dict[str, Any]
    functions: dict[str, Function]
    layers: list[Layer]
    parameter_bytes: dict[str, int]
    products: list[Product] | None = None
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
            manifest = records.read(
                Manifest, {k: v for k, v in data.items() if k not in ("format", "version")}
            )
            _check(manifest)
        except Wrong as wrong:
            raise Error(
                f"{where} has a damaged manifest ({wrong}); compile the model again"
            ) from None
        return manifest


@dataclass
class _Target:
    """What ``Manifest.target`` must be."""

    name: str
    machine: str
    features: list[str]
    instruction_set: str


@dataclass
class _Call:
    """What ``Layer.call`` must be."""

    layer: str
    symbol: str
    arguments: list[str | list[int | str]]
    outputs: list[list[int | str]]


def _check(manifest: Manifest) -> None:
    """Raise `Wrong` where a value is of its type and yet cannot be true."""
    records.read(_Target, manifest.target, "target")
    sizes = manifest.parameter_bytes
    for name, size in sizes.items():
        _demand(size >= 0, f"parameter_bytes.{name}", "is negative")
    _demand(manifest.threads >= 1, "threads", "is less than 1")
    _demand(bool(manifest.functions), "functions", "is empty")
    _demand(bool(manifest.layers), "layers", "is empty")
    for name, function in manifest.functions.items():
        _check_function(function, set(sizes), f"functions.{name}")
    weights = [(layer.shape, layer.bits) for layer in manifest.layers]
    for i, one in enumerate(manifest.products or ()):
        _demand(([one.n, one.k], one.bits) in weights, f"products[{i}]", "is of no layer's weight")
        _demand(one.rows is None or one.rows >= 0, f"products[{i}].rows", "is negative")
    names = {layer.name for layer in manifest.layers}
    for i, layer in enumerate(manifest.layers):
        _check_layer(layer, names, set(sizes), f"layers[{i}]")


def _check_function(function: Function, weights: set[str], key: str) -> None:
    for kind in ("inputs", "outputs"):
        for i, tensor in enumerate(getattr(function, kind)):
            _check_tensor(tensor.dtype, tensor.shape, f"{key}.{kind}[{i}]")
    inputs = [one.name for one in function.inputs]
    _demand(len(set(inputs)) == len(inputs), f"{key}.inputs", "has a name twice")
    for size, bounds in function.bounds.items():
        _demand(len(bounds) == 2, f"{key}.bounds.{size}", "is not two numbers")
    single = not function.single or len(function.outputs) == 1
    _demand(single, f"{key}.single", "is true, but there is not one output")
    _known(function.parameters, weights, f"{key}.parameters")
    if function.kernel is not None:
        _demand(bool(function.kernel), f"{key}.kernel", "names no kernel")
        _known(function.kernel[1:], {*inputs, *function.parameters}, f"{key}.kernel")
    for i, call in enumerate(function.calls):
        _check_call(call, weights, f"{key}.calls[{i}]")
        _demand(call.times >= 1, f"{key}.calls[{i}].times", "is less than 1")
        _check_sizes(call.sizes, f"{key}.calls[{i}].sizes")


def _check_layer(layer: Layer, layers: set[str], weights: set[str], key: str) -> None:
    _check_sizes(layer.shape, f"{key}.shape")
    _demand(0 not in layer.shape, f"{key}.shape", "has a size of 0")
    _demand(1 <= layer.bits <= 8, f"{key}.bits", "is not 1 to 8")
    _demand(layer.bytes >= 0, f"{key}.bytes", "is negative")
    _known(layer.parameters, weights, f"{key}.parameters")
    _known([layer.tied_to] if layer.tied_to is not None else [], layers, f"{key}.tied_to")
    _check_call(records.read(_Call, layer.call, f"{key}.call"), weights, f"{key}.call")


def _check_call(call: _Call | KernelCall, weights: set[str], key: str) -> None:
    made = [one for one in call.arguments if isinstance(one, list)]
    for dtype, *shape in (one or [""] for one in (*made, *call.outputs)):
        if dtype == "size" and len(shape) == 1:
            _check_sizes(shape, key)
        else:
            _check_tensor(dtype, shape, key)
    _known([one for one in call.arguments if isinstance(one, str)], weights, key)


def _check_tensor(dtype: int | str, shape: list[int | str], key: str) -> None:
    _demand(dtype in DTYPES, f"{key}.dtype", f"is none of {', '.join(sorted(DTYPES))}")
    _check_sizes(shape, f"{key}.shape")


def _check_sizes(shape: Sequence[int | str], key: str) -> None:
    _demand(len(shape) <= _MOST_SIZES, key, f"has more than {_MOST_SIZES} sizes")
    for size in shape:
        _demand(isinstance(size, str) or size >= 0, key, "has a negative size")


def _known(names: Iterable[str], known: set[str], key: str) -> None:
    for name in names:
        _demand(name in known, key, f"names {name}, which there is not")


def _demand(holds: bool, key: str, wrong: str) -> None:
    if not holds:
        raise Wrong(wrong, key)
