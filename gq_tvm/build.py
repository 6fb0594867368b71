"""From exported programs to an artefact: the one road every command takes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import tvm
from tvm import relax
from tvm.ir import IRModule

from gq_tvm import frontend, passes
from gq_tvm.errors import Error
from gq_tvm.frontend import culprit
from gq_tvm.frontend.importer import reason
from gq_tvm.ops.checks import check_activation
from gq_tvm.passes.operators import is_operator
from gq_tvm.passes.relax_tools.rewriter import inputs_of
from gq_tvm.passes.relax_tools.sizes import spelled
from gq_tvm.runtime.artefact import Artefact
from gq_tvm.runtime.manifest import Function, KernelCall, Layer, Manifest, Tensor
from gq_tvm.runtime.manifest import Product as ProductRecord
from gq_tvm.schedules import Product
from gq_tvm.schedules.choosing.database import load as load_schedules
from gq_tvm.targets import Target, get
from gq_tvm.toolchain.linker import export

Progress = Callable[[str], object]


def build(
    source: Any,
    target: str | Target = "native",
    activation: str | None = None,
    kernel: str = "auto",
    progress: Progress | None = None,
    threads: int = 1,
    database: Path | None = None,
    dump: Path | None = None,
) -> Artefact:
    """Compile a model whose weights live in codebooks.

    Args:
        source: What ``torch.export.export`` returned, a mapping of function names to such programs,
            or the path of a ``.pt2`` file.
        target: The device to compile for; ``python -m gq_tvm.compile --target help`` lists them.
        activation: one of ``ops.checks.ACTIVATIONS`` for every layer; None as each was trained.
        kernel: The kernel family for every product; ``"auto"`` is the best for each.
        progress: Called with a line of text as each stage begins.
        threads: Threads that calls run on unless told otherwise. 1 makes code for one thread alone;
            kernels for several run on any number, and small ones on one.
        database: File of the user's tuned schedules; None is the one in the cache.
        dump: A folder for the module after each phase of ``passes.phases``, as text.

    Raises:
        Error: the model cannot be read, translated or compiled.
    """
    say = progress or (lambda line: None)
    device = get(target)
    if activation is not None:
        check_activation("build", activation)
    if threads < 1:
        raise Error(f"threads must be a whole number from 1 up, got {threads}")
    say("importing")
    program = frontend.read(source)
    for name, exported in program.programs.items():
        for unused in frontend.unused_inputs(exported):
            say(f"warning: {name} does not use its input {unused}; was one tensor exported as two?")
    translated = frontend.translate(program, activation)
    for name in program.programs:
        _check_sizes(name, inputs_of(translated.module[name]))
    say(f"packing for {device.name}")
    with _stage("prepare", translated, device):
        module, parameters = passes.lower(
            translated.module,
            device,
            kernel,
            translated.names,
            activation,
            warn=lambda text: say(f"warning: {text}"),
            threads=threads,
            database=load_schedules(device, database),
            dump=dump,
        )
    if not parameters.layers:
        raise Error(
            "the model has no codebook layer; convert it with quantize.prepare and "
            "quantize.convert, or with quantize.compress, before exporting it"
        )
    say(f"compiling {len(parameters.layers)} layers")
    with _stage("compile", translated, device):
        executable = _compile(module, device)
        calls = passes.kernel_calls(module)
    manifest = Manifest(
        target={
            "name": device.name,
            "machine": device.machine,
            "features": sorted(device.features),
            "instruction_set": device.instruction_set,
        },
        functions={name: _function(module[name], calls[name]) for name in program.programs},
        layers=[Layer(**vars(layer), float_bytes=layer.float_bytes) for layer in parameters.layers],
        parameter_bytes={name: array.nbytes for name, array in parameters.arrays.items()},
        products=[ProductRecord(**vars(one)) for one in parameters.products],
        threads=threads,
        metadata=program.metadata,
        versions={"gq-tvm": _own_version(), "tvm": version("apache-tvm")},
    )
    link = functools.partial(export, executable, triple=device.triple)
    return Artefact(manifest, parameters.arrays, link, module)


def products(source: Any, activation: str | None = None) -> list[Product]:
    """Return the weight matrix products of a model, as `build` would note them in the manifest.

    Args:
        source: See `build`.
        activation: See `build`.

    Raises:
        Error: the model cannot be read or translated.
    """
    translated = frontend.translate(frontend.read(source), activation)
    with _stage("prepare", translated, get("native")):
        return passes.products(translated.module, activation)


def _check_sizes(function: str, inputs: list[relax.Var]) -> None:
    """Refuse sizes that cannot be told from the inputs: TVM does not solve equations."""
    sizes = [(var.name, size) for var in inputs for size in getattr(var.ty, "shape", None) or ()]
    told = {size for _, size in sizes if isinstance(size, tvm.tirx.Var)}
    for name, size in sizes:
        if not isinstance(size, int) and set(tvm.tirx.analysis.undefined_vars(size)) - told:
            raise Error(
                f"input {name} of function {function} has the size {spelled(size)}, and no input "
                "has the size this is computed from; export the model with a Dim of its own for it"
            )


@contextmanager
def _stage(verb: str, translated: frontend.Translated, target: Target) -> Iterator[None]:
    """Say in a sentence what TVM failed at, and keep its own account behind it."""
    try:
        yield
    except Error:
        raise
    except Exception as failure:
        place = culprit.find(translated, failure, target.tvm)
        why = reason(failure)
        if place:
            raise Error(
                f"TVM cannot {verb} {place}: {why}; replace it by other operators"
            ) from failure
        raise Error(
            f"TVM cannot {verb} the model: {why}; no operator fails alone, so this is a limit of "
            "TVM's or an error of ours"
        ) from failure


def _compile(module: IRModule, target: Target) -> Any:
    """Generate code; "compiled" turns the functions themselves into machine code too."""
    with tvm.transform.PassContext(opt_level=3):
        return relax.build(module, target.tvm, exec_mode="compiled")


def _function(function: relax.Function, calls: list[dict[str, Any]]) -> Function:
    inputs = inputs_of(function)
    returned = function.ret_ty
    single = not isinstance(returned, relax.TupleType)
    fields = [returned] if single else list(returned.fields)
    attrs = function.attrs or {}
    lower, upper = attrs.get("tir_var_lower_bound", {}), attrs.get("tir_var_upper_bound", {})
    bounds: dict[str, list[int | None]] = {
        str(name): [
            int(lower[name]) if name in lower else None,
            int(upper[name]) if name in upper else None,
        ]
        for name in {**lower, **upper}
    }
    return Function(
        inputs=[_tensor(var.name, var.ty) for var in inputs],
        outputs=[_tensor(f"output_{i}", ty) for i, ty in enumerate(fields)],
        bounds=bounds,
        parameters=[var.name for var in list(function.params)[len(inputs) :]],
        single=single,
        kernel=_only_kernel(function),
        calls=[KernelCall(**one) for one in calls],
    )


def _only_kernel(function: relax.Function) -> list[str] | None:
    """The symbol and the arguments of the kernel that a function is, if it is no more than that."""
    value_of = dict(relax.analysis.get_var2val(function).items())
    calls = [one for one in value_of.values() if isinstance(one, relax.Call)]
    if len(calls) != 1 or not is_operator(calls[0], "relax.call_tir") or len(calls[0].args) != 2:
        return None
    kernel, arguments = calls[0].args
    if any(not isinstance(one, relax.Var) or one in value_of for one in arguments):
        return None

    def output(expr: Any) -> int | None:
        """The number of the kernel's output that an expression is."""
        number = 0
        while not expr.same_as(calls[0]):
            if isinstance(expr, relax.Var) and expr in value_of:
                expr = value_of[expr]
            elif isinstance(expr, relax.TupleGetItem):
                expr, number = expr.tuple_value, int(expr.index)
            else:
                return None
        return number

    returned = function.body.body
    while isinstance(returned, relax.Var) and returned in value_of:
        returned = value_of[returned]
    fields = list(returned.fields) if isinstance(returned, relax.Tuple) else [returned]
    made = len(calls[0].ty.fields) if isinstance(calls[0].ty, relax.TupleType) else 1
    whole = made > 1 and returned.same_as(calls[0])
    if not whole and [output(one) for one in fields] != list(range(made)):
        return None
    return [kernel.name_hint, *(one.name for one in arguments)]


def _tensor(name: str, ty: Any) -> Tensor:
    if not isinstance(ty, relax.TensorType) or ty.shape is None:
        raise Error(f"{name} of the program is not a tensor of known rank; export tensors only")
    return Tensor(name, str(ty.dtype), [spelled(size) for size in ty.shape])


def _own_version() -> str:
    from gq_tvm import __version__

    return __version__


class _CallableModule(ModuleType):
    """`gq_tvm.build` is the function, or this module once it was imported: both can be called."""

    def __call__(self, *args: Any, **options: Any) -> Artefact:
        return build(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
