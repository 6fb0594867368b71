"""The road from imported Relax to kernels, on one page: named phases, each of them checked.

What a phase must have left behind it is checked besides what Relax calls well formed; each can be
written to a file to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tvm
from tvm import relax
from tvm.ir import IRModule

from gq_tvm import files
from gq_tvm.passes.cancel_reshapes import CancelReshapes
from gq_tvm.passes.choose_kernel import ChooseKernel
from gq_tvm.passes.expand_conv import ExpandConv
from gq_tvm.passes.fold_batch_norm import FoldBatchNorm
from gq_tvm.passes.fuse_epilogue import FuseEpilogue
from gq_tvm.passes.harden import Harden
from gq_tvm.passes.lift_constants import LiftConstants
from gq_tvm.passes.lower_codebook import LowerCodebook
from gq_tvm.passes.lower_copies import LowerCopies
from gq_tvm.passes.lower_float import LowerFloat
from gq_tvm.passes.lower_recurrent import LowerRecurrent
from gq_tvm.passes.match_codebook import MatchCodebook
from gq_tvm.passes.match_convolution import MatchConvolution
from gq_tvm.passes.operators import (
    CONVOLUTION,
    PACKED,
    RECURRENT,
    UNFOLD,
    WEIGHTS,
    part_name,
)
from gq_tvm.passes.pack_weights import PackWeights
from gq_tvm.passes.parameters import Parameters
from gq_tvm.passes.products import products_of
from gq_tvm.passes.relax_tools.rewriter import ModulePass, calls_of, inputs_of
from gq_tvm.passes.rewrite_views import LEGAL_RESHAPES, RewriteViews
from gq_tvm.passes.sink_transposes import SinkTransposes
from gq_tvm.schedules import Product
from gq_tvm.schedules.choosing.database import Database
from gq_tvm.targets import Target

Say = Callable[[str], object]


@dataclass(frozen=True)
class Phase:
    """Passes that together do one thing.

    Attributes:
        name: What it does.
        passes: In their order.
        gone: Operators that are none of the module's any more.
    """

    name: str
    passes: Sequence[ModulePass | tvm.transform.Pass]
    gone: Sequence[str] = ()


def to_products(
    names: dict[str, str],
    activation: str | None,
    warn: Say = lambda text: None,
    tell: Say = lambda text: None,
) -> list[Phase]:
    """The phases that are the same for every device; see `pipeline`."""
    matched = [
        MatchCodebook(names, activation or "fp32", warn, tell),  # spelled, or few values
        FoldBatchNorm(),  # into the weight and the bias of the layer before it
        MatchConvolution(),  # those of floats, with bias and padding
    ]
    products = [
        ExpandConv(),  # products over unfolded frames, depthwise kernels, on [B, T, C]
        SinkTransposes(),  # the transpositions around them cancel
        FuseEpilogue(),  # activations, factors and residuals into the kernel before them
        Harden(),  # no read out of bounds, no NaN lost
    ]
    return [Phase("match", matched), Phase("products", products)]


def pipeline(
    target: Target,
    parameters: Parameters,
    kernel: str = "auto",
    activation: str | None = None,
    warn: Say = lambda text: None,
    threads: int = 1,
    database: Database | None = None,
    tell: Say = lambda text: None,
) -> list[Phase]:
    """The phases that bring a module with codebook operators down to kernels.

    Args:
        target: The device to choose kernels for.
        parameters: What the passes take out of the module, and decide on.
        kernel: A family's name, or ``"auto"``.
        activation: Of layers that cannot say it themselves; None is ``"fp32"``.
        warn: Called with a sentence on what a user should know.
        threads: How many kernels will run on; those for several run on any number.
        database: Measured schedules; None is the model alone.
        tell: Called with a sentence on what was found in the model.
    """
    chosen = [
        ChooseKernel(target, parameters, kernel, database, threads),  # of each product
        PackWeights(parameters),  # indices in that family's layout, as parameters
    ]
    kernels = [
        LowerCodebook(target, parameters, threads > 1),  # PrimFuncs, called
        LowerRecurrent(target, parameters, threads > 1),  # recurrent layers in float
        LowerFloat(target),  # vector kernels for float operators
        LowerCopies(target),  # concatenations and slices that lie together in memory
        CancelReshapes(),  # those between one kernel's matrix and the next one's
    ]
    rest = [
        relax.backend.DispatchSortScan(),  # cumulative sums, and what is sorted
        relax.transform.LegalizeOps(LEGAL_RESHAPES),  # the rest of the model, by TVM's own means
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),  # only now: earlier it would expand codebooks
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        LiftConstants(parameters),  # what constants remain, as parameters
    ]
    calls = [
        RewriteViews(),  # what is only a view is no kernel
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(),
    ]
    return [
        *to_products(parameters.names, activation, warn, tell),
        Phase("choose and pack", chosen, gone=tuple(WEIGHTS)),
        Phase("kernels", kernels, gone=(PACKED, RECURRENT, CONVOLUTION, UNFOLD, *WEIGHTS)),
        Phase("rest", rest, gone=(PACKED, RECURRENT, *WEIGHTS)),
        Phase("calls", calls),  # all that is left: what a plan says
    ]


def run(
    phases: Sequence[Phase], module: IRModule, parameters: Parameters, dump: Path | None = None
) -> IRModule:
    """Put a module through phases.

    Args:
        phases: In their order.
        module: Relax functions.
        parameters: Those of the passes.
        dump: A folder for the module as it comes and as it is after each phase; made if need be.

    Raises:
        Error: a layer cannot be compiled, which the text names; or a dump cannot be written.
        RuntimeError: a phase left a module that is none; an error of ours.
    """
    _write(dump, 0, "imported", module, parameters)
    for number, phase in enumerate(phases, 1):
        module = tvm.transform.Sequential(list(phase.passes))(module)
        _write(dump, number, phase.name, module, parameters)
        _check(phase, module, parameters)
    return module


def _check(phase: Phase, module: IRModule, parameters: Parameters) -> None:
    try:
        relax.analysis.well_formed(module)
    except Exception as failure:
        raise RuntimeError(
            f"phase {phase.name!r} left what is not well formed: {failure}"
        ) from failure
    left = {call.op.name for call in calls_of(module) if isinstance(call.op, tvm.ir.Op)}
    if still := left.intersection(phase.gone):
        raise RuntimeError(f"phase {phase.name!r} left {', '.join(sorted(still))}")
    for name, function in module.functions.items():
        if isinstance(function, relax.Function):
            for one in list(function.params)[len(inputs_of(function)) :]:
                array = parameters.arrays.get(one.name)
                if array is None or list(array.shape) != [int(size) for size in one.ty.shape]:
                    raise RuntimeError(
                        f"phase {phase.name!r} left {name.name_hint} without its {one.name}"
                    )


def _write(
    folder: Path | None, number: int, name: str, module: IRModule, parameters: Parameters
) -> None:
    """Write a module as TVMScript, without the arrays in it; what is chosen stands above it."""
    if folder is None:
        return
    chosen = [
        f"# {part_name(key, part)}: {one.family.name} {one.schedule} ({one.origin})\n"
        for key, parts in parameters.choices.items()
        for part, one in parts.items()
    ]
    path = folder / f"{number}-{name.replace(' ', '-')}.py"
    files.write_text(path, "".join(chosen) + module.script() + "\n", "choose another --dump")


def lower(
    module: IRModule,
    target: Target,
    kernel: str = "auto",
    names: dict[str, str] | None = None,
    activation: str | None = None,
    warn: Say = lambda text: None,
    threads: int = 1,
    database: Database | None = None,
    dump: Path | None = None,
    tell: Say = lambda text: None,
) -> tuple[IRModule, Parameters]:
    """Bring a module with codebook operators down to kernels; see `pipeline` and `run`.

    Args:
        module: Relax functions as the frontend gives them.
        target: See `pipeline`.
        kernel: The same.
        names: What constants are called in the model, by ``parameters.digest``.
        activation: See `pipeline`.
        warn: The same.
        threads: The same.
        database: The same.
        dump: See `run`.
        tell: See `pipeline`.

    Returns:
        The module, its functions taking their weights as parameters behind their inputs, and those
        parameters.

    Raises:
        Error: a layer cannot be compiled; the text names it.
    """
    parameters = Parameters(names or {})
    phases = pipeline(target, parameters, kernel, activation, warn, threads, database, tell)
    with target.tvm:
        return run(phases, module, parameters, dump), parameters


def products(module: IRModule, activation: str | None = None) -> list[Product]:
    """The weight matrix products of a module with codebook operators: `lower` chooses for these.

    Args:
        module: Relax functions as the frontend gives them.
        activation: Of layers that cannot say it themselves; None is ``"fp32"``.
    """
    module = run(to_products({}, activation), module, Parameters())
    return [product for call in calls_of(module) for product in products_of(call).values()]
