"""``python -m examples.whisper.transcribe``: recordings in, text out, by a compiled Whisper."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from examples.whisper.log_mel import RATE
from examples.whisper.recogniser import Recogniser
from gq_tvm.command import command, positive
from gq_tvm.errors import Error
from gq_tvm.speech import audio

_MOST = 30  # seconds


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)
    recogniser, code = Recogniser(options.model, options.threads), 0
    for path in options.recordings:
        try:
            samples = audio.read(path, RATE)
            if len(samples) > _MOST * RATE:
                raise Error(f"{path} is longer than {_MOST} s; cut it where nobody speaks")
            print(f"{path}: {recogniser.transcribe(samples)}", flush=True)
        except Error as refusal:  # it costs itself, and none of the others
            print(f"error: {refusal}", file=sys.stderr)
            code = 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.whisper.transcribe",
        description="Print what is said in recordings of at most half a minute.",
    )
    parser.add_argument("recordings", nargs="+", metavar="FILE", help="WAV, FLAC or Ogg")
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="what python -m examples.whisper.compile wrote",
    )
    parser.add_argument("--threads", type=positive, help="as it was compiled for")
    return parser


if __name__ == "__main__":
    sys.exit(main())
