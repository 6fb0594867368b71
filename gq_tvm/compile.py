"""``python -m gq_tvm.compile``: an exported model becomes an artefact for a device."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gq_tvm import files
from gq_tvm.command import command, positive
from gq_tvm.errors import Error
from gq_tvm.onnx_options import add_onnx_options, onnx_options
from gq_tvm.ops.checks import ACTIVATIONS
from gq_tvm.runtime.artefact.folder import check_place, check_runtime
from gq_tvm.runtime.devices.placement import add_place_options

if TYPE_CHECKING:
    from gq_tvm.plan.plan import Plan

_EPILOG = """\
examples:
  python -m gq_tvm.compile model.pt2 -o model.gq
  python -m gq_tvm.compile model.pt2 --target cortex-a76 -o model.gq --verify
  python -m gq_tvm.compile model.pt2 --target cortex-a76 -o model.gq --tune 32 --modelled
  python -m gq_tvm.compile model.pt2 --target cortex-a72 --bundle pi4
  python -m gq_tvm.compile model.onnx --fix sr=16000 -o model.gq
"""


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.target == "help":
        from gq_tvm import targets

        print(targets.table())
        return 0
    if options.model is None:
        parser.error("the following arguments are required: MODEL")
    if options.output is None and options.bundle is None:
        parser.error("one of the following arguments is required: -o/--output, --bundle")
    if options.output is None and options.verify:
        parser.error("--verify needs -o/--output")
    if options.inputs and not (options.verify or options.against_float):
        parser.error("--inputs needs --verify or --against-float")
    if options.emulate and not options.verify:
        parser.error("--emulate needs --verify")
    if options.rpc and not (options.verify or options.tune):
        parser.error("--rpc needs --verify or --tune")
    if options.modelled and not options.tune:
        parser.error("--modelled needs --tune")

    say = _Clock()
    # What can be refused now is, before PyTorch and TVM are loaded and the model compiled.
    for file in (options.model, options.inputs, options.against_float):
        if file and not Path(file).exists():
            raise Error(f"{file} does not exist; give the path of a file")
    if options.output:
        check_place(Path(options.output))
        if options.verify and options.target != "native":
            from gq_tvm import targets

            target = targets.get(options.target)
            check_runtime(options.output, target.machine)
    if options.bundle:
        check_place(Path(options.bundle))
        if options.output:
            _check_apart(Path(options.output).resolve(), Path(options.bundle).resolve())
    if options.dump:
        files.make_folder(Path(options.dump), "choose another --dump")
    if options.kernel != "auto":
        from gq_tvm.schedules import family

        family(options.kernel)
    from gq_tvm import frontend, inspect
    from gq_tvm.build import build

    program = frontend.read(options.model, onnx_options(options), say)
    floats = frontend.read(options.against_float) if options.against_float else None
    database = Path(options.database) if options.database else None
    if options.tune and not _tune(program, options, database):
        return 130
    artefact = build(
        program,
        options.target,
        options.activation,
        options.kernel,
        progress=say,
        threads=options.threads,
        database=database,
        dump=Path(options.dump) if options.dump else None,
    )
    if options.output:
        artefact.save(options.output)
        say(f"wrote {options.output}")
        if artefact.plan.machine == "armhf" and not options.bundle:
            say("32-bit ARM has no Python here: --bundle DIR adds the program that runs it")
    if options.bundle:
        from gq_tvm import deploy

        say("bundling (the first time for a machine takes a minute)")
        deploy.write(artefact, options.bundle)
        say(f"wrote {options.bundle}: copy it to the device; its README.md says how to run it")
    print(inspect.summary(artefact.plan))
    if options.verify:
        return _verify(program, options, say)
    if floats:
        _say_what_is_lost(floats.programs, program.programs, artefact.plan, options, say)
    return 0


def _check_apart(artefact: Path, bundle: Path) -> None:
    """Refuse one folder within the other: writing either replaces all that is in it."""
    if artefact == bundle or artefact in bundle.parents or bundle in artefact.parents:
        raise Error(f"{bundle} and {artefact} lie in one another; choose another place for one")


def _tune(program: object, options: argparse.Namespace, database: Path | None) -> bool:
    """Tune the model's layers; False if the user stopped it."""
    from gq_tvm import targets, tune
    from gq_tvm.build import products

    found = products(program, options.activation)
    target = targets.get(options.target)
    results = tune.tune_products(
        found,
        target,
        options.tune,
        options.kernel,
        1 if options.modelled else options.threads,
        options.rpc,
        database=database,
        modelled=options.modelled,
    )
    return results is not None


def _say_what_is_lost(
    floats: Any,
    programs: Any,
    plan: Plan,
    options: argparse.Namespace,
    say: Callable[[str], object],
) -> None:
    from gq_tvm.verification.against_float import against_float

    say("comparing with the float model in PyTorch")
    found = against_float(floats, programs, plan, options.inputs, options.activation)
    print(found)
    for sentence in found.losses.warnings():
        print(f"warning: {sentence}", file=sys.stderr)


def _verify(program: object, options: argparse.Namespace, say: Callable[[str], object]) -> int:
    from gq_tvm import verify

    say("verifying against PyTorch")
    return verify.run(program, options.output, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gq_tvm.compile",
        description="Compile a model whose weights live in codebooks into an artefact.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="an exported model, .pt2 or .onnx"
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="the artefact's folder")
    parser.add_argument(
        "--bundle",
        metavar="DIR",
        help="write a folder to copy to a device that has neither Python nor TVM",
    )
    parser.add_argument(
        "--target",
        default="native",
        metavar="NAME",
        help="the device to compile for; 'help' lists them (default: %(default)s)",
    )
    parser.add_argument(
        "--kernel",
        default="auto",
        metavar="NAME",
        help="one kernel family for every product (default: the best for each)",
    )
    parser.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        help="arithmetic of the activations (default: as each layer was trained)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="threads to run on unless told otherwise; code for 1 can use no more (%(default)s)",
    )
    parser.add_argument(
        "--tune",
        type=positive,
        metavar="N",
        help="first try N schedules for each layer's product (see gq_tvm.tune)",
    )
    parser.add_argument(
        "--modelled",
        action="store_true",
        help="with --tune: model the times of a target that is not this machine",
    )
    parser.add_argument(
        "--database",
        metavar="FILE",
        help="schedules found by tuning (default: those in the cache)",
    )
    parser.add_argument(
        "--dump", metavar="DIR", help="write the module after each phase of compiling, as text"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare the artefact's outputs with PyTorch's"
    )
    parser.add_argument(
        "--inputs",
        metavar="FILE.npz",
        help="with --verify or --against-float: compare on these arrays, named as the inputs are",
    )
    parser.add_argument(
        "--against-float",
        metavar="FLOAT.pt2",
        help="say what each layer and output loses against the model as it was exported in float",
    )
    add_onnx_options(parser)
    add_place_options(parser)
    return parser


class _Clock:
    """Progress lines on standard error, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"[{time.monotonic() - self._start:5.1f} s] {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
