"""``python -m gq_tvm.compress``: an exported float model becomes one with codebook weights."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gq_tvm import files
from gq_tvm.command import command
from gq_tvm.errors import Error
from gq_tvm.onnx_options import add_onnx_options, onnx_options
from gq_tvm.ops.checks import ACTIVATIONS, SHARED_SCALES

if TYPE_CHECKING:
    from torch import nn

    from gq_tvm.frontend import Program

_EPILOG = """\
PATTERN is of the names of weights or modules, as the exporter calls them; * stands for anything,
the name of a module covers all inside it, and the last pattern that matches counts.
FILE.npz has an array for each input, named as the input is (program.input where the file holds
several programs): of the input's axes it serves all examples, with one more axis in front it holds
examples along that. Ctrl-C writes what was computed. Examples:
  python -m gq_tvm.compress model.pt2 --bits 4 --inputs recorded.npz -o small.pt2
  python -m gq_tvm.compress model.pt2 --bits 4 --override "encoder.lstm.*=2" --override joint=32 \\
      -o small.pt2
  python -m gq_tvm.compile small.pt2 -o model.gq
  python -m gq_tvm.compress model.onnx --bits 4 -o small.onnx
"""


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)
    output = Path(options.output)
    _check_output(Path(options.model), output)
    for file in (*options.inputs, *[options.allocation] * bool(options.allocation)):
        if not Path(file).exists():
            raise Error(f"{file} does not exist; give the path of a file")
    from gq_tvm import frontend, quantize
    from gq_tvm.exported import as_module, as_programs, read_inputs
    from gq_tvm.quantize.allocation.overrides import read_overrides

    with _said():
        program = frontend.read(options.model, onnx_options(options), _tell)
    _check_is_float(program, options.model)
    as_onnx = output.suffix.lower() == ".onnx"
    if as_onnx:
        _check_is_one(program, options.model)
    inputs = read_inputs(options.inputs, program.programs) if options.inputs else None
    allocated = read_overrides(options.allocation) if options.allocation else {}
    given = dict(options.override)
    overrides = {**{name: n for name, n in allocated.items() if name not in given}, **given}
    code, left = 0, ""
    try:
        with _said():
            compressed = quantize.compress(
                as_module(program.programs),
                options.bits,
                overrides,
                _by_pattern(options.activation, "int8"),
                inputs=inputs,
                scales=_by_pattern(options.scales, None),
                outliers=options.outliers,
                tune=options.tune,
            )
    except quantize.Interrupted as stopped:
        code, compressed = 130, stopped.model()
        left = f"; interrupted: {stopped.done} of {stopped.total} weights were fitted to inputs"
    written = as_programs(compressed, program.programs)
    if as_onnx:
        _write_onnx(program, written["main"], output, options)
    else:
        _write(program, written, output)
    print(_report(compressed))
    if inputs is None:
        print("by the weights alone: what the outputs lose is told, and less, with --inputs")
    print(f"wrote {output}, {output.stat().st_size / 1024:.1f} KiB{left}", file=sys.stderr)
    return code


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check_output(model: Path, output: Path) -> None:
    """Refuse now what could not be written after all the work."""
    if output.is_dir():
        raise Error(f"{output} is a folder; name a file for -o")
    if output.exists() and model.exists() and output.samefile(model):
        raise Error(f"{output} is the model itself, which stays as it is; name another file for -o")
    files.make_folder(output.absolute().parent, "choose another -o")


def _check_is_float(program: Program, path: str) -> None:
    from gq_tvm.exported.operators import is_codebook

    for name, exported in program.programs.items():
        if any(is_codebook(node.target) for node in exported.graph.nodes):
            raise Error(
                f"{path} has weights in codebooks already (program {name}); compress the model as "
                "it was exported in float"
            )


def _check_is_one(program: Program, path: str) -> None:
    """Refuse what is no single graph; and say now what is not installed."""
    import gq_tvm.onnx_export  # noqa: F401

    if list(program.programs) != ["main"]:
        raise Error(
            f"{path} holds the programs {', '.join(program.programs)} and an .onnx file one; name "
            "a .pt2 file for -o"
        )


@contextmanager
def _said() -> Iterator[None]:
    """Warnings as lines on standard error."""

    def say(message: Any, *about: Any) -> None:
        print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PyTorch about itself
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = say  # type: ignore[assignment]
        yield


def _write(program: Program, programs: dict[str, Any], output: Path) -> None:
    """Write the programs as one file, whole or not at all, with the texts that came with them."""
    from torch.export.pt2_archive._package import package_pt2

    alone = list(programs) == ["main"]  # what torch.export.load looks for is called otherwise
    named = {"model": programs["main"]} if alone else programs
    packed = io.BytesIO()  # to a file that cannot grow PyTorch's writer ends the process
    with _said():
        package_pt2(packed, exported_programs=named, extra_files=program.extra)
    with files.whole(output) as temporary:
        temporary.write_bytes(packed.getbuffer())


def _write_onnx(
    program: Program, compressed: Any, output: Path, options: argparse.Namespace
) -> None:
    """Write the program as an ONNX file, with the names of the ONNX file it came from."""
    from gq_tvm import export_onnx
    from gq_tvm.frontend.reading.program import is_onnx
    from gq_tvm.onnx_import.names import names_of

    names: dict[str, Any] = {}
    if is_onnx(options.model):
        names = names_of(Path(options.model), dict(options.fix))._asdict()
    compare = not options.no_compare
    export_onnx(
        compressed, None, output, **names, metadata=program.extra, compare=compare, say=_tell
    )


def _report(model: nn.Module) -> str:
    from gq_tvm import quantize

    report = quantize.describe(model)
    held = [one for one in report if one.bits < 32 and not one.shared]
    count = sum(one.float_size // 4 for one in held)
    floats = sum(one.float_size for one in report if one.bits == 32)
    each = 8 * sum(one.size for one in held) / count
    return (
        f"{report}\n{each:.2f} bits a weight in codebooks, tables and scales counted; "
        f"{floats / 1024:.1f} KiB of weights stay in float"
    )


def _by_pattern(given: list[tuple[str, Any]], default: Any) -> Any:
    """One value for all, or values by pattern."""
    return default if not given else dict(given) if given[0][0] != "*" or given[1:] else given[0][1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gq_tvm.compress",
        description="Put the weights of a model that was exported in float into codebooks: the "
        "layers that multiply by a parameter, by their names in the exported program. Inputs, "
        "outputs, sizes known at run time and state stay as they are.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a model exported in float, .pt2 or .onnx")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="the file to write: OUT.pt2, or OUT.onnx for ONNX Runtime and gq-tvm",
    )
    parser.add_argument(
        "--bits", type=_bits, default=4, metavar="N", help="1 to 8, of each weight (%(default)s)"
    )
    parser.add_argument(
        "--override",
        type=_override,
        action="append",
        default=[],
        metavar="PATTERN=N",
        help="bits of some weights, 32 leaves them in float; may be given again",
    )
    parser.add_argument(
        "--allocation",
        metavar="FILE.toml",
        help="bits of weights by name, as gq-tvm allocate writes them; --override comes after",
    )
    parser.add_argument(
        "--activation",
        type=_activation,
        action="append",
        default=[],
        metavar="[PATTERN=]KIND",
        help=f"arithmetic of the activations, {', '.join(ACTIVATIONS)} (int8); may be given again",
    )
    parser.add_argument(
        "--inputs",
        action="append",
        default=[],
        metavar="FILE.npz",
        help="examples to fit the weights to, and to tell by what is lost; may be given again",
    )
    parser.add_argument(
        "--scales",
        type=_scales,
        action="append",
        default=[],
        metavar="[PATTERN=]S",
        help="tensor, row, or how many inputs of a row share one: 16, 32, 64, 128 (default: what "
        "is right for bits and activations); may be given again",
    )
    parser.add_argument(
        "--outliers",
        type=float,
        metavar="SHARE",
        help="the largest share of weights kept apart at 16 bits, 0 to 0.005 (default: 0.002, and "
        "only where that halves what a weight loses)",
    )
    parser.add_argument(
        "--tune",
        type=_steps,
        metavar="N",
        help="steps of training against the float model, with --inputs (default: what is right for "
        "the bits; 0: none)",
    )
    add_onnx_options(parser)
    return parser


def _steps(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _bits(text: str) -> int:
    if text not in set("12345678"):
        raise argparse.ArgumentTypeError(f"{text!r} are no bits; give 1 to 8")
    return int(text)


def _override(text: str) -> tuple[str, int]:
    pattern, equals, bits = text.rpartition("=")
    if not pattern or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATTERN=N, as in 'encoder.*=2'")
    return pattern, 32 if bits == "32" else _bits(bits)


def _activation(text: str) -> tuple[str, str]:
    pattern, _, kind = text.rpartition("=")
    if kind not in ACTIVATIONS:
        raise argparse.ArgumentTypeError(f"{kind!r} is none of {', '.join(ACTIVATIONS)}")
    return pattern or "*", kind


def _scales(text: str) -> tuple[str, str | int]:
    pattern, _, value = text.rpartition("=")
    if value not in map(str, SHARED_SCALES):
        raise argparse.ArgumentTypeError(f"{value!r} is none of tensor, row, 16, 32, 64, 128")
    return pattern or "*", int(value) if value.isdigit() else value


if __name__ == "__main__":
    sys.exit(main())
