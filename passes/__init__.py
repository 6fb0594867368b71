"""The passes from imported Relax to kernels, in their order."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax
from tvm.ir import IRModule

from gq_tvm.passes.cancel_reshapes import CancelReshapes
from gq_tvm.passes.choose_kernel import ChooseKernel
from gq_tvm.passes.expand_conv import ExpandConv
from gq_tvm.passes.fold_batch_norm import FoldBatchNorm
from gq_tvm.passes.fuse_epilogue import FuseEpilogue
from gq_tvm.passes.harden import Harden
from gq_tvm.passes.kernel_calls import kernel_calls
from gq_tvm.passes.lift_constants import LiftConstants
from gq_tvm.passes.lower_codebook import LowerCodebook
from gq_tvm.passes.lower_copies import LowerCopies
from gq_tvm.passes.lower_float import LowerFloat
from gq_tvm.passes.match_codebook import MatchCodebook
from gq_tvm.passes.pack_weights import PackWeights
from gq_tvm.passes.parameters import Layer, Parameters
from gq_tvm.passes.products import products_of
from gq_tvm.passes.relax_tools.rewriter import calls_of
from gq_tvm.passes.sink_transposes import SinkTransposes
from gq_tvm.schedules import Product
from gq_tvm.schedules.choosing.database import Database
from gq_tvm.targets import Target

__all__ = ["Layer", "Parameters", "kernel_calls", "lower", "products"]


def lower(
    module: IRModule,
    target: Target,
    kernel: str = "auto",
    names: dict[str, str] | None = None,
    activation: str | None = None,
    warn: Callable[[str], object] = lambda text: None,
    threads: int = 1,
    database: Database | None = None,
) -> tuple[IRModule, Parameters]:
    """Bring a module with codebook operators down to kernels.

    Args:
        module: Relax functions as the frontend gives them.
        target: The device to choose kernels for.
        kernel: A family's name, or ``"auto"``.
        names: What constants are called in the model, by ``parameters.digest``.
        activation: Of layers that cannot say it themselves; None is ``"fp32"``.
        warn: Called with a sentence on what a user should know.
        threads: How many kernels will run on; those for several run on any number.
        database: Measured schedules; None is the model alone.

    Returns:
        The module, its functions taking their weights as parameters behind their inputs, and those
        parameters.

    Raises:
        Error: a layer cannot be compiled; the text names it.
    """
    parameters = Parameters(names or {})
    passes = [
        ChooseKernel(target, parameters, kernel, database, threads),  # of each product
        PackWeights(parameters),  # indices in that family's layout, as parameters
        LowerCodebook(target, parameters, threads > 1),  # its PrimFunc, called
        LowerFloat(target),  # vector kernels for float operators
        LowerCopies(target),  # concatenations and slices that lie together in memory
        CancelReshapes(),  # those between one kernel's matrix and the next one's
        relax.transform.LegalizeOps(),  # the rest of the model, by TVM's own means
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),  # only now: earlier it would expand codebooks
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        LiftConstants(parameters),  # what constants remain, as parameters
    ]
    with target.tvm:
        module = _down_to_products(module, parameters.names, activation, warn)
        parameters.products = _products(module)
        return tvm.transform.Sequential(passes)(module), parameters


def products(module: IRModule, activation: str | None = None) -> list[Product]:
    """The weight matrix products of a module with codebook operators: `lower` notes the same.

    Args:
        module: Relax functions as the frontend gives them.
        activation: Of layers that cannot say it themselves; None is ``"fp32"``.
    """
    return _products(_down_to_products(module, {}, activation))


def _products(module: IRModule) -> list[Product]:
    return [product for call in calls_of(module) for product in products_of(call).values()]


def _down_to_products(
    module: IRModule,
    names: dict[str, str],
    activation: str | None,
    warn: Callable[[str], object] = lambda text: None,
) -> IRModule:
    passes = [
        MatchCodebook(names, activation or "fp32", warn),  # look-ups spelled in PyTorch
        FoldBatchNorm(),  # into the codebook and the bias of the layer before it
        ExpandConv(),  # products over unfolded frames, depthwise kernels, on [B, T, C]
        SinkTransposes(),  # the transpositions around them cancel
        FuseEpilogue(),  # activations, factors and residuals into the kernel before them
        Harden(),  # no read out of bounds, no NaN lost
    ]
    return tvm.transform.Sequential(passes)(module)
