"""What is compared: networks, methods with their variants, and activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

BITS = (8, 6, 5, 4, 3, 2)
_FIRST = (4, 3, 2, 8, 6, 5)  # what the goals are of
ACTIVATIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Method:
    """Who makes few bits of the weights; ``rival`` names a module of `rivals`, "" ourselves.

    Attributes:
        bits: by variant, the bits of an index: what the row of the table is. Where bits are
            allocated to weights, there are so many a weight and what scales may take.
    """

    title: str
    rival: str
    bits: dict[str, int]


OURS, OURS_INPUTS, OURS_ALLOCATED = "gq-tvm", "gq-tvm-inputs", "gq-tvm-allocated"
_WHOLE = {str(n): n for n in BITS}
_GROUPS = {f"{n}g32": n for n in BITS}


def _with(suffix: str) -> dict[str, int]:
    return {f"{n}-{suffix}": n for n in BITS}


_GGML = {
    "Q8_0": 8, "Q6_K": 6, "Q5_K": 5, "Q4_K": 4, "IQ4_NL": 4, "IQ4_XS": 4, "Q3_K": 3, "Q2_K": 2,
}  # fmt: skip
_NEEDS_MATRIX = {"IQ3_S": 3, "IQ3_XXS": 3, "IQ2_S": 2}
_MATRIX = {**{name: bits for name, bits in _GGML.items() if bits < 8}, **_NEEDS_MATRIX}
METHODS = {
    OURS: Method("gq-tvm, weights only", "", _WHOLE),
    OURS_INPUTS: Method("gq-tvm, calibrated", "", _WHOLE),
    OURS_ALLOCATED: Method(
        "gq-tvm, calibrated, bits allocated", "", {str(n): n for n in (4, 3, 2)}
    ),
    "rounding-rows": Method("rounding, rows", "rounding", _WHOLE),
    "rounding-groups": Method("rounding, groups of 32", "rounding", _GROUPS),
    "torchao-sym": Method("torchao intx, symmetric", "torchao", _with("sym")),
    "torchao-asym": Method("torchao intx, zero points", "torchao", _with("asym")),
    "torchao-hqq-scale": Method("torchao HQQ, scales only", "torchao", _with("hqq-scale")),
    "torchao-hqq": Method("torchao HQQ", "torchao", _with("hqq")),
    "nncf-scales": Method(
        "NNCF scale estimation", "nncf", {"int4-sym-se": 4, "int3-sym-se": 3, "int2-sym-se": 2}
    ),
    "nncf-zeros": Method("NNCF scale estimation, zero points", "nncf", {"int4-asym-se": 4}),
    "nncf-gptq": Method("NNCF GPTQ", "nncf", {"int4-sym-gptq": 4}),
    "nncf-gptq-zeros": Method("NNCF GPTQ, zero points", "nncf", {"int4-asym-gptq": 4}),
    "nncf-nf4": Method("NNCF NF4", "nncf", {"nf4": 4}),
    "nncf-codebook": Method("NNCF CB4 (a fixed codebook)", "nncf", {"codebook": 4}),
    "nncf-adaptive": Method(
        "NNCF ADAPTIVE_CODEBOOK (a learned one)", "nncf", {"adaptive-codebook": 4}
    ),
    "ggml": Method("ggml", "ggml", _GGML),
    "ggml-imatrix": Method(
        "ggml, importance matrix",
        "ggml",
        {f"{name}+imatrix": bits for name, bits in _MATRIX.items()},
    ),
}
RIVALS = tuple(name for name, method in METHODS.items() if method.rival)


@dataclass(frozen=True)
class Cell:
    """One network, compressed and measured."""

    model: str
    method: str  # of METHODS
    variant: str
    activation: str

    @property
    def name(self) -> str:
        """The name of its result file."""
        return "_".join((self.model, self.method, self.variant, self.activation))

    @property
    def bits(self) -> int:
        """Bits of an index."""
        return METHODS[self.method].bits[self.variant]

    @property
    def compiled(self) -> bool:
        """Whether it is compiled too, and what the artefact says compared with PyTorch."""
        return self.model == "silero" and self.method in (OURS, OURS_INPUTS) and self.bits == 4


def cells(models: tuple[str, ...]) -> Iterator[Cell]:
    """All cells; network by network, what the goals need first."""
    for model in models:
        for bits in _FIRST:
            for activation in ACTIVATIONS:
                for method, what in METHODS.items():
                    for variant in what.bits:
                        cell = Cell(model, method, variant, activation)
                        if cell.bits == bits:
                            yield cell
