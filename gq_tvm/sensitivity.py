"""python -m gq_tvm.sensitivity: what each weight of an exported float model loses at few bits."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gq_tvm.allocate import widths
from gq_tvm.command import command
from gq_tvm.errors import Error
from gq_tvm.ops.checks import ACTIVATIONS, SHARED_SCALES

DESCRIPTION = """\
Measure what each weight of a model that was exported in float loses when it alone is put into a
codebook of few bits: the signal to quantisation noise of the model's outputs. The table is ranked,
the weights that lose most first. Ctrl-C ends the work early and keeps what was measured.
"""
EXAMPLE = """\
example:
  python -m gq_tvm.sensitivity model.pt2 --inputs inputs.npz -o sensitivity.json
  python -m gq_tvm.allocate sensitivity.json --budget 300KB -o bits.toml
  python -m gq_tvm.compress model.pt2 --allocation bits.toml --inputs inputs.npz -o small.pt2
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m gq_tvm.sensitivity",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("model", metavar="MODEL.pt2", help="a model exported in float")
    result.add_argument(
        "--inputs",
        action="append",
        required=True,
        metavar="FILE.npz",
        help="arrays named as the inputs are, an axis more for several examples; may be repeated",
    )
    result.add_argument(
        "--bits",
        type=widths,
        default=[2, 3, 4, 5, 6, 8],
        metavar="N,N",
        help="bits to measure (default: 2,3,4,5,6,8)",
    )
    result.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        default="int8",
        help="arithmetic that the codebooks are for (default: %(default)s)",
    )
    result.add_argument(
        "--scales",
        choices=list(map(str, SHARED_SCALES)),
        help="one for the tensor, for each row, or for so many inputs of a row "
        "(default: as compress has them)",
    )
    result.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="write the figures")
    result.add_argument(
        "--picture", type=Path, metavar="FILE.svg", help="draw them (needs gq-tvm[picture])"
    )
    return result


@command
def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print, write."""
    arguments = parser().parse_args(argv)
    for file in (arguments.output, arguments.picture):
        if file and not os.path.isdir(file.absolute().parent):
            raise Error(f"{file}: there is no such folder; choose another file")
    for file in (arguments.model, *arguments.inputs):
        if not os.path.exists(file):
            raise Error(f"{file} does not exist; give the path of a file")

    from gq_tvm import frontend, quantize
    from gq_tvm.exported import as_module, read_inputs
    from gq_tvm.quantize.allocation.picture import check_picture

    if arguments.picture:
        check_picture(arguments.picture)
    programs = frontend.read(arguments.model).programs
    scales = arguments.scales
    measured = quantize.sensitivity(
        as_module(programs),
        read_inputs(arguments.inputs, programs),
        arguments.bits,
        arguments.activation,
        scales=int(scales) if scales and scales.isdigit() else scales,
    )
    print(measured)
    if arguments.output:
        measured.save(arguments.output)
        print(f"wrote {arguments.output}; gq-tvm allocate chooses bits from it")
    if arguments.picture:
        measured.picture(arguments.picture)
        print(f"wrote {arguments.picture}")
    return 130 if measured.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
