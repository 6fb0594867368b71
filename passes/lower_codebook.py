"""Turn packed codebook operators into calls of their kernels; equal kernels are shared."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import tvm
from tvm import relax
from tvm.ir import GlobalVar, IRModule

from gq_tvm.ops.checks_recurrent import LAYERS
from gq_tvm.passes.convolution_windows import windows_of
from gq_tvm.passes.operators import (
    PACKED,
    UNFOLD,
    attributes,
    axes_of,
    is_operator,
    known,
    shape_of,
    volume,
)
from gq_tvm.passes.parameters import Parameters
from gq_tvm.passes.relax_tools.kernels import Kernels
from gq_tvm.passes.relax_tools.rewriter import CallRewriter, ModulePass
from gq_tvm.schedules import Choice, Frames, Product
from gq_tvm.schedules.choosing.threads import worth_threads
from gq_tvm.schedules.cpu.depthwise import Depthwise, depthwise
from gq_tvm.schedules.cpu.float_ops import lanes_of
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.scalar import direct
from gq_tvm.schedules.windows import Windows
from gq_tvm.targets import Target


@tvm.transform.module_pass(opt_level=0)
class LowerCodebook(ModulePass):
    """Replace every ``relax.gq.packed`` by a ``call_tir`` of its kernel."""

    def __init__(self, target: Target, parameters: Parameters, parallel: bool = False) -> None:
        self.target = target
        self.parallel = parallel
        self.parameters = parameters
        self._kernels = Kernels()

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        self._kernels = Kernels()
        return CallRewriter(module, self._lower).run()

    def _lower(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        if not is_operator(call, PACKED):
            return None
        at = attributes(call)
        lower = self._recurrent if at["kind"] in LAYERS else getattr(self, f"_{at['kind']}")
        return lower(rewriter, call, at, tuple(int(size) for size in at["shape"]))

    def _linear(
        self, rewriter: CallRewriter, call: relax.Call, at: dict[str, Any], shape: tuple[int, ...]
    ) -> relax.Expr:
        (choice,) = self._choices(at)
        x, *operands = call.args
        read, windows = _windows(rewriter, x)
        if windows is None:
            read = _flat_rows(rewriter, x, shape[1])
        epilogue = Epilogue.parse(at["epilogue"])
        kernel = self._kernels.get(
            rewriter,
            ("linear", choice, epilogue, windows),
            lambda: choice.family.linear(choice, epilogue, self._parallel(choice), windows),
        )
        outputs = [volume(shape_of(x)[:-1]), choice.product.outputs]
        if epilogue.residual and read is not x:
            operands[-1] = rewriter.emit(relax.op.reshape(operands[-1], outputs))
        y = self._call(rewriter, at, kernel, [read, *operands], [outputs])
        return relax.op.reshape(y, call.ty.shape) if read is not x else y

    def _recurrent(
        self, rewriter: CallRewriter, call: relax.Call, at: dict[str, Any], shape: tuple[int, ...]
    ) -> relax.Expr:
        x_part, h_part, *behind = self._choices(at)
        steps = known(shape_of(call.args[0])[1])
        frames = Frames(steps, bool(at["reverse"]), bool(at["more"]))
        # The kernel is for any number of sequences.
        x_part = replace(x_part, product=replace(x_part.product, rows=None))
        kernel = self._kernels.get(
            rewriter,
            (at["kind"], x_part, h_part, *behind, frames),
            lambda: h_part.family.recurrent(
                at["kind"], [x_part, h_part, *behind], frames, self._parallel(h_part)
            ),
        )
        return self._call(
            rewriter, at, kernel, call.args, [list(field.shape) for field in call.ty.fields]
        )

    def _choices(self, at: dict[str, Any]) -> list[Choice]:
        """How the parts of a call are computed."""
        return list(self.parameters.choices[at["choice"]].values())

    def _parallel(self, choice: Choice) -> bool:
        return self.parallel and worth_threads(choice)

    def _embedding(
        self, rewriter: CallRewriter, call: relax.Call, at: dict[str, Any], shape: tuple[int, ...]
    ) -> relax.Expr:
        ids, *operands = call.args
        count = volume(shape_of(ids))
        flat = rewriter.emit(relax.op.reshape(ids, [count]))
        product = _product(at, shape)
        kernel = self._kernels.get(
            rewriter, ("embedding", product), lambda: direct.embedding(product)
        )
        y = self._call(rewriter, at, kernel, [flat, *operands], [[count, product.k]])
        return relax.op.reshape(y, call.ty.shape)

    def _conv1d(
        self, rewriter: CallRewriter, call: relax.Call, at: dict[str, Any], shape: tuple[int, ...]
    ) -> relax.Expr:
        options = {key: at[key] for key in ("stride", "padding", "dilation", "groups")}
        options["activation"] = Epilogue.parse(at["epilogue"]).activation
        product, taps = _product(at, shape), shape[2]
        kernel = self._kernels.get(
            rewriter,
            ("conv1d", product, taps, *options.values()),
            lambda: direct.grouped_conv1d(product, taps, **options),
        )
        return self._call(rewriter, at, kernel, call.args, [list(call.ty.shape)])

    def _depthwise(
        self, rewriter: CallRewriter, call: relax.Call, at: dict[str, Any], shape: tuple[int, ...]
    ) -> relax.Expr:
        (batch, frames, _), (_, frames_out, _) = shape_of(call.args[0]), shape_of(call)
        of = Depthwise(
            product=_product(at, shape),
            stride=at["stride"],
            left=at["left"],
            dilation=at["dilation"],
            activation=Epilogue.parse(at["epilogue"]).activation,
            batch=known(batch),
            frames=known(frames),
            frames_out=known(frames_out),
        )
        kernel = self._kernels.get(
            rewriter, ("depthwise", of), lambda: depthwise(lanes_of(self.target), of)
        )
        return self._call(rewriter, at, kernel, call.args, [list(call.ty.shape)])

    def _call(
        self,
        rewriter: CallRewriter,
        at: dict[str, Any],
        kernel: GlobalVar,
        args: Any,
        shapes: list[list[Any]],
    ) -> relax.Expr:
        types = [relax.TensorType(shape, "float32") for shape in shapes]
        out = types[0] if len(types) == 1 else types
        layer = at["layer"], self.parameters.packed[at["packed"]]
        self.parameters.uses.setdefault(kernel.name_hint, []).append(layer)
        return rewriter.emit(relax.call_tir(kernel, relax.Tuple(list(args)), out))


def _product(at: dict[str, Any], shape: tuple[int, ...]) -> Product:
    """A weight that no family multiplies by, as a product: what its kernel must know of it."""
    names = ("bits", "group", "tables", "scale_type", "zero_type", "outliers")
    form = {key: at[key] for key in names}
    return Product(shape[0], prod(shape[1:]), activation="fp32", zero=bool(at["zero"]), **form)


def _windows(rewriter: CallRewriter, x: relax.Expr) -> tuple[relax.Expr, Windows | None]:
    """What is unfolded along one axis to `x`, f32 [B, C, 1, T], and how; `x` if it is not."""
    value = rewriter.builder_.lookup_binding(x) if isinstance(x, relax.Var) else None
    if not is_operator(value, UNFOLD) or len(axes_of(value)) > 1:
        return x, None
    windows, shape, _ = windows_of(value)
    return rewriter.emit(relax.op.reshape(value.args[0], shape)), windows


def _flat_rows(rewriter: CallRewriter, x: relax.Expr, k: int) -> relax.Expr:
    """`x` [..., K] as [m, K]."""
    *leading, _ = shape_of(x)
    if len(leading) == 1:
        return x
    return rewriter.emit(relax.op.reshape(x, [volume(leading), k]))
