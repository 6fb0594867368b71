"""``python -m gq_tvm.verify``: whether an artefact computes what the exported model computes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gq_tvm.command import command
from gq_tvm.errors import Error
from gq_tvm.onnx_options import add_onnx_options, onnx_options
from gq_tvm.runtime.artefact.folder import read
from gq_tvm.runtime.devices.placement import add_device_options, chosen_device, emulated, runs_here

if TYPE_CHECKING:
    from gq_tvm.runtime.devices.device import Device
    from gq_tvm.verification.bound import Report

_EPILOG = """\
The inputs are random, of the sizes the model was exported with and of others it allows. Outputs
may differ by what rounding does to the network: PyTorch is run against itself with last bits moved.
Exit code 1 means that they differ by more, or that last bits alone change everything, or, with
--against-float, that outputs lose more than a tenth of their signal. Examples:
  python -m gq_tvm.verify model.pt2 model.gq
  python -m gq_tvm.verify model.pt2 model.gq --inputs recorded.npz --against-float float.pt2
  python -m gq_tvm.verify model.pt2 pi.gq --rpc 192.168.1.7:9090
"""


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)
    for file in (options.model, options.inputs, options.against_float):
        if file and not Path(file).exists():
            raise Error(f"{file} does not exist; give the path of a file")
    read(options.artefact)
    from gq_tvm import frontend

    program = frontend.read(options.model, onnx_options(options))
    return run(program, options.artefact, options)


def run(program: Any, artefact: str, options: argparse.Namespace) -> int:
    """Compare an artefact with the program it was made from, and print the errors.

    Args:
        program: What `gq_tvm.build` takes.
        artefact: The folder.
        options: Those of `add_device_options`, ``inputs`` and ``against_float``.

    Returns:
        The exit code: 1 if the outputs differ, or if it cannot be told, or if they have lost what
        makes the float model's of use.

    Raises:
        Error: the artefact does not run there, or the inputs do not fit.
    """
    from gq_tvm.verification.bound import verify

    with _device(options, artefact) as device:
        report = verify(program, artefact, device, options.inputs, options.threads)
        where = f" on {device.name}" if device else ""
        code = _print(report, where)
        if options.against_float:
            code = max(code, _print_lost(program, artefact, device, options))
    return code


def _print(report: Report, where: str) -> int:
    print(report.table(where))
    if report.failures():
        print(f"verification failed: {report.failures()}", file=sys.stderr)
        return 1
    return 0


def _print_lost(
    program: Any, artefact: str, device: Device | None, options: argparse.Namespace
) -> int:
    from gq_tvm import frontend
    from gq_tvm.runtime.model import load
    from gq_tvm.verification.against_float import against_float

    compiled = load(artefact, device, options.threads)
    floats, programs = frontend.read(options.against_float), frontend.read(program)
    found = against_float(
        floats.programs, programs.programs, compiled.plan, options.inputs, compiled=compiled
    )
    print(found)
    for sentence in found.losses.warnings():
        print(f"warning: {sentence}", file=sys.stderr)
    if found.failure():
        print(f"verification failed: {found.failure()}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _device(options: argparse.Namespace, artefact: str) -> Iterator[Device | None]:
    """The device the options name; else this process where it can run the artefact, or an emulator.

    Raises:
        Error: there is none of these; the text says what to do.
    """
    if options.rpc or options.emulate or runs_here(artefact):
        with chosen_device(options, artefact) as device:
            yield device
    else:
        with emulated(artefact) as device:
            yield device


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gq_tvm.verify",
        description="Compare the outputs of an artefact with those of the exported model in "
        "PyTorch.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="the exported model, .pt2 or .onnx")
    parser.add_argument("artefact", metavar="DIR", help="what compile made of it")
    parser.add_argument(
        "--inputs",
        metavar="FILE.npz",
        help="also compare on these arrays, named as the inputs are",
    )
    parser.add_argument(
        "--against-float",
        metavar="FLOAT.pt2",
        help="also compare with the model as it was exported in float, and fail if little of it "
        "is left",
    )
    add_onnx_options(parser, compare=False)
    add_device_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
