"""From exported programs to an artefact: the one road every command takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import tvm
from tvm import relax

from gq_tvm import frontend, passes
from gq_tvm.core import compiled
from gq_tvm.errors import Error
from gq_tvm.frontend import culprit
from gq_tvm.frontend.importer import reason
from gq_tvm.onnx_import import Options
from gq_tvm.ops.checks import check_activation
from gq_tvm.passes.relax_tools.rewriter import inputs_of
from gq_tvm.plan import from_module, recogniser
from gq_tvm.plan.plan import Plan
from gq_tvm.runtime.artefact import weights
from gq_tvm.runtime.artefact.folder import Artefact
from gq_tvm.runtime.artefact.manifest import Manifest
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
    onnx: Options | None = None,
) -> Artefact:
    """Compile a model whose weights live in codebooks.

    Args:
        source: What ``torch.export.export`` returned, a mapping of function names to such programs,
            or the path of a ``.pt2`` or ``.onnx`` file.
        target: The device to compile for; ``python -m gq_tvm.compile --target help`` lists them.
        activation: one of ``ops.checks.ACTIVATIONS`` for every layer; None as each was trained.
        kernel: The kernel family for every product; ``"auto"`` is the best for each.
        progress: Called with a line of text as each stage begins.
        threads: Threads that calls run on unless told otherwise. 1 makes code for one thread alone;
            kernels for several run on any number, and small ones on one.
        database: File of the user's tuned schedules; None is the one in the cache.
        dump: A folder for the module after each phase of ``passes.phases``, as text.
        onnx: Constants for inputs and sizes of a ``.onnx`` file, and whether its outputs are
            compared with ONNX Runtime's; None: none, and they are where that is installed.

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
    program = frontend.read(source, onnx, say)
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
            tell=say,
        )
    if not parameters.packed:
        say(
            "warning: the model has no codebook layer, all its weights stay in float; gq-tvm "
            "compress, or quantize.prepare and quantize.convert, put them into codebooks"
        )
    with _stage("compile", translated, device):
        kernels = from_module.kernels(module)
        plan = Plan(
            machine=device.machine,
            features=tuple(sorted(device.features)),
            functions=from_module.functions(
                module,
                list(program.programs),
                weights.offsets(parameters.arrays),
                parameters.uses,
            ),
            metadata=recogniser.words(program.metadata),
            runtime=from_module.runtime_functions(kernels),
        )
        say(f"compiling {len(plan.layers)} layers")
        executable = tvm.compile(kernels, target=device.tvm)
    manifest = Manifest(
        target=device.name,
        threads=threads,
        metadata=program.metadata,
        versions={"gq-tvm": _own_version(), "tvm": version("apache-tvm")},
    )

    def link(path: Path) -> None:
        export(executable, path, device.triple, [str(compiled.report(device.machine))])

    return Artefact(manifest, plan, parameters.arrays, link)


def products(source: Any, activation: str | None = None) -> list[Product]:
    """Return the weight matrix products of a model, without outliers: they change no schedule.

    Args:
        source: See `build`.
        activation: See `build`.

    Raises:
        Error: the model cannot be read or translated.
    """
    translated = frontend.translate(frontend.read(source), activation)
    with _stage("prepare", translated, get("native")):
        found = passes.products(translated.module, activation)
    return [replace(one, outliers="") for one in found]


def _check_sizes(function: str, inputs: list[relax.Var]) -> None:
    """Refuse sizes that cannot be told from the inputs: TVM does not solve equations."""
    sizes = [(var.name, size) for var in inputs for size in getattr(var.ty, "shape", None) or ()]
    told = {size for _, size in sizes if isinstance(size, tvm.tirx.Var)}
    for name, size in sizes:
        free = set() if isinstance(size, int) else set(tvm.tirx.analysis.undefined_vars(size))
        if free - told:
            unknown = ", ".join(sorted(map(str, free - told)))
            raise Error(
                f"input {name} of function {function} has a size computed from {unknown}, which no "
                "input has as it is; export the model with a Dim of its own for it"
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


def _own_version() -> str:
    from gq_tvm import __version__

    return __version__


class _CallableModule(ModuleType):
    """`gq_tvm.build` is the function, or this module once it was imported: both can be called."""

    def __call__(self, *args: Any, **options: Any) -> Artefact:
        return build(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
