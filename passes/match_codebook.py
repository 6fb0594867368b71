"""Recognise codebooks spelled in plain PyTorch: ``F.linear(x, codebook[indices.long()], bias)``.

Three spellings of the weight are known: a look-up of all indices, one of the flattened indices that
is reshaped, and a gather from a codebook with a row for each row of the weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log2

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst, IRModule
from tvm.relax.dpl import DFPattern, is_op, rewrite_call, wildcard

from gq_tvm.passes.operators import codebook_linear, shape_of
from gq_tvm.passes.parameters import digest
from gq_tvm.passes.rewriter import ModulePass


@tvm.transform.module_pass(opt_level=0)
class MatchCodebook(ModulePass):
    """Turn look-up and product into codebook_linear, where both are constants.

    Args:
        names: What constants are called in the model, by ``parameters.digest``.
        activation: The activation of the layers found; a plain spelling cannot say it.
    """

    def __init__(self, names: Mapping[str, str] | None = None, activation: str = "fp32") -> None:
        self.names = names or {}
        self.activation = activation

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        for gvar, function in module.functions_items():
            if isinstance(function, relax.Function):
                module.update_func(gvar, self._rewrite(function))
        return relax.transform.DeadCodeElimination()(module)

    def _rewrite(self, function: relax.Function) -> relax.Function:
        x, codebook, indices, bias = (wildcard() for _ in range(4))
        product = is_op("relax.matmul")(x, is_op("relax.permute_dims")(_weight(codebook, indices)))
        biased = is_op("relax.add")(bias, product) | is_op("relax.add")(product, bias)

        def rewrite(original: relax.Expr, found: Mapping[DFPattern, relax.Expr]) -> relax.Expr:
            with_bias = found.get(bias)
            new = self._layer(found[x], found[codebook], found[indices], with_bias)
            return original if new is None else new

        # With the bias first: a product alone would hide it.
        return rewrite_call(product, rewrite, rewrite_call(biased, rewrite, function))

    def _layer(
        self,
        x: relax.Expr,
        codebook: relax.Expr,
        indices: relax.Expr,
        bias: relax.Expr | None,
    ) -> relax.Call | None:
        if not isinstance(codebook, GenericConst) or not isinstance(indices, GenericConst):
            return None
        codes, table = indices.value.numpy(), np.atleast_2d(codebook.value.numpy())
        if codes.ndim != 2 or table.ndim != 2 or not 0 <= codes.min() <= codes.max() < 256:
            return None
        if table.dtype != np.float32 or table.shape[0] not in (1, len(codes)):
            return None
        if bias is None:
            bias = relax.const(np.zeros(len(codes), np.float32))
        elif not isinstance(bias, GenericConst) or shape_of(bias) != [len(codes)]:
            return None
        bits = max(1, ceil(log2(table.shape[1])))
        return codebook_linear(
            x,
            relax.const(codes.astype(np.uint8)),
            relax.const(_full(table, bits)),
            bias,
            bits=bits,
            activation=self.activation,
            layer=self._name(codes),
        )

    def _name(self, codes: NDArray) -> str:
        name = self.names.get(digest(codes), "codebook")
        return name.rpartition(".")[0] or name


def _weight(codebook: DFPattern, indices: DFPattern) -> DFPattern:
    """All the spellings of a weight [N, K]."""
    spellings = []
    for codes in (is_op("relax.astype")(indices), indices):
        flat = is_op("relax.reshape")(codes, wildcard())
        looked_up = is_op("relax.take")(codebook, flat)
        spellings += [
            is_op("relax.take")(codebook, codes),
            is_op("relax.reshape")(looked_up, wildcard()),
            is_op("relax.gather_elements")(codebook, codes),
        ]
    either = spellings[0]
    for spelling in spellings[1:]:
        either = either | spelling
    return either


def _full(table: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """The table with zeros for the centroids it lacks up to 2^bits."""
    return np.pad(table, ((0, 0), (0, 2**bits - table.shape[1])))
