"""Options of commands that take ``.onnx`` files: ``--fix``, ``--size``, ``--no-compare``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gq_tvm.onnx_import import Options


def add_onnx_options(parser: argparse.ArgumentParser, compare: bool = True) -> None:
    """Add them; the last only where outputs are compared."""
    parser.add_argument(
        "--fix",
        type=_fixed,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of a .onnx file: make an input of one number a constant; may be given again",
    )
    parser.add_argument(
        "--size",
        type=_size,
        action="append",
        default=[],
        metavar="NAME=N",
        help="of a .onnx file: make a size known at run time (its name, or input.axis) a constant; "
        "may be given again",
    )
    if compare:
        parser.add_argument(
            "--no-compare",
            action="store_true",
            help="of a .onnx file: do not compare its outputs with ONNX Runtime's",
        )


def onnx_options(options: argparse.Namespace) -> Options:
    """What they say."""
    from gq_tvm.onnx_import import Options

    compare = not getattr(options, "no_compare", True)
    return Options(dict(options.fix), dict(options.size), compare)


def _fixed(text: str) -> tuple[str, Any]:
    name, _, value = text.rpartition("=")
    try:
        if name:
            return name, int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, as in sr=16000")


def _size(text: str) -> tuple[str, int]:
    name, _, value = text.rpartition("=")
    if not name or not value.isdigit() or not int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=N, as in batch=1")
    return name, int(value)
