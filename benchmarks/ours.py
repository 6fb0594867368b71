"""gq-tvm: real artefacts by the public road, compiled, saved and loaded like anybody's."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import gq_tvm
from benchmarks.candidate import Candidate, Ready
from benchmarks.problems import Layer, Model
from gq_tvm import quantize
from gq_tvm.ops.checks import ACTIVATIONS
from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer, CodebookLinear
from gq_tvm.schedules import FAMILIES, Family, Product, families_for
from gq_tvm.targets import Target, get

SYSTEM = "gq-tvm"
BITS = (8, 7, 6, 5, 4, 3, 2, 1)
#: Bits at which whole models are measured.
MODEL_BITS = (8, 4, 3, 2, 1)
#: A weight whose groups of so many inputs have scales, at so many bits, beside one without.
GROUPED_BITS, GROUP = 4, 32
#: Bits a layer of the LSTM models when they are mixed: fewer further from the input.
MIXED = {5: (3, 3, 2, 2, 2), 2: (4, 4)}
# Bits of the rows with fp32 activations.
_FLOAT_BITS = (4,)
# Plain loops, for machines without vector code: too slow at these sizes to take turns with.
_PLAIN = "scalar"


@dataclass(frozen=True)
class _Version:
    """A weight, the kernel for it, and how it is called.

    Attributes:
        kernel: "auto" or the name of a family.
        way: "" for a bound call, as peers are called; "kernel alone" without the runtime around
            it; "net(x)" as a user calls, inputs checked and outputs made anew.
        group: Inputs that share a scale; 0 where all of a row do.
    """

    bits: int
    activation: str
    kernel: str
    way: str = ""
    group: int = 0

    @property
    def name(self) -> str:
        parts = [f"{self.bits} bit"]
        if self.group:
            parts.append(f"in groups of {self.group}")
        if self.activation != "int8":
            parts.append(f"x {self.activation}")
        if self.kernel != "auto":
            parts.append(self.kernel)
        if self.way:
            parts.append(self.way)
        return " ".join(parts)


def candidates(problem: Layer | Model) -> list[Candidate]:
    """Return ours for ``problem``."""
    return _layer(problem) if isinstance(problem, Layer) else _model(problem)


def _layer(problem: Layer) -> list[Candidate]:
    target = get("native")
    return [
        Candidate(
            SYSTEM, version.name, version.bits, version.activation,
            partial(_prepare_layer, problem, version),
            partial(_expected, problem, version), codebook="any",
        )
        for version in _versions(target, problem)
    ]  # fmt: skip


def _versions(target: Target, problem: Layer) -> Iterator[_Version]:
    """Every bit-width as ``auto`` has it, and by name every family where there is a choice."""
    for bits in BITS:
        yield from (_Version(bits, "int8", "auto", way) for way in ("", "kernel alone", "net(x)"))
        if bits == GROUPED_BITS:
            yield _Version(bits, "int8", "auto", "kernel alone", GROUP)
        families = _families(target, problem, bits, "int8")
        if len(families) > 1:
            yield from (_Version(bits, "int8", family.name) for family in families)
    for bits, activation in itertools.product(BITS, set(ACTIVATIONS) - {"int8"}):
        wanted = _FLOAT_BITS if activation == "fp32" else BITS
        if bits in wanted and _families(target, problem, bits, activation):
            yield _Version(bits, activation, "auto")
    # A baseline expands its weights: the bits make no difference.
    for family in FAMILIES:
        if family.baseline:
            product = Product(problem.outputs, problem.inputs, 8, "int8", problem.rows)
            yield _Version(8, family.arithmetic(product), family.name)


def _families(target: Target, problem: Layer, bits: int, activation: str) -> list[Family]:
    product = Product(problem.outputs, problem.inputs, bits, activation, problem.rows)
    return [
        family
        for family in families_for(target, product)
        if family.name != _PLAIN and not family.baseline
    ]


def _prepare_layer(problem: Layer, version: _Version) -> Ready:
    net = _layer_net(problem, replace(version, way=""))
    size = sum(one.bytes for one in net.layers)
    detail = f"{net.layers[0].kernel}: {net.layers[0].schedule}"
    if version.way == "net(x)":
        return Ready(partial(net, problem.x), lambda: net(problem.x), size, detail, keep=net)
    run, output = (_kernel if version.way else _bound)(net, problem.x)
    return Ready(run, output, size, detail, keep=net)


@lru_cache(maxsize=1)  # the ways to call one artefact follow each other
def _layer_net(problem: Layer, version: _Version) -> Any:
    layer, x = _compressed(problem, version), torch.from_numpy(problem.x)
    model = nn.Sequential(layer)
    return _built(model, (x,), problem.threads, version.kernel, version.activation)


@cache
def _codebook(shape: tuple[int, int], bits: int) -> CodebookLinear:
    """The best codebook of so many bits for the weight that all problems of a shape share."""
    outputs, inputs = shape
    linear = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(Layer(outputs, inputs, 1, 1).weight))
    (layer,) = quantize.compress(
        nn.Sequential(linear), bits=bits, activation="int8", scales="tensor", outliers=0
    ).children()
    assert isinstance(layer, CodebookLinear)
    return layer


def _compressed(problem: Layer, version: _Version) -> CodebookLinear:
    layer = _codebook((problem.outputs, problem.inputs), version.bits)
    if version.group:
        layer = copy.deepcopy(layer)
        spread = torch.linspace(0.5, 2, problem.inputs // version.group)
        layer.weight_scale = layer.weight_scale.expand(problem.outputs)[:, None] * spread
    return layer


def _expected(problem: Layer, version: _Version) -> NDArray[np.float64]:
    """The product with the codebook's weights in float64."""
    layer = _compressed(problem, version)
    weight = layer.codebook_weight("weight").numpy().expand()
    return problem.x.astype(np.float64) @ weight.T.astype(np.float64)


def _model(problem: Model) -> list[Candidate]:
    found: list[tuple[str, float, tuple[int, ...]]] = [
        (f"{bits} bit", bits, (bits,)) for bits in MODEL_BITS
    ]
    cells = getattr(problem.module, "lstm", None)
    if cells is not None and cells.num_layers in MIXED:
        mixed = MIXED[cells.num_layers]
        name = f"mixed {'/'.join(map(str, mixed))} bit"
        found.append((name, sum(mixed) / len(mixed), mixed))
    return [
        Candidate(
            SYSTEM, name, bits, "int8", partial(_prepare_model, problem, layers), codebook="any"
        )
        for name, bits, layers in found
    ]


@cache
def _quantized(name: str, layers: tuple[int, ...]) -> nn.Module:
    """A model in codebooks, down to the depthwise convolutions, which peers keep in float.

    Args:
        name: As in ``problems.MODELS``.
        layers: Bits of each LSTM layer, or of every matrix.
    """
    module = Model(name, 1).module
    overrides: dict[str, int | None] = {}
    if len(layers) > 1:
        overrides |= {
            f"lstm.weight_{kind}_l{number}": bits
            for number, bits in enumerate(layers)
            for kind in ("ih", "hh")
        }
    return quantize.compress(
        module, bits=layers[0], overrides=overrides, activation="int8", scales="tensor", outliers=0
    )


def _prepare_model(problem: Model, layers: tuple[int, ...]) -> Ready:
    inputs = tuple(map(torch.from_numpy, problem.inputs))
    net = _built(_quantized(problem.name, layers), inputs, problem.threads, "auto", None)
    run, output = _bound(net, *problem.inputs)
    kernels = ", ".join(sorted({one.kernel for one in net.layers}))
    return Ready(run, output, sum(one.bytes for one in net.layers), kernels, keep=net)


def _built(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    threads: int,
    kernel: str,
    activation: str | None,
) -> Any:
    """Export, compile, save and load; the folder may go once the files are mapped."""
    assert any(isinstance(one, CodebookLayer) for one in model.modules())
    program = torch.export.export(model.eval(), inputs)
    artefact = gq_tvm.build(
        program, target="native", activation=activation, kernel=kernel, threads=threads
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gq"
        artefact.save(path)
        return gq_tvm.load(path)


def _bound(net: Any, *inputs: np.ndarray) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    """A call without arguments, and what it wrote."""
    bound = net.bind(*inputs)

    def output() -> np.ndarray:
        return bound.outputs[0] if isinstance(bound.outputs, tuple) else bound.outputs

    return bound, output


def _kernel(net: Any, x: np.ndarray) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    """The same without Python's share of the call."""
    bound = net.bind(x)
    return bound.run, lambda: bound.outputs
